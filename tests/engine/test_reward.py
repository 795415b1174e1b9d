"""The reward program: its data, its loss, and whole runs of micro models."""

import json
import math
import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from actions.demo import oracle
from actions.demo.facts import steps_by_wording
from actions.demo.orders import is_reserved
from actions.grammar import parse
from records.checkpoints import read_manifest
from records.recipes import RewardRecipe
from tests.engine.micro import (
    demo_rows,
    demo_samples,
    events,
    make_run,
    save_micro_policy,
)
from tests.engine.test_scoring import micro_reward_model
from training.engine import reward
from training.engine.data.conversations import sample_from_json
from training.engine.data.holdout import HeldOutSplit
from training.engine.modeling import throughput
from training.engine.reward_model.augmentation import (
    UNKNOWN,
    PlainTurn,
    Source,
    change_text,
    example,
)
from training.engine.reward_model.batches import (
    Judged,
    PairSampler,
    RuledOut,
    read_judgments,
)
from training.engine.reward_model.evaluation import held_out_tests, validate
from training.engine.reward_model.loss import PairLoss, rival_pairs, step_inputs
from training.engine.reward_model.metrics import BAD_CAUGHT, SEEN_ORDERS, UNSEEN_ORDERS
from training.engine.reward_model.model import load_reward_model
from training.engine.reward_model.packing import Pair
from training.engine.run.directory import RunError, run_program

# transformers warns about settings of its own that it is renaming.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def judged_rows(count=40, held_out=20):
    """Judge answers as people would: references right, a changed value wrong."""
    rng = random.Random(3)
    source = Source(demo_samples(), ["references", "changes"])
    made = source.draw(rng, count + held_out)
    return [
        {
            "judgment": number,
            "sample": f"s{number}",
            "turn": 0,
            "input_kind": item.pair.input_kind,
            "label": item.pair.label,
            "sampled": item.pair.sampled,
            "consistent": item.consistent,
            "differs": [
                unit.key
                for unit, target in zip(item.units, item.targets, strict=True)
                if target == 0
            ],
            "source": "people",
            "split": "train" if number < count else "held-out",
        }
        for number, item in enumerate(made)
    ]


def run_reward(folder, policy, rows=None, resume=None, **recipe):
    settings = {
        "steps": 4,
        "pairs_per_step": 4,
        "evaluate_turns": 4,
        "evaluate_every": 2,
        "precision": "fp32",
        **recipe,
    }
    data = {
        "train": demo_rows(),
        "held_out": demo_rows(10, "held-out") + demo_rows(10, "held-out-unseen"),
        "judgments": judged_rows() if rows is None else rows,
    }
    make_run(folder, "reward", settings, {"policy": policy}, data, resume)
    return run_program("reward", RewardRecipe, reward.main, [str(folder)])


# Derived pairs


def test_derived_pairs_have_the_oracles_verdict_and_its_units():
    samples = demo_samples()
    by_label = {t.response: t for s in samples for t in s.turns}
    by_label |= {r: t for s in samples for t in s.turns for r in t.references}
    checked = 0
    for item in Source(samples).draw(random.Random(1), 400):
        turn = by_label.get(item.pair.label)
        if turn is None or item.pair.label == item.pair.sampled:
            continue
        verdict = oracle.judge(turn.document, item.pair.sampled)
        assert verdict.consistent == item.consistent
        assert {
            u.key: bool(t) for u, t in zip(item.units, item.targets, strict=True)
        } == (dict(verdict.units))
        checked += 1
    assert checked > 100


def test_derived_pairs_of_both_verdicts_are_drawn_and_quads_come_whole():
    drawn = Source(demo_samples()).draw(random.Random(1), 400)
    share = sum(item.consistent for item in drawn) / len(drawn)
    assert 0.3 < share < 0.7
    quads = Source(demo_samples()).quads(random.Random(1), 5, "unseen")
    for a, b, ab, ba in quads:
        assert (a.consistent, b.consistent, ab.consistent, ba.consistent) == (
            (True, True, False, False)
        )
        assert ab.pair.label == ba.pair.sampled == a.pair.label


def test_orders_reserved_for_testing_are_never_drawn():
    for item in Source(demo_samples()).draw(random.Random(2), 1500):
        inside = item.pair.input_kind == "observation"
        for text in (item.pair.label, item.pair.sampled):
            plan = parse(text, inside_thinking=inside).plan
            for sample in demo_samples()[:5] if plan else ():
                known = steps_by_wording(sample.scenario)
                steps = tuple(known.get(step, "") for step in plan.steps)
                assert not is_reserved(sample.scenario, steps)


