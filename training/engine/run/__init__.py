"""The run directory and the processes of a run; imported by all of the engine."""
