"""The policy program: rollouts, rewards, the gate, the watch, and whole micro runs."""

import hashlib
import json
import math
import random
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import modeling_utils

from actions.demo import derive
from actions.tags import OBSERVATION_CLOSE, OBSERVATION_OPEN
from records.checkpoints import read_manifest
from records.recipes import PolicyRecipe, RewardRecipe
from tests.engine.micro import (
    demo_rows,
    events,
    make_run,
    micro_policy,
    micro_tokenizer,
)
from tests.engine.test_scoring import micro_reward_model
from training.engine import policy
from training.engine.data.conversations import Encoder, read_samples, sample_from_json
from training.engine.data.holdout import is_to_choose_on
from training.engine.modeling.policies import Place, save_policy
from training.engine.reward_model.metrics import BAD_CAUGHT, SEEN_ORDERS, UNSEEN_ORDERS
from training.engine.reward_model.model import save_reward_model
from training.engine.reward_model.packing import RewardSettings
from training.engine.rl.rewards import Rewarded, Rewards
from training.engine.rl.rollouts import Rollouts
from training.engine.rl.update import TokenLogProbs
from training.engine.rl.validation import HeldOut, Validation, best_checkpoint, gain
from training.engine.run.directory import RunDirectory, run_program
from training.engine.sampling.answers import Answer, build_prompts
from training.engine.sampling.sampler import PartOf, Sampled, Sampling

# transformers, TRL and torch warn about settings of their own that they are renaming.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CPU = Place(torch.device("cpu"), half=False)
GOOD = {SEEN_ORDERS: 0.95, UNSEEN_ORDERS: 0.95, BAD_CAUGHT: 0.9}


# A policy that answers right about half of the time, so that there is something to learn