@pytest.mark.parametrize(
    ("kind", "source"),
    [("quads", "quad"), ("references", "reference"), ("changes", "change")],
)
def test_each_kind_of_derived_pair_can_be_had_alone(kind, source):
    drawn = Source(demo_samples(), [kind]).draw(random.Random(1), 40)
    assert {item.source for item in drawn} == {source}


PLAIN = {
    "id": "plain",
    "contexts": [
        {
            "actions": [
                {"name": "Book", "description": "", "parameters": {}, "exception": {}},
                {
                    "name": "Cancel",
                    "description": "",
                    "parameters": {},
                    "exception": {},
                },
            ]
        }
    ],
    "turns": [
        {
            "input": {"kind": "user", "text": "Book flight 12 for Ann."},
            "response": "<<think>>Plan:\n1. Look\n2. Book\n<<action>>"
            '{"name": "Book", "parameters": {"id": "HAT001", "seats": 2}}<</action>>',
            "references": [
                "<<think>>So.\nPlan:\n1. Look\n2. Book\n<<action>>"
                '{"name": "Book", "parameters": {"id": "HAT001", "seats": 2}}<</action>>'
            ],
        },
        {
            "input": {"kind": "observation", "text": "ok"},
            "response": "Booked.<</think>>You have seat 14.",
        },
    ],
}


@pytest.mark.parametrize(
    ("kind", "turn", "units"),
    [
        ("parameter", 0, [{"action/1/parameters/id"}, {"action/1/parameters/seats"}]),
        ("action name", 0, [{"action/1/name"}]),
        ("missing step", 0, [{"plan/1"}, {"plan/2"}, {"plan/1", "plan/2"}]),
        ("plan order", 0, [{"plan/1", "plan/2"}]),
        ("answer", 1, [{"answer"}]),
    ],
)
def test_without_facts_errors_are_made_from_the_text(kind, turn, units):
    sample = sample_from_json(PLAIN)
    plain = PlainTurn(sample.turns[turn], ("Book", "Cancel"))
    for seed in range(8):
        text = change_text(plain, kind, ["XYZ"], random.Random(seed))
        made = example(
            Pair(plain.turn.response, text, plain.turn.kind),
            False,
            [u.key for u in _units(plain, text) if u.label != u.sampled],
            "change",
        )
        differing = {
            u.key for u, t in zip(made.units, made.targets, strict=True) if not t
        }
        assert differing in units


def _units(plain, text):
    return example(Pair(plain.turn.response, text, plain.turn.kind), True, (), "").units


def test_samples_without_facts_give_references_and_changes_but_no_quads():
    drawn = Source([sample_from_json(PLAIN)]).draw(random.Random(1), 60)
    assert {item.source for item in drawn} == {"reference", "change"}


def test_samples_that_nothing_can_be_made_of_are_no_source():
    turn = {"input": {"kind": "user", "text": "Hello"}, "response": "Good day."}
    source = Source([sample_from_json({"id": "s", "contexts": [], "turns": [turn]})])
    assert not source.can_draw
    assert source.draw(random.Random(1), 4) == []


def test_labels_and_references_outside_the_grammar_are_no_wordings():
    broken = "<<think>>So.<<action>>{"
    label, *_ = references = [*PLAIN["turns"][0]["references"], broken]
    turn = {**PLAIN["turns"][0], "references": references}
    with_facts = demo_rows(2)[0]
    with_facts["turns"][0]["response"] = broken
    rows = [{**PLAIN, "turns": [turn]}, with_facts]
    drawn = Source([sample_from_json(row) for row in rows]).draw(random.Random(1), 200)
    assert len(drawn) == 200
    assert not any(broken in (item.pair.label, item.pair.sampled) for item in drawn)
    assert any(label in (item.pair.label, item.pair.sampled) for item in drawn)


# Judgments


def test_judgments_are_split_counted_and_labelled_by_unit(tmp_path):
    folder = make_run(tmp_path, "reward", data={"judgments": judged_rows(10, 5)})
    judged = read_judgments(folder / "data" / "judgments.jsonl")
    assert (len(judged.train), len(judged.held_out)) == (10, 5)
    assert sum(judged.counts.values()) == 15
    for item in judged.train:
        assert (0 in item.targets) == (not item.consistent)


