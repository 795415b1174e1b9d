"""Iterations as deeds: real rows, and tiny programs in the place of the engine's."""

import json
import shutil
import threading

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from annotation.judging import judgments
from annotation.judging.pairing import ProducerFacts, ResponseRow, receive_responses
from annotation.judging.precedence import put_first
from annotation.models import Pair, Slot
from tests.cast import SAMPLED, make_judgment, make_project, make_sample, make_user
from tests.training.conftest import (
    QUICK,
    make_checkpoint,
    make_policy,
    make_run,
    program_starts,
    start_worker,
    tiny,
    wait_until,
)
from training import tasks
from training.iterations import advance, deeds, status
from training.iterations.deeds import IterationRefusedError, ReasonNeededError
from training.models import Iteration, IterationStep, Promotion, Run
from training.runs import claim, control, hints, launch, starting_points, supervise

pytestmark = pytest.mark.django_db

GOOD_RM = {
    "quads/seen/accuracy": 0.99,
    "quads/unseen/accuracy": 0.99,
    "judged/bad_caught": 0.95,
    "judged/auc": 0.97,
}


def evaluation(before=0.5, after=0.6, half=0.05):
    """Return an evaluation; the gain's interval reaches ``half`` to both sides."""

    def figures(value):
        return {
            "tasks_complete": {
                "value": value,
                "low": value - 0.1,
                "high": value + 0.1,
                "n": 40,
            }
        }

    gain = {
        "value": after - before,
        "n": 40,
        "changed": 6,
        "low": after - before - half,
        "high": after - before + half,
    }
    return {
        "policies": {"policy": figures(after), "initial": figures(before)},
        "gains": {"policy": {"tasks_complete": gain}},
    }


@pytest.fixture(autouse=True)
def no_broker(monkeypatch):
    monkeypatch.setattr(hints.current_app, "send_task", lambda *a, **k: None)


@pytest.fixture
def project():
    project = make_project(slug="cakes", overlap=1)
    make_sample(project=project, external_id="s1")
    make_sample(project=project, external_id="s2")
    Promotion.objects.create(project=project, checkpoint=make_policy(project))
    return project


@pytest.fixture
def answers(tmp_path):
    """Return the draw program's arguments: one answer to each sample."""
    path = tmp_path / "responses.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {
                    "sample": name,
                    "turn": 0,
                    "index": 0,
                    "role": "current",
                    "text": SAMPLED,
                    "format_error": "",
                    "observation": "",
                    "observation_source": "",
                    "identical": False,
                }
            )
            + "\n"
            for name in ("s1", "s2")
        )
    )
    return tiny("--responses", path, "--values", '{"current/rm_score": 0.5}')


def begin(project, **fields):
    iteration = deeds.start_iteration(project=project, user=make_user("tara"), **fields)
    advance.advance(iteration_id=iteration.pk)
    return fresh(iteration)


def fresh(iteration):
    return Iteration.objects.get(pk=iteration.pk)


def step(iteration, name=None):
    return iteration.steps.get(name=name or fresh(iteration).step)


def see_through(iteration, command):
    """Let a worker do the run the iteration waits for, and the iteration go on."""
    run = step(iteration).run
    outcome = supervise.supervise(run.pk, command=command, timing=QUICK)
    advance.advance_all()
    return outcome


def drawn(project):
    """Receive an answer to each sample, as a draw of the iteration's first step does."""
    run = Run.objects.get(kind="draw", state="queued")
    checkpoint = starting_points.current_policy(project)
    receive_responses(
        project=project,
        producer=ProducerFacts(run.pk, checkpoint.pk, "0" * 64, 1, "current"),
        responses=[ResponseRow(name, 0, 0, SAMPLED) for name in ("s1", "s2")],
    )
    ended(run, result={"current/rm_score": 0.5})


def ended(run, *, metrics=None, state="finished", result=None):
    """Let a run end as its worker would, without a process."""
    if run.kind in ("reward", "policy"):
        checkpoint = make_checkpoint(run)
        checkpoint.manifest["metrics"] = metrics or {}
        checkpoint.save()
    Run.objects.filter(pk=run.pk).update(
        state=state,
        result=result or {},
        started_at=timezone.now(),
        ended_at=timezone.now(),
    )
    advance.advance_all()


def judge_all(project, verdict=1):
    lena = make_user("lena")
    while slot := Slot.objects.filter(project=project, state="open").first():
        make_judgment(slot.pair, lena, verdict)


