"""Tokens that a pretrained base lacks: where they start, which they are, that they come."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from actions.tags import TAGS
from records.checkpoints import read_manifest
from records.recipes import RewardRecipe, SftRecipe
from tests.engine.micro import events, make_run
from tests.engine.test_policy import run_policy, toy_rows
from tests.engine.test_preference import run_preference
from tests.engine.test_reward import run_reward
from tests.engine.test_tokens import plain_tokenizer
from training.engine import sft
from training.engine.data.conversations import Encoder, sample_from_json
from training.engine.modeling.loading import load_policy
from training.engine.modeling.new_tokens import (
    NewRows,
    RowsAdamW,
    fit_vocabulary,
    own_pieces,
)
from training.engine.modeling.policies import Place
from training.engine.modeling.tokenizer import add_tags, tag_ids
from training.engine.reward_model.classifier import starting_classifier
from training.engine.reward_model.packing import Packer, RewardSettings
from training.engine.run.directory import RunDirectory, run_program

# peft and trl ask for names that transformers is about to drop.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CPU = Place(torch.device("cpu"), half=False)
WRITTEN = ("<<think>>", "<</think>>", "<<action>>", "<</action>>")  # by the policy


def plain_model(tokenizer, *, tied=True, spare=0, width=64, seed=0):
    """Return a small model that knows no tag; its rows have norms from ½ to 2."""
    torch.manual_seed(seed)
    size = len(tokenizer) + spare
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            tie_word_embeddings=tied,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    with torch.no_grad():
        for weight in {model.get_input_embeddings().weight, model.lm_head.weight}:
            weight *= torch.linspace(-1, 1, size).exp2()[torch.randperm(size)][:, None]
    return model


def save_base(folder, *, pad=None, tokenizer=None, **shape):
    tokenizer = tokenizer or plain_tokenizer()
    if pad:  # and it ends every answer
        tokenizer.pad_token = pad
        tokenizer.chat_template = (
            "{% for message in messages %}<|im_start|>{{ message.role }}\n"
            "{{ message.content }}" + pad + "{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )
    plain_model(tokenizer, **shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def short_rows():
    """Return conversations in which each tag that a policy writes comes once."""
    deeds = [("Book", "table"), ("Order", "coat"), ("Close", "shop")]
    return [
        {
            "id": thing,
            "turns": [
                {
                    "input": {"kind": "user", "text": f"{verb} the {thing}"},
                    "response": "<<think>>Plan:\n1. "
                    f'{verb}\n<<action>>{{"name": "{verb}", "parameters": {{}}}}<</action>>',
                },
                {
                    "input": {"kind": "observation", "text": "done"},
                    "response": f"It was well.<</think>>The {thing} is done.",
                },
            ],
        }
        for verb, thing in deeds
    ]


def run_sft(folder, base, resume=None, **recipe):
    settings = {
        "method": "lora",
        "base": str(base),
        "steps": 4,
        "conversations_per_step": 3,
        "evaluate_every": 2,
        "evaluate_turns": 0,
        "warmup_steps": 0,
        "precision": "fp32",
        **recipe,
    }
    make_run(folder, "sft", settings, data={"train": short_rows()}, resume=resume)
    status = run_program("sft", SftRecipe, sft.train, [str(folder)])
    assert status == 0, events(folder, "result")
    return folder / f"checkpoints/step-{settings['steps']:06d}"


def rows_of(folder, names=TAGS):
    model, tokenizer = load_policy(folder, CPU)
    ids = [tokenizer.get_vocab()[name] for name in names]
    return model.get_input_embeddings().weight[ids].detach()


# Where they start


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spare", [0, 40])
def test_a_new_row_starts_at_the_mean_of_its_own_pieces(tied, spare):
    tokenizer = plain_tokenizer()
    model = plain_model(tokenizer, tied=tied, spare=spare)
    known = len(tokenizer)
    pieces = {
        tag: tokenizer.encode(tag, add_special_tokens=False)
        for tag in (*TAGS, "<|user|>")
    }
    layers = model.get_input_embeddings(), model.get_output_embeddings()
    old = [layer.weight[:known].clone() for layer in layers]
    add_tags(tokenizer)
    fit_vocabulary(model, tokenizer, known)
    layers = model.get_input_embeddings(), model.get_output_embeddings()
    for layer, before in zip(layers, old, strict=True):
        assert len(layer.weight) == known + max(spare, len(tokenizer) - known)
        torch.testing.assert_close(layer.weight[:known], before)
        for tag, own in pieces.items():
            row = layer.weight[tokenizer.convert_tokens_to_ids(tag)]
            torch.testing.assert_close(row, before[own].mean(0))


def test_the_bias_of_a_head_starts_there_too():
    tokenizer = plain_tokenizer()
    model = plain_model(tokenizer, tied=False)
    head = torch.nn.Linear(64, len(tokenizer))
    model.set_output_embeddings(head)
    known = len(tokenizer)
    tag = TAGS[0]
    pieces = tokenizer.encode(tag, add_special_tokens=False)
    expected = head.bias[pieces].mean().item()
    add_tags(tokenizer)
    fit_vocabulary(model, tokenizer, known)
    row = tag_ids(tokenizer)[tag]
    assert model.get_output_embeddings().bias[row].item() == pytest.approx(expected)


def test_a_tokenizer_without_a_backend_cuts_a_token_in_halves():
    known = {"<<think>>": 9, "<<th": 1, "ink>>": 2}
    tokenizer = SimpleNamespace(
        convert_ids_to_tokens=lambda token: "<<think>>",
        encode=lambda text, add_special_tokens: [known[text]],
    )
    assert own_pieces(tokenizer, 9) == [1, 2]


def test_the_marks_of_a_reward_model_start_apart(tmp_path):
    base = save_base(tmp_path / "base")
    run = RunDirectory(make_run(tmp_path / "run", "reward", {}, {"policy": base}))
    run.read()
    classifier, tokenizer = starting_classifier(run, RewardRecipe(), CPU, outputs=2)
    known = len(tokenizer)
    Packer(tokenizer, RewardSettings("interleaved", "unit", history_tokens=9))
    fit_vocabulary(classifier, tokenizer, known)
    run.close()
    rows = classifier.get_input_embeddings().weight[known - len(TAGS) : len(tokenizer)]
    assert len(rows) >= 19
    alike = functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
    assert (alike - torch.eye(len(rows))).max() < 0.98


# That they come


@pytest.mark.parametrize(("rate", "steps"), [(1e-4, 120), (1e-3, 16), (3e-3, 60)])
def test_each_tag_comes_first_at_its_places(rate, steps, tmp_path):
    base = save_base(tmp_path / "base")
    end = run_sft(
        tmp_path / "run", base, steps=steps, evaluate_every=steps, learning_rate=rate
    )
    model, tokenizer = load_policy(end, CPU)
    names = {token: name for name, token in tag_ids(tokenizer).items()}
    ranks = {}
    for row in short_rows():
        encoded = Encoder(tokenizer).encode(sample_from_json(row))
        with torch.no_grad():
            logits = model(torch.tensor([encoded.ids])).logits[0]
        for place, label in enumerate(encoded.labels):
            if label in names:
                before = logits[place - 1]
                rank = int((before > before[label]).sum())
                ranks.setdefault(names[label], []).append(rank)
    assert {name: max(found) for name, found in ranks.items()} == dict.fromkeys(
        WRITTEN, 0
    )


def test_rows_of_their_own_move_as_by_torchs_adamw():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(7, 5))
    ids = torch.tensor([2, 6])
    own = torch.nn.Parameter(weight[ids].detach().clone())
    theirs = torch.optim.AdamW(
        [own], lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0
    )
    ours = RowsAdamW(NewRows([weight], ids, 1.0, True), 0.1)
    others = weight[[0, 1, 3, 4, 5]].detach().clone()
    for _ in range(5):
        weight.grad = torch.randn(7, 5)
        own.grad = weight.grad[ids].clone()
        ours.step()
        theirs.step()
        assert not weight.grad[ids].any()
    torch.testing.assert_close(weight[ids], own)
    assert torch.equal(weight[[0, 1, 3, 4, 5]], others)


# Which they are


def note(checkpoint):
    manifest = read_manifest(checkpoint)
    return set(manifest.new_tokens), set(manifest.trained_tokens)


def test_a_second_run_leaves_trained_rows_as_they_are(tmp_path):
    base = save_base(tmp_path / "base")
    first = run_sft(
        tmp_path / "first", base, steps=60, evaluate_every=60, learning_rate=3e-3
    )
    new, trained = note(first)
    assert new == trained >= set(TAGS)
    assert not any("pad" in name for name in new)
    second = run_sft(tmp_path / "second", first)
    # What the policy does not write, and so cannot be measured, is known by its note.
    assert note(second) == (set(), trained)
    assert torch.equal(rows_of(second), rows_of(first))


@pytest.mark.parametrize("how", ["alike", "random", "at their pieces"])
def test_a_base_that_has_the_tags_untrained_learns_them(how, tmp_path):
    """Another program added them: all at one place, at random, or as ours does."""
    tokenizer = plain_tokenizer()
    known = len(tokenizer)
    add_tags(tokenizer)
    model = plain_model(tokenizer)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        if how == "alike":
            weight[known:] = weight[:known].mean(0)
        if how == "at their pieces":
            fit_vocabulary(model, tokenizer, known)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    before = rows_of(tmp_path / "base")
    end = run_sft(tmp_path / "run", tmp_path / "base")
    new, _ = note(end)
    assert new >= set(WRITTEN)
    after = rows_of(end)
    which = [TAGS.index(name) for name in WRITTEN]
    assert (after[which] != before[which]).any(dim=1).all()


def test_a_note_that_is_contradicted_by_what_is_measured_counts_for_nothing(tmp_path):
    base = save_base(tmp_path / "base")
    first = run_sft(tmp_path / "first", base, steps=1, evaluate_every=1)
    assert note(first)[1] >= set(TAGS)  # after one step
    assert note(run_sft(tmp_path / "second", first))[0] >= set(WRITTEN)


def test_before_a_step_nothing_is_trained(tmp_path):
    base = save_base(tmp_path / "base")
    settings = {"method": "lora", "steps": 1, "examples_per_step": 2}
    assert run_preference(tmp_path / "run", base, max_new_tokens=4, **settings) == 0
    new, trained = note(tmp_path / "run/checkpoints/step-000000")
    assert new >= set(TAGS)
    assert trained == set()


def test_a_directory_of_an_earlier_version_is_measured(tmp_path):
    """Its manifest has no note."""
    base = save_base(tmp_path / "base")
    first = run_sft(
        tmp_path / "first", base, steps=60, evaluate_every=60, learning_rate=3e-3
    )
    path = first / "manifest.json"
    told = json.loads(path.read_text())
    del told["new_tokens"], told["trained_tokens"]
    path.write_text(json.dumps(told))
    second = run_sft(tmp_path / "second", first)
    assert not note(second)[0] & set(WRITTEN)


# Runs that go on


@pytest.mark.parametrize(
    "recipe", [{}, {"method": "full", "muon_learning_rate": 0.0}], ids=["lora", "full"]
)
@pytest.mark.parametrize("pad", [None, "</s>"], ids=["no pad", "pad is eos"])
def test_a_resumed_run_trains_the_same_rows(recipe, pad, tmp_path):
    base = save_base(tmp_path / "base", pad=pad)
    whole = run_sft(tmp_path / "whole", base, **recipe)
    half = tmp_path / "whole/checkpoints/step-000002"
    end = run_sft(tmp_path / "resumed", base, resume=str(half), **recipe)
    assert note(end) == note(whole)
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        one, other = load_file(whole / name), load_file(end / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


# Every program from a base without a tag


def moved(before, after):
    return (after - before).norm(dim=1) > 0


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
@pytest.mark.parametrize("pad", [None, "</s>"], ids=["no pad", "pad is eos"])
def test_reinforcement_learning_of_all_weights_starts(algorithm, pad, tmp_path):
    """The reference, and ppo's critic, have the rows that the policy has."""
    base = save_base(tmp_path / "base", pad=pad)
    settings = {
        "algorithm": algorithm,
        "consistency_source": "oracle",
        "steps": 1,
        "evaluate_every": 1,
        "max_new_tokens": 6,
    }
    assert run_policy(tmp_path / "run", base, rows=toy_rows()[:1], **settings) == 0
    step = next(
        e["values"] for e in events(tmp_path / "run", "metrics") if "kl" in e["values"]
    )
    assert step["kl"] == pytest.approx(0, abs=1e-4)  # the reference is the start


