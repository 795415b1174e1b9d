"""One command per module: import, export, seed the demo; nothing else imports it."""
