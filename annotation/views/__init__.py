"""The annotation pages: each view fetches through a door, calls one deed, answers."""
