"""Texts laid out for reading: blocks, differences, Markdown; imported by all but `models`."""