def toy_rows():
    """Two demo samples cut to their first turn, without contexts to read."""
    rows = []
    for row in demo_rows():
        turn = row["turns"][0]
        if '"openings"' in str(turn).replace("'", '"') and len(rows) < 2:
            rows.append({**row, "contexts": [], "turns": [turn]})
    return rows


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Return a policy that was taught each label and one error beside it."""
    torch.manual_seed(0)
    tokenizer = micro_tokenizer()
    model = micro_policy(tokenizer)
    encoder = Encoder(tokenizer)
    rng = random.Random(0)
    texts = []
    for row in toy_rows():
        turn = row["turns"][0]
        wrong, _ = derive.corrupted(turn, rng, "action name")
        texts += [(row, turn["response"]), (row, wrong)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        for row, text in texts:
            encoded = encoder.encode(sample_from_json(row), responses=[text])
            ids, labels = torch.tensor([encoded.ids]), torch.tensor([encoded.labels])
            (model(input_ids=ids, labels=labels).loss / len(texts)).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("toy")
    save_policy(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """Return a checkpoint of an untrained reward model whose manifest passes the gate."""
    return save_judge(tmp_path_factory.mktemp("judge"), GOOD)


def save_judge(folder, metrics):
    make_run(folder, "reward")
    run = RunDirectory(folder)
    run.read()
    model = micro_reward_model()

    def write(at):
        settings = RewardSettings("interleaved", "unit")
        save_reward_model(at, model.reader.classifier, model.tokenizer, settings)

    manifest = run.save_checkpoint(
        1, write, kind="reward", recipe=RewardRecipe(), metrics=metrics
    )
    run.close()
    return manifest.path


def run_policy(folder, start, reward=None, rows=None, resume=None, **recipe):
    settings = {
        "steps": 4,
        "prompts_per_step": 2,
        "num_generations": 4,
        "micro_batch": 8,
        "oversampling": 1.0,
        "max_new_tokens": 90,
        "evaluate_every": 2,
        "precision": "fp32",
        "warmup_steps": 0,
        **recipe,
    }
    inputs = {"policy": start, **({"reward": reward} if reward else {})}
    rows = toy_rows() if rows is None else rows
    data = {"train": rows, "held_out": rows}
    make_run(folder, "policy", settings, inputs, data, resume)
    return run_program("policy", PolicyRecipe, policy.main, [str(folder)])


def result(folder):
    return events(folder, "result")[-1]


# Rewards


def given(row, text, turn=0, error=None, ids=(1, 2)):
    sampled = Sampled(list(ids), [-0.5] * len(ids), True)
    return Answer(sample_from_json(row), turn, 0, text, error, sampled)


def test_the_oracle_rewards_what_says_the_same_and_nothing_ill_formed():
    row = toy_rows()[0]
    turn = row["turns"][0]
    wrong, _ = derive.corrupted(turn, random.Random(0), "parameter")
    rewards = Rewards(PolicyRecipe(consistency_source="oracle"), None)
    broken = given(row, turn["response"], error=ValueError("cut off"))
    found = rewards([given(row, turn["references"][0]), given(row, wrong), broken])
    assert [(r.format, r.consistency) for r in found] == [(1, 1), (1, 0), (0, 0)]


def test_a_reward_that_does_not_apply_is_none():
    row = toy_rows()[0]
    turn = {k: v for k, v in row["turns"][0].items() if k != "facts"}
    rewards = Rewards(PolicyRecipe(consistency_source="oracle"), None)
    assert rewards([given({**row, "turns": [turn]}, turn["response"])]) == [
        Rewarded(1.0, None)
    ]


def judged(threshold=0.5, **recipe):
    model = SimpleNamespace(
        settings=RewardSettings("interleaved", "unit", threshold=threshold)
    )
    return Rewards(PolicyRecipe(**recipe), model)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("logit", [0.0, 0.5, 0.625, 1.0]),
        ("verdict", [0.0, 1.0, 1.0, 1.0]),
        (
            "log-probability",
            [0.0, 1 - math.log(2) / 4, 1 - math.log1p(math.exp(-1)) / 4, 1.0],
        ),
        ("probability", [1 / (1 + math.exp(9)), 0.5, 1 / (1 + math.exp(-1)), 1.0]),
    ],
)
def test_the_consistency_reward_is_the_clipped_logit_the_verdict_or_the_probability(
    value, expected
):
    rewards = judged(consistency_value=value)
    found = [rewards.value(logit) for logit in (-9.0, 0.0, 1.0, 30.0)]
    assert found == pytest.approx(expected)


def test_the_logit_is_taken_relative_to_the_threshold():
    rewards = judged(threshold=1 / (1 + math.exp(-2)))
    assert rewards.value(2.0) == pytest.approx(0.5)


def test_an_answer_to_a_label_outside_the_grammar_earns_no_consistency():
    row = toy_rows()[0]
    good = given(row, row["turns"][0]["response"])
    row["turns"][0]["response"] = "<<think>>never closed"
    one = given(row, good.text)
    rewards = Rewards(PolicyRecipe(), micro_reward_model())
    assert rewards.scores([one, good])[0] is None
    broken, whole = rewards([one, good])
    assert (broken.format, broken.consistency) == (1.0, None)
    assert whole.consistency is not None


# Rollouts


def make_rollouts(rows, **recipe):
    tokenizer = micro_tokenizer()
    encoder = Encoder(tokenizer)
    prompts, _ = build_prompts(encoder, [sample_from_json(row) for row in rows], 4096)
    recipe = PolicyRecipe(**{"num_generations": 4, "oversampling": 1.0, **recipe})
    sampling = Sampling(1.0, 1.0, 20, encoder.frame.stop_ids, tokenizer.pad_token_id)
    return Rollouts(recipe, prompts, encoder, sampling, CPU, Rewards(recipe, None))


def answer_with_labels(encoder):
    """Return an ``answer`` that gives the label of every turn asked."""

    def answer(model, tokenizer, prompts, sampling, *, place, seed, per_turn=1):
        return [
            [
                Answer(
                    item.sample,
                    item.turn,
                    index,
                    text := item.sample.turns[item.turn].response,
                    None,
                    Sampled(
                        ids := list(encoder.response_ids(text)), [-0.1] * len(ids), True
                    ),
                )
                for index in range(per_turn)
            ]
            for item in prompts
        ]

    return answer


def normal_row():
    return next(row for row in demo_rows() if row["situation"] == "normal")


def test_following_actions_goes_on_after_the_recorded_observation(monkeypatch):
    row = normal_row()
    rollouts = make_rollouts([row], whole_tasks=True)
    monkeypatch.setattr(
        "training.engine.rl.rollouts.answer", answer_with_labels(rollouts.encoder)
    )
    first = rollouts.prompts[0]
    episode = rollouts.respond(None, [first], PartOf(0, 0, 1))[0][0]
    turns = row["turns"]
    kinds = [turn["input"]["kind"] for turn in turns]
    followed = next((n for n, k in enumerate(kinds) if n and k == "user"), len(kinds))
    assert len(episode.answers) == followed > 1
    # The sequence is the conversation as it is trained on, and the mask is its labels'.
    encoded = rollouts.encoder.encode(sample_from_json(row), turns=range(followed))
    assert first.ids + episode.ids == encoded.ids
    assert [m == 1 for m in episode.mask] == [
        label != -100 for label in encoded.labels[len(first.ids) :]
    ]
    hidden = [i for i, m in zip(episode.ids, episode.mask, strict=True) if not m]
    text = rollouts.encoder.tokenizer.decode(hidden)
    assert text.startswith(OBSERVATION_OPEN)
    assert text.endswith(OBSERVATION_CLOSE)
    assert text.count(OBSERVATION_OPEN) == followed - 1


def test_a_group_told_to_another_process_is_the_same_there(monkeypatch):
    rollouts = make_rollouts([normal_row()], whole_tasks=True)
    monkeypatch.setattr(
        "training.engine.rl.rollouts.answer", answer_with_labels(rollouts.encoder)
    )
    first = rollouts.prompts[0]
    (group,) = rollouts.respond(None, [first], PartOf(0, 0, 1))
    assert len(group[0].answers) > 1
    told = json.loads(json.dumps([episode.to_json() for episode in group]))
    again = rollouts.group_of(first, told)
    assert json.loads(json.dumps([episode.to_json() for episode in again])) == told
    assert [episode.answers for episode in again] == [e.answers for e in group]
    # What is wrong with an answer is found there anew.
    told[1]["answers"][0][2][2] = False
    again = rollouts.group_of(first, told)[1].answers[0]
    assert again.format_error.expected == "the end of the response"


def test_without_following_an_episode_is_one_response(monkeypatch):
    rollouts = make_rollouts([normal_row()])
    monkeypatch.setattr(
        "training.engine.rl.rollouts.answer", answer_with_labels(rollouts.encoder)
    )
    episode = rollouts.respond(None, [rollouts.prompts[0]], PartOf(0, 0, 1))[0][0]
    assert len(episode.answers) == 1
    assert set(episode.mask) == {1}


def test_groups_without_signal_are_dropped_first(monkeypatch):
    rollouts = make_rollouts(demo_rows()[:6], oversampling=4.0)
    monkeypatch.setattr(
        "training.engine.rl.rollouts.answer", answer_with_labels(rollouts.encoder)
    )

    def rewards(answers):
        return [
            Rewarded(1.0, 1.0 if a.turn else float(a.index % 2))  # first turns differ
            for a in answers
        ]

    rollouts.rewards = rewards
    draw = rollouts.draw(None, 3, step=0)
    groups = draw.groups
    assert len(groups) == 3
    stds = [rollouts.std(group) for group in groups]
    available = draw.metrics["groups_without_signal"]
    assert 0 < available < 1
    assert sum(std > 0.1 for std in stds) == min(3, round(12 * (1 - available)))


def test_a_zero_variance_group_that_is_kept_is_marked(monkeypatch):
    rollouts = make_rollouts(demo_rows()[:2])
    monkeypatch.setattr(
        "training.engine.rl.rollouts.answer", answer_with_labels(rollouts.encoder)
    )
    rollouts.rewards = lambda answers: [Rewarded(1.0, 0.5)] * len(answers)
    draw = rollouts.draw(None, 2, step=0)
    assert draw.zero_variance == [True, True]


def test_draws_go_on_while_groups_with_a_signal_are_missing(monkeypatch):
    """DAPO's dynamic sampling: here the third draw is the first with a signal."""
    rollouts = make_rollouts(demo_rows()[:2], algorithm="dapo")
    monkeypatch.setattr(
        "training.engine.rl.rollouts.answer", answer_with_labels(rollouts.encoder)
    )
    draws = []

    def rewards(answers):
        draws.append(len(answers))
        loud = len(draws) == 3
        return [Rewarded(1.0, a.index % 2 if loud else 1.0) for a in answers]

    rollouts.rewards = rewards
    draw = rollouts.draw(None, 2, step=0)
    assert draws == [8, 8, 8]
    assert draw.zero_variance == [False, False]
    assert len(draw.groups) == 2


