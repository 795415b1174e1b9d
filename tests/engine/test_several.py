"""Two processes that share every step learn what one learns; memory runs out gently."""

import json
import os
import random
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from records.recipes import (
    RewardRecipe,
)
from tests.engine.micro import (
    demo_rows,
    demo_samples,
    events,
    make_run,
    micro_tokenizer,
    save_micro_policy,
)
from tests.engine.processes import PROGRAMS, run_together
from tests.engine.test_reward import judged_rows
from tests.engine.test_reward_equality import CASES, make_reward_run, must_equal
from tests.engine.test_scoring import micro_reward_model
from tests.engine.test_sft import SMALL, data, run_sft
from training.engine import reward, sft
from training.engine.data.conversations import Encoder
from training.engine.data.sft_batches import packed, padded, split
from training.engine.modeling.micro_batch import MicroBatch
from training.engine.reward_model.augmentation import Source, example
from training.engine.reward_model.batches import PairBatch, clusters_of, deal
from training.engine.reward_model.loss import PairLoss, count_terms, step_inputs
from training.engine.reward_model.model import MarkReader
from training.engine.run.directory import run_program
from training.runs.command import accelerate_config, program_command

END = "checkpoints/step-000006/model.safetensors"
RECIPE = {
    **SMALL,
    "conversations_per_step": 4,
    "precision": "fp32",
    "muon_learning_rate": 0.0,
    "learning_rate": 1e-3,
    "micro_batch": 1,
}

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


def apart(one, other, end=END):
    one, other = load_file(one / end), load_file(other / end)
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def losses(folder):
    return [
        (e["step"], name, e["values"][name])
        for e in events(folder, "metrics")
        for name in ("loss", "held_out_loss")
        if name in e["values"]
    ]


def launch(command, folder):
    """Run a program as its starter does; return what it said."""
    return subprocess.run(
        [*command, str(folder)],
        check=True,
        timeout=240,
        text=True,
        stdout=subprocess.PIPE,
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONPATH": os.getcwd(),  # noqa: PTH109
        },
    ).stdout


def launch_both(tmp_path, program, recipe, inputs, data):
    """Run a recipe in this process and in two; return the two run directories."""
    one = make_run(tmp_path / "one", program, recipe, inputs, data)
    assert run_program(program, *PROGRAMS[program], [str(one)]) == 0
    settings = {**recipe, "processes": 2}
    two = make_run(tmp_path / "two", program, settings, inputs, data)
    status, said = run_together(program, two)
    assert status == 0, said
    return one, two


@pytest.mark.slow
def test_two_processes_give_the_losses_and_weights_of_one(tmp_path):
    one, two = launch_both(tmp_path, "sft", RECIPE, None, data())
    assert losses(one) == [
        (step, name, pytest.approx(value, abs=1e-5))
        for step, name, value in losses(two)
    ]
    start = load_file(one / "checkpoints/step-000000/model.safetensors")
    end = load_file(one / END)
    moved = max((start[n] - end[n]).abs().max().item() for n in start)
    assert apart(one, two) < 1e-5 < 1e-3 < moved
    # The first speaks for both: each thing was said and written once.
    assert [e["step"] for e in events(two, "checkpoint")] == [0, 2, 4, 6]
    assert len(events(two, "result")) == 1
    (told,) = (e["values"]["tokens"] for e in events(one, "result"))
    assert events(two, "result")[0]["values"]["tokens"] == told


def test_the_launch_is_plain_for_one_process_and_configured_for_more(tmp_path):
    plain = program_command("sft", {}, tmp_path)
    assert plain == [sys.executable, "-m", "training.engine.sft"]
    assert not list(tmp_path.iterdir())
    command = program_command("sft", {"processes": 8, "strategy": "fsdp2"}, tmp_path)
    assert "accelerate.commands.launch" in command
    config = json.loads((tmp_path / "accelerate.json").read_text())
    assert (config["num_processes"], config["distributed_type"]) == (8, "FSDP")
    assert (
        accelerate_config(8, "deepspeed-zero3")["deepspeed_config"]["zero_stage"] == 3
    )


def test_a_step_that_does_not_divide_among_processes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert run_sft(tmp_path, RECIPE) == 1
    (result,) = events(tmp_path, "result")
    assert "a multiple of the 3 processes, found 4" in result["error"]


def test_parts_cut_in_pieces_wait_for_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_sft(tmp_path, {**RECIPE, "strategy": "fsdp2"}) == 1
    (result,) = events(tmp_path, "result")
    assert "`strategy`: expected ddp on a CPU, found 'fsdp2'" in result["error"]