def to_reward(project, **fields):
    iteration = begin(project, **fields)
    drawn(project)
    judge_all(project)
    advance.advance_all()
    return fresh(iteration)


def to_compare(project, *, before=0.5, after=0.6, half=0.05, **fields):
    iteration = to_reward(project, **fields)
    ended(step(iteration).run, metrics=GOOD_RM)
    ended(step(iteration).run)
    ended(step(iteration).run, result=evaluation(before, after, half))
    return fresh(iteration)


@pytest.mark.django_db(transaction=True)
def test_the_cycle_goes_by_itself_to_the_promotion_that_asks_a_person(project, answers):
    iteration = begin(project)
    assert (iteration.step, step(iteration).state) == ("draw", "working")
    see_through(iteration, answers)
    assert fresh(iteration).step == "judge"
    assert Pair.objects.count() == 2
    advance.advance_all()
    assert step(iteration, "judge").state == "working"
    judge_all(project)
    advance.advance_all()
    assert fresh(iteration).step == "reward"
    see_through(iteration, tiny("--metrics", json.dumps(GOOD_RM)))
    assert fresh(iteration).step == "policy"
    run = step(iteration).run
    roles = {each.role: each.checkpoint for each in run.run_inputs.all()}
    assert roles["reward"].run == step(iteration, "reward").run
    see_through(iteration, tiny())
    evaluate = step(iteration).run
    roles = {each.role: each.checkpoint for each in evaluate.run_inputs.all()}
    assert roles["policy"].run == run
    assert roles["initial"] == starting_points.current_policy(project)
    see_through(iteration, tiny("--evaluation", json.dumps(evaluation())))
    assert (fresh(iteration).step, step(iteration).state) == ("promote", "asking")
    assert status.comparison_of(fresh(iteration)).gain == pytest.approx(0.1)

    ada = make_user("ada")
    deeds.approve_step(
        project=iteration.project, iteration=iteration, name="promote", user=ada
    )
    advance.advance_all()
    assert fresh(iteration).state == "done"
    assert starting_points.current_policy(project).run == run
    assert Promotion.objects.first().promoted_by == ada
    assert Run.objects.exclude(kind="sft").count() == 4


def test_an_iteration_needs_a_policy():
    with pytest.raises(IterationRefusedError, match="no policy yet"):
        begin(make_project())


def test_a_project_has_one_open_iteration(project):
    iteration = begin(project)
    with pytest.raises(IterationRefusedError, match="open already"):
        begin(project)
    deeds.stop_iteration(
        project=iteration.project, iteration=iteration, user=None, reason="enough"
    )
    second = begin(project)
    assert second.number == 2
    with pytest.raises(IterationRefusedError, match="Another iteration"):
        deeds.resume_iteration(
            project=iteration.project, iteration=fresh(iteration), user=None
        )


def test_a_wrong_setting_is_named_with_its_step_and_nothing_begins(project):
    with pytest.raises(IterationRefusedError) as caught:
        begin(project, recipes={"policy": {"steps": 0}})
    assert list(caught.value.problems) == ["policy"]
    assert "steps" in caught.value.problems["policy"]
    assert not Iteration.objects.exists()


def test_advancing_twice_starts_one_run(project):
    iteration = begin(project)
    for _ in range(3):
        advance.advance_all()
    assert Run.objects.filter(kind="draw").count() == 1
    assert step(iteration).run == Run.objects.get(kind="draw")


