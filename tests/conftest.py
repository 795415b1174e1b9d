"""Start the servers of a test session, unless the environment names some."""

import gc
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
from django.utils import translation

from local import servers

SERVERS = pytest.StashKey[ExitStack]()
ENGINE = Path(__file__).parent / "engine"
MOST_PROCESSES = 8  # each has a database of its own to make

hypothesis.settings.register_profile(
    "quick", max_examples=25, deadline=None, derandomize=True
)
hypothesis.settings.register_profile("full", max_examples=300, deadline=None)
hypothesis.settings.load_profile("full" if os.environ.get("CI") else "quick")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return a process for each core; one for files by name, and for a browser's tests."""
    files = config.args_source == pytest.Config.ArgsSource.ARGS and all(
        ".py" in argument for argument in config.args
    )
    if files or config.option.markexpr == "browser":
        return 0
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


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


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse torch where no test wants it; spare garbage collections the imports."""
    if not any(map(may_import_torch, session.items)):
        # Whoever imports it gets an ImportError; that nobody has, tests/test_imports.py
        # says.
        sys.modules.setdefault("torch", None)
    gc.collect()
    gc.freeze()


def may_import_torch(item: pytest.Item) -> bool:
    """Whether it is a test of the engine, or of whole programs."""
    return item.path.is_relative_to(ENGINE) or "slow" in item.keywords


@pytest.fixture(autouse=True)
def english():
    """Begin every test in English: a request in Chinese leaves its thread Chinese."""
    translation.deactivate()
    yield
    translation.deactivate()
