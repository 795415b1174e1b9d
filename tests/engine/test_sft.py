"""SFT: what is learned, in which order, and that a resumed run is the same run."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from records.checkpoints import verify_checkpoint
from records.recipes import SftRecipe
from tests.engine.micro import (
    demo_rows,
    demo_samples,
    events,
    make_run,
    micro_policy,
    micro_tokenizer,
    save_micro_policy,
)
from tests.engine.test_tokens import plain_tokenizer
from training.engine import sft
from training.engine.data.conversations import (
    IGNORED,
    Encoder,
    read_samples,
    sample_from_json,
)
from training.engine.data.sft_batches import (
    EpochOrder,
    approved_answers,
    packed,
    padded,
    with_wordings,
)
from training.engine.modeling.loading import load_policy
from training.engine.modeling.policies import Place
from training.engine.modeling.token_loss import (
    learned_count,
    prepare_head,
    token_loss,
)
from training.engine.modeling.tokenizer import tag_ids
from training.engine.run.directory import RunDirectory, run_program

# peft asks for a name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

CPU = Place(torch.device("cpu"), half=False)
SMALL = {
    "steps": 6,
    "conversations_per_step": 2,
    "width": 32,
    "layers": 1,
    "evaluate_turns": 2,
    "evaluate_every": 2,
    "warmup_steps": 2,
}


def data():
    return {"train": demo_rows(12), "held_out": demo_rows(3, "held-out", 2)}


def run_sft(folder, recipe=None, inputs=None, resume=None, rows=None):
    make_run(folder, "sft", {**SMALL, **(recipe or {})}, inputs, rows or data(), resume)
    return run_program("sft", SftRecipe, sft.train, [str(folder)])


def weights(checkpoint):
    return load_file(str(checkpoint / "model.safetensors"))


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft") / "run"
    assert run_sft(folder) == 0
    return folder


def test_a_run_from_scratch_leaves_base_and_policy(whole_run):
    steps = [event["step"] for event in events(whole_run, "checkpoint")]
    assert steps == [0, 2, 4, 6]
    assert [e["final"] for e in events(whole_run, "checkpoint")] == [False] * 3 + [True]
    (result,) = events(whole_run, "result")
    assert result["state"] == "finished"
    assert result["values"]["held_out_turns"] == 2
    assert result["values"]["turns_left_out"] == 0
    assert events(whole_run, "progress")[-1]["step"] == 6
    losses = [e["values"] for e in events(whole_run, "metrics")]
    assert any("held_out_loss" in values for values in losses)
    assert all(0 < values["mfu"] < 1 for values in losses if "mfu" in values)
    assert any("mfu" in values for values in losses)
    assert not list(whole_run.rglob("*.bin")) + list(whole_run.rglob("*.pt"))


def test_a_resumed_run_equals_an_uninterrupted_one(whole_run, tmp_path):
    folder = tmp_path / "run"
    make_run(folder, "sft", SMALL, None, data(), "checkpoints/step-000002")
    (folder / "checkpoints").mkdir()
    source = whole_run / "checkpoints" / "step-000002"
    source_copy = folder / "checkpoints" / "step-000002"
    source_copy.mkdir()
    for path in source.rglob("*"):
        target = source_copy / path.relative_to(source)
        if path.is_dir():
            target.mkdir()
        else:
            target.write_bytes(path.read_bytes())
    assert run_program("sft", SftRecipe, sft.train, [str(folder)]) == 0
    for step in ("step-000004", "step-000006"):
        assert_same(
            weights(whole_run / "checkpoints" / step),
            weights(folder / "checkpoints" / step),
        )
        assert_same(
            load_file(
                str(whole_run / f"checkpoints/{step}/trainer/optimizer.safetensors")
            ),
            load_file(
                str(folder / f"checkpoints/{step}/trainer/optimizer.safetensors")
            ),
        )


def test_a_stop_file_leaves_a_checkpoint_to_resume_from(tmp_path):
    folder = tmp_path / "run"
    make_run(folder, "sft", SMALL, None, data())
    (folder / "stop").touch()
    assert run_program("sft", SftRecipe, sft.train, [str(folder)]) == 0
    assert events(folder, "result")[-1]["state"] == "stopped"
    last = events(folder, "checkpoint")[-1]
    assert last["step"] == 1
    verify_checkpoint(folder / last["path"])
    assert json.loads((folder / last["path"] / "trainer/state.json").read_text()) == {
        "step": 1
    }


def test_micro_batches_leave_the_gradient_as_it_is(tmp_path):
    recipe = {"micro_batch": 1, "steps": 1, "precision": "fp32"}
    found = []
    for name, size in (("split", 1), ("whole", 0)):
        assert run_sft(tmp_path / name, {**recipe, "micro_batch": size}) == 0
        values = events(tmp_path / name, "metrics")[-1]["values"]
        found.append([values["loss"], values["gradient_norm"]])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("shape", ["llama", "qwen3"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_any_causal_language_model_is_a_base(shape, method, tmp_path):
    base = save_micro_policy(tmp_path / "base", shape)
    recipe = {"method": method, "base": str(base), "steps": 2, "lora_rank": 4}
    assert run_sft(tmp_path / "run", recipe) == 0
    final = tmp_path / "run/checkpoints/step-000002"
    assert {path.suffix for path in final.iterdir()} <= {
        ".safetensors",
        ".json",
        ".jinja",
        "",
    }
    model, tokenizer = load_policy(final, CPU)
    before, _ = load_policy(base, CPU)
    assert type(model) is type(before)
    changed = [
        name
        for (name, new), old in zip(
            model.named_parameters(), before.parameters(), strict=True
        )
        if not torch.equal(new, old)
    ]
    assert any("mlp" in name for name in changed)
    assert tag_ids(tokenizer)


@pytest.mark.parametrize("tied", [True, False])
def test_lora_trains_the_rows_of_new_tokens_only(tied, tmp_path):
    tokenizer = plain_tokenizer()
    known = len(tokenizer)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=known,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=tied,
        )
    )
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    recipe = {"method": "lora", "base": str(tmp_path / "base"), "steps": 4}
    assert run_sft(tmp_path / "run", recipe) == 0
    trained, _ = load_policy(tmp_path / "run/checkpoints/step-000004", CPU)
    started, _ = load_policy(tmp_path / "base", CPU)
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        new = getattr(trained, layer)().weight
        old = getattr(started, layer)().weight
        assert torch.equal(new[:known], old[:known])
        assert not torch.equal(new[known:], old[known:])


@pytest.mark.parametrize("scratch", [False, True])
def test_a_resumed_lora_run_equals_an_uninterrupted_one(tmp_path, scratch):
    base = "" if scratch else str(save_micro_policy(tmp_path / "base"))
    recipe = {"method": "lora", "base": base, "steps": 4}
    assert run_sft(tmp_path / "run", recipe) == 0
    whole = weights(tmp_path / "run/checkpoints/step-000004")
    for path in (tmp_path / "run/checkpoints/step-000004").rglob("*"):
        if path.is_file():
            path.unlink()  # no longer whole: it is written anew
    assert run_sft(tmp_path / "run", recipe, resume="checkpoints/step-000002") == 0
    assert_same(whole, weights(tmp_path / "run/checkpoints/step-000004"))


def test_observations_get_no_gradient():
    """The gradient at an observation's own logits is exactly zero."""
    tokenizer = micro_tokenizer()
    model = micro_policy(tokenizer)
    encoder = Encoder(tokenizer)
    sample = next(
        s for s in demo_samples() if any(t.kind == "observation" for t in s.turns)
    )
    encoded = encoder.encode(sample)
    batch = padded([encoded], tokenizer.pad_token_id)
    logits = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).logits
    logits.retain_grad()
    torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    ).backward()
    gradient = logits.grad[0, :-1].abs().sum(-1)
    learned = torch.tensor([label != IGNORED for label in encoded.labels[1:]])
    assert (gradient[~learned] == 0).all()
    assert (gradient[learned] > 0).all()
    tags = tag_ids(tokenizer)
    opened = encoded.ids.index(tags["<<observation>>"])
    closed = encoded.ids.index(tags["<</observation>>"])
    assert not learned[opened - 1 : closed].any()