@pytest.mark.slow
def test_weights_in_parts_give_the_losses_and_weights_of_one_process(tmp_path):
    whole = {**RECIPE, "evaluate_turns": 1}
    assert run_sft(tmp_path / "one", whole) == 0
    parts = {**whole, "processes": 2, "strategy": "fsdp2"}
    folder = make_run(tmp_path / "two", "sft", parts, None, data())
    command = program_command("sft", parts, folder)[:-1]
    said = launch([*command, "tests.engine.parts_on_cpu"], folder)
    rows = re.findall(r"each holds \((\d+), 32\) of \((\d+), 32\)", said)
    assert len(rows) == 2
    assert sum(int(held) for held, _ in rows) == int(rows[0][1])
    start = load_file(folder / "checkpoints/step-000000/model.safetensors")
    end = load_file(folder / END)
    moved = max((start[n] - end[n]).abs().max().item() for n in start)
    assert apart(tmp_path / "one", folder) < 1e-5 < 1e-3 < moved
    assert losses(folder) == [
        (step, name, pytest.approx(value, abs=1e-5))
        for step, name, value in losses(tmp_path / "one")
    ]


def short_of_memory(monkeypatch, rows):
    """Let every forward pass of more than so many rows run out of memory."""
    asked = []
    build = sft.build_small_model

    def with_hook(*args, **kw):
        model = build(*args, **kw)

        def refuse(_, __, given):
            if model.training and torch.is_grad_enabled():
                asked.append(len(given["input_ids"]))
                if asked[-1] > rows:
                    raise torch.OutOfMemoryError("no more memory")

        model.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
        return model

    monkeypatch.setattr(sft, "build_small_model", with_hook)
    return asked


def test_out_of_memory_halves_the_parts_and_changes_nothing_else(tmp_path, monkeypatch):
    recipe = {**RECIPE, "micro_batch": 0}
    assert run_sft(tmp_path / "roomy", recipe) == 0
    asked = short_of_memory(monkeypatch, rows=1)
    assert run_sft(tmp_path / "tight", recipe) == 0
    assert asked[:3] == [4, 2, 1]  # the first step in smaller and smaller parts
    assert set(asked[3:]) == {1}  # and then it knows
    assert apart(tmp_path / "roomy", tmp_path / "tight") < 1e-5
    said = [e["message"] for e in events(tmp_path / "tight", "log")]
    assert "out of memory with 4 rows at once: going on with 2" in " ".join(said)
    assert losses(tmp_path / "roomy") == [
        (step, name, pytest.approx(value, abs=1e-5))
        for step, name, value in losses(tmp_path / "tight")
    ]


# The reward model


REWARD = {
    "steps": 4,
    "pairs_per_step": 6,
    "pairwise_weight": 0.5,
    "evaluate_turns": 4,
    "evaluate_every": 2,
    "muon_learning_rate": 0.0,
    "precision": "fp32",
    "learning_rate": 5e-4,
    "warmup_steps": 0,
}
REWARD_END = "checkpoints/step-000004/model.safetensors"
SAID = ("loss", "loss/unit", "loss/pair", "loss/pairwise")


def rivals_too():
    """Judged answers, some beside one of the other verdict to the same label."""
    rows = judged_rows(24, 12)
    for row in [row for row in rows if row["consistent"]]:
        wrong = {"sampled": "No.", "consistent": False, "differs": []}
        rows.append({**row, **wrong, "judgment": 100 + row["judgment"]})
    return rows


def reward_data():
    return {
        "train": demo_rows(),
        "held_out": demo_rows(10, "held-out"),
        "judgments": rivals_too(),
    }


def told(folder, kind, *names):
    return {
        (event["step"], name): value
        for event in events(folder, "metrics")
        for name, value in event["values"].items()
        if name in names or name.startswith(kind)
    }


@pytest.mark.slow
def test_two_processes_train_the_reward_model_of_one(tmp_path):
    policy = save_micro_policy(tmp_path / "policy")
    one, two = launch_both(
        tmp_path, "reward", REWARD, {"policy": policy}, reward_data()
    )
    middle, end = (
        load_file(one / f"checkpoints/step-00000{i}/model.safetensors") for i in (2, 4)
    )
    moved = max((middle[n] - end[n]).abs().max().item() for n in end)
    assert apart(one, two, REWARD_END) < 1e-5 < 5e-4 < moved
    seen = told(one, "held_out/", *SAID)
    assert {(4, "loss/pairwise"), (4, "held_out/judged/auc")} <= seen.keys()
    assert told(two, "held_out/", *SAID) == {
        # An AUC counts pairs: two scores that are all but equal may change places.
        where: value
        if value is None
        else pytest.approx(value, abs=0.02 if where[1].endswith("auc") else 1e-5)
        for where, value in seen.items()
    }
    assert [e["step"] for e in events(two, "checkpoint")] == [2, 4]
    (ended,), (other) = events(one, "result"), events(two, "result")
    for name in ("trained_on", "left_out", "tokens", "judged"):
        assert other[0]["values"][name] == ended["values"][name]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["unit, interleaved", "with rivals and history"])
def test_two_processes_give_the_frozen_weights(tmp_path, case):
    policy = save_micro_policy(tmp_path / "policy", "llama")
    recipe = {**CASES[case], "processes": 2}
    folder = make_reward_run(tmp_path / "run", policy, recipe)
    status, said = run_together("reward", folder)
    assert status == 0, said
    must_equal(folder, case)


