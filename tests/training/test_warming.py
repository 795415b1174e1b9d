"""Programs forked from a warm process: as if started by themselves, and never left."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.training.conftest import wait_until
from training.engine.run import start
from training.runs import hardware, warm
from training.runs.command import START

pytestmark = pytest.mark.slow  # all together, with the imports

MIRROR = (*START, "tests.training.mirror")


@contextmanager
def started(*arguments, **environment):
    program = subprocess.Popen(
        [*MIRROR, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MIRRORED": "yes", **environment},
        start_new_session=True,
    )
    try:
        program.stdin.write("a line\n")
        program.stdin.flush()
        yield program
    finally:
        program.kill()
        program.communicate()


def is_alive(number):
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def warmth():
    """Return the environment of a start from this process's warm process."""
    return warm.warm_environment()


@pytest.fixture
def waiting(warmth, request):
    """Return a warm program that waits, and its own number."""
    way = getattr(request, "param", ("wait", "0"))
    with started(*way, **warmth) as program:
        assert json.loads(program.stdout.readline())["variable"] == "yes"
        number = int(program.stdout.readline().split()[1])
        assert number != program.pid
        yield program, number


@pytest.mark.parametrize(
    ("way", "status"), [(("exit", "0"), 0), (("exit", "3"), 3), (("signal", "9"), -9)]
)
def test_a_warm_start_is_as_a_cold_one(warmth, way, status):
    seen = []
    for environment in (warmth, {}):
        with started(*way, **environment) as program:
            said, complained = program.communicate()
            assert complained.splitlines()[-1] == "to stderr"
            assert program.returncode == status
            seen.append(json.loads(said))
    assert seen[0] == seen[1]
    assert seen[0]["read"] == "a line\n"
    assert seen[0]["leads"]


@pytest.mark.parametrize("waiting", [("wait", "0"), ("obey", "7")], indirect=True)
def test_a_signal_reaches_the_program_and_its_end_is_told(waiting, request):
    program, _ = waiting
    program.send_signal(signal.SIGTERM)
    obeys = request.node.callspec.params["waiting"][0] == "obey"
    assert program.wait(20) == (7 if obeys else -signal.SIGTERM)


def test_a_program_ends_with_the_start_that_asked_for_it(waiting):
    program, number = waiting
    assert is_alive(number)
    program.kill()
    wait_until(lambda: not is_alive(number), what="the end of the program")


def test_the_memory_of_the_fork_is_counted(waiting):
    program, _ = waiting
    memory, _ = hardware.usage(program)
    assert memory > 100 << 20  # with torch in it; a start by itself has some 10 MB


def test_when_the_warm_process_dies_programs_go_on_and_the_next_begins_another(
    waiting, warmth
):
    program, number = waiting
    process = warm._process
    process.kill()
    process.wait()
    assert is_alive(number)
    with started("exit", "3", **warmth) as cold:  # its socket answers no more
        cold.communicate()
        assert cold.returncode == 3
    begun = warm.warm_environment()
    assert begun != warmth
    warmth.update(begun)
    with started("wait", "0", **warmth) as another:
        another.stdout.readline()
        assert int(another.stdout.readline().split()[1]) != another.pid
    program.send_signal(signal.SIGTERM)
    assert program.wait(20) == -signal.SIGTERM


def test_it_ends_with_its_keeper_and_leaves_no_socket():
    keeper = (
        "import django; django.setup()\n"
        "from training import warming\n"
        "print(*warming.warm_environment().values(), warming._process.pid, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", keeper],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
    ) as process:
        path, number = process.stdout.readline().split()
        assert Path(path).is_socket()
        process.kill()
    wait_until(lambda: not is_alive(number), seconds=60, what="the warm process's end")
    assert not Path(path).parent.exists()


def test_there_is_none_where_it_is_not_wanted_or_a_gpu_is(settings, monkeypatch):
    assert warm.warm_environment()
    settings.WARM_START = False
    assert not warm.warm_environment()
    settings.WARM_START = True
    monkeypatch.setattr(start, "GPUS", (Path("/dev/null"),))
    assert not warm.warm_environment()


def test_where_it_cannot_begin_programs_start_from_nothing(monkeypatch, tmp_path):
    warm.cool_down()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert not warm.warm_environment()
    monkeypatch.undo()
    assert warm.warm_environment()