@pytest.mark.parametrize("shape", ["qwen3", "llama"])
def test_packed_equals_unpacked(shape):
    tokenizer = micro_tokenizer()
    model = micro_policy(tokenizer, shape).eval()
    encoder = Encoder(tokenizer)
    batch = [encoder.encode(sample) for sample in demo_samples()[:4]]

    def logprobs(inputs):
        labels = inputs.pop("labels")[:, 1:]
        with torch.no_grad():
            logits = model(**inputs, use_cache=False).logits[:, :-1]
        found = -torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="none"
        )
        return found[labels.flatten() != IGNORED]

    apart = logprobs(padded(batch, tokenizer.pad_token_id))
    together = logprobs(packed(batch))
    assert len(apart) == sum(label != IGNORED for e in batch for label in e.labels)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def make_order(**settings):
    tokenizer = micro_tokenizer()
    recipe = SftRecipe(**{"conversations_per_step": 4, **settings})
    samples = with_wordings(demo_samples(), recipe, {})
    return EpochOrder(Encoder(tokenizer), samples, recipe, 2048)


def test_each_pass_takes_every_conversation_once():
    order = make_order()
    size = len(order.sequences)
    for epoch in range(2):
        places = range(epoch * size, (epoch + 1) * size)
        assert sorted(order.at(place).sample for place in places) == sorted(
            sample.id for sample in demo_samples()
        )
    assert order.order(0) != order.order(1)


def test_the_order_depends_on_the_seed_and_the_place_alone():
    one, other = make_order(), make_order()
    assert one.at(40) == other.at(40)
    assert [one.at(i) for i in range(45)] == [other.at(i) for i in range(45)]
    assert make_order(seed=2).order(0) != one.order(0)


