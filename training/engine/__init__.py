"""The training programs: one readable program for each kind of run.

No Django here and nothing else of ``training``: the boundary to the web application is
a run directory (``docs/run-directory.md``). Every program starts as
``python -m training.engine.<program> RUN_DIR``.
"""
