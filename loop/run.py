"""The whole loop, headless, in one command: ``make loop`` (see README).

Write → SFT → draw → judge → reward → policy → evaluate → promote → draw again, in its
own state directory. A scripted trainer starts every run from the pages, and scripted
labelers judge every pair on the Judge page, with the same addresses, forms and checks
as people.

On the demo data the labelers answer by the demo's oracle (the verdict and the units
that differ). For other data no truth is known, so they accept what the page proposes
from the alignment. That exercises every stage, and the reward model learns no more than
the alignment knows; the report says so.

Exit status: 0, every stage ran and, on the demo data, the reward model passed its gate
(balanced quads >= 0.9, bad answers caught >= 0.85) and the promoted policy is not worse
than the policy after supervised fine-tuning; 1, a stage failed; 2, every stage ran but
one of those claims does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.state import BASE_DIR, ServerError, State
from local import children, servers
from local.children import Command
from loop.browser import Browser, PageError
from loop.report import Report, conclude, gate_missed

if TYPE_CHECKING:
    from annotation.models import Project
    from training.models import Checkpoint, Run

LABELERS = ("lena", "luis")
# A model this small gains much from two processes, and little from two threads.
SIDE_BY_SIDE: dict[str, object] = {"processes": 2}
# Settings that differ from the recipes' defaults, which are made for the demo.
DEMO: dict[str, dict[str, object]] = {
    "sft": {
        "steps": 360,
        "evaluate_every": 90,
        **SIDE_BY_SIDE,
    },
    # The longest label response has 70 tokens; a truncated one fails the format check.
    "draw": {
        "turns": 140,
        "responses_per_turn": 2,
        "max_new_tokens": 96,
    },
    "reward": {
        "steps": 120,
        "evaluate_every": 120,
        **SIDE_BY_SIDE,
    },
    "policy": {
        "max_new_tokens": 96,
        "steps": 6,
        "evaluate_every": 6,
        "muon_learning_rate": 1e-3,
        "learning_rate": 1e-4,
        **SIDE_BY_SIDE,
    },
    "evaluate": {"max_new_tokens": 96, **SIDE_BY_SIDE},
}
# The start has learned nothing and rambles: some of the samples are enough to show it.
BASE: dict[str, object] = {"samples": 60, "processes": 1}
# Real conversations: thousands of tokens each, and a model far too small for them. The
# runs are short, because they only show that nothing is lost on the way.
OTHER: dict[str, dict[str, object]] = {
    "sft": {
        "steps": 12,
        "conversations_per_step": 2,
        "max_tokens": 16384,
        "evaluate_turns": 4,
        "evaluate_every": 6,
    },
    "draw": {
        "turns": 24,
        "responses_per_turn": 2,
        "max_new_tokens": 48,
        "max_prompt_tokens": 16384,
    },
    "reward": {"steps": 20, "pairs_per_step": 8, "evaluate_turns": 12},
    "policy": {
        "steps": 2,
        "prompts_per_step": 2,
        "num_generations": 4,
        "max_new_tokens": 48,
        "max_prompt_tokens": 16384,
        "held_out_samples": 1,
        "gate_override": "conversations without facts: the stages are shown, no gate",
    },
    "evaluate": {"samples": 2, "max_new_tokens": 48, "max_prompt_tokens": 16384},
}


class StageFailedError(Exception):
    """A stage did not end as it should; the message says which one and why."""


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)  # noqa: T201


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the whole loop, headless.")
    parser.add_argument("--data", help="folder with conversations.jsonl and tools.json")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = Path(options.data).resolve() if options.data else None
    if folder and not (folder / "conversations.jsonl").is_file():
        say(f"DATA: expected conversations.jsonl in {folder}, found none")
        return 1
    state = State(BASE_DIR / ".concord" / "loop")
    try:
        with site(state) as origin:
            return loop(origin, folder, options.seed)
    except (StageFailedError, PageError, ServerError) as error:
        say(f"failed: {error}")
        return 1


@contextlib.contextmanager
def site(state: State) -> Iterator[str]:
    """Run the whole product in a new state directory; yield its address."""
    state.remove()
    state.make()
    environment = {
        **os.environ,
        "CONCORD_STATE_DIR": str(state.home),
        "CONCORD_DEMO": "0",
        "CONCORD_RUNS_AT_ONCE": "2",
        "OMP_NUM_THREADS": "1",  # per program, because another runs beside it
        "PORT": "0",
    }
    log = state.logs / "supervisor.log"
    command = Command(
        name="supervisor",
        argv=[sys.executable, "-m", "local.supervisor"],
        environment=environment,
        death_signal=signal.SIGTERM,  # it stops its children in order
        grace=60,
    )
    process = children.start(command, log=log, cwd=BASE_DIR)
    try:
        origin = ""
        for _ in range(1200):
            output = log.read_text(encoding="utf-8")
            if process.poll() is not None:
                raise StageFailedError(f"the site did not start:\n{output}")
            if match := re.search(r"running at (http\S+)", output):
                origin = match[1]
                break
            time.sleep(0.1)
        else:
            raise StageFailedError(f"the site did not start in time (log: {log})")
        os.environ.update(servers.urls(state, servers.embedded(state)))
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
        import django

        django.setup()
        yield origin
    finally:
        children.stop(process, command)


# --- the loop ------------------------------------------------------------------------


def loop(origin: str, folder: Path | None, seed: int) -> int:
    recipes = OTHER if folder else DEMO
    report = Report()
    start = time.monotonic()
    with report.stage("write"):
        project, passwords = set_up(folder, seed)
    tara = Trainer(origin, project, passwords["tara"], recipes, seed)
    with report.stage("sft"):
        sft = tara.run("sft", report)
        policy = last_checkpoint(sft)
    checkpoints = list(sft.checkpoints.order_by("step"))
    base = checkpoints[0] if checkpoints[0].step == 0 else None
    # Earlier checkpoints make other mistakes: the reward model must see both kinds.
    earlier = [c for c in reversed(checkpoints) if 0 < c.step < policy.step]
    with report.stage("draw"):
        before = earlier[0] if earlier else None
        draws = [tara.start("draw", policy=policy, initial=before)]
        if earlier[1:]:
            draws.append(tara.start("draw", policy=earlier[1], initial=None))
        for draw, name in zip(draws, ("draw", "draw early"), strict=False):
            tara.wait(draw, name, report)
    with report.stage("judge"):
        # It needs no judgments, so it runs while people judge.
        of_base = None
        if base is not None:
            of_base = tara.start(
                "evaluate",
                recipe=BASE if folder is None else {},
                policy=base,
                initial=None,
            )
        judge(origin, project, passwords, report)
        report.pairs = project.pairs.filter(judgments__isnull=False).distinct().count()
    with report.stage("reward"):
        reward = last_checkpoint(tara.run("reward", report, policy=policy))
    with report.stage("policy"):
        missed = gate_missed(reward.run.result) if folder is None else ""
        rl = tara.run(
            "policy",
            report,
            policy=policy,
            initial=policy,
            reward=reward,
            recipe={"gate_override": f"{missed}; go on, to show it"} if missed else {},
        )
        learned = last_checkpoint(rl)
    with report.stage("evaluate"):
        measured = tara.run(
            "evaluate", report, policy=learned, initial=policy, reward=reward
        )
        if of_base is not None:
            tara.wait(of_base, "evaluate base", report)
    with report.stage("promote"):
        promoted = tara.promote(learned, is_lower(measured))
    with report.stage("draw again"):
        tara.run(
            "draw",
            report,
            name="draw again",
            recipe={"seed": seed + 1, **SIDE_BY_SIDE},  # draws other turns
            policy=promoted,
            initial=None,
        )
    report.seconds["total"] = time.monotonic() - start
    return conclude(report, promoted == learned, has_truth=folder is None)


def set_up(folder: Path | None, seed: int) -> tuple[Project, dict[str, str]]:
    """Create the project, its people and its approved samples; return the passwords."""
    from django.contrib.auth import get_user_model

    from annotation.models import Membership, Project

    name = f"Loop {time.strftime('%Y-%m-%d %H:%M:%S')}"
    slug = f"loop-{time.time_ns()}"
    # Labelers who know the truth agree: one per pair is enough.
    project = Project.objects.create(name=name, slug=slug, overlap=1)
    passwords = {}
    for username, role in [
        *((labeler, "labeler") for labeler in LABELERS),
        ("tara", "trainer"),
    ]:
        user, _ = get_user_model().objects.get_or_create(username=username)
        passwords[username] = secrets.token_urlsafe(12)
        user.set_password(passwords[username])
        user.save()
        Membership.objects.create(project=project, user=user, role=role)
    if folder is None:
        import_demo(project, seed)
    else:
        import_folder(project, folder)
    return project, passwords


def import_demo(project: Project, seed: int) -> None:
    from actions.demo import generate
    from actions.demo.generator import Split
    from annotation.authoring.import_files import import_file

    splits: tuple[tuple[Split, int], ...] = (
        ("", 3000),
        ("held-out", 90),
        ("held-out-unseen", 90),
    )
    for split, count in splits:
        lines = (json.dumps(s) for s in generate(seed=seed, count=count, split=split))
        imported = import_file(project=project, format="concord", lines=lines)
        say(f"  {split or 'training'}: {imported}")


def import_folder(project: Project, folder: Path) -> None:
    """Import a folder of chats; hold every fifth conversation out."""
    from annotation.authoring.import_files import import_file

    tools = folder / "tools.json"
    with (folder / "conversations.jsonl").open() as file:
        lines = [line for line in file if line.strip()]
    for split, part in (
        ("", [line for n, line in enumerate(lines) if n % 5]),
        ("held-out", lines[::5]),
    ):
        imported = import_file(
            project=project,
            format="openai-chat",
            lines=part,
            tools=tools if tools.is_file() else None,
            split=split,
            status="approved",
        )
        say(f"  {split or 'training'}: {imported}")


class Trainer:
    """The scripted trainer: starts runs from their pages and waits until they end."""

    def __init__(
        self,
        origin: str,
        project: Project,
        password: str,
        recipes: dict[str, dict[str, object]],
        seed: int,
    ) -> None:
        self.browser = Browser(origin)
        self.browser.sign_in("tara", password)
        self.project = project
        self.recipes = recipes
        self.seed = seed

    def run(
        self,
        kind: str,
        report: Report,
        *,
        name: str = "",
        recipe: dict[str, object] | None = None,
        **inputs: Checkpoint | None,
    ) -> Run:
        """Start a run from its page and wait until it ends."""
        number = self.start(kind, recipe=recipe, **inputs)
        return self.wait(number, name or kind, report)

    def start(
        self,
        kind: str,
        *,
        recipe: dict[str, object] | None = None,
        **inputs: Checkpoint | None,
    ) -> int:
        """Start a run from its page; return its number."""
        page = self.browser.get(f"/p/{self.project.slug}/runs/new/{kind}/")
        form = page.form_with("recipe_seed")
        chosen: dict[str, object] = {
            role: checkpoint.pk if checkpoint else ""
            for role, checkpoint in inputs.items()
        }
        settings = {"seed": self.seed, **self.recipes[kind], **(recipe or {})}
        for setting, value in settings.items():
            # An unticked box is not sent.
            chosen[f"recipe_{setting}"] = None if value is False else value
        page = self.browser.submit(page, form, **chosen)
        if page.status != 200 or page.errors():
            raise StageFailedError(f"{kind} did not start: {page.errors()}")
        return int(page.address.rstrip("/").rsplit("/", 1)[1])

    def wait(self, number: int, name: str, report: Report) -> Run:
        """Return the run once it has ended, and add it to the report."""
        from training.models import FINAL_STATES, Run

        while (run := Run.objects.get(pk=number)).state not in FINAL_STATES:
            time.sleep(0.5)
        # A policy run stopped by its own alarm has kept its best checkpoint.
        if run.state != "finished" and not run.result.get("alarm"):
            raise StageFailedError(f"{name}: run {run.pk} {run.state}: {run.error}")
        report.runs[name] = run
        return run

    def promote(self, checkpoint: Checkpoint, is_lower: bool) -> Checkpoint:
        """Promote on the checkpoint's page; return the project's current policy.

        The few samples of the loop prove little: a policy that is not lower passes.
        """
        from training.runs.starting_points import current_policy

        page = self.browser.get(f"/p/{self.project.slug}/checkpoints/{checkpoint.pk}/")
        for form in page.forms():
            if form.action.endswith("/promote/"):
                reason = "not lower in held-out truth than the policy before it"
                force = None if is_lower else "on"
                self.browser.submit(page, form, reason=reason, force=force)
        current = current_policy(self.project)
        if current is None:
            raise StageFailedError("promote: the project has no current policy")
        return current


def is_lower(evaluation: Run) -> bool:
    """Whether a policy completed fewer held-out tasks than the one before it."""
    from training.iterations.metrics import comparison

    compared = comparison(evaluation.result)
    return compared is not None and compared.gain < 0


def last_checkpoint(run: Run) -> Checkpoint:
    checkpoint = run.checkpoints.filter(is_final=True).first()
    if checkpoint is None:
        raise StageFailedError(f"run {run.pk} left no final checkpoint")
    return checkpoint


def judge(
    origin: str, project: Project, passwords: dict[str, str], report: Report
) -> None:
    """Let the labelers judge side by side until the queue is empty for both."""
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            Labeler(origin, project, name, passwords[name]).work(report.judged)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[name]) for name in LABELERS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise StageFailedError(f"judge: {failures[0]}") from failures[0]


class Labeler:
    """The scripted labeler: reads a Judge page, decides, submits its form."""

    def __init__(self, origin: str, project: Project, name: str, password: str) -> None:
        self.browser = Browser(origin)
        self.browser.sign_in(name, password)
        self.address = f"/p/{project.slug}/judge/"

    def work(self, judged: Counter[str]) -> None:
        from annotation.models import Slot

        page = self.browser.get(self.address)
        while True:
            try:
                form = page.form_with("slot", "token")
            except PageError:
                if page.status != 200:
                    raise
                return
            slot = Slot.objects.select_related("pair__turn").get(
                pk=int(form.values["slot"][0])
            )
            proposed = form.values.get("units", [])
            verdict, units = decide(slot, proposed)
            page = self.browser.submit(
                page,
                form,
                verdict=verdict,
                units=units,
                reasons=[],
                order_confirmed="1",
                seconds="1",
            )
            if page.status == 422:
                errors = "; ".join(page.errors())
                raise StageFailedError(f"slot {slot.pk} takes no decision: {errors}")
            judged["consistent" if verdict else "not consistent"] += 1


def decide(slot: Any, proposed: list[str]) -> tuple[int, list[str]]:
    """Return the verdict and the units that differ, by the oracle if there is one."""
    from actions.demo import oracle
    from annotation.authoring.export import turn_to_json

    pair = slot.pair
    if pair.turn.facts is None:
        return (0, proposed) if proposed else (1, [])
    judged = oracle.judge(turn_to_json(pair.turn), pair.sampled_text)
    return int(judged.consistent), [] if judged.consistent else [
        key for key, matches in judged.units.items() if not matches
    ]


if __name__ == "__main__":
    sys.exit(main())