def test_references_take_turns_with_the_label():
    order = make_order(references=True)
    labels = make_order(references=False)
    size = len(order.sequences)
    ids = {e.sample: e.ids for e in map(labels.at, range(size))}
    assert any(e.ids != ids[e.sample] for e in map(order.at, range(size)))


def test_turns_too_long_are_counted_and_named(tmp_path):
    assert run_sft(tmp_path / "run", {"max_tokens": 190, "steps": 1}) == 0
    warnings = [e for e in events(tmp_path / "run", "log") if e["level"] == "warning"]
    assert "turns are left out, each longer than 190 tokens" in warnings[0]["message"]
    (result,) = events(tmp_path / "run", "result")
    assert result["values"]["turns_left_out"] > 0


def test_nothing_that_fits_is_an_error(tmp_path):
    assert run_sft(tmp_path / "run", {"max_tokens": 32}) == 1
    (result,) = events(tmp_path / "run", "result")
    assert result["error"] == (
        "recipe: `max_tokens`: expected room for some turn, found none of 12 samples"
    )


# Answers that people judged consistent


def judged(row, text, **more):
    turn = row["turns"][0]
    return {
        "sample": row["id"],
        "turn": 0,
        "label": turn["response"],
        "sampled": text,
        "consistent": True,
        "source": "people",
        "split": "train",
        **more,
    }


def wordings_of_first_turn(folder, judgments, **recipe):
    rows = {"train": demo_rows(2), "judgments": judgments}
    make_run(folder, "sft", data=rows)
    run = RunDirectory(folder)
    run.read()
    recipe = SftRecipe(**recipe)
    samples = read_samples(run.data["train"])
    approved = approved_answers(run) if recipe.judged_answers else {}
    run.close()
    return with_wordings(samples, recipe, approved)[0].turns[0].references


def test_answers_judged_consistent_are_learned_as_further_wordings(tmp_path):
    row = demo_rows(2)[0]
    written = tuple(row["turns"][0]["references"])
    judgments = [
        judged(row, "approved"),
        judged(row, "wrong", consistent=False),
        judged(row, "measures the reward model", split="held-out"),
        judged(row, row["turns"][0]["response"], source="identical"),
    ]
    for number, (settings, expected) in enumerate(
        [
            ({}, written),
            ({"judged_answers": True}, (*written, "approved")),
            ({"judged_answers": True, "references": False}, ("approved",)),
            ({"references": False}, ()),
        ]
    ):
        folder = tmp_path / str(number)
        assert wordings_of_first_turn(folder, judgments, **settings) == expected


def test_a_run_learns_to_say_what_people_approved(tmp_path):
    """Two runs from the same start: with the approved answers, and without."""
    row = {**demo_rows(1)[0], "contexts": []}
    row["turns"] = [{**row["turns"][0], "references": []}]
    approved = "<<think>>All right.<</think>>It is done as you said."
    likely = []
    for wanted in (False, True):
        folder = tmp_path / str(wanted)
        rows = {"train": [row], "judgments": [judged(row, approved)]}
        recipe = {"steps": 30, "judged_answers": wanted}
        assert run_sft(folder, recipe, rows=rows) == 0
        end = next(e for e in events(folder, "checkpoint") if e["final"])
        model, tokenizer = load_policy(folder / end["path"], CPU)
        encoded = Encoder(tokenizer).encode(sample_from_json(row), responses=[approved])
        with torch.no_grad():
            loss = model(
                input_ids=torch.tensor([encoded.ids]),
                labels=torch.tensor([encoded.labels]),
            ).loss
        likely.append(float(loss))
    assert likely[1] < likely[0] - 1  # nats per token


@pytest.mark.parametrize("packs", [False, True])
def test_the_loss_of_the_learned_tokens_is_that_of_the_fused_head(packs):
    tokenizer = micro_tokenizer()
    encoder = Encoder(tokenizer)
    batch = [encoder.encode(sample) for sample in demo_samples()[:3]]
    inputs = packed(batch) if packs else padded(batch, tokenizer.pad_token_id)
    results = []
    for fused in (False, True):
        model = micro_policy(tokenizer)
        head = prepare_head(model, fused=fused)
        loss, right = token_loss(model, head, inputs)
        (loss / learned_count(inputs["labels"])).backward()
        results.append((loss, right, model.model.embed_tokens.weight.grad))
    (one, right_one, gradient), (other, right_other, fused_gradient) = results
    assert int(right_one) == int(right_other)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(gradient, fused_gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("muon", [1e-2, 0.0])
def test_the_rate_it_tells_is_that_of_the_adamw_part(tmp_path, muon):
    recipe = {"muon_learning_rate": muon, "decay_fraction": 0.0, "learning_rate": 4e-3}
    assert run_sft(tmp_path, recipe | {"steps": 12, "evaluate_every": 12}) == 0
    told = {
        e["step"]: e["values"]["learning_rate"]
        for e in events(tmp_path, "metrics")
        if "learning_rate" in e["values"]
    }
    assert told == {10: pytest.approx(4e-3), 12: pytest.approx(4e-3)}
