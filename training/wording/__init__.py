"""Labels of settings, metrics and figures for pages; imported by all of `training`."""
