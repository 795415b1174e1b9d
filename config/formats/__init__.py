"""Formats of dates and numbers per language; only Django imports it."""
