"""Programs that measure Concord; each says how to run it."""
