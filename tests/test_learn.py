"""``benchmarks.learn`` and ``benchmarks.reward_ablation``: what they make of their runs."""

import json
import random
import threading
import xml.etree.ElementTree as ET

import pytest

from actions.demo import generate, oracle
from actions.demo.derive import reworded
from benchmarks import learn, reward_ablation
from benchmarks.learn import Outcome, Seed, interval
from benchmarks.runs import Run, RunFailedError, Site, write


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path, threading.Semaphore(1))


@pytest.fixture
def seed(site):
    seed = Seed(site, 1)
    seed.samples = {s["id"]: s for s in generate(seed=1, count=12)}
    return seed


def finished(site, name, values, **outputs):
    """Return a run directory as a program leaves it."""
    run = Run(name, site.folder / name)
    write(
        run.path / "events.jsonl",
        [{"event": "result", "state": "finished", "values": values, "error": ""}],
    )
    for file, rows in outputs.items():
        write(run.path / "outputs" / f"{file}.jsonl", rows)
    return run


def test_a_judgment_is_the_oracles_with_the_units_that_differ(seed):
    (sample, *_) = seed.samples.values()
    turn = sample["turns"][0]
    right = seed._judgment(sample["id"], 0, turn["response"])
    wrong = seed._judgment(sample["id"], 0, sample["turns"][-1]["response"])
    assert right["consistent"] is True
    assert right["differs"] == []
    assert wrong["consistent"] is False
    assert wrong["differs"] == list(
        oracle.judge(turn, sample["turns"][-1]["response"]).units_that_differ
    )


def test_judgments_of_a_sample_are_all_learned_from_or_all_measured_on(seed):
    splits = {
        name: {seed._judgment(name, turn, "No.")["split"] for turn in (0, 1)}
        for name in seed.samples
    }
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "held-out"}


def test_only_conversations_accepted_in_every_turn_are_fine_tuned_on(seed, site):
    rows = []
    names = list(seed.samples)
    for name in names[:3]:
        for number, turn in enumerate(seed.samples[name]["turns"]):
            text = reworded(turn, random.Random(number))
            score = 0.2 if (name, number) == (names[1], 0) else 0.9
            rows.append(
                {
                    "sample": name,
                    "turn": number,
                    "text": text,
                    "rm_score": score,
                    "format_error": "",
                }
            )
            rows.append({**rows[-1], "text": "worse", "rm_score": 0.7})
    answers = finished(site, "answers", {}, responses=rows)
    reward = finished(site, "reward", {"threshold": 0.5})
    kept = seed._accepted(answers, reward)
    # One turn of the second has only the worse answer, the others nothing at all.
    assert [sample["id"] for sample in kept] == names[:3]
    assert kept[1]["turns"][0]["response"] == "worse"
    for number, turn in enumerate(kept[0]["turns"]):
        label = seed.samples[names[0]]["turns"][number]
        assert turn["response"] != label["response"]
        assert oracle.judge(label, turn["response"]).consistent
        assert turn["references"] == []


def test_shares_are_means_over_seeds_and_differences_are_paired():
    tasks = [f"t{number}" for number in range(100)]
    worse = Outcome({s: {t: float(t != "t0") for t in tasks} for s in (1, 2)})
    better = Outcome({s: dict.fromkeys(tasks, 1.0) for s in (1, 2)})
    mixed = Outcome({1: dict.fromkeys(tasks, 1.0), 2: dict.fromkeys(tasks, 0.0)})
    assert worse.share(tasks) == pytest.approx(0.99)
    assert mixed.share(tasks) == 0.5
    low, high = interval(tasks, lambda some: better.share(some) - worse.share(some))
    assert 0 <= low <= 0.01 <= high <= 0.05
    assert interval(tasks, mixed.share) == (0.5, 0.5)


def told(site, number, complete):
    """Return a seed whose runs are done; ``complete`` gives the share by role."""
    seed = Seed(site, number)
    rows = [
        {"role": role, "sample": f"{split}-{n}", "complete": n < share * 50}
        for role, share in complete.items()
        for split in ("seen", "unseen")
        for n in range(50)
    ]
    figures = {"turns_right": {"value": 0.9}, "rm_consistent": {"value": 0.92}}
    seed.measured = finished(
        site,
        f"{number}/evaluate",
        {"policies": dict.fromkeys(complete, figures)},
        samples=rows,
    )
    none = {"base": {"tasks_complete": {"value": 0.0, "n": 40}}}
    seed.base = finished(site, f"{number}/evaluate-base", {"policies": none})
    for name in ("reward", "reward-2"):
        finished(site, f"{number}/{name}", {"judged/auc": 0.97})
    seed.policies = dict.fromkeys(("SFT", "RL"), seed.measured)
    return seed


@pytest.mark.parametrize(("learned", "holds"), [(0.7, True), (0.3, False)])
def test_the_report_says_whether_the_claims_hold(site, capsys, learned, holds):
    seeds = [told(site, n, {"sft": 0.3, "rl": learned}) for n in (1, 2)]
    assert learn.report(seeds) is holds
    shown = capsys.readouterr().out
    assert "100 held-out tasks" in shown
    assert f"RL            {learned:.3f}" in shown
    assert ("holds" in shown) is holds


@pytest.mark.slow
def test_a_program_that_fails_is_told_with_the_end_of_its_log(site):
    with pytest.raises(RunFailedError, match=r"try: failed\n(?s:.*)data.train"):
        site.run("try", "sft", {"steps": 1}, {})


def test_the_ablations_plot_is_a_picture_with_a_line_for_each_size():
    found = {
        (width, count): {"judged/auc": 0.5}
        for width in reward_ablation.WIDTHS
        for count in reward_ablation.COUNTS
    }
    drawn = ET.fromstring(reward_ablation.plot(found, "judged/auc", "AUC"))
    lines = [node for node in drawn if node.tag.endswith("polyline")]
    assert len(lines) == len(reward_ablation.WIDTHS)
    text = reward_ablation.size_table(found, "judged/auc", "AUC")
    assert text.splitlines()[2] == "| width 32 | 0.500 | 0.500 | 0.500 |"


def test_the_ablations_table_has_the_mean_and_the_worst_seed():
    results = [{"judged/auc": 0.9}, {"judged/auc": 0.7}]
    text = reward_ablation.table("data", {"all": results})
    assert "0.800 (0.700)" in text


def test_judged_pairs_are_each_listed_once(site):
    (sample,) = generate(seed=1, count=1)
    row = {"sample": sample["id"], "turn": 0, "text": sample["turns"][0]["response"]}
    drawn = finished(site, "draw", {}, responses=[row, row, {**row, "text": "No."}])
    turns = {(sample["id"], 0): sample["turns"][0]}
    rows = reward_ablation.judged(drawn, turns, "train")
    assert sorted(r["consistent"] for r in rows) == [False, True]
    json.dumps(rows)