def test_published_grpo_keeps_every_group_it_drew(monkeypatch):
    rollouts = make_rollouts(demo_rows()[:2], algorithm="grpo", oversampling=4.0)
    monkeypatch.setattr(
        "training.engine.rl.rollouts.answer", answer_with_labels(rollouts.encoder)
    )
    rollouts.rewards = lambda answers: [Rewarded(1.0, 1.0)] * len(answers)
    draw = rollouts.draw(None, 2, step=0)
    assert draw.metrics["responses"] == 8
    assert draw.zero_variance == [False, False]


def test_the_turns_of_a_step_depend_on_its_number_only(monkeypatch):
    rollouts = make_rollouts(demo_rows())
    monkeypatch.setattr(
        "training.engine.rl.rollouts.answer", answer_with_labels(rollouts.encoder)
    )
    rollouts.rewards = lambda answers: [Rewarded(1.0, 1.0)] * len(answers)

    def drawn(step):
        return [
            (g[0].prompt.sample.id, g[0].prompt.turn)
            for g in rollouts.draw(None, 4, step).groups
        ]

    assert drawn(3) == drawn(3) != drawn(4)


# Truth and score


def test_the_gain_is_paired_and_its_interval_resamples_whole_samples():
    before = Validation(0, 0.5, 0.5, (True, False, True, False), (0, 0, 1, 1))
    after = Validation(8, 0.6, 0.75, (True, True, True, False), (0, 0, 1, 1))
    found = gain(before, after)
    assert found["gain"] == 0.25
    assert found["gain/low"] == 0.0
    assert found["gain/high"] == 0.5
    assert gain(before, before) == {"gain": 0, "gain/low": 0, "gain/high": 0}


