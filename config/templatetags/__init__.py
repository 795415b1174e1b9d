"""Template tags that wire pages together; only templates load it."""