@pytest.mark.django_db(transaction=True)
def test_callers_at_once_start_one_run(project):
    iteration = deeds.start_iteration(project=project, user=None)
    meet = threading.Barrier(4)

    def go():
        try:
            meet.wait()
            advance.advance(iteration_id=iteration.pk)
        finally:
            connection.close()

    callers = [threading.Thread(target=go) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    advance.advance_all()
    assert Run.objects.filter(kind="draw").count() == 1
    assert step(iteration).state == "working"


def test_a_death_while_a_run_is_being_started_leaves_what_the_next_one_does(
    project, monkeypatch
):
    iteration = deeds.start_iteration(project=project, user=None)

    class DeadError(BaseException):
        pass

    def die(*args, **kwargs):
        raise DeadError

    for name in ("build_snapshot", "send_hint_on_commit"):
        with monkeypatch.context() as patch:
            patch.setattr(launch, name, die)
            with pytest.raises(DeadError), transaction.atomic():
                advance.advance(iteration_id=iteration.pk)
        assert not Run.objects.filter(kind="draw").exists()
        assert step(iteration).state == "waiting"
    advance.advance(iteration_id=iteration.pk)
    assert step(iteration).state == "working"
    assert Run.objects.filter(kind="draw").count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_worker_killed_in_the_middle_of_a_step_does_not_end_the_iteration(
    project, answers
):
    iteration = begin(project)
    run = step(iteration).run
    worker = start_worker(run, [*answers, "--pause", "30"], lease=1, beat=0.1)
    wait_until(lambda: program_starts(run), what="the program")
    worker.kill()
    advance.advance_all()
    assert step(iteration, "draw").state == "working"

    def given_back():
        claim.reconcile(timing=QUICK)
        return Run.objects.get(pk=run.pk).state == "queued"

    wait_until(given_back, what="giving back")

    def taken_up():
        return supervise.supervise(run.pk, command=answers, timing=QUICK) in (
            supervise.Outcome.FINISHED,
        )

    wait_until(taken_up, what="the second attempt")
    tasks.reconcile()
    assert fresh(iteration).step == "judge"
    assert Run.objects.filter(kind="draw").count() == 1


def test_a_full_disk_is_said_at_the_step_and_keeps_no_other_from_going_on(
    project, monkeypatch
):
    other = make_project()
    make_sample(project=other)
    Promotion.objects.create(project=other, checkpoint=make_policy(other))
    first = deeds.start_iteration(project=project, user=None)
    second = deeds.start_iteration(project=other, user=None)
    real = launch.build_snapshot

    def full(*, project, **rest):
        if project == first.project:
            raise OSError(28, "No space left on device")
        return real(project=project, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(launch, "build_snapshot", full)
        advance.advance_all()
    assert "No space left" in step(first).problem
    assert step(second).state == "working"
    deeds.retry_step(project=first.project, iteration=first, name="draw", user=None)
    advance.advance_all()
    assert step(first).state == "working"


def test_one_iteration_that_cannot_be_looked_at_does_not_hold_up_the_rest(
    project, monkeypatch, caplog
):
    other = make_project()
    make_sample(project=other)
    Promotion.objects.create(project=other, checkpoint=make_policy(other))
    first = deeds.start_iteration(project=project, user=None)
    second = deeds.start_iteration(project=other, user=None)
    real = advance.default_inputs

    def odd(project, kind):
        if project == first.project:
            raise RuntimeError("odd")
        return real(project, kind)

    monkeypatch.setattr(advance, "default_inputs", odd)
    advance.advance_all()
    assert step(second).state == "working"
    assert step(first).state == "waiting"
    assert f"Iteration {first.pk} could not be looked at" in caplog.text


def test_judging_is_enough_by_number_or_by_share(project):
    iteration = begin(project, wanted_judgments=1, wanted_settled=100)
    drawn(project)
    assert fresh(iteration).step == "judge"
    make_judgment(Pair.objects.first(), make_user("lena"), 1)
    advance.advance_all()
    assert fresh(iteration).step == "reward"

    control.stop_run(
        project=step(iteration).run.project, run=step(iteration).run, user=None
    )
    deeds.go_back(
        project=iteration.project, iteration=fresh(iteration), name="judge", user=None
    )
    deeds.change_iteration(
        project=iteration.project,
        iteration=fresh(iteration),
        user=None,
        wanted_judgments=500,
        wanted_settled=51,
        margin=0.03,
        automatic=("reward",),
    )
    advance.advance_all()
    assert fresh(iteration).step == "judge"
    judge_all(project)
    advance.advance_all()
    assert fresh(iteration).step == "reward"


def test_what_cannot_go_back_says_why(project):
    iteration = to_reward(project)
    with pytest.raises(IterationRefusedError, match="has not ended"):
        deeds.go_back(
            project=iteration.project, iteration=iteration, name="judge", user=None
        )
    with pytest.raises(IterationRefusedError, match="not come to this step"):
        deeds.go_back(
            project=iteration.project, iteration=iteration, name="promote", user=None
        )


def test_a_draw_without_anything_to_judge_goes_on(project):
    iteration = begin(project)
    ended(step(iteration).run)
    assert step(iteration, "judge").state == "done"
    # Without a judgment there is no reward model to train: the step says so.
    failed = step(iteration, "reward")
    assert failed.state == "failed" or failed.run is None
    assert "No pair has been judged" in failed.problem


def test_a_reward_model_below_its_gate_waits_for_a_reason(project):
    iteration = to_reward(project)
    ended(step(iteration).run, metrics={"quads/seen/accuracy": 0.5})
    assert (fresh(iteration).step, step(iteration).state) == ("policy", "asking")
    assert len(status.gate_misses_of(fresh(iteration))) == 3
    deed = {
        "project": project,
        "iteration": fresh(iteration),
        "name": "policy",
        "user": None,
    }
    with pytest.raises(ReasonNeededError):
        deeds.approve_step(**deed)
    deeds.approve_step(**deed, reason="A trial.")
    advance.advance_all()
    assert step(iteration).run.recipe["gate_override"] == "A trial."


def test_a_better_reward_model_after_going_back_opens_the_gate(project):
    iteration = to_reward(project)
    ended(step(iteration).run)
    first = step(iteration, "reward").run
    deeds.go_back(
        project=iteration.project, iteration=fresh(iteration), name="reward", user=None
    )
    advance.advance_all()
    assert step(iteration).run != first
    assert step(iteration).earlier_runs == [first.pk]
    ended(step(iteration).run, metrics=GOOD_RM)
    assert (fresh(iteration).step, step(iteration).state) == ("policy", "working")


def test_the_alarm_of_the_policy_run_stops_the_iteration(project):
    iteration = to_reward(project)
    ended(step(iteration).run, metrics=GOOD_RM)
    alarm = {"alarm": "score and truth part: since step 10"}
    ended(step(iteration).run, state="stopped", result=alarm)
    stopped = fresh(iteration)
    assert (stopped.state, stopped.is_alarm, stopped.step) == (
        "stopped",
        True,
        "policy",
    )
    assert "score and truth part" in stopped.stopped_because
    assert not Run.objects.filter(kind="evaluate").exists()

    with pytest.raises(ReasonNeededError):
        deeds.resume_iteration(project=stopped.project, iteration=stopped, user=None)
    deeds.resume_iteration(
        project=stopped.project, iteration=stopped, user=None, reason="Step 10 is fine."
    )
    advance.advance_all()
    assert fresh(iteration).step == "evaluate"
    assert step(iteration, "policy").reason == "Step 10 is fine."


def judged(project, number, *, rm_score, verdicts):
    """Begin an iteration whose draw people have judged so."""
    checkpoint = starting_points.current_policy(project)
    run = make_run(
        project=project,
        kind="draw",
        state="finished",
        result={"current/rm_score": rm_score},
    )
    rows = [
        ResponseRow("s1", 0, i, SAMPLED.replace("florist", f"shop {number} {i}"))
        for i in range(len(verdicts))
    ]
    receive_responses(
        project=project,
        producer=ProducerFacts(run.pk, checkpoint.pk, "0" * 64, 1, "current"),
        responses=rows,
    )
    for verdict in verdicts:
        pair = Pair.objects.filter(slots__state="open").order_by("pk").first()
        make_judgment(pair, make_user("lena"), verdict)
    iteration = deeds.start_iteration(project=project, user=None)
    IterationStep.objects.filter(iteration=iteration, name="draw").update(
        run=run, state="done"
    )
    return iteration


def test_score_up_and_people_down_on_fresh_answers_stops_the_iteration(project):
    before = judged(project, 1, rm_score=0.6, verdicts=[1] * 18 + [0] * 2)
    deeds.stop_iteration(
        project=before.project, iteration=before, user=None, reason="for the test"
    )
    after = judged(project, 2, rm_score=0.9, verdicts=[1] * 6 + [0] * 14)
    advance.advance_all()
    stopped = fresh(after)
    assert (stopped.state, stopped.is_alarm, stopped.step) == ("stopped", True, "judge")
    assert "from 0.600 to 0.900" in stopped.stopped_because
    assert "from 0.900 to 0.300" in stopped.stopped_because


def test_answers_picked_by_the_reward_model_raise_no_alarm(project):
    before = judged(project, 1, rm_score=0.6, verdicts=[1] * 18 + [0] * 2)
    deeds.stop_iteration(
        project=before.project, iteration=before, user=None, reason="for the test"
    )
    after = judged(project, 2, rm_score=0.9, verdicts=[1] * 6 + [0] * 14)
    Run.objects.filter(pk=step(after, "draw").run_id).update(
        recipe={"keep": "accepted"}
    )
    advance.advance_all()
    assert fresh(after).step == "reward"


def test_people_up_on_fresh_answers_is_no_alarm(project):
    before = judged(project, 1, rm_score=0.6, verdicts=[1] * 6 + [0] * 14)
    deeds.stop_iteration(
        project=before.project, iteration=before, user=None, reason="for the test"
    )
    after = judged(project, 2, rm_score=0.9, verdicts=[1] * 18 + [0] * 2)
    advance.advance_all()
    assert fresh(after).step == "reward"


@pytest.mark.django_db(transaction=True)
def test_a_failed_run_waits_and_is_tried_again(project, answers):
    iteration = begin(project)
    see_through(iteration, tiny())  # a draw that leaves no answers
    assert step(iteration).state == "failed"
    assert "responses.jsonl" in step(iteration).problem
    advance.advance_all()
    assert step(iteration).state == "failed"
    deeds.retry_step(
        project=iteration.project, iteration=fresh(iteration), name="draw", user=None
    )
    assert step(iteration).state == "working"
    run = step(iteration).run
    assert run.state == "queued"
    shutil.copy(answers[3], run.directory / "outputs" / "responses.jsonl")
    see_through(iteration, answers)
    assert fresh(iteration).step == "judge"


def test_a_worse_policy_passes_with_a_reason_only(project):
    iteration = to_compare(project, before=0.6, after=0.5)
    assert (iteration.step, step(iteration).state) == ("compare", "asking")
    deed = {"project": project, "iteration": iteration, "name": "compare", "user": None}
    with pytest.raises(ReasonNeededError):
        deeds.approve_step(**deed, reason=" ")
    deeds.approve_step(**deed, reason="It is safer.")
    advance.advance_all()
    assert fresh(iteration).step == "promote"


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_a_policy_that_was_not_bettered_is_neither_measured_nor_promoted(
    project, state
):
    before = starting_points.current_policy(project)
    iteration = to_reward(project, automatic=(*deeds.RUN_STEPS, "promote"))
    ended(step(iteration).run, metrics=GOOD_RM)
    run = step(iteration, "policy").run
    result = {"chosen_step": 0, "truth": 0.5, "truth_at_start": 0.5}
    ended(
        run, state=state, result=result | ({"alarm": "x"} if state == "stopped" else {})
    )
    if state == "stopped":
        deeds.resume_iteration(
            project=iteration.project,
            iteration=fresh(iteration),
            user=None,
            reason="The start is kept.",
        )
        advance.advance_all()
    assert fresh(iteration).state == "done"
    for name in ("evaluate", "compare", "promote"):
        passed = step(iteration, name)
        assert (passed.state, passed.run) == ("skipped", None)
        assert "Nothing better was found" in passed.reason
    assert starting_points.current_policy(project) == before
    assert Promotion.objects.count() == 1


def test_promotion_may_be_automatic(project):
    every = ("draw", "reward", "policy", "evaluate", "compare", "promote")
    iteration = to_compare(project, automatic=every)
    assert iteration.state == "done"
    assert Promotion.objects.count() == 2


EVERY = ("draw", "reward", "policy", "evaluate", "compare", "promote")


@pytest.mark.parametrize(
    ("gain", "half", "margin", "step_name"),
    [
        (0.1, 0.05, 0.0, None),  # better: promoted
        (0.0, 0.0, 0.0, None),  # the same answers
        (-0.01, 0.01, 0.03, None),  # within the margin
        (-0.01, 0.01, 0.0, "compare"),
        (0.1, 0.2, 0.03, "compare"),  # up, but chance does that
        (-0.1, 0.05, 0.03, "compare"),  # worse
    ],
)
def test_the_interval_and_the_margin_decide_about_an_automatic_promotion(
    project, gain, half, margin, step_name
):
    iteration = to_compare(
        project, after=0.5 + gain, half=half, margin=margin, automatic=EVERY
    )
    if step_name is None:
        assert iteration.state == "done"
        assert Promotion.objects.count() == 2
    else:
        assert (iteration.step, step(iteration).state) == (step_name, "asking")
        assert Promotion.objects.count() == 1


def test_a_skipped_comparison_lets_no_worse_policy_be_promoted(project):
    iteration = to_compare(project, before=0.6, after=0.5, automatic=EVERY)
    deeds.skip_step(
        project=iteration.project,
        iteration=iteration,
        name="compare",
        user=None,
        reason="Hurry",
    )
    advance.advance_all()
    assert (fresh(iteration).step, step(iteration).state) == ("promote", "asking")
    assert "worse" in status.what_speaks_against(fresh(iteration))[0]
    deed = {
        "project": project,
        "iteration": fresh(iteration),
        "name": "promote",
        "user": None,
    }
    with pytest.raises(ReasonNeededError):
        deeds.approve_step(**deed)
    deeds.approve_step(**deed, reason="It is safer.")
    advance.advance_all()
    assert fresh(iteration).state == "done"
    assert Promotion.objects.first().reason == "It is safer."


def test_what_a_person_accepted_at_the_comparison_is_not_asked_again(project):
    iteration = to_compare(project, before=0.6, after=0.5, automatic=EVERY)
    deeds.approve_step(
        project=iteration.project,
        iteration=iteration,
        name="compare",
        user=None,
        reason="It is safer.",
    )
    advance.advance_all()
    assert fresh(iteration).state == "done"
    assert Promotion.objects.first().reason == "Iteration 1. It is safer."


def test_the_promotion_keeps_the_gain_it_rests_on(project):
    to_compare(project, automatic=EVERY)
    assert Promotion.objects.first().reason == (
        "Iteration 1. Gain +0.100 (+0.050 to +0.150) on 40 samples."
    )


def test_a_truth_without_an_interval_asks_a_person(project):
    iteration = to_reward(project, automatic=EVERY)
    ended(step(iteration).run, metrics=GOOD_RM)
    ended(step(iteration).run, result={"truth_at_start": 0.5, "truth": 0.9})
    control.stop_run(
        project=step(iteration).run.project, run=step(iteration).run, user=None
    )
    advance.advance_all()
    deeds.skip_step(
        project=iteration.project,
        iteration=fresh(iteration),
        name="evaluate",
        user=None,
        reason="x",
    )
    advance.advance_all()
    assert (fresh(iteration).step, step(iteration).state) == ("compare", "asking")
    (against,) = status.what_speaks_against(fresh(iteration))
    assert "its interval is not known" in against


def changed(iteration, **recipe):
    return deeds.change_recipe(
        project=iteration.project,
        iteration=fresh(iteration),
        name="policy",
        user=make_user("ada"),
        recipe={**fresh(iteration).recipes["policy"], **recipe},
    )


def test_the_recipe_of_a_later_step_can_be_changed_and_who_did_it_is_kept(project):
    iteration = begin(project)
    before = iteration.recipes["policy"]["steps"]
    change = changed(iteration, steps=7)
    assert (change.user.username, change.step) == ("ada", "policy")
    assert change.values == {"steps": [before, 7]}
    assert fresh(iteration).recipes["policy"]["steps"] == 7
    assert fresh(iteration).recipes["draw"] == iteration.recipes["draw"]
    drawn(project)
    judge_all(project)
    advance.advance_all()
    ended(step(iteration).run, metrics=GOOD_RM)
    assert step(iteration).run.recipe["steps"] == 7


def test_the_same_recipe_is_no_change(project):
    iteration = begin(project)
    assert changed(iteration) is None
    assert not iteration.changes.exists()


def test_a_wrong_setting_of_a_changed_recipe_is_named_and_nothing_is_kept(project):
    iteration = begin(project)
    with pytest.raises(IterationRefusedError) as caught:
        changed(iteration, steps=0)
    assert "steps" in caught.value.problems["policy"]
    assert fresh(iteration).recipes == iteration.recipes
    assert not iteration.changes.exists()


def test_the_recipe_of_a_step_that_has_begun_or_is_past_stays(project):
    iteration = to_reward(project)
    for name in ("draw", "reward", "judge", "odd"):
        with pytest.raises(IterationRefusedError, match="has begun"):
            deeds.change_recipe(
                project=iteration.project,
                iteration=iteration,
                name=name,
                user=None,
                recipe={},
            )
    assert deeds.changeable_recipes(iteration) == ["policy", "evaluate"]
    deeds.stop_iteration(
        project=iteration.project, iteration=iteration, user=None, reason="enough"
    )
    with pytest.raises(IterationRefusedError, match="has ended"):
        changed(iteration, steps=7)
    assert deeds.changeable_recipes(fresh(iteration)) == []


def test_a_step_done_again_takes_the_changed_recipe(project):
    iteration = to_reward(project)
    control.stop_run(
        project=step(iteration).run.project, run=step(iteration).run, user=None
    )
    advance.advance_all()
    deeds.pause_iteration(
        project=iteration.project, iteration=fresh(iteration), user=None
    )
    deeds.go_back(
        project=iteration.project, iteration=fresh(iteration), name="reward", user=None
    )
    assert "reward" in deeds.changeable_recipes(fresh(iteration))


def test_a_recipe_changed_while_its_run_is_being_made_is_the_one_that_runs(
    project, monkeypatch
):
    iteration = to_reward(project)
    real = launch.build_snapshot

    def slow(**rest):
        monkeypatch.setattr(launch, "build_snapshot", real)
        Iteration.objects.filter(pk=iteration.pk).update(
            recipes={
                **iteration.recipes,
                "policy": {**iteration.recipes["policy"], "steps": 7},
            }
        )
        return real(**rest)

    monkeypatch.setattr(launch, "build_snapshot", slow)
    ended(step(iteration).run, metrics=GOOD_RM)
    advance.advance_all()
    assert step(iteration, "policy").run.recipe["steps"] == 7
    assert Run.objects.filter(kind="policy").count() == 1


def test_changed_settings_are_kept_with_who_changed_them(project):
    iteration = begin(project)
    deeds.change_iteration(
        project=iteration.project,
        iteration=iteration,
        user=make_user("ada"),
        wanted_judgments=300,
        wanted_settled=80,
        margin=0.1,
        automatic=("draw", "reward"),
    )
    (change,) = iteration.changes.all()
    assert (change.user.username, change.step) == ("ada", "")
    assert change.values == {
        "wanted_settled": [90, 80],
        "margin": [0.03, 0.1],
        "automatic": [
            ["draw", "reward", "policy", "evaluate", "compare"],
            ["draw", "reward"],
        ],
    }


def test_every_step_asks_where_nothing_is_automatic(project):
    iteration = begin(project, automatic=())
    assert step(iteration).state == "asking"
    assert not Run.objects.filter(kind="draw").exists()
    deeds.approve_step(
        project=iteration.project, iteration=iteration, name="draw", user=None
    )
    advance.advance_all()
    assert step(iteration).state == "working"


def test_a_paused_iteration_starts_nothing(project):
    iteration = begin(project)
    deeds.pause_iteration(project=iteration.project, iteration=iteration, user=None)
    drawn(project)
    assert fresh(iteration).step == "draw"
    deeds.resume_iteration(
        project=iteration.project, iteration=fresh(iteration), user=None
    )
    advance.advance_all()
    assert fresh(iteration).step == "judge"


def test_a_stop_ends_the_run_of_the_step_and_keeps_the_reason(project):
    iteration = begin(project)
    with pytest.raises(ReasonNeededError):
        deeds.stop_iteration(
            project=iteration.project, iteration=iteration, user=None, reason=""
        )
    deeds.stop_iteration(
        project=iteration.project,
        iteration=iteration,
        user=None,
        reason="Wrong recipe.",
    )
    assert fresh(iteration).stopped_because == "Wrong recipe."
    assert Run.objects.get(kind="draw").state == "stopped"
    with pytest.raises(IterationRefusedError, match="has ended"):
        deeds.pause_iteration(
            project=iteration.project, iteration=fresh(iteration), user=None
        )


def test_a_skip_needs_a_reason_and_the_policy_is_never_skipped(project):
    iteration = begin(project)
    drawn(project)
    deed = {
        "project": project,
        "iteration": fresh(iteration),
        "name": "judge",
        "user": None,
    }
    with pytest.raises(ReasonNeededError):
        deeds.skip_step(**deed, reason="")
    judge_all(project)
    deeds.skip_step(**deed, reason="Judged elsewhere.")
    advance.advance_all()
    assert fresh(iteration).step == "reward"
    ended(step(iteration).run)
    with pytest.raises(IterationRefusedError, match="stop the iteration"):
        deeds.skip_step(
            project=iteration.project,
            iteration=fresh(iteration),
            name="policy",
            user=None,
            reason="no",
        )


def test_a_deed_for_a_step_that_is_past_is_refused(project):
    iteration = begin(project)
    drawn(project)
    with pytest.raises(IterationRefusedError, match="not at this step any more"):
        deeds.approve_step(
            project=iteration.project, iteration=iteration, name="draw", user=None
        )


def test_each_draw_of_an_iteration_has_a_seed_of_its_own(project):
    first = begin(project, recipes={"draw": {"seed": 5}})
    assert step(first).run.recipe["seed"] == 5
    deeds.stop_iteration(
        project=first.project, iteration=first, user=None, reason="for the test"
    )
    second = begin(project, recipes={"draw": {"seed": 5}})
    assert step(second).run.recipe["seed"] == 6


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "odd"},
        {"step": "odd"},
        {"state": "stopped"},
        {"stopped_because": "but open"},
        {"state": "done"},
        {"wanted_settled": 101},
        {"margin": 1.5},
    ],
)
def test_the_rows_cannot_contradict_themselves(project, wrong):
    iteration = deeds.start_iteration(project=project, user=None)
    with pytest.raises(IntegrityError), transaction.atomic():
        Iteration.objects.filter(pk=iteration.pk).update(**wrong)


