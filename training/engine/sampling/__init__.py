"""Sampling of responses and how good they are; imported by the programs, `rl`."""
