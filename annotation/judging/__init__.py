"""Judging: queue, judgments, pairs beside each other; imported by authoring, views, `training`."""
