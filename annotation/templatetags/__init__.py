"""Template filters of the pages; only templates load it."""