def run_reward_short_of_memory(folder, monkeypatch, rows, recipe):
    """Let every training pass of more than so many prompts run out of memory."""
    policy = save_micro_policy(folder.parent / "policy")
    make_run(folder, "reward", recipe, {"policy": policy}, reward_data())
    asked = []
    forward = MarkReader.forward

    def refuse(reader, input_ids, *others, **named):
        if torch.is_grad_enabled():
            asked.append(len(input_ids))
            if asked[-1] > rows:
                raise torch.OutOfMemoryError("no more memory")
        return forward(reader, input_ids, *others, **named)

    monkeypatch.setattr(MarkReader, "forward", refuse)
    return run_program("reward", RewardRecipe, reward.main, [str(folder)]), asked


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_reward_step_without_room_is_learned_in_parts(tmp_path, monkeypatch):
    recipe = {**REWARD, "pairwise_weight": 0.0}
    roomy, tight = tmp_path / "roomy", tmp_path / "tight"
    assert run_reward_short_of_memory(roomy, monkeypatch, 99, recipe)[0] == 0
    status, asked = run_reward_short_of_memory(tight, monkeypatch, 1, recipe)
    assert (status, max(asked), asked[-6:]) == (0, 3, [1] * 6)
    assert apart(roomy, tight, REWARD_END) < 1e-5
    assert told(tight, "loss") == {
        where: pytest.approx(value, abs=1e-5)
        for where, value in told(roomy, "loss").items()
    }
    said = [e["message"] for e in events(tight, "log")]
    assert "out of memory with 6 pairs at once: going on with 3" in " ".join(said)


def test_the_losses_and_gradients_of_micro_batches_add_up_to_the_steps():
    model = micro_reward_model()
    classifier = model.reader.classifier.double()
    drawn = [*Source(demo_samples()).draw(random.Random(4), 12)]
    drawn.append(example(drawn[0].pair, False, None, "people"))  # its units unknown

    def learn(micro_batches, counts=None):
        classifier.zero_grad()
        loss = PairLoss(model.reader, by_unit=True, pairwise_weight=0.7)
        total = 0.0
        for pairs in micro_batches:
            terms = loss(**step_inputs(pairs, model.packer), counts=counts)
            assert list(terms) == loss.terms
            terms["loss"].backward()
            total += terms["loss"].item()
        return total, [p.grad.clone() for p in classifier.parameters()]

    inputs = step_inputs(drawn, model.packer)
    counts = count_terms(inputs["targets"], inputs["verdicts"], inputs["rivals"])
    assert (counts > 0).all()
    whole, gradients = learn([drawn])
    batch = PairBatch(clusters_of(drawn, by_label=True), counts, [])
    summed, gradients_of_parts = learn(batch.split(2), counts)
    assert summed == pytest.approx(whole, rel=1e-6)
    largest = max(gradient.abs().max() for gradient in gradients)
    for one, other in zip(gradients, gradients_of_parts, strict=True):
        assert (one - other).abs().max() < 1e-6 * largest


def test_rivals_stay_together_and_every_pair_is_dealt_once():
    drawn = Source(demo_samples()).draw(random.Random(4), 40)
    clusters = clusters_of(drawn, by_label=True)
    assert max(map(len, clusters)) > 1
    hands = deal(clusters, 3)
    labels = [{i.pair.label for c in hand for i in c} for hand in hands]
    assert not labels[0] & labels[1] | labels[1] & labels[2] | labels[0] & labels[2]
    pieces = [piece for hand in hands for piece in PairBatch(hand, None, []).split(4)]
    dealt = sorted(id(item) for piece in pieces for item in piece)
    assert dealt == sorted(id(item) for item in drawn)
    assert all(len(p) <= 4 or len({i.pair.label for i in p}) == 1 for p in pieces)


def test_one_row_that_does_not_fit_is_the_end(tmp_path, monkeypatch):
    short_of_memory(monkeypatch, rows=0)
    assert run_sft(tmp_path, RECIPE) == 1
    (result,) = events(tmp_path, "result")
    assert "OutOfMemoryError" in result["error"]


def test_beside_other_processes_it_does_not_try_again(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")

    def attempt(size):
        raise torch.OutOfMemoryError(str(size))

    with pytest.raises(torch.OutOfMemoryError, match="4"):
        MicroBatch(4, print).run(attempt, lambda: None)


def test_pieces_hold_every_conversation_once():
    tokenizer = micro_tokenizer()
    encoder = Encoder(tokenizer)
    batch = [encoder.encode(sample) for sample in demo_samples()[:5]]
    for inputs in (padded(batch, tokenizer.pad_token_id), packed(batch)):
        pieces = split(inputs, 2)
        assert len(pieces) == 3
        found = [
            ids
            for piece in pieces
            for row in piece["input_ids"].tolist()
            for ids in row
            if ids != tokenizer.pad_token_id
        ]
        assert found == [i for e in batch for i in e.ids if i != tokenizer.pad_token_id]
        labels = torch.cat([piece["labels"].flatten() for piece in pieces])
        whole = inputs["labels"].flatten()
        assert labels[labels >= 0].tolist() == whole[whole >= 0].tolist()
