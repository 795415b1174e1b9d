"""The engine's own programs, supervised: tiny models, a few steps, real files."""

import threading

import pytest
from django.db import connection

from actions.demo import generate
from annotation.authoring.sample_rows import save_sample
from annotation.models import Pair, Slot, Turn
from tests.cast import make_judgment, make_pair, make_project, make_user
from tests.training.conftest import make_real_policy, wait_until
from training.iterations import advance, deeds, status
from training.models import Metric, Promotion, Run
from training.runs import control, launch, starting_points, supervise
from training.runs.claim import Timing
from training.runs.command import program_command
from training.runs.supervise import Outcome

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

MICRO = {
    "steps": 12,
    "conversations_per_step": 2,
    "width": 16,
    "layers": 1,
    "evaluate_every": 4,
    "evaluate_turns": 2,
    "precision": "fp32",
}
TIMING = Timing(poll=0.1, beat=0.2, grace=30)


@pytest.fixture
def project():
    project = make_project(overlap=1)
    documents = [
        *generate(seed=1, count=6),
        *generate(seed=1, count=2, split="held-out"),
    ]
    for document in documents:
        save_sample(
            project=project, document={**document, "status": "approved"}, author=None
        )
    return project


def run_through(project, kind, recipe, **inputs):
    run = launch.start_run(
        project=project, kind=kind, recipe=recipe, inputs=inputs, user=None
    )
    outcome = supervise.supervise(run.pk, timing=TIMING)
    run.refresh_from_db()
    assert outcome is Outcome.FINISHED, f"{run.error}\n{run.log_tail}"
    return run


def test_sft_then_draw_then_evaluate(project):
    sft = run_through(project, "sft", MICRO)
    assert {4, 8, 12} <= {c.step for c in sft.checkpoints.all()}
    assert Metric.objects.filter(run=sft, name="loss").exists()
    policy = starting_points.current_policy(project)
    assert policy == sft.checkpoints.get(is_final=True)

    draw = run_through(
        project,
        "draw",
        {"turns": 2, "responses_per_turn": 2, "max_new_tokens": 12},
        policy=policy,
    )
    assert draw.result["received"]["current"]["responses"] == 4
    assert Pair.objects.filter(project=project).exists()
    assert Slot.objects.count() == draw.result["received"]["current"]["slots"]

    evaluate = run_through(
        project,
        "evaluate",
        {"max_new_tokens": 12},
        policy=policy,
    )
    assert 0 <= evaluate.result["policies"]["policy"]["format_valid"]["value"] <= 1


def test_preferences_are_learned_from_what_was_drawn(project):
    """Answers that break the grammar count too, once one pair was judged by a person."""
    policy = make_real_policy(project)
    recipe = {"turns": 3, "responses_per_turn": 2, "max_new_tokens": 6}
    run_through(project, "draw", recipe, policy=policy)
    Slot.objects.all().delete()
    turn = project.samples.filter(split="").first().turns.first()
    make_judgment(make_pair(turn=turn, slots=1), make_user("lena"), 0)
    for objective in ("dpo", "kto"):
        run = run_through(
            project,
            "preference",
            {
                "objective": objective,
                "steps": 2,
                "examples_per_step": 2,
                "max_new_tokens": 6,
                "held_out_samples": 1,
            },
            policy=policy,
        )
        assert run.snapshot.counts["pairs"] > 0
        assert run.checkpoints.filter(is_final=True).count() == 1
        assert Metric.objects.filter(run=run, name="margin").exists()


