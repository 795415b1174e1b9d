"""One command per module: export a checkpoint; nothing else imports it."""