def validation(step, right):
    verdicts = tuple(bool(verdict) for verdict in right)
    return Validation(step, 0.5, sum(right) / len(right), verdicts, (0, 1, 2, 3))


def test_the_best_step_is_chosen_on_some_samples_and_reported_on_others():
    # On samples 0 and 1 step 2 is the best, on 2 and 3 the start is.
    validations = [
        validation(0, (0, 0, 1, 1)),
        validation(2, (1, 1, 1, 0)),
        validation(4, (1, 0, 1, 1)),
    ]
    held_out = SimpleNamespace(has_truth=True, choose_on=frozenset({0, 1}))
    chosen, values = best_checkpoint(validations, held_out, lambda step: True)
    assert chosen is validations[1]
    assert (values["truth_at_start"], values["truth"]) == (1.0, 0.5)
    assert values["gain"] == -0.5
    assert values["chosen_by"] == (
        "held-out truth of 2 samples, the best of all validations; truth and gain are of 2 "
        "others"
    )
    # A start that is no worse where it counts stays.
    validations[1] = validation(2, (0, 0, 1, 1))
    validations[2] = validation(4, (0, 0, 1, 1))
    assert (
        best_checkpoint(validations, held_out, lambda step: True)[0] is validations[0]
    )


def test_too_few_samples_to_be_split_choose_and_report_and_it_says_so():
    validations = [validation(0, (0, 0, 1, 1)), validation(2, (1, 1, 1, 0))]
    held_out = SimpleNamespace(has_truth=True, choose_on=frozenset())
    chosen, values = best_checkpoint(validations, held_out, lambda step: True)
    assert chosen is validations[1]
    assert (values["truth_at_start"], values["truth"]) == (0.5, 0.75)
    assert values["chosen_by"].endswith("truth and gain are of the same samples")


# The gate


def test_a_reward_model_below_its_gate_stops_the_run_before_it_starts(tmp_path, toy):
    weak = save_judge(tmp_path / "weak", {**GOOD, BAD_CAUGHT: 0.63})
    assert run_policy(tmp_path / "run", toy, weak) == 1
    assert result(tmp_path / "run")["error"] == (
        "GateError: the reward model misses its gate: share of bad held-out answers "
        "caught is 0.630, wanted at least 0.85"
    )
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_an_override_starts_it_and_stays_in_the_record(tmp_path, toy):
    weak = save_judge(tmp_path / "weak", {**GOOD, BAD_CAUGHT: 0.63})
    status = run_policy(
        tmp_path / "run", toy, weak, steps=1, gate_override="a rehearsal"
    )
    assert status == 0
    gate = result(tmp_path / "run")["values"]["gate"]
    assert gate["passed"] is False
    assert gate["override"] == "a rehearsal"
    assert len(gate["misses"]) == 1
    logged = [event["message"] for event in events(tmp_path / "run", "log")]
    assert any("overridden: a rehearsal" in message for message in logged)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"evaluate_every": 3, "num_iterations": 2},
            "recipe: `evaluate_every`: expected a multiple of num_iterations = 2, "
            "found 3",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, toy, settings, message):
    status = run_policy(tmp_path, toy, consistency_source="oracle", **settings)
    assert status == 1
    assert result(tmp_path)["error"] == message


