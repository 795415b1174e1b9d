"""Snapshots, the object store, archives: what outlives a run; imported by all of `training`."""
