"""The command that prepares an installation; nothing else imports it."""