def test_a_judgment_that_names_no_unit_leaves_its_units_unknown(tmp_path):
    rows = [{**row, "differs": []} for row in judged_rows(10, 0)]
    folder = make_run(tmp_path, "reward", data={"judgments": rows})
    judged = read_judgments(folder / "data" / "judgments.jsonl")
    assert all(
        set(item.targets) == ({1} if item.consistent else {UNKNOWN})
        for item in judged.train
    )


def test_a_pair_whose_label_breaks_the_grammar_is_left_out_and_counted(tmp_path):
    rows = judged_rows(3, 0)
    rows[1]["label"] = "<<think>>never closed"
    folder = make_run(tmp_path, "reward", data={"judgments": rows})
    judged = read_judgments(folder / "data" / "judgments.jsonl")
    assert len(judged.train) + len(judged.held_out) == len(rows) - 1
    assert judged.counts["label unreadable"] == 1


def test_a_wrong_line_is_named(tmp_path):
    rows = judged_rows(2, 0)
    del rows[1]["label"]
    folder = make_run(tmp_path, "reward", data={"judgments": rows})
    with pytest.raises(
        RunError, match=r"judgments.jsonl, line 2: `label`: expected a text, found noth"
    ):
        read_judgments(folder / "data" / "judgments.jsonl")


def test_a_step_depends_on_its_number_only_and_keeps_the_mix():
    model = micro_reward_model()
    judged = list(Source(demo_samples()).draw(random.Random(0), 30))
    judged = [example(i.pair, i.consistent, (), "people") for i in judged]
    recipe = RewardRecipe(pairs_per_step=20, judged_share=0.4)

    def sampler():
        return PairSampler(recipe, judged, Source(demo_samples()), model.packer)

    drawn = sampler().examples(7)
    later = sampler()
    later.examples(6)
    assert later.examples(7) == drawn
    assert sum(item.source == "people" for item in drawn) == 8
    assert sum(item.consistent for item in drawn if item.source == "people") == 4


def test_pairs_that_are_too_long_are_counted_not_cut():
    model = micro_reward_model()
    recipe = RewardRecipe(pairs_per_step=20, max_tokens=60)
    sampler = PairSampler(recipe, [], Source(demo_samples()), model.packer)
    kept = sampler.examples(0)
    assert sum(sampler.left_out.values()) + len(kept) == 20
    assert max(sampler.lengths) <= 60


# Loss


def mixed_examples():
    drawn = Source(demo_samples()).draw(random.Random(5), 12)
    unknown = next(item for item in drawn if not item.consistent)
    return [*drawn, example(unknown.pair, False, None, "people")]


def test_the_loss_labels_each_read_with_its_own_unit():
    model = micro_reward_model()
    examples = mixed_examples()
    inputs = step_inputs(examples, model.packer)
    assert len(inputs["chunks"]) > 1  # so that the order of pairs was changed
    loss = PairLoss(model.reader, by_unit=True)(**inputs)["loss"]

    reads = [model.read([model.packer.pack(i.pair, i.units)])[0] for i in examples]
    known = [
        (odds, target)
        for row, item in zip(reads, examples, strict=True)
        for odds, target in zip(row, item.targets, strict=True)
        if target != UNKNOWN
    ]
    odds, targets = (
        torch.tensor(x, dtype=torch.float) for x in zip(*known, strict=True)
    )
    worst = torch.tensor([min(row) for row in reads])
    verdicts = torch.tensor([float(item.consistent) for item in examples])
    bce = functional.binary_cross_entropy_with_logits
    expected = bce(odds, targets) + 0.5 * bce(worst, verdicts)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_pair_of_unknown_units_is_learned_through_its_worst_unit():
    model = micro_reward_model()
    item = mixed_examples()[-1]
    inputs = step_inputs([item], model.packer)
    PairLoss(model.reader, by_unit=True)(**inputs)["loss"].backward()
    gradient = model.reader.classifier.score.weight.grad
    # One read alone moves the head: both rows get the same hidden state, opposite sign.
    assert gradient.abs().sum() > 0
    assert torch.allclose(gradient[0], -gradient[1], atol=1e-6)


