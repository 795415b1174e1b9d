"""Every page and state of the product, and a stage on which all of them can be seen.

The tests of accessibility, weight and width go through ``PLACES``, and so do the
pictures of the docs: a new page is one line here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.contrib.auth.models import User
from django.db.models import F
from django.utils import timezone

from annotation.authoring.review import comment_on
from annotation.authoring.samples import return_sample
from annotation.judging import judgments
from annotation.judging.guidelines import confirm_reading, publish_guideline
from annotation.models import Draft, Membership, Project, Sample, Slot
from config.web.throttle import Attempt
from tests.browser.cycle import make_iterations
from tests.browser.stage import CAKE, CAKE_SAMPLED, fill
from tests.cast import make_project, make_sample, make_user
from tests.training.conftest import make_checkpoint, make_run
from training.iterations.promotion import promote
from training.models import Metric, Run, RunInput, RunNote, RunSample
from training.runs.placement import Place as PlaceOfWorker
from training.runs.placement import announce
from training.storage.snapshots import build_snapshot

if TYPE_CHECKING:
    from playwright.sync_api import Page

GUIDELINE = """\
Compare **what is done**, not how it is said.

- The order of plan steps counts.
- Another wording of the same answer is consistent.
- A different value of a parameter is not.

> When in doubt, ask what the user would notice.
"""


@dataclass
class Stage:
    """What the addresses of ``PLACES`` are filled in with."""

    project: Project
    values: dict[str, object] = field(default_factory=dict)

    def address(self, place: Place) -> str:
        return place.address.format(**self.values)


@dataclass(frozen=True)
class Place:
    """A page in one state: who is there, at which address, and what they did there."""

    name: str
    who: str  # of the cast; "" for a stranger
    address: str
    act: Callable[[Page], object] = lambda page: None
    errors: tuple[str, ...] = ()  # what the browser's console may say


# --- what people do there ------------------------------------------------------------


def ready(page: Page) -> None:
    page.wait_for_selector("judge-stage[data-painted] form.stage:not(.sending)")


def press(*keys: str, wait: str = "") -> Callable[[Page], None]:
    """Return an act: wait for the pair, press keys, wait for what they bring."""

    def act(page: Page) -> None:
        ready(page)
        for key in keys:
            page.keyboard.press(key)
        if wait:
            page.wait_for_selector(wait)

    return act


def click(selector: str, wait: str = "") -> Callable[[Page], None]:
    def act(page: Page) -> None:
        page.click(selector)
        if wait:
            page.wait_for_selector(wait)

    return act


def wrong_password(page: Page) -> None:
    Attempt("lena", "127.0.0.1").was_right()  # the throttle forgets earlier visits
    page.fill("#id_username", "lena")
    page.fill("#id_password", "wrong")
    page.click("main button.primary")
    page.wait_for_selector(".message.error")


def wrong_settings(page: Page) -> None:
    page.fill("#id_recipe_steps", "")
    page.eval_on_selector("form.run-form", "form => form.noValidate = true")
    page.click("form.run-form button.primary")
    page.wait_for_selector(".message.error")


def edited(page: Page) -> None:
    page.wait_for_selector("draft-editor[data-ready]")


def at_the_turns(page: Page) -> None:
    edited(page)
    page.evaluate("document.querySelector('#turn-2').scrollIntoView()")
    page.evaluate("window.scrollBy(0, -90)")


def keys_of_the_editor(page: Page) -> None:
    edited(page)
    page.click("button[popovertarget=keys]:visible")
    page.wait_for_selector("#keys:popover-open")


def pasted(page: Page) -> None:
    page.fill("#text", "User: A cake, please.\nAssistant: For how many people?")
    page.click("button[value=preview]")
    page.wait_for_selector("#preview")


def pasted_wrong(page: Page) -> None:
    page.fill("#text", "A cake, please.")
    page.click("button[value=preview]")
    page.wait_for_selector("#text-error")


def charts(page: Page) -> None:
    page.wait_for_selector("run-charts canvas")


def everything(page: Page) -> None:
    """Open all that can be folded."""
    page.evaluate("document.querySelectorAll('details').forEach(d => (d.open = true))")


def conflict(page: Page) -> None:
    """Save the draft in another window, then type on in this one."""
    page.wait_for_selector("draft-editor[data-ready]")
    version = page.input_value("#version")
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector("draft-editor[data-ready]")
    other.fill("#input-1", f"Are you open on Sundays, after version {version}?")
    other.wait_for_selector(f"#version:not([value='{version}'])", state="attached")
    other.close()
    page.fill("#input-1", "Good day, are you open on Sundays too?")
    page.wait_for_selector("#conflict .conflict")


P = "/p/{slug}"
E = "/p/{empty}"
PLACES = [
    Place("login", "", "/accounts/login/"),
    Place("login-wrong", "", "/accounts/login/", wrong_password),
    Place("password-forgotten", "", "/accounts/password_reset/"),
    Place("home", "lena", "/?choose"),
    Place("password", "lena", "/accounts/password_change/"),
    Place("menu", "lena", "/?choose", click("button.who", "#me:popover-open")),
    Place("not-found", "lena", "/p/none/", errors=("404",)),
    Place("forbidden", "lena", P + "/runs/", errors=("403",)),
    Place("judge", "lena", P + "/judge/", ready),
    Place("judge-no", "lena", P + "/judge/", press("0")),
    Place("judge-keys", "lena", P + "/judge/", press("?", wait="#keys:popover-open")),
    Place("judge-skip", "lena", P + "/judge/", press("s", wait="#skip:popover-open")),
    Place(
        "judge-drawer",
        "lena",
        P + "/judge/",
        press("h", wait="#drawer:popover-open .block"),
    ),
    Place("judge-order", "lena", P + "/judge/", press("1", wait="#order[open]")),
    Place("judge-observation", "lea", P + "/judge/", ready),
    Place("judge-raw", "leo", P + "/judge/", ready),
    Place("judge-unnamed", "lena", "/p/{unnamed}/judge/", ready),
    Place("judge-task", "lena", P + "/judge/task/"),
    Place("judge-read-first", "luis", P + "/judge/"),
    Place("judge-paused", "lena", E + "/judge/"),
    Place("judge-no-pairs", "lena", "/p/{undrawn}/judge/"),
    Place("judge-all-done", "lena", "/p/{done}/judge/"),
    Place("guideline", "lena", P + "/guideline/"),
    Place("guideline-history", "lena", P + "/guideline/history/"),
    Place("guideline-edit", "rita", P + "/guideline/edit/"),
    Place("review", "rita", P + "/review/"),
    Place("review-filtered", "rita", P + "/review/?situation=exception"),
    Place("review-bulk", "rita", P + "/review/bulk/"),
    Place("disputes", "rita", "/p/{unnamed}/review/disputes/"),
    Place("disputes-empty", "ada", E + "/review/disputes/"),
    Place("pair", "rita", "/p/{unnamed}/pairs/{pair}/"),
    Place("review-empty", "ada", E + "/review/"),
    Place("sample-history", "rita", P + "/samples/{cake}/history/"),
    Place("work", "lena", P + "/work/"),
    Place("work-empty", "lena", E + "/work/"),
    Place("write", "lena", P + "/write/"),
    Place("write-empty", "lena", E + "/write/"),
    Place("draft", "lena", P + "/write/{draft}/", edited),
    Place("draft-turns", "lena", P + "/write/{draft}/", at_the_turns),
    Place("draft-keys", "lena", P + "/write/{draft}/", keys_of_the_editor),
    Place("paste", "lena", P + "/write/paste/"),
    Place("paste-preview", "lena", P + "/write/paste/", pasted),
    Place("paste-wrong", "lena", P + "/write/paste/", pasted_wrong, errors=("422",)),
    Place("draft-conflict", "lena", P + "/write/{draft}/", conflict),
    Place("samples", "rita", P + "/samples/"),
    Place("samples-none", "rita", P + "/samples/?status=retired"),
    Place("samples-empty", "ada", E + "/samples/"),
    Place("coverage", "rita", P + "/samples/coverage/"),
    Place("import", "rita", P + "/samples/import/"),
    Place("sample", "rita", P + "/samples/{cake}/", everything),
    Place("sample-submitted", "rita", P + "/samples/{submitted}/"),
    Place("sample-returned", "lena", P + "/samples/{returned}/"),
    Place("runs", "tara", P + "/runs/"),
    Place(
        "runs-menu",
        "tara",
        P + "/runs/",
        click("button[popovertarget=new-run]", "#new-run"),
    ),
    Place("runs-empty", "ada", E + "/runs/"),
    Place("run-new", "tara", P + "/runs/new/policy/", everything),
    Place("run-new-preference", "tara", P + "/runs/new/preference/", everything),
    Place("run-new-lacking", "ada", E + "/runs/new/reward/"),
    Place(
        "run-new-wrong", "tara", P + "/runs/new/sft/", wrong_settings, errors=("422",)
    ),
    Place("run-finished", "tara", P + "/runs/{sft}/", charts),
    Place("run-running", "tara", P + "/runs/{policy}/", charts),
    Place("run-waiting", "tara", P + "/runs/{waiting}/", everything),
    Place("run-samples", "tara", P + "/runs/{policy}/samples/", everything),
    Place("run-failed", "tara", P + "/runs/{failed}/", charts),
    Place("run-evaluated", "tara", P + "/runs/{evaluate}/"),
    Place("compare", "tara", P + "/runs/compare/?run={sft}&run={failed}", charts),
    Place("checkpoints", "tara", P + "/checkpoints/"),
    Place("checkpoints-empty", "ada", E + "/checkpoints/"),
    Place("checkpoint", "tara", P + "/checkpoints/{checkpoint}/", everything),
    Place("checkpoint-new", "tara", P + "/checkpoints/{candidate}/"),
    Place("retention", "tara", P + "/checkpoints/retention/"),
    Place("snapshot", "tara", P + "/snapshots/{snapshot}/"),
    Place("iterations", "tara", P + "/iterations/", charts),
    Place("iterations-empty", "ada", E + "/iterations/"),
    Place("iteration-new", "tara", P + "/iterations/new/", everything),
    Place("iteration-new-lacking", "tara", "/p/{unnamed}/iterations/new/"),
    Place("iteration-recipe", "tara", P + "/iterations/3/recipe/policy/"),
    Place("iteration-judge", "tara", P + "/iterations/3/", everything),
    Place("iteration-alarm", "tara", P + "/iterations/2/", charts),
    Place("iteration-done", "tara", P + "/iterations/1/", charts),
]


# --- the stage -----------------------------------------------------------------------


def make_stage(*, count: int = 24) -> Stage:
    """Return two projects in which every place of ``PLACES`` can be visited.

    Wants ``settings.DATA_DIR`` to be a folder that may be written to.
    """
    project = make_project(
        name="Cake shop", slug="cake-shop", overlap=3, overlap_limit=5, daily_goal=40
    )
    tara, rita, lena = (make_user(name) for name in ("tara", "rita", "lena"))
    fill(project, author=make_user("nora"), count=count)
    publish_guideline(
        project=project,
        author=rita,
        base_version=1,
        text=GUIDELINE,
        change="First text.",
    )
    confirm_readings(project, ["lena", "lea", "leo"])
    make_decisions(project)
    unnamed = make_project(
        name="Blind tasting", calibration_percent=100, overlap=2, overlap_limit=2
    )
    fill(unnamed, count=2)
    for name, verdict in (("lea", 1), ("leo", 0)):
        decide(unnamed, make_user(name), verdict, 8)
    done, undrawn = make_project(name="Old town"), make_project(name="New town")
    fill(done, count=1)
    done.slots.update(state="closed")
    make_sample(project=undrawn)
    empty = make_project(name="Tea house", slug="tea-house", is_paused=True)
    Membership.objects.filter(project=empty, user=make_user("luis")).delete()
    cake = Sample.objects.get(project=project, external_id="cake-for-saturday")
    values = {
        "slug": project.slug,
        "empty": empty.slug,
        "unnamed": unnamed.slug,
        "done": done.slug,
        "undrawn": undrawn.slug,
        "pair": unnamed.pairs.disputed().get().pk,
        "cake": cake.pk,
        "draft": make_draft(project, lena).pk,
        "returned": make_returned(project, lena, rita).pk,
        **make_runs(project, tara),
    }
    make_iterations(project, tara, Run.objects.get(pk=values["policy"]))
    # What the iterations drew stays behind the cake.
    Slot.objects.filter(project=project, priority=9).update(priority=0)
    submitted = Sample.objects.filter(project=project, status="submitted")
    waiting = submitted.order_by("pk").first()
    values["submitted"] = waiting.pk
    comment_on(
        project=waiting.project,
        sample=waiting,
        user=rita,
        text="The guideline asks for the street before the price.",
        position=0,
        anchor="plan/2",
    )
    return Stage(project, values)


def confirm_readings(project: Project, names: list[str]) -> None:
    """Let people have read the guideline; others are asked to before they judge."""
    project.refresh_from_db()
    for name in names:
        confirm_reading(
            project=project, user=make_user(name), version=project.guideline_version
        )


def make_decisions(project: Project) -> None:
    """Let three people judge: some of the demo's pairs, and the cake's one after another.

    Lena then meets the first pair of the cake, Lea the second and Leo the third.
    """
    cake = Slot.objects.filter(project=project, priority__gt=0)
    waiting = list(cake.values_list("pk", flat=True))
    cake.update(priority=0, place=F("place") + 1_000_000)
    rng = random.Random(3)
    for name, count in (("lena", 14), ("lea", 12), ("leo", 9)):
        for _ in range(count):
            verdict = int(rng.random() < 0.6)
            decide(project, make_user(name), verdict, rng.uniform(4, 22))
    Slot.objects.filter(pk__in=waiting).update(priority=5)
    for name, count in (("lea", 1), ("leo", 2)):
        for _ in range(count):
            decide(project, make_user(name), 0, rng.uniform(9, 30))


def decide(project: Project, user: User, verdict: int, seconds: float) -> None:
    """Judge the next pair of the queue, as the page would send it."""
    claim = judgments.claim_slot(project=project, user=user)
    judgments.record_judgment(
        project=claim.slot.project,
        slot_id=claim.slot.pk,
        token=claim.token,
        user=user,
        verdict=verdict,
        reasons=() if verdict else ("parameter",),
        units_that_differ=(),
        order_confirmed=True,
        seconds_spent=seconds,
    )


def make_draft(project: Project, author: User) -> Draft:
    """Return a draft of the cake whose third turn has an error at a place."""
    context = project.contexts.get(title="The cake shop")
    turns = [dict(turn) for turn in CAKE["turns"]]
    turns[2]["response"] = turns[2]["response"].replace("<</think>>", "")
    content = {**CAKE, "contexts": [{"existing": context.pk}], "turns": turns}
    return Draft.objects.create(
        project=project, author=author, content=content, version=3
    )


def make_returned(project: Project, author: User, curator: User) -> Sample:
    back = Sample.objects.filter(project=project, status="submitted").first()
    Sample.objects.filter(pk=back.pk).update(author=author)
    return_sample(
        project=back.project,
        sample=back,
        user=curator,
        comment="The plan in turn 1 skips the confirmation that the guideline asks for.",
    )
    return back


def make_runs(project: Project, user: User) -> dict[str, object]:
    """Return runs in their states with curves, notes and sampled texts, by name."""
    now = timezone.now()
    snapshot = build_snapshot(project=project, user=user)

    def run(kind: str, state: str, step: int, minutes: int, **fields) -> Run:
        begun = now - timezone.timedelta(minutes=minutes)
        held = {
            "worker": "gpu-1:4711",
            "device": "gpu-1 cuda:1",
            "heartbeat_at": now,
            "leased_until": now + timezone.timedelta(hours=3),
            "log_tail": "step 238 of 600\nstep 239 of 600\nstep 240 of 600\n",
        }
        ended = {"ended_at": begun + timezone.timedelta(minutes=4)}
        return make_run(
            project=project,
            kind=kind,
            state=state,
            snapshot=snapshot,
            created_by=user,
            step=step,
            steps_total=step if state == "finished" else 600,
            attempts=1,
            started_at=begun,
            **(held if state == "running" else ended),
            **fields,
        )

    sft = run(
        "sft",
        "finished",
        600,
        90,
        recipe={"seed": 1, "steps": 600, "learning_rate": 0.003},
        result={"loss": 0.083, "held_out_loss": 0.112, "held_out_turns_right": 0.781},
    )
    checkpoint = make_checkpoint(sft, step=600)
    promote(
        project=checkpoint.project,
        checkpoint=checkpoint,
        user=user,
        reason="First policy of the project.",
    )
    reward = run(
        "reward",
        "finished",
        300,
        60,
        recipe={"seed": 1, "steps": 300},
        result={"judged/accuracy": 0.942},
    )
    rm = make_checkpoint(reward, step=300)
    RunInput.objects.create(run=reward, checkpoint=checkpoint, role="policy")
    policy = run("policy", "running", 240, 5, recipe={"seed": 1, "steps": 600})
    RunInput.objects.create(run=policy, checkpoint=checkpoint, role="policy")
    RunInput.objects.create(run=policy, checkpoint=rm, role="reward")
    for queue in ("cuda:0", "cuda:1"):
        announce(PlaceOfWorker("gpu-1", queue, queue))
    waiting = make_run(
        project=project,
        kind="preference",
        snapshot=snapshot,
        created_by=user,
        queue="cuda:1",
        recipe={"seed": 1, "steps": 100},
    )
    RunInput.objects.create(run=waiting, checkpoint=checkpoint, role="policy")
    failed = run(
        "sft",
        "failed",
        130,
        30,
        recipe={"seed": 2, "steps": 600, "learning_rate": 0.3},
        error="The loss was not finite at step 131.\nLower the learning rate.",
    )
    value = {"value": 0.684, "low": 0.605, "high": 0.76, "n": 150}
    measured = {"tasks_complete": value, "turns_right": value | {"value": 0.873}}
    evaluate = run(
        "evaluate",
        "finished",
        150,
        20,
        recipe={"seed": 1},
        result={
            "policies": {
                "policy": measured,
                "initial": measured
                | {
                    "tasks_complete": value
                    | {"value": 0.644, "low": 0.56, "high": 0.72}
                },
            },
            "gains": {
                "policy": {
                    "tasks_complete": value
                    | {"value": 0.04, "low": -0.007, "high": 0.087, "changed": 22},
                    "turns_right": value | {"value": 0.02, "low": 0.004, "high": 0.036},
                }
            },
            "by_situation": {"policy": {"exception": measured}},
        },
    )
    candidate = make_checkpoint(
        run("policy", "finished", 60, 40, recipe={"seed": 1, "steps": 60}), step=60
    )
    for role, measured_one in (("policy", candidate), ("initial", checkpoint)):
        RunInput.objects.create(run=evaluate, checkpoint=measured_one, role=role)
    for each in (sft, reward, policy, failed):
        make_curves(each)
    make_shown(policy)
    return {
        "sft": sft.pk,
        "policy": policy.pk,
        "waiting": waiting.pk,
        "failed": failed.pk,
        "evaluate": evaluate.pk,
        "checkpoint": checkpoint.pk,
        "candidate": candidate.pk,
        "snapshot": snapshot.pk,
    }


def make_curves(run: Run) -> None:
    rng = random.Random(run.kind)
    noisy = {
        "loss": lambda x: 2.4 * math.exp(-3 * x) + 0.08,
        "held_out_loss": lambda x: 2.3 * math.exp(-3 * x) + 0.12,
        "gradient_norm": lambda x: 1.4 - x,
        "learning_rate": lambda x: 0.003 * (1 - x),
        "tokens_per_second": lambda x: 5200,
    }
    if run.kind == "policy":
        noisy = {
            "held_out/rm_score": lambda x: 0.55 + 0.3 * x,
            "held_out/truth": lambda x: 0.52 + 0.27 * x,
            "reward/consistency": lambda x: 0.5 + 0.3 * x,
            "reward/format": lambda x: 0.97,
            "kl": lambda x: 0.02 + 0.05 * x,
            "response_tokens": lambda x: 64 + 8 * x,
            "groups_without_signal": lambda x: 0.3 + 0.2 * x,
            "entropy": lambda x: 0.9 - 0.5 * x,
            "clip_ratio": lambda x: 0.02 + 0.03 * x,
            "seconds/generation": lambda x: 1.1,
            "seconds/scoring": lambda x: 0.3,
            "seconds/update": lambda x: 0.7,
        }
    begun = run.started_at
    Metric.objects.bulk_create(
        Metric(
            run=run,
            name=name,
            step=step,
            value=curve(step / 600) * (1 - 0.06 * rng.random()),
            at=begun + timezone.timedelta(seconds=step * 0.9),
        )
        for name, curve in noisy.items()
        for step in range(10, run.step + 1, 10)
    )
    RunNote.objects.create(run=run, message="Started with 128 samples.", at=begun)


def make_shown(run: Run) -> None:
    for place, (turn, text) in enumerate(reversed(CAKE_SAMPLED)):
        written = CAKE["turns"][turn]
        RunSample.objects.create(
            run=run,
            event_offset=place,
            step=80 + 80 * place,
            prompt=written["input"]["text"],
            text=text,
            label=written["response"],
            scores={"format": place != 0, "consistency": 0.11 + 0.4 * place},
        )
