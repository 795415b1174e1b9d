"""Run a program that something befalls at a step: ``python -m tests.engine.interrupted RUN_DIR``.

``BEFALLS`` says what, in the first of the processes or in the last:

    sigterm N   the launcher is asked to end; the step goes on when the wish is here
    leash N     the starter is told (a file ``reached``) to let go of the leash
    die N       the last process is killed
    mute N      the first process is killed
    raise N     the last process fails

"""

import os
import signal
import sys
import time
from pathlib import Path

from records.recipes import PolicyRecipe, RewardRecipe
from training.engine import policy, reward
from training.engine.run.directory import run_program

what, at = os.environ["BEFALLS"].split()
rank, last = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]) - 1


def befall(run):
    if what == "sigterm" and rank == 0:
        os.kill(os.getppid(), signal.SIGTERM)
    if what == "leash" and rank == 0:
        (run.path / "reached").touch()
    if what in ("sigterm", "leash") and rank == 0:
        while not run.stop_requested:
            time.sleep(0.01)
    if what == "die" and rank == last:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "mute" and rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise" and rank == last:
        raise ValueError("the last process does not like this step")


def updating(program):
    """Let ``befall`` happen after an update of the weights."""
    main, update, runs = program.main, program.update, []

    def remember(run, recipe):
        runs.append(run)
        return main(run, recipe)

    def update_and_befall(*args, **settings):
        figures = update(*args, **settings)
        if settings["step"] == int(at):
            befall(runs[0])
        return figures

    program.main, program.update = remember, update_and_befall


if __name__ == "__main__":
    updating(policy)
    updating(reward)
    if '"program": "policy"' in (Path(sys.argv[-1]) / "run.json").read_text():
        sys.exit(run_program("policy", PolicyRecipe, policy.main))
    sys.exit(run_program("reward", RewardRecipe, reward.main))