def test_a_working_step_has_its_run(project):
    iteration = deeds.start_iteration(project=project, user=None)
    with pytest.raises(IntegrityError), transaction.atomic():
        iteration.steps.filter(name="draw").update(state="working")
    with pytest.raises(IntegrityError), transaction.atomic():
        iteration.steps.filter(name="judge").update(state="skipped")


# --- whose pairs come first ----------------------------------------------------------


def backlog(project, count=3):
    """Have answers waiting that no iteration drew, to turns with the demo's label."""
    for number in range(count):
        make_sample(project=project, external_id=f"old-{number}")
    receive_responses(
        project=project,
        producer=ProducerFacts(900, 1, "0" * 64, 1, "current"),
        responses=[ResponseRow(f"old-{n}", 0, 0, SAMPLED) for n in range(count)],
    )


def judged_in_order(project, user, count):
    """Let a person judge what they are handed; return the samples it came from."""
    found = []
    for _ in range(count):
        claimed = judgments.claim_slot(project=project, user=user)
        found.append(claimed.pair.turn.sample.external_id)
        judgments.record_judgment(
            project=project,
            slot_id=claimed.slot.pk,
            token=claimed.token,
            user=user,
            verdict=1,
            order_confirmed=True,
            seconds_spent=1,
        )
    return found


