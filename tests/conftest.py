"""Start the servers of a test session, unless the environment names some."""

import gc
import os
from contextlib import ExitStack

import pytest
from django.utils import translation

from local import servers

SERVERS = pytest.StashKey[ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    """Start Postgres and Valkey once; in the controller, where xdist has workers."""
    # What the programs of a test compute with: one thread, and no GPU but in its tests.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "not gpu" in config.getoption("markexpr"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from tests import settings

    stack = config.stash.setdefault(SERVERS, ExitStack())
    state, settings.SESSION_STATE = settings.SESSION_STATE, None
    if state is not None:
        stack.callback(state.remove)
        state.make()
        stack.enter_context(servers.running(state, settings.SESSION_SERVERS))


def pytest_unconfigure(config: pytest.Config) -> None:
    if SERVERS in config.stash:
        config.stash[SERVERS].close()


def pytest_collection_finish() -> None:
    """Spare every collection of garbage the million objects of the imports."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def english():
    """Begin every test in English: a request in Chinese leaves its thread Chinese."""
    translation.deactivate()
    yield
    translation.deactivate()
