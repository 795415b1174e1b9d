"""Samples and pairs as token ids; imported by the programs and the wings above."""
