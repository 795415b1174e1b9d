"""Starting, stopping and resuming as deeds, and what draw and evaluate bring back."""

import json
import threading

import pytest
from django.db import connection

from annotation.models import Pair, Producer, SampledResponse, Slot
from tests.cast import (
    LABEL,
    make_judgment,
    make_pair,
    make_project,
    make_sample,
    make_user,
)
from tests.training.conftest import (
    QUICK,
    make_checkpoint,
    make_policy,
    make_run,
    tiny,
)
from training import tasks
from training.iterations import promotion
from training.models import Run
from training.runs import control, hints, launch, starting_points, supervise
from training.runs.control import RunStateError
from training.runs.launch import LaunchRefusedError
from training.runs.supervise import Outcome
from training.wording.figures import folded_figures


@pytest.fixture
def project(db):
    project = make_project()
    make_sample(project=project, external_id="s1")
    return project


@pytest.fixture
def sent(monkeypatch):
    """Collect hints in place of a broker."""
    sent = []
    monkeypatch.setattr(
        hints.current_app,
        "send_task",
        lambda name, args, **options: sent.append((name, args, options["queue"])),
    )
    return sent


def start(project, kind="sft", recipe=None, **inputs):
    return launch.start_run(
        project=project,
        kind=kind,
        recipe=recipe or {},
        inputs=inputs,
        user=make_user("tara"),
    )


def test_a_run_is_hinted_at_after_the_commit_only(
    project, sent, django_capture_on_commit_callbacks
):
    with django_capture_on_commit_callbacks(execute=True):
        run = start(project)
        assert sent == []
    assert sent == [("training.tasks.run_hint", [run.pk], "runs")]
    run.refresh_from_db()
    assert run.hinted_at is not None


def test_a_broker_that_is_away_does_not_stop_a_start(
    project, monkeypatch, django_capture_on_commit_callbacks
):
    from kombu.exceptions import OperationalError

    def refuse(*args, **options):
        raise OperationalError("connection refused")

    monkeypatch.setattr(hints.current_app, "send_task", refuse)
    with django_capture_on_commit_callbacks(execute=True):
        run = start(project)
    assert Run.objects.get().pk == run.pk


def test_the_recipe_is_stored_whole(project):
    run = start(project, recipe={"steps": 5})
    assert run.recipe["steps"] == 5
    assert run.recipe["seed"] == 1


@pytest.mark.parametrize(
    ("kind", "recipe", "problem"),
    [
        ("dance", {}, {"": "There is no such kind of run: 'dance'."}),
        (
            "sft",
            {"pace": 1},
            {"pace": "Expected a setting of sft, found an unknown name."},
        ),
        (
            "draw",
            {},
            {"policy": "This run needs one. Run supervised fine-tuning first."},
        ),
    ],
)
def test_what_is_wrong_is_named_by_field(project, kind, recipe, problem):
    with pytest.raises(LaunchRefusedError) as caught:
        start(project, kind, recipe)
    assert caught.value.problems == problem
    assert not Run.objects.exists()


def test_checkpoints_must_fit_their_role(project):
    policy = make_policy(project)
    reward = make_checkpoint(make_run(project=project, kind="reward", state="finished"))
    foreign = make_project()
    make_sample(project=foreign)
    theirs = make_policy(foreign)
    with pytest.raises(LaunchRefusedError) as caught:
        start(project, "policy", policy=reward, initial=theirs, reward=policy)
    assert caught.value.problems == {
        "policy": "Checkpoints of a run “Reward model” do not fit here.",
        "initial": "This checkpoint belongs to another project.",
        "reward": "Checkpoints of a run “Supervised fine-tuning” do not fit here.",
    }


def test_reinforcement_learning_needs_a_reward_model_or_the_oracle(project):
    policy = make_policy(project)
    with pytest.raises(LaunchRefusedError) as caught:
        start(project, "policy", policy=policy)
    assert caught.value.problems == {
        "reward": "This run needs one. Train a reward model first."
    }
    start(project, "policy", {"consistency_source": "oracle"}, policy=policy)


def test_defaults_are_the_promoted_policy_and_the_newest_reward_model(project):
    assert starting_points.default_inputs(project, "policy") == {}
    first = make_policy(project)
    promotion.promote(project=first.project, checkpoint=first, user=None)
    better = make_checkpoint(make_run(project=project, kind="policy", state="finished"))
    promotion.promote(
        project=better.project, checkpoint=better, user=None, force=True, reason="newer"
    )
    reward = make_checkpoint(make_run(project=project, kind="reward", state="finished"))
    assert starting_points.default_inputs(project, "policy") == {
        "policy": better,
        "initial": first,
        "reward": reward,
    }
    assert starting_points.default_inputs(project, "reward") == {"policy": first}
    assert starting_points.default_inputs(project, "sft") == {}


