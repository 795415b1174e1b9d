"""The benchmark for GPUs goes its whole way on a CPU, with the real programs."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks import gpu


def lines(*arguments):
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.slow
def test_every_figure_is_told_by_the_programs_themselves(tmp_path):
    status, told = lines("--tiny", "--folder", str(tmp_path))
    assert status == 0, told
    assert [each["figure"] for each in told] == [
        *("machine", "matrix rate", "sft", "sft", "sft", "scoring", "rl step")
    ]
    machine, rate, plain, checkpointed, packed, scoring, step = told
    assert machine["tiny"]
    assert rate["tera_flops_per_second"] > 0
    assert [
        (each["packing"], each["gradient_checkpointing"])
        for each in (plain, checkpointed, packed)
    ] == [(False, False), (False, True), (True, False)]
    for each in (plain, checkpointed, packed):
        assert each["tokens_per_second"] > 0
        assert 0 < each["mfu"] < 1
        assert each["goal"] == 0.45
    assert scoring["tokens_per_second"] > 0
    assert 0 < scoring["share_of_matrix_rate"] < 1
    assert scoring["goal"] == 0.40
    assert scoring["pairs"] == gpu.TINY["pairs"]
    assert set(step["shares"]) == {"generation", "scoring", "reference", "update"}
    assert sum(step["shares"].values()) == pytest.approx(1, abs=0.01)
    assert step["response_tokens"] > 0
    assert list(tmp_path.iterdir()) == []  # what it wrote is gone


def test_the_model_of_the_figures_has_about_a_billion_parameters():
    width, layers = gpu.FULL["width"], gpu.FULL["layers"]
    # Four square matrices of attention, three of the feed-forward part, three wide.
    assert 0.9e9 < layers * (4 + 3 * 3) * width**2 < 1.1e9
    assert width // gpu.FULL["heads"] == 128


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so():
    status, told = lines()
    assert status == 1
    assert told == [
        {
            "figure": "machine",
            "error": "torch finds no GPU here; --tiny runs on a CPU",
        }
    ]
