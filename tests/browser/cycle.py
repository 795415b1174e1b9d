"""Iterations for the pages to show: one done, one the alarm stopped, one under way."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.utils import timezone

from annotation.judging.pairing import ProducerFacts, ResponseRow, receive_responses
from annotation.models import Pair, Project, SampledResponse
from tests.browser.stage import CAKE_SAMPLED
from tests.cast import make_judgment, make_user
from tests.training.conftest import make_checkpoint, make_run
from training.iterations import deeds
from training.models import STEP_ORDER, Iteration, IterationStep, Metric, Run, Snapshot

ALARM = (
    "score and truth part: since step 20 the reward model's score rose from 0.712 to "
    "0.884 while held-out truth fell from 0.655 to 0.548 (step 60)"
)


def make_iterations(project: Project, user: User, policy: Run) -> None:
    """Make three iterations; the project has a current policy, made by ``policy``."""
    parent = policy.run_inputs.get(role="policy").checkpoint
    for number, (before, after, shift) in enumerate(
        [(0.55, 0.66, 0.1), (0.66, 0.55, -0.1)], start=1
    ):
        iteration = deeds.start_iteration(project=project, user=user)
        begun = timezone.now() - timezone.timedelta(hours=60 - 20 * number)
        Iteration.objects.filter(pk=iteration.pk).update(created_at=begun)

        def run(kind: str, minutes: int, *, begun=begun, **fields) -> Run:
            return make_run(
                project=project,
                kind=kind,
                created_by=user,
                started_at=begun,
                ended_at=begun + timezone.timedelta(minutes=minutes),
                **({"state": "finished"} | fields),
            )

        draw = run("draw", 4, result={"current/rm_score": 0.5 + 0.1 * number})
        rows = [
            ResponseRow("cake-for-saturday", 2, i, f"{CAKE_SAMPLED[1][1]} {number}.{i}")
            for i in range(4)
        ]
        facts = ProducerFacts(draw.pk, parent.pk, parent.digest, 600, "current")
        receive_responses(project=project, producer=facts, responses=rows, priority=9)
        pairs = Pair.objects.filter(
            origins__sampled_response__in=SampledResponse.objects.filter(
                producer__run_id=draw.pk
            )
        )
        for place, pair in enumerate(pairs.order_by("pk")):
            for name in ("lea", "leo"):
                make_judgment(pair, make_user(name), int(place > number - 2))
        learned_from = Snapshot.objects.create(
            project=project,
            content_hash=f"{number:064x}",
            counts={"train": 24, "judgments": 150 * 3**number},
        )
        reward = run("reward", 6, snapshot=learned_from)
        model = make_checkpoint(reward, step=300)
        model.manifest["metrics"] = {
            "judged/bad_caught": 0.78 + 0.08 * number,
            "judged/auc": 0.9 + 0.03 * number,
            "quads/seen/accuracy": 0.99,
            "quads/unseen/accuracy": 0.98,
        }
        model.save()
        learned = run(
            "policy",
            31,
            state="finished" if number == 1 else "stopped",
            result={"alarm": ALARM} if number == 2 else {},
        )
        make_checkpoint(learned, step=60)
        learned.run_inputs.create(checkpoint=parent, role="policy")
        learned.run_inputs.create(checkpoint=model, role="reward")
        Metric.objects.bulk_create(
            Metric(run=learned, name=name, step=step, value=value, at=begun)
            for step in (0, 20, 40, 60)
            for name, value in (
                ("held_out/rm_score", 0.65 + step / 250),
                ("held_out/truth", 0.6 + shift * step / 100),
            )
        )
        figures = {
            "policy": {"tasks_complete": _figure(after), "rm_consistent": _figure(0.8)},
            "initial": {"tasks_complete": _figure(before)},
        }
        gain = {
            "value": after - before,
            "low": after - before - 0.06,
            "high": after - before + 0.06,
            "n": 150,
            "changed": 29,
        }
        gains = {"policy": {"tasks_complete": gain}}
        evaluate = run("evaluate", 3, result={"policies": figures, "gains": gains})
        runs = {"draw": draw, "reward": reward, "policy": learned, "evaluate": evaluate}
        reached = 6 if number == 1 else 3
        for place, name in enumerate(STEP_ORDER[: reached + 1]):
            state = "working" if number == 2 and place == reached else "done"
            IterationStep.objects.filter(iteration=iteration, name=name).update(
                state=state, run=runs.get(name), started_at=begun, ended_at=begun
            )
        Iteration.objects.filter(pk=iteration.pk).update(
            step=STEP_ORDER[reached],
            state="done" if number == 1 else "stopped",
            stopped_because=ALARM if number == 2 else "",
            is_alarm=number == 2,
            ended_at=begun + timezone.timedelta(hours=9, minutes=number),
        )
    for judgments, caught in ((90, 0.71), (240, 0.8)):  # trained by hand, before
        earlier = make_run(project=project, kind="reward", state="finished")
        earlier.snapshot = Snapshot.objects.create(
            project=project,
            content_hash=f"{judgments:064x}",
            counts={"train": 24, "judgments": judgments},
        )
        earlier.save()
        model = make_checkpoint(earlier, step=300)
        model.manifest["metrics"] = {
            "judged/bad_caught": caught,
            "judged/auc": caught + 0.13,
        }
        model.save()
    last = deeds.start_iteration(
        project=project, user=user, wanted_judgments=300, wanted_settled=90
    )
    deeds.change_recipe(
        project=last.project,
        iteration=last,
        name="policy",
        user=user,
        recipe={**last.recipes["policy"], "steps": 80, "beta": 0.02},
    )
    deeds.change_iteration(
        project=last.project,
        iteration=last,
        user=user,
        wanted_judgments=400,
        wanted_settled=90,
        margin=0.03,
        automatic=("draw", "reward", "evaluate", "compare"),
    )
    steps = IterationStep.objects.filter(iteration=last)
    steps.filter(name="draw").update(state="skipped", reason="Drawn by hand before.")
    steps.filter(name="judge").update(state="working", started_at=timezone.now())
    Iteration.objects.filter(pk=last.pk).update(step="judge")


def _figure(value: float) -> dict[str, object]:
    return {"value": value, "low": value - 0.06, "high": value + 0.06, "n": 150}
