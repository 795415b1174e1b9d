"""The Django app of writing samples and judging pairs; imported by `training` and above."""