def test_a_policy_learns_from_two_reward_models_and_a_preference_model(project):
    policy = make_real_policy(project)
    lena = make_user("lena")
    for sample in project.samples.filter(split="")[:2]:
        make_judgment(make_pair(turn=sample.turns.first(), slots=1), lena, 0)
    small = {"steps": 2, "evaluate_turns": 2}
    small |= {"backbone": "scratch", "width": 16, "layers": 1}
    first, second, preference = (
        run_through(
            project, "reward", {**small, **recipe}, policy=policy
        ).checkpoints.get(is_final=True)
        for recipe in ({}, {"seed": 2}, {"judges": "preference"})
    )
    run = run_through(
        project,
        "policy",
        {
            "steps": 1,
            "prompts_per_step": 1,
            "num_generations": 2,
            "max_new_tokens": 6,
            "evaluate_every": 1,
            "held_out_samples": 1,
            "gate_override": "Only a test.",
        },
        **{
            "policy": policy,
            "reward": first,
            "reward-2": second,
            "preference": preference,
        },
    )
    misses = run.result["gate"]["misses"]
    assert any(why.startswith("reward-2: ") for why in misses)
    manifest = run.checkpoints.get(is_final=True).manifest
    assert {first.digest, second.digest, preference.digest} <= set(manifest["parents"])


@pytest.mark.parametrize("what", ["die", "mute"])
def test_a_run_of_several_goes_on_after_one_of_them_was_killed(
    project, monkeypatch, what
):
    recipe = {
        "steps": 3,
        "processes": 2,
        "consistency_source": "oracle",
        "prompts_per_step": 2,
        "num_generations": 2,
        "max_new_tokens": 6,
        "evaluate_every": 1,
        "held_out_samples": 2,
    }
    run = launch.start_run(
        project=project,
        kind="policy",
        recipe=recipe,
        inputs={"policy": make_real_policy(project)},
        user=None,
    )
    command = [*program_command("policy", run.recipe, run.directory)[:-1]]
    command.append("tests.engine.interrupted")
    for befalls, outcome in ((f"{what} 2", Outcome.QUEUED_AGAIN), ("nothing 0", None)):
        monkeypatch.setenv("BEFALLS", befalls)
        ended = supervise.supervise(run.pk, timing=TIMING, command=command)
        run.refresh_from_db()
        assert ended is (outcome or Outcome.FINISHED), f"{run.error}\n{run.log_tail}"
    told = list(run.notes.values_list("message", flat=True))
    assert any("processes was killed" in each for each in told), told
    assert any(each.startswith("Resumed from checkpoint ") for each in told), told
    assert (run.attempts, run.step) == (2, 3)


def test_a_stopped_sft_goes_on_from_its_checkpoint(project):
    run = launch.start_run(
        project=project,
        kind="sft",
        recipe={**MICRO, "steps": 4000},
        inputs={},
        user=None,
    )

    def work():
        try:
            supervise.supervise(run.pk, timing=TIMING)
        finally:
            connection.close()

    worker = threading.Thread(target=work)
    worker.start()
    wait_until(lambda: Run.objects.get(pk=run.pk).step >= 4, seconds=120)
    control.stop_run(project=run.project, run=run, user=None)
    worker.join(60)
    run.refresh_from_db()
    assert run.state == "stopped", f"{run.error}\n{run.log_tail}"
    kept = run.checkpoints.order_by("-step").first().step
    Run.objects.filter(pk=run.pk).update(recipe={**run.recipe, "steps": kept + 1})
    control.resume_run(project=run.project, run=run, user=None)
    assert supervise.supervise(run.pk, timing=TIMING) is Outcome.FINISHED
    run.refresh_from_db()
    assert run.step == kept + 1
    assert f"Resumed from checkpoint {kept}." in [n.message for n in run.notes.all()]


