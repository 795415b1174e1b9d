"""The trainer's pages: each view fetches, calls one deed, answers; imported by urls."""
