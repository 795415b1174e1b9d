"""Formats of Chinese pages; only Django imports it."""