def test_a_run_that_changes_machines_ends_with_the_weights_of_one_that_did_not(
    project, settings, tmp_path
):
    """Two data directories stand for the machines; a folder for the object store."""
    settings.STORE = (tmp_path / "store").as_uri()
    recipe = {**MICRO, "steps": 80, "evaluate_every": 20}
    whole = run_through(project, "sft", recipe).checkpoints.get(is_final=True)
    expected = (whole.directory / "model.safetensors").read_bytes()
    run = launch.start_run(
        project=project, kind="sft", recipe=recipe, inputs={}, user=None
    )
    stop = threading.Event()

    def work():
        try:
            supervise.supervise(run.pk, timing=TIMING, shutdown=stop)
        finally:
            connection.close()

    worker = threading.Thread(target=work)
    worker.start()
    wait_until(lambda: Run.objects.get(pk=run.pk).step >= 4, seconds=120)
    stop.set()  # the first machine shuts down
    worker.join(60)
    run.refresh_from_db()
    assert run.state == "queued", f"{run.error}\n{run.log_tail}"
    settings.DATA_DIR = tmp_path / "b"
    settings.DATA_DIR.mkdir()
    assert supervise.supervise(run.pk, timing=TIMING) is Outcome.FINISHED
    final = run.checkpoints.get(is_final=True)
    assert final.directory.is_relative_to(settings.DATA_DIR)
    assert (final.directory / "model.safetensors").read_bytes() == expected


def test_a_whole_iteration_with_the_real_programs(project):
    start = make_real_policy(project)
    Promotion.objects.create(project=project, checkpoint=start)
    tiny_model = {"width": 16, "layers": 1}
    iteration = deeds.start_iteration(
        project=project,
        user=make_user("tara"),
        recipes={
            "draw": {"turns": 3, "responses_per_turn": 2, "max_new_tokens": 8},
            "reward": {"steps": 2, "pairs_per_step": 4, "backbone": "scratch"}
            | {"evaluate_turns": 2}
            | tiny_model,
            "policy": {"steps": 1, "prompts_per_step": 1, "num_generations": 2}
            | {"max_new_tokens": 8, "evaluate_every": 1, "held_out_samples": 1},
            "evaluate": {"max_new_tokens": 8, "samples": 1},
        },
        automatic=("draw", "reward", "policy", "evaluate", "compare", "promote"),
    )
    done = []
    for _ in range(15):
        advance.advance_all()
        iteration.refresh_from_db()
        step = iteration.steps.select_related("run").get(name=iteration.step)
        if iteration.state == "done":
            break
        if step.state == "asking":
            # A model of two steps misses its gate, and noise may be worse: a person.
            deeds.approve_step(
                project=iteration.project,
                iteration=iteration,
                name=step.name,
                user=None,
                reason="Only a test.",
            )
        elif step.state == "working" and step.run is not None:
            outcome = supervise.supervise(step.run.pk, timing=TIMING)
            run = Run.objects.get(pk=step.run.pk)
            assert outcome is Outcome.FINISHED, (
                f"{run.kind}: {run.error}\n{run.log_tail}"
            )
            done.append(run.kind)
            if run.kind == "policy":
                better(run)
            if run.kind == "draw":
                judge_everything(project)
        else:
            raise AssertionError(f"{step.name} {step.state}: {step.problem}")
    assert iteration.state == "done"
    assert done == ["draw", "reward", "policy", "evaluate"]
    assert starting_points.current_policy(project).run.kind == "policy"
    assert starting_points.current_policy(project).run_id != start.run_id
    policy = Run.objects.get(kind="policy")
    assert policy.recipe["gate_override"] == "Only a test."
    assert (policy.directory / "tensorboard").is_dir()
    assert status.comparison_of(iteration) is not None


def better(run):
    """Have a run of one step, which stays at its start, end with its step 1."""
    last = run.checkpoints.filter(step=1)
    run.checkpoints.update(is_final=False)
    last.update(is_final=True)
    run.result = run.result | {"chosen_step": 1}
    run.save(update_fields=["result"])


def judge_everything(project):
    """Judge what there is; where a model of a few steps only stammers, one good pair."""
    if not Slot.objects.exists():
        make_pair(project=project, turn=Turn.objects.order_by("pk").first())
    while slot := Slot.objects.filter(state="open").order_by("pk").first():
        make_judgment(slot.pair, make_user("lena"), slot.pk % 2)