# Whole runs


def test_the_reward_rises_on_a_toy_task(tmp_path, toy):
    status = run_policy(
        tmp_path,
        toy,
        consistency_source="oracle",
        steps=10,
        num_generations=16,
        micro_batch=32,
        temperature=0.7,
        learning_rate=3e-4,
        evaluate_every=10,
    )
    assert status == 0
    curve = [
        event["values"]["reward/consistency"]
        for event in events(tmp_path, "metrics")
        if "reward/consistency" in event["values"]
    ]
    assert len(curve) == 10
    assert 0.1 < curve[0] < 0.7
    assert sum(curve[-3:]) / 3 > curve[0] + 0.2


def test_observations_get_no_gradient_and_every_own_token_does(
    tmp_path, toy, monkeypatch
):
    batches, logprobs = [], []
    forward, accumulate = TokenLogProbs.forward, policy.accumulate_policy_gradient

    def listening(self, *inputs):
        outputs = forward(self, *inputs)
        outputs[0].retain_grad()
        logprobs.append(outputs[0])
        return outputs

    def recording(accelerator, model, batch, *others):
        batches.append(batch)
        return accumulate(accelerator, model, batch, *others)

    monkeypatch.setattr(TokenLogProbs, "forward", listening)
    monkeypatch.setattr(policy, "accumulate_policy_gradient", recording)
    row = normal_row()
    tokenizer = micro_tokenizer()
    monkeypatch.setattr(
        "training.engine.rl.rollouts.answer", answer_with_labels(Encoder(tokenizer))
    )
    monkeypatch.setattr(
        Rewards,
        "__call__",
        lambda self, answers: [Rewarded(1.0, a.index / 4) for a in answers],
    )
    status = run_policy(
        tmp_path,
        toy,
        rows=[row],
        consistency_source="oracle",
        steps=1,
        whole_tasks=True,
        beta=0.0,
    )
    assert status == 0
    (batch,), (of_update,) = batches, logprobs
    mask, gradient = batch.mask, of_update.grad
    assert (mask == 0).any()
    assert gradient[mask == 0].abs().max() == 0
    has_signal = batch.advantages[:, 0].abs() > 0.01
    assert (gradient[has_signal][mask[has_signal] == 1].abs() > 0).all()


def test_gradient_checkpointing_leaves_the_weights_as_they_are(
    tmp_path, toy, monkeypatch
):
    calls = []
    again = modeling_utils.checkpoint

    def counted(*args, **kwargs):
        calls.append(1)
        return again(*args, **kwargs)

    monkeypatch.setattr(modeling_utils, "checkpoint", counted)
    weights = []
    for twice in (False, True):
        settings = {"gradient_checkpointing": twice, "learning_rate": 1e-3}
        folder = tmp_path / str(twice)
        assert run_policy(folder, toy, consistency_source="oracle", **settings) == 0
        assert bool(calls) == twice
        weights.append(load_file(folder / "checkpoints/step-000004/model.safetensors"))
    plain, checkpointed = weights
    for name, weight in plain.items():
        assert torch.allclose(weight, checkpointed[name], atol=1e-5)


def test_the_start_is_kept_when_nothing_was_better(tmp_path, toy, judge):
    status = run_policy(tmp_path, toy, judge, learning_rate=0.0, steps=2)
    assert status == 0
    values = result(tmp_path)["values"]
    assert values["chosen_step"] == 0
    assert (values["gain"], values["gain/low"], values["gain/high"]) == (0, 0, 0)
    last = events(tmp_path, "checkpoint")[-1]
    assert (last["path"], last["final"]) == ("checkpoints/step-000000", True)
    before = load_file(toy / "model.safetensors")
    after = load_file(tmp_path / last["path"] / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in after)


