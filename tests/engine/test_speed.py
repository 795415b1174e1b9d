"""What a model computes, counted; what the machine could do, measured."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.engine.micro import micro_policy, micro_tokenizer
from training.engine.modeling.policies import Place
from training.engine.modeling.throughput import Work, attend, matrix_rate

CPU = Place(torch.device("cpu"), half=False)


@pytest.mark.parametrize(
    "shape", ["qwen3", "llama"]
)  # tied embeddings, and its own head
def test_the_count_is_what_torch_counts(shape):
    model = micro_policy(micro_tokenizer(), shape)
    model.set_attn_implementation("eager")
    ids = torch.ones((1, 64), dtype=torch.long)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(ids)
    work = Work.of(model, passes=1)
    work.add([64])
    # torch computes the half of the scores, too, that the causal mask throws away.
    config = model.config
    head = getattr(config, "head_dim", None) or 16
    half = 2 * config.num_hidden_layers * config.num_attention_heads * head * 64**2
    assert work.flops + half == pytest.approx(counted.get_total_flops(), rel=0.01)
    assert work.tokens == 64


def test_training_counts_three_passes_and_sequences_apart():
    model = micro_policy(micro_tokenizer())
    once, thrice = Work.of(model, passes=1), Work.of(model, passes=3)
    once.add([10, 20])
    thrice.add([10])
    thrice.add([20])
    assert thrice.flops == 3 * once.flops
    joined = Work.of(model, passes=1)
    joined.add([30])
    assert joined.flops > once.flops  # a longer sequence looks back further


@pytest.mark.parametrize(("longest", "attention"), [(500, "eager"), (5000, "sdpa")])
def test_on_a_cpu_attention_over_short_sequences_is_eager(longest, attention):
    model = micro_policy(micro_tokenizer())
    attend(model, CPU, longest)
    assert model.config._attn_implementation == attention


def test_the_machine_has_some_rate():
    assert matrix_rate(CPU, side=64) > 1e6
