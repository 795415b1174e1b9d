"""Processes forked from one that has made their imports: Python's own forkserver.

There is one server a test process, started by the first fork, so a module says what it
wants there as it is imported.
"""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
_imports: list[str] = []


def import_before_forks(*names: str) -> None:
    """Have the server import these modules before it forks."""
    _imports.extend(names)
    FORKS.set_forkserver_preload(_imports)