def test_a_best_checkpoint_that_is_gone_is_not_written_of_other_weights(
    tmp_path, toy, judge
):
    """Resumed elsewhere, or after its files were removed to free space."""
    settings = {"learning_rate": 1e-3, "evaluate_every": 1, "steps": 2}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert run_policy(whole, toy, judge, **settings) == 0
    last = whole / "checkpoints/step-000002"
    state = json.loads((last / "trainer/state.json").read_text())
    state["validations"][0]["truth"] = 1.0  # the start was the best
    (last / "trainer/state.json").write_text(json.dumps(state))
    (last / "manifest.json").unlink()
    manifest = json.loads((whole / "checkpoints/step-000001/manifest.json").read_text())
    manifest["files"] = {
        str(path.relative_to(last)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in last.rglob("*")
        if path.is_file()
    }
    (last / "manifest.json").write_text(json.dumps(manifest | {"step": 2}))
    assert run_policy(resumed, toy, judge, resume=str(last), **settings) == 0
    (final,) = [e for e in events(resumed, "checkpoint") if e["final"]]
    assert final["step"] == 2
    assert not (resumed / "checkpoints/step-000000").exists()
    told = result(resumed)["values"]["chosen_by"]
    assert "whose checkpoint is still there (that of 0 is not)" in told


def test_score_and_truth_are_reported_together_at_every_validation(
    tmp_path, toy, judge
):
    assert run_policy(tmp_path, toy, judge) == 0
    steps_validated = [
        event["step"]
        for event in events(tmp_path, "metrics")
        if {"held_out/rm_score", "held_out/truth", "held_out/truth/low"}
        <= set(event["values"])
    ]
    assert steps_validated == [0, 2, 4]
    steps = [e for e in events(tmp_path, "metrics") if "kl" in e["values"]]
    assert [event["step"] for event in steps] == [1, 2, 3, 4]
    assert steps[0]["values"]["kl"] == pytest.approx(0, abs=1e-5)
    assert {
        "reward/format",
        "reward/consistency",
        "groups_without_signal",
        "clip_ratio",
        "entropy",
        "seconds/generation",
        "seconds/scoring",
        "seconds/update",
    } <= set(steps[0]["values"])
    shown = events(tmp_path, "sample")[0]
    assert {"format", "consistency", "advantage"} == set(shown["scores"])
    manifest = read_manifest(tmp_path / "checkpoints" / "step-000004")
    assert set(manifest.metrics) == {"rm_score", "truth"}


def test_the_alarm_stops_the_run_and_keeps_the_best(tmp_path, toy, judge, monkeypatch):
    monkeypatch.setattr(
        policy,
        "parted",
        lambda looks, **_: "they part" if looks[-1].step == 4 else None,
    )
    assert run_policy(tmp_path, toy, judge, steps=8) == 0
    ended = result(tmp_path)
    assert ended["state"] == "stopped"
    assert ended["values"]["alarm"] == "they part"
    assert ended["values"]["steps"] == 4
    last = events(tmp_path, "checkpoint")[-1]
    assert last["final"]
    assert last["step"] == ended["values"]["chosen_step"]


def test_without_facts_only_the_score_is_watched_and_it_says_so(tmp_path, toy, judge):
    rows = [
        {
            **row,
            "turns": [
                {k: v for k, v in t.items() if k != "facts"} for t in row["turns"]
            ],
        }
        for row in toy_rows()
    ]
    assert run_policy(tmp_path, toy, judge, rows=rows, steps=2) == 0
    assert any("no truth" in event["message"] for event in events(tmp_path, "log"))
    values = result(tmp_path)["values"]
    assert values["chosen_step"] == 2
    assert values["chosen_by"] == "the last step: no truth"
    assert not any(
        "held_out/truth" in event["values"] for event in events(tmp_path, "metrics")
    )


@pytest.mark.parametrize(
    "method",
    [{"method": "full"}, {"method": "lora"}, {"muon_learning_rate": 1e-3}],
    ids=["full", "lora", "muon"],
)
def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(tmp_path, toy, method):
    settings = {"consistency_source": "oracle", "learning_rate": 1e-3, **method}
    assert run_policy(tmp_path / "whole", toy, **settings) == 0
    half = tmp_path / "whole" / "checkpoints" / "step-000002"
    assert run_policy(tmp_path / "resumed", toy, resume=str(half), **settings) == 0
    end = "checkpoints/step-000004/model.safetensors"
    whole, resumed = (load_file(tmp_path / run / end) for run in ("whole", "resumed"))
    start = load_file(half / "model.safetensors")
    assert any(not torch.equal(whole[name], start[name]) for name in whole)
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name


def test_a_stop_waits_for_the_end_of_a_draw_so_that_resuming_is_exact(
    tmp_path, toy, monkeypatch
):
    settings = {
        "consistency_source": "oracle",
        "learning_rate": 1e-3,
        "num_iterations": 2,
    }
    assert run_policy(tmp_path / "whole", toy, **settings) == 0
    progress = RunDirectory.progress

    def stopping_at_once(self, step, of):
        progress(self, step, of)
        self.request_stop()

    monkeypatch.setattr(RunDirectory, "progress", stopping_at_once)
    assert run_policy(tmp_path / "cut", toy, **settings) == 0
    monkeypatch.undo()
    assert result(tmp_path / "cut")["state"] == "stopped"
    assert result(tmp_path / "cut")["values"]["steps"] == 2  # not 1
    half = "checkpoints/step-000002"
    assert run_policy(tmp_path / "cut", toy, resume=half, **settings) == 0
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        whole, cut = (
            load_file(tmp_path / run / "checkpoints/step-000004" / name)
            for run in ("whole", "cut")
        )
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_lora_leaves_a_merged_plain_model_and_refers_to_its_start(tmp_path, toy):
    settings = {"consistency_source": "oracle", "method": "lora", "steps": 2}
    assert run_policy(tmp_path, toy, learning_rate=1e-2, **settings) == 0
    kl = [e["values"]["kl"] for e in events(tmp_path, "metrics") if "kl" in e["values"]]
    assert kl[0] == pytest.approx(0, abs=1e-5)
    before = load_file(toy / "model.safetensors")
    after = load_file(tmp_path / "checkpoints" / "step-000002" / "model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_stopped_run_announces_nothing_final(tmp_path, toy):
    tmp_path.joinpath("stop").touch()
    assert run_policy(tmp_path, toy, consistency_source="oracle") == 0
    assert result(tmp_path)["state"] == "stopped"
    assert not any(event["final"] for event in events(tmp_path, "checkpoint"))


def test_the_held_out_set_is_the_same_in_every_run(tmp_path):
    make_run(tmp_path, "policy", data={"held_out": demo_rows(20, "held-out")})
    samples = read_samples(tmp_path / "data" / "held_out.jsonl")
    tokenizer = micro_tokenizer()
    run = RunDirectory(tmp_path)
    run.read()

    def chosen(seed):
        sampling = Sampling(0.0, 1.0, 8, (0,), tokenizer.pad_token_id)
        rewards = Rewards(PolicyRecipe(seed=seed), None)
        return HeldOut(
            run,
            Encoder(tokenizer),
            sampling,
            CPU,
            rewards,
            longest=4096,
            count=5,
        ).samples

    assert chosen(1) == chosen(2)
    assert len(set(chosen(1))) == 5 < len(samples)
    run.close()


def test_a_run_chooses_on_the_side_that_every_program_chooses_on(tmp_path):
    rows = [{**row, "id": f"h{n}"} for n, row in enumerate(demo_rows(14, "held-out"))]
    make_run(tmp_path, "policy", {}, {}, {"held_out": rows})
    run = RunDirectory(tmp_path)
    run.read()
    tokenizer = micro_tokenizer()
    held_out = HeldOut(
        run,
        Encoder(tokenizer),
        Sampling(0.0, 1.0, 8, (0,), tokenizer.pad_token_id),
        CPU,
        None,
        longest=4096,
        count=0,
    )
    choose_on = {held_out.samples[number] for number in held_out.choose_on}
    assert choose_on == {row["id"] for row in rows if is_to_choose_on(row["id"])}
    assert 4 <= len(choose_on) <= 10
    run.close()
    (logged,) = [e["message"] for e in events(tmp_path, "log")]
    assert f"chosen on {len(choose_on)} samples" in logged


def test_alignment_needs_no_reward_model_and_no_facts(toy, tmp_path):
    rows = [
        {**row, "turns": [{k: v for k, v in turn.items() if k != "facts"}]}
        for row in toy_rows()
        for turn in row["turns"]
    ]
    settings = {"consistency_source": "alignment", "steps": 2, "evaluate_every": 2}
    assert run_policy(tmp_path, toy, rows=rows, **settings) == 0
    assert result(tmp_path)["values"]["gate"] == {
        "passed": None,
        "why": "the reward comes from the alignment",
    }
    rewarded = [e["values"] for e in events(tmp_path, "metrics")]
    assert [v for v in rewarded if v.get("reward/consistency")], rewarded