def test_stopping_an_ended_run_is_refused(project):
    run = make_run(project=project, state="finished")
    with pytest.raises(RunStateError, match="has ended already: Finished"):
        control.stop_run(project=run.project, run=run, user=None)
    with pytest.raises(RunStateError, match="this one is finished"):
        control.resume_run(project=run.project, run=run, user=None)


def supervised(run, *arguments):
    outcome = supervise.supervise(run.pk, command=tiny(*arguments), timing=QUICK)
    run.refresh_from_db()
    return outcome


@pytest.mark.django_db(transaction=True)
def test_answers_of_a_draw_come_to_the_queue_once(project, tmp_path):
    policy = make_policy(project)
    run = start(project, "draw", policy=policy, initial=policy)
    lines = [
        {"sample": "s1", "turn": 0, "index": 0, "role": "current", "text": LABEL},
        {
            "sample": "s1",
            "turn": 0,
            "index": 1,
            "role": "current",
            "text": LABEL.replace("bakery", "florist"),
            "observation": "none near",
            "observation_source": "simulator",
            "format_error": "",
        },
        {"sample": "s1", "turn": 0, "index": 2, "role": "current", "text": LABEL + " "},
        {"sample": "s1", "turn": 0, "index": 0, "role": "initial", "text": "Hello."},
        {"sample": "gone", "turn": 0, "index": 0, "role": "initial", "text": "Hello."},
    ]
    file = tmp_path / "responses.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert supervised(run, "--responses", file) is Outcome.FINISHED
    received = run.result["received"]["current"]
    assert (received["identical"], received["settled_by_rule"]) == (1, 1)
    assert received["judgments_saved"] == 2 * project.overlap
    shown = dict(folded_figures(run.result)[0])
    assert shown["received, current, judgments saved"] == f"{2 * project.overlap}"
    assert run.result["received"]["initial"]["refused"] == 1
    assert Pair.objects.count() == 4
    assert Slot.objects.count() == 2 * project.overlap
    producer = Producer.objects.get(policy_role="current")
    assert (producer.run_id, producer.checkpoint_id) == (run.pk, policy.pk)
    assert producer.checkpoint_digest == policy.digest
    assert producer.settings["temperature"] == 1.0
    answer = SampledResponse.objects.get(index=1)
    assert (answer.observation, answer.observation_source) == ("none near", "simulator")
    notes = [note.message for note in run.notes.all()]
    assert (
        "Not taken in: answer 0 to turn 1 of gone: no such sample or turn here."
        in notes
    )

    # The worker is lost after the receipt but before the run's end: received again.
    Run.objects.filter(pk=run.pk).update(state="queued")
    assert supervised(run) is Outcome.FINISHED
    assert Pair.objects.count() == 4


@pytest.mark.django_db(transaction=True)
def test_rejection_sampling_sends_only_what_it_kept_and_sends_it_first(
    project, tmp_path
):
    policy = make_policy(project)
    reward = make_checkpoint(make_run(project=project, kind="reward", state="finished"))
    run = start(
        project, "draw", recipe={"keep": "accepted"}, policy=policy, reward=reward
    )
    row = {"sample": "s1", "turn": 0, "role": "current", "observation": ""}
    lines = [
        {**row, "index": 0, "text": "Good.", "kept": True},
        {**row, "index": 1, "text": "Bad.", "kept": False},
    ]
    file = tmp_path / "responses.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert supervised(run, "--responses", file) is Outcome.FINISHED
    assert [pair.sampled_text for pair in Pair.objects.all()] == ["Good."]
    assert {slot.priority for slot in Slot.objects.all()} == {5}


def test_rejection_sampling_needs_a_reward_model(project):
    with pytest.raises(LaunchRefusedError) as caught:
        start(project, "draw", {"keep": "accepted"}, policy=make_policy(project))
    assert set(caught.value.problems) == {"reward"}