def test_final_labels_have_one_target_per_pair():
    model = micro_reward_model("sequential", "final")
    examples = mixed_examples()
    inputs = step_inputs(examples, model.packer)
    assert sorted(inputs["targets"].tolist()) == sorted(
        int(i.consistent) for i in examples
    )
    assert PairLoss(model.reader, by_unit=False)(**inputs)["loss"].item() > 0


# Whole runs


def test_a_micro_model_learns_its_judged_pairs(tmp_path):
    policy = save_micro_policy(tmp_path / "policy")
    rows = [{**row, "split": "train"} for row in judged_rows(12, 0)]
    status = run_reward(
        tmp_path / "run",
        policy,
        rows,
        steps=60,
        pairs_per_step=12,
        judged_share=1.0,
        backbone="scratch",
        width=32,
        layers=2,
        evaluate_every=100,
        evaluate_turns=2,
        learning_rate=1e-2,
        muon_learning_rate=2e-2,
        warmup_steps=2,
    )
    assert status == 0
    model = load_reward_model(tmp_path / "run" / "checkpoints" / "step-000060")
    scores = model.score(
        [Pair(r["label"], r["sampled"], r["input_kind"]) for r in rows]
    )
    right = [
        (score.probability > 0.5) == row["consistent"]
        for score, row in zip(scores, rows, strict=True)
    ]
    assert sum(right) >= 11


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(tmp_path):
    policy = save_micro_policy(tmp_path / "policy")
    config = json.loads((policy / "config.json").read_text())
    config["attention_dropout"] = 0.2  # its noise is part of what has to be repeated
    (policy / "config.json").write_text(json.dumps(config))
    assert run_reward(tmp_path / "whole", policy) == 0
    half = tmp_path / "whole" / "checkpoints" / "step-000002"
    assert run_reward(tmp_path / "resumed", policy, resume=str(half)) == 0
    end = "checkpoints/step-000004/model.safetensors"
    whole, resumed = (load_file(tmp_path / run / end) for run in ("whole", "resumed"))
    start = load_file(half / "model.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(not torch.equal(whole[name], start[name]) for name in whole)


def test_every_way_of_attending_learns_the_same(tmp_path, monkeypatch):
    policy = save_micro_policy(tmp_path / "policy")
    losses = {}
    for way, longest in (("sdpa", 0), ("eager", 1024)):
        monkeypatch.setattr(throughput, "EAGER_TOKENS", longest)
        folder = tmp_path / way
        assert run_reward(folder, policy, steps=2) == 0
        told = [
            e["values"]["loss"]
            for e in events(folder, "metrics")
            if "loss" in e["values"]
        ]
        losses[way] = told
    assert losses["eager"] == pytest.approx(losses["sdpa"], abs=1e-4)


def test_the_manifest_has_the_gates_figures_and_the_result_the_counts(tmp_path):
    policy = save_micro_policy(tmp_path / "policy")
    assert run_reward(tmp_path / "run", policy) == 0
    manifest = read_manifest(tmp_path / "run" / "checkpoints" / "step-000004")
    assert manifest.kind == "reward"
    for name in (SEEN_ORDERS, UNSEEN_ORDERS, BAD_CAUGHT):
        assert 0 <= manifest.metrics[name] <= 1
    assert manifest.metrics["quads/seen/count"] > 0
    result = events(tmp_path / "run", "result")[-1]["values"]
    assert result["trained_on"]["people"] == 8  # half of 4 pairs in 4 steps
    assert {"quad", "reference", "change"} & set(result["trained_on"])
    assert not list((tmp_path / "run").rglob("*.pt"))


def test_a_stop_file_ends_the_run_with_a_checkpoint(tmp_path):
    policy = save_micro_policy(tmp_path / "policy")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stop").touch()
    assert run_reward(tmp_path / "run", policy) == 0
    assert events(tmp_path / "run", "result")[-1]["state"] == "stopped"
    assert (tmp_path / "run" / "checkpoints" / "step-000001" / "trainer").is_dir()


@pytest.mark.parametrize("layout", ["sequential", "interleaved"])
@pytest.mark.parametrize("labels", ["final", "unit"])
def test_every_layout_and_kind_of_label_runs_from_the_checkpoints_weights(
    tmp_path, layout, labels
):
    policy = save_micro_policy(tmp_path / "policy", shape="llama")
    status = run_reward(tmp_path / "run", policy, layout=layout, labels=labels, steps=1)
    assert status == 0
    model = load_reward_model(tmp_path / "run" / "checkpoints" / "step-000001")
    assert (model.settings.layout, model.settings.labels) == (layout, labels)


@pytest.mark.parametrize(("history_tokens", "told_apart"), [(0, False), (8, True)])
def test_what_was_asked_can_decide_over_equal_pairs(
    tmp_path, history_tokens, told_apart
):
    """One pair, right or wrong by the question: alone nobody could tell."""
    label, sampled = "<<think>>Look.<</think>>Nine.", "<<think>>Look.<</think>>At nine."
    samples, rows = [], []
    for number in range(12):
        word = ("when", "how many")[number % 2]
        turn = {"input": {"kind": "user", "text": word}, "response": label}
        samples.append({"id": f"s{number}", "turns": [turn]})
        rows.append(
            {
                "sample": f"s{number}",
                "turn": 0,
                "input_kind": "user",
                "label": label,
                "sampled": sampled,
                "consistent": word == "when",
                "differs": [] if word == "when" else ["answer"],
                "source": "people",
                "split": "train",
            }
        )
    settings = {
        "steps": 40,
        "pairs_per_step": 8,
        "judged_share": 1.0,
        "history_tokens": history_tokens,
        "backbone": "scratch",
        "width": 32,
        "layers": 2,
        "evaluate_every": 100,
        "evaluate_turns": 0,
        "learning_rate": 1e-2,
        "muon_learning_rate": 2e-2,
        "warmup_steps": 2,
        "precision": "fp32",
    }
    run = make_run(
        tmp_path / "run",
        "reward",
        settings,
        {"policy": save_micro_policy(tmp_path / "policy")},
        {"train": samples, "judgments": rows},
    )
    assert run_program("reward", RewardRecipe, reward.main, [str(run)]) == 0
    model = load_reward_model(run / "checkpoints" / "step-000040")
    assert model.settings.history_tokens == history_tokens
    when, many = (
        model.score([Pair(label, sampled, "user", f"\n{word}")])[0].probability
        for word in ("when", "how many")
    )
    assert (when > 0.8 and many < 0.2) == told_apart


def test_without_any_pair_the_run_fails_with_a_reason(tmp_path):
    policy = save_micro_policy(tmp_path / "policy")
    make_run(tmp_path / "run", "reward", {}, {"policy": policy}, {"judgments": []})
    status = run_program("reward", RewardRecipe, reward.main, [str(tmp_path / "run")])
    assert status == 1
    assert events(tmp_path / "run", "result")[-1]["error"] == (
        "run.json: `data`: expected judgments or train samples, found no pair"
    )


def test_calibrated_figures_say_what_they_were_before(tmp_path):
    policy = save_micro_policy(tmp_path / "policy")
    assert run_reward(tmp_path / "run", policy, calibrate=True) == 0
    values = events(tmp_path / "run", "result")[0]["values"]
    assert values["temperature"] != 1.0
    assert "judged/ece/raw" in values
    end = events(tmp_path / "run", "checkpoint")[-1]["path"]
    settings = load_reward_model(tmp_path / "run" / end).settings
    assert settings.temperature == values["temperature"]
    assert settings.threshold == values["threshold"]


# Rivals: the pairwise loss


def made(label, sampled, consistent):
    pair = Pair(label, sampled, "user")
    found = example(pair, consistent, [], "people", ())
    assert found is not None
    return found


def test_rivals_are_two_answers_of_unlike_verdict_to_one_label():
    examples = [
        made("One.", "One!", True),
        made("One.", "Two.", False),
        made("Two.", "One.", False),
        made("One.", "Three.", False),
    ]
    assert rival_pairs(examples).tolist() == [[0, 1], [0, 3]]
    assert rival_pairs(examples[:1]).shape == (0, 2)


def test_the_pairwise_loss_is_that_of_bradley_and_terry():
    model = micro_reward_model(labels="final")
    examples = [
        made("One.", "One!", True),
        made("One.", "Two.", False),
        made("One.", "Three.", False),
    ]
    inputs = step_inputs(examples, model.packer)
    plain = PairLoss(model.reader, by_unit=False)
    both = PairLoss(model.reader, by_unit=False, pairwise_weight=0.7)
    with torch.no_grad():
        difference = both(**inputs)["loss"] - plain(**inputs)["loss"]
    good, *bad = (s.logit for s in model.score([item.pair for item in examples]))
    expected = [-math.log(1 / (1 + math.exp(-(good - b)))) for b in bad]
    assert float(difference) == pytest.approx(0.7 * sum(expected) / 2, rel=1e-3)


def test_judged_rivals_come_into_one_step_and_are_learned(tmp_path):
    rows = []
    for number, row in enumerate(judged_rows(24, 0)):
        rows.append({**row, "split": "train"})
        if row["consistent"]:  # the same label with an answer that is wrong
            other = {
                **row,
                "judgment": 100 + number,
                "sampled": "No.",
                "split": "train",
            }
            rows.append({**other, "consistent": False, "differs": []})
    policy = save_micro_policy(tmp_path / "policy")
    status = run_reward(
        tmp_path / "run",
        policy,
        rows,
        steps=30,
        pairs_per_step=8,
        judged_share=1.0,
        backbone="scratch",
        width=32,
        layers=1,
        pairwise_weight=1.0,
        evaluate_every=100,
    )
    assert status == 0
    seen = [
        event["values"]["loss/pairwise"]
        for event in events(tmp_path / "run", "metrics")
        if "loss/pairwise" in event["values"]
    ]
    assert seen[0] > 0
    assert seen[-1] < seen[0] / 2


# Chosen on some held-out samples, reported on others


def held_out_pairs(count):
    """Judged held-out pairs, two answers to a sample, and some ruled out by grammar."""
    drawn = Source(demo_samples(), ("references", "changes")).draw(
        random.Random(3), 2 * count
    )
    items = [
        replace(item, source="people", sample=f"s{number // 2}")
        for number, item in enumerate(drawn)
    ]
    ruled_out = [RuledOut(item.sample, True, False) for item in items]
    return Judged([], items, ruled_out, {})


def test_threshold_and_figures_come_from_different_samples():
    log = []
    judged, samples = held_out_pairs(24), demo_samples(24, "held-out")
    samples = [replace(s, id=f"s{number}") for number, s in enumerate(samples)]
    tests = held_out_tests(judged, samples, 100, lambda *said: log.append(said))
    chosen_on = {item.sample for item in tests.judged.choose}
    reported_on = {item.sample for item in tests.judged.report}
    assert chosen_on
    assert not chosen_on & reported_on
    assert chosen_on | reported_on == {item.sample for item in judged.held_out}
    assert tests.ruled_out == 2 * len(reported_on)
    texts = {
        turn.response for s in samples if s.id in chosen_on for turn in s.turns
    } - {turn.response for s in samples if s.id in reported_on for turn in s.turns}
    quads = [
        item for all_of in tests.quads.values() for quad in all_of for item in quad
    ]
    assert all([tests.changes, quads, tests.references])
    for item in (*tests.changes, *tests.references, *quads):
        assert item.pair.label not in texts
    ((message, level),) = log
    assert f"chosen on {len(tests.judged.choose)} judged pairs" in message
    assert level == "info"

    values = validate(model := micro_reward_model(), tests, calibrate=True)
    assert values["threshold/picked_on"] == len(tests.judged.choose)
    assert values["judged/count"] == len(tests.judged.report) + tests.ruled_out
    # Other verdicts on what is reported move no threshold, others on the choice do not
    # move what the same threshold gives.
    turned = replace(
        tests,
        judged=HeldOutSplit(
            tests.judged.choose,
            [replace(i, consistent=not i.consistent) for i in tests.judged.report],
        ),
    )
    again = validate(model, turned, calibrate=True)
    assert again["threshold"] == values["threshold"]
    assert again["temperature"] == values["temperature"]
    assert again["judged/auc"] == pytest.approx(1 - values["judged/auc"])


def test_too_few_held_out_pairs_are_all_reported_and_choose_nothing():
    log = []
    judged, samples = held_out_pairs(5), demo_samples(3, "held-out")
    tests = held_out_tests(judged, samples, 100, lambda *said: log.append(said))
    assert (tests.judged.choose, tests.judged.report) == ([], judged.held_out)
    assert tests.ruled_out == len(judged.ruled_out)
    ((message, level),) = log
    assert message == (
        "held-out: 10 judged pairs are too few to be split by sample. The threshold is "
        "0.5, and the figures come from all of them."
    )
    assert level == "warning"
    values = validate(micro_reward_model(), tests, calibrate=True)
    assert (values["threshold"], values["temperature"]) == (0.5, 1.0)
    assert values["threshold/picked_on"] == 0
