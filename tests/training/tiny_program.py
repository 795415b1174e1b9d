"""A real program that speaks the run directory's protocol and learns nothing.

Started like the programs of the engine, with settings before the run directory::

    python tests/training/tiny_program.py --steps 20 --pause 0.05 RUN_DIR

It uses the same run-directory code as the engine, so it locks, resumes, stops and hangs
on its leash as they do, but needs no torch and starts at once.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from safetensors.numpy import save_file

from records.recipes import RECIPES, Recipe, SftRecipe
from training.engine.run.directory import Ending, RunDirectory, run_program


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pause", type=float, default=0.02)
    parser.add_argument("--checkpoint-every", type=int, default=5)
    parser.add_argument("--kill-at", type=int, default=0)
    parser.add_argument("--every-attempt", action="store_true")
    parser.add_argument("--torn-line", action="store_true")
    parser.add_argument("--crash-at", type=int, default=0)
    parser.add_argument("--exit-at", type=int, default=0)
    parser.add_argument("--hang-at", type=int, default=0)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--slow-start", type=float, default=0.0)
    parser.add_argument("--responses", default="")
    parser.add_argument("--evaluation", default="")
    parser.add_argument("--metrics", default="{}")
    parser.add_argument("--values", default="{}")
    parser.add_argument("--state", default="finished")
    return parser.parse_args()


def main() -> int:
    args = read_arguments()
    time.sleep(args.slow_start)

    def body(run: RunDirectory, recipe: SftRecipe) -> Ending:
        return train(run, args)

    program = json.loads((Path(args.run_dir) / "run.json").read_text())["program"]
    if program == "sft":
        return run_program("sft", SftRecipe, body, [args.run_dir])

    def other(run: RunDirectory, recipe: Recipe) -> Ending:
        return other_program(run, recipe, args)

    return run_program(program, RECIPES[program], other, [args.run_dir])


def write_weights(folder: Path, step: int) -> None:
    save_file({"step": np.array([step])}, folder / "model.safetensors")


def other_program(
    run: RunDirectory, recipe: Recipe, args: argparse.Namespace
) -> Ending:
    """Be another program: leave the outputs and figures given on the command line."""
    with (run.path / "starts.txt").open("a") as file:
        file.write(f"{os.getpid()} {run.program}\n")
    time.sleep(args.pause)
    if args.responses:
        source = Path(args.responses).read_text()
        (run.outputs / "responses.jsonl").write_text(source)
    if args.evaluation:
        (run.outputs / "evaluation.json").write_text(args.evaluation)
    if run.program in ("reward", "policy"):

        def write(folder: Path) -> None:
            write_weights(folder, 1)

        metrics = json.loads(args.metrics)
        run.save_checkpoint(
            1, write, kind=run.program, recipe=recipe, metrics=metrics, final=True
        )
    run.progress(1, 1)
    return Ending(args.state, json.loads(args.values))


def train(run: RunDirectory, args: argparse.Namespace) -> Ending:
    document = json.loads((run.path / "run.json").read_text())
    may_die = args.every_attempt or document["attempt"] == 1
    start = int(run.resume.name.removeprefix("step-")) if run.resume else 0
    with (run.path / "starts.txt").open("a") as file:
        file.write(f"{os.getpid()} attempt {document['attempt']} from {start}\n")

    def save(step: int, final: bool = False) -> None:
        def write(folder: Path) -> None:
            write_weights(folder, step)
            (folder / "trainer").mkdir()
            (folder / "trainer" / "state.json").write_text(json.dumps({"step": step}))

        recipe = run.recipe(SftRecipe)
        run.save_checkpoint(step, write, kind="policy", recipe=recipe, final=final)

    run.progress(start, args.steps)
    run.log(f"starting at {start}")
    for step in range(start + 1, args.steps + 1):
        time.sleep(args.pause)
        if run.stop_requested and not args.deaf:
            if step - 1 > start:
                save(step - 1)
            return Ending("stopped", {"steps": step - 1})
        run.metrics(step, {"loss": 1 / step, "learning rate": 0.1})
        run.progress(step, args.steps)
        if step % 10 == 0:
            run.sample(step, prompt="A cake, please.", text=f"at {step}", label="Sure.")
        if step % args.checkpoint_every == 0 and step < args.steps:
            save(step)
        if may_die and step == args.kill_at:
            if args.torn_line:
                with (run.path / "events.jsonl").open("ab") as events:
                    events.write(b'{"event":"metrics","step":99,"valu')
            os.kill(os.getpid(), signal.SIGKILL)
        if step == args.crash_at:
            raise ZeroDivisionError("the loss is nothing")
        while step == args.hang_at:
            time.sleep(1)
        if step == args.exit_at:
            print("cannot go on: no space left on device", flush=True)  # noqa: T201
            os._exit(3)
    save(args.steps, final=True)
    return Ending("finished", {"loss": 1 / args.steps})


if __name__ == "__main__":
    sys.exit(main())