def test_what_an_iteration_drew_is_handed_out_before_the_backlog(project):
    backlog(project)
    lena = make_user("lena")
    assert judged_in_order(project, lena, 1) == ["old-0"]  # her cursor moves on
    begin(project)
    drawn(project)
    assert judged_in_order(project, lena, 4) == ["s1", "s2", "old-1", "old-2"]


def test_a_pair_of_the_backlog_that_is_drawn_again_comes_first_too(project):
    backlog(project)
    receive_responses(
        project=project,
        producer=ProducerFacts(901, 1, "0" * 64, 1, "current"),
        responses=[ResponseRow("s2", 0, 0, SAMPLED)],
    )
    begin(project)
    drawn(project)
    lena = make_user("lena")
    assert judged_in_order(project, lena, 2) == ["s2", "s1"]


def test_what_an_earlier_iteration_left_stands_behind_the_next_ones_pairs(project):
    first = begin(project, wanted_judgments=1)
    drawn(project)
    lena = make_user("lena")
    assert judged_in_order(project, lena, 1) == ["s1"]
    deeds.stop_iteration(
        project=project, iteration=fresh(first), user=None, reason="Enough."
    )
    backlog(project, count=1)
    make_sample(project=project, external_id="s3")
    second = begin(project)
    run = Run.objects.get(kind="draw", state="queued")
    receive_responses(
        project=project,
        producer=ProducerFacts(run.pk, 1, "0" * 64, 1, "current"),
        responses=[ResponseRow("s3", 0, 0, SAMPLED)],
    )
    ended(run)
    assert step(second, "judge").state == "working"
    assert judged_in_order(project, lena, 3) == ["s3", "old-0", "s2"]


