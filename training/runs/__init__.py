"""A run's life: launch, claim, prepare, supervise, ingest; imported by the rest of `training`."""
