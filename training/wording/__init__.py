"""The words and figures of runs as people read them; imported by all of `training`."""
