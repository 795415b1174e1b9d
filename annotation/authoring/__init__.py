"""Writing samples: drafts, checks, versions, review, import; imported by views and `training`."""
