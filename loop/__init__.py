"""The whole loop without a browser, and its scripted people; nothing imports it."""
