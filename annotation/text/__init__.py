"""Texts laid out for reading: blocks, differences, Markdown; imported by `annotation`, `training`."""
