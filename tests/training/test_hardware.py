"""What a program takes of its machine, measured from outside of it."""

import os
import subprocess
import sys

import pytest

from tests.training.conftest import QUICK, make_run, tiny
from training.models import Run
from training.runs import hardware, supervise

BUSY = """
import subprocess, sys, time
held = bytearray(64 << 20)
child = subprocess.Popen([sys.executable, "-c", "held = bytearray(32 << 20); input()"],
                         stdin=subprocess.PIPE)
print("ready", flush=True)
end = time.process_time() + 0.3
while time.process_time() < end:
    pass
print("done", flush=True)
input()
child.communicate(b"\\n")
"""


def test_memory_and_processor_of_a_whole_process_group_are_counted():
    program = subprocess.Popen(
        [sys.executable, "-c", BUSY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert program.stdout.readline() == b"ready\n"
        meter = hardware.Meter(program)
        assert meter.is_due()
        first = meter.read()
        assert not meter.is_due()
        assert program.stdout.readline() == b"done\n"
        second = meter.read()
    finally:
        program.communicate(b"\n")
    assert first["memory"] > 64 << 20
    assert first["memory_peak"] >= first["memory"]
    assert 0.05 < second["cores_used"] <= 2 * os.cpu_count()
    assert second["host"]
    assert second["memory_total"] > second["memory"]
    assert hardware.usage(program) == (0, 0.0)


def test_processes_with_groups_of_their_own_are_counted_by_their_leash():
    ranks = (
        "import subprocess, sys\n"
        "held = 'held = bytearray(96 << 20); print(flush=True); input()'\n"
        "command = [sys.executable, '-c', held]\n"
        "subprocess.Popen(command, start_new_session=True).wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", ranks],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as program:
        program.stdout.readline()
        memory, _ = hardware.usage(program)
        program.stdin.write(b"\n")
        program.stdin.flush()
    assert memory > 96 << 20


def test_gpus_are_read_from_the_tool_that_is_there(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 71680, 144384, 93'\necho odd\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (found,) = hardware.gpus()
    assert found == {
        "name": "NVIDIA H200",
        "memory": 71680 << 20,
        "memory_total": 144384 << 20,
        "percent": 93,
    }
    tool.write_text('#!/bin/sh\necho "NVIDIA $1, 1, 2, 3"\n')
    assert hardware.gpus("4")[0]["name"] == "NVIDIA --id=4"
    assert hardware.gpus("") == []  # a program that is shown none
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert hardware.gpus() == []


@pytest.mark.django_db(transaction=True)
def test_a_supervised_run_says_what_it_ran_on(monkeypatch):
    # The first look may come before the program is there.
    monkeypatch.setattr(hardware, "EVERY", 0.02)
    run = make_run()
    supervise.supervise(run.pk, command=tiny("--steps", 20), timing=QUICK)
    facts = Run.objects.get(pk=run.pk).hardware
    assert facts["host"]
    assert facts["memory_peak"] > 1 << 20
