"""Programs of several processes, each forked from one that has made their imports.

``accelerate launch`` starts each of its processes from nothing, which takes 5 s of a
processor; ``test_several_stop`` goes that whole way. Here they meet as they do there, by
what torchrun leaves in their environment.
"""

import os
import socket
import sys
import time
from multiprocessing.connection import wait

from records.recipes import (
    DrawRecipe,
    EvaluateRecipe,
    PolicyRecipe,
    RewardRecipe,
    SftRecipe,
)
from tests.forks import FORKS, import_before_forks
from training.engine import draw, evaluate, policy, reward, sft
from training.engine.run.directory import run_program

PROGRAMS = {
    "sft": (SftRecipe, sft.train),
    "reward": (RewardRecipe, reward.main),
    "policy": (PolicyRecipe, policy.main),
    "draw": (DrawRecipe, draw.draw),
    "evaluate": (EvaluateRecipe, evaluate.evaluate),
}
SECONDS = 120

import_before_forks(__name__)


def run_together(program, folder, processes=2):
    """Run a program in several processes; return the worst exit status and their words.

    As under torchrun, all end soon after the first that fails.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "log.txt"
    crew = [
        FORKS.Process(target=_run, args=(program, folder, log, rank, processes, port))
        for rank in range(processes)
    ]
    for one in crew:
        one.start()
    deadline = time.monotonic() + SECONDS
    while living := [one.sentinel for one in crew if one.is_alive()]:
        wait(living, timeout=max(deadline - time.monotonic(), 0))
        has_failed = any(one.exitcode for one in crew)
        if has_failed or time.monotonic() > deadline:
            for one in crew:
                one.terminate()
                one.join(30)
                one.kill()
    return max(abs(one.exitcode) for one in crew), log.read_text()


def _run(program, folder, log, rank, processes, port):
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    sys.exit(run_program(program, *PROGRAMS[program], [str(folder)]))