@pytest.mark.parametrize("method", ["lora", "full"])
def test_preferences_teach_rows_and_their_reference_stays(method, tmp_path):
    base = save_base(tmp_path / "base")
    settings = {"method": method, "steps": 2, "evaluate_every": 2, "max_new_tokens": 4}
    assert run_preference(tmp_path / "run", base, **settings) == 0
    start, end = (
        rows_of(tmp_path / f"run/checkpoints/step-00000{step}", WRITTEN)
        for step in (0, 2)
    )
    assert moved(start, end).all()
    first = next(
        e["values"]
        for e in events(tmp_path / "run", "metrics")
        if "loss" in e["values"]
    )
    assert first["margin"] == pytest.approx(0, abs=1e-4)
    assert first["loss"] == pytest.approx(
        0.6931, abs=1e-3
    )  # log 2: nothing is preferred


@pytest.mark.parametrize("muon", [5e-3, 0.0])
def test_a_reward_model_names_the_tokens_it_added_and_goes_on_with_them(muon, tmp_path):
    base = save_base(tmp_path / "base", pad="</s>")
    settings = {
        "muon_learning_rate": muon,
        "backbone": "checkpoint",
        "evaluate_turns": 1,
    }
    assert run_reward(tmp_path / "whole", base, **settings) == 0
    whole = tmp_path / "whole/checkpoints/step-000004"
    new, trained = note(whole)
    assert new == trained
    assert new >= {*TAGS, "<<match>>", "<<plan step>>"}
    half = tmp_path / "whole/checkpoints/step-000002"
    assert run_reward(tmp_path / "resumed", base, resume=str(half), **settings) == 0
    end = tmp_path / "resumed/checkpoints/step-000004"
    assert note(end) == note(whole)
    one, other = (load_file(path / "model.safetensors") for path in (whole, end))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_end_of_a_turn_learns_where_it_was_the_padding(tmp_path):
    base = save_base(tmp_path / "base", pad="</s>", tied=False)
    end = run_sft(tmp_path / "run", base, method="full", steps=2)
    assert moved(rows_of(base, ["</s>"]), rows_of(end, ["</s>"])).all()
