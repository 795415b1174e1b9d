"""Judging: the queue, judgments, pair views; imported by authoring, views, `training`."""
