"""AdamW with moments in 8 bits, by bitsandbytes."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.micro import events, micro_policy, micro_tokenizer
from tests.engine.test_sft import SMALL, run_sft
from training.engine.modeling.optim import muon_and_adamw, save_optimizer

RECIPE = {
    **SMALL,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "precision": "fp32",
    "device": "cpu",
}
END = "checkpoints/step-000006/model.safetensors"

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
    "ignore::FutureWarning:bitsandbytes",
)
installed = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed",
)


def test_without_the_library_the_setting_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run_sft(tmp_path, {**RECIPE, "adamw_8bit": True}) == 1
    (result,) = events(tmp_path, "result")
    assert result["error"] == (
        "recipe: `adamw_8bit`: expected bitsandbytes to be installed, found true"
    )


@installed
def test_it_moves_like_adamw_with_a_quarter_of_the_moments(tmp_path):
    sizes, moves = [], []
    for eight_bit in (False, True):
        model = micro_policy(micro_tokenizer())
        start = model.model.embed_tokens.weight.detach().clone()
        optimizer = muon_and_adamw(
            model.named_parameters(),
            muon_rate=0.0,
            adamw_rate=1e-3,
            weight_decay=0.0,
            muon=False,
            eight_bit=eight_bit,
        )
        for step in range(8):
            torch.manual_seed(step)
            ids = torch.randint(0, 900, (4, 32))
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        moves.append((model.model.embed_tokens.weight.detach() - start).flatten())
        (tmp_path / str(eight_bit)).mkdir()
        save_optimizer(optimizer, tmp_path / str(eight_bit))
        held = load_file(tmp_path / str(eight_bit) / "optimizer.safetensors")
        sizes.append(sum(t.nbytes for name, t in held.items() if name[:4] == "0.0."))
    alike = torch.nn.functional.cosine_similarity(*moves, dim=0)
    assert alike > 0.98
    assert sizes[1] < 0.35 * sizes[0]  # of the embeddings, with the scales of blocks


@installed
def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(tmp_path):
    recipe = {**RECIPE, "adamw_8bit": True}
    assert run_sft(tmp_path / "whole", recipe) == 0
    half = tmp_path / "whole/checkpoints/step-000004"
    assert run_sft(tmp_path / "resumed", recipe, resume=str(half)) == 0
    whole, resumed = (load_file(tmp_path / run / END) for run in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    plain = {**recipe, "adamw_8bit": False}
    assert run_sft(tmp_path / "plain", plain) == 0
    other = load_file(tmp_path / "plain" / END)
    assert any(not torch.equal(whole[name], other[name]) for name in whole)
