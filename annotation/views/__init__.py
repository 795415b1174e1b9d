"""The annotation pages: each view fetches, calls one deed, answers; imported by urls, training."""
