"""A run's life: launch, claim, prepare, supervise, ingest; imported by policies and iterations."""