def test_sft_on_judged_answers_gets_the_judgments(project):
    pair = make_pair(turn=project.samples.get().turns.first(), slots=1)
    make_judgment(pair, make_user("lena"), 1)
    assert "judgments" not in start(project).snapshot.files
    run = start(project, recipe={"judged_answers": True})
    assert run.snapshot.files["judgments"]["rows"] == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (None, "outputs/responses.jsonl is not readable"),
        ("{", "outputs/responses.jsonl, line 1: expected a JSON object, found invalid"),
        (
            '{"role": "king"}',
            "outputs/responses.jsonl, line 1: `role`: expected current or initial",
        ),
        (
            '{"role": "current", "sample": "s1", "turn": "x"}',
            "outputs/responses.jsonl, line 1: `turn`: expected a whole number",
        ),
    ],
)
def test_a_draw_with_unusable_answers_fails_and_can_be_received_again(
    project, tmp_path, lines, error
):
    run = start(project, "draw", policy=make_policy(project))
    arguments = []
    if lines is not None:
        file = tmp_path / "responses.jsonl"
        file.write_text(lines)
        arguments = ["--responses", file]
    assert supervised(run, *arguments) is Outcome.FAILED
    assert error in run.error
    assert not Pair.objects.exists()
    (run.directory / "outputs" / "responses.jsonl").write_text("")
    control.resume_run(project=run.project, run=run, user=None)
    assert supervised(run, "--crash-at", 1) is Outcome.FINISHED


@pytest.mark.django_db(transaction=True)
def test_figures_of_an_evaluation_become_the_result(project):
    run = start(project, "evaluate", policy=make_policy(project))
    figures = {"policies": {"policy": {"turns_right": {"value": 0.5}}}}
    assert supervised(run, "--evaluation", json.dumps(figures)) is Outcome.FINISHED
    assert run.result == figures


@pytest.mark.django_db(transaction=True)
def test_a_changed_snapshot_file_fails_the_run_before_it_starts(project):
    run = start(project)
    (run.snapshot.directory / "train.jsonl").write_text("{}\n")
    assert supervised(run) is Outcome.FAILED
    assert "train.jsonl is missing or was changed" in run.error


@pytest.mark.django_db(transaction=True)
def test_the_run_directory_says_all_the_program_needs(project):
    policy = make_policy(project)
    run = start(project, "sft", {"steps": 9}, policy=policy)
    supervised(run, "--steps", 2)
    document = json.loads((run.directory / "run.json").read_text())
    assert document["program"] == "sft"
    assert document["recipe"]["steps"] == 9
    assert document["inputs"] == {"policy": str(policy.directory)}
    assert document["data"] == {
        "train": "data/train.jsonl",
        "held_out": "data/held_out.jsonl",
    }
    assert (document["run_id"], document["attempt"], document["token"]) == (
        run.pk,
        1,
        1,
    )
    assert document["resume"] is None


def test_a_worker_done_with_a_run_asks_for_the_one_that_waited_longest(
    project, sent, monkeypatch
):
    first, second = make_run(project=project), make_run(project=project)
    outcomes = iter(
        [Outcome.QUEUED_AGAIN, Outcome.LEFT_FOR_LATER, Outcome.FINISHED, None]
    )
    monkeypatch.setattr(supervise, "supervise", lambda pk: next(outcomes))
    for _ in range(4):
        tasks.run_hint(first.pk)
    assert [args for _, args, _ in sent] == [[first.pk], [second.pk], [first.pk]]


def test_a_worker_with_its_hands_full_leaves_a_run_waiting(project, monkeypatch):
    run = make_run(project=project)
    monkeypatch.setattr(tasks, "hands", threading.BoundedSemaphore(1))
    tasks.hands.acquire()
    tasks.run_hint(run.pk)
    run.refresh_from_db()
    assert run.state == "queued"


@pytest.mark.django_db(transaction=True)
def test_two_equal_snapshots_at_once_are_one(project):
    found = []

    def build():
        try:
            found.append(start(project).snapshot_id)
        finally:
            connection.close()

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


# The draw that follows


def finished_run(project, *, draw_next):
    run = make_run(project=project, state="finished", draw_next=draw_next)
    return run, make_checkpoint(run)


def test_a_finished_run_that_asked_for_it_is_followed_by_one_draw(project, sent):
    run, checkpoint = finished_run(project, draw_next=True)
    (draw,) = launch.start_asked_draws()
    assert draw.kind == "draw"
    assert {i.role: i.checkpoint for i in draw.run_inputs.all()} == {
        "policy": checkpoint
    }
    assert launch.start_asked_draws() == []
    assert f"run {draw.pk}" in run.notes.get().message


def test_a_run_that_did_not_ask_or_did_not_finish_is_not_followed(project, sent):
    finished_run(project, draw_next=False)
    make_run(project=project, state="failed", draw_next=True)
    make_run(project=project, draw_next=True)
    assert launch.start_asked_draws() == []


def test_a_draw_that_cannot_start_is_told_on_the_run_that_asked(project, sent):
    run = make_run(project=project, state="finished", draw_next=True)
    assert launch.start_asked_draws() == []
    assert "did not start" in run.notes.get().message
