"""Formats of English pages; only Django imports it."""