def test_a_resumed_iteration_has_its_pairs_first_again(project):
    first = begin(project)
    drawn(project)
    backlog(project, count=1)
    deeds.stop_iteration(
        project=project, iteration=fresh(first), user=None, reason="A break."
    )
    put_first(project=project, pairs=Pair.objects.none())  # another came and went
    lena = make_user("lena")
    assert judged_in_order(project, lena, 1) == ["old-0"]
    deeds.resume_iteration(project=project, iteration=fresh(first), user=None)
    make_sample(project=project, external_id="old-9")
    receive_responses(
        project=project,
        producer=ProducerFacts(902, 1, "0" * 64, 1, "current"),
        responses=[ResponseRow("old-9", 0, 0, SAMPLED)],
    )
    assert judged_in_order(project, lena, 2) == ["s1", "s2"]


def test_a_pair_that_was_put_aside_stays_behind_while_the_iteration_waits(project):
    backlog(project, count=1)
    iteration = begin(project)
    drawn(project)
    lena = make_user("lena")
    claimed = judgments.claim_slot(project=project, user=lena)
    judgments.set_aside(
        project=project, slot_id=claimed.slot.pk, token=claimed.token, user=lena
    )
    advance.advance(iteration_id=iteration.pk)
    assert judged_in_order(project, lena, 3) == ["s2", "old-0", "s1"]
