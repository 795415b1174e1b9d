"""Turns with the answers that people judged, to learn which of them are better.

For the ``preference`` program (DPO, KTO) and the preference model. A turn's answers are
good (judged consistent) or bad; where none was good the label response stands for one. A
step takes pairs of a good and a bad answer to one turn, or answers by themselves. Every
pass over them has its own order, which depends on the seed and the step alone: a resumed
run repeats an uninterrupted one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from records.judgments import JudgedPair
from training.engine.data.conversations import Encoder, Sample, read_samples
from training.engine.modeling.reference import Row as Row
from training.engine.run.directory import RunDirectory, RunError, step_random
from training.engine.run.rows import read_records


@dataclass(frozen=True)
class Question:
    """A turn with its judged answers, as token ids."""

    prompt: tuple[int, ...]
    good: tuple[tuple[int, ...], ...]
    bad: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Batch:
    """The rows of one step: chosen and rejected in turn (DPO), or any answers (KTO)."""

    rows: list[Row]
    good: list[bool]


def read_questions(
    run: RunDirectory,
    encoder: Encoder,
    longest: int,
) -> tuple[list[Question], list[Question]]:
    """Return the judged turns to learn from and the held-out ones.

    Where no answer was judged consistent the label stands for one. An answer that is
    longer with its prompt than ``longest`` tokens is left out. Raises ``RunError`` naming
    a line of ``judgments.jsonl`` that is wrong.
    """
    samples: dict[str, Sample] = {}
    for name in ("train", "held_out"):
        if name in run.data:
            samples |= {sample.id: sample for sample in read_samples(run.data[name])}
    answers: dict[tuple[str, int, bool], tuple[list[str], list[str]]] = {}
    counts: Counter[str] = Counter()
    path = run.need_data("judgments")
    for number, pair in enumerate(read_records(path, JudgedPair.from_json), start=1):
        sample = samples.get(pair.sample)
        if sample is None or pair.turn >= len(sample.turns):
            place = f"{path.name}, pair {number}"
            expected = "a turn of a sample of this run"
            raise RunError(place, expected, f"turn {pair.turn} of {pair.sample!r}")
        key = (sample.id, pair.turn, pair.is_held_out)
        good, bad = answers.setdefault(key, ([], []))
        (good if pair.consistent else bad).append(pair.sampled)
        counts["consistent" if pair.consistent else "inconsistent"] += 1

    def fitting(texts: list[str], room: int) -> tuple[tuple[int, ...], ...]:
        ids = [encoder.response_ids(text) for text in dict.fromkeys(texts)]
        counts["too long"] += sum(len(answer) > room for answer in ids)
        return tuple(answer for answer in ids if len(answer) <= room)

    train, held_out_questions = list[Question](), list[Question]()
    for (name, turn, held_out), (good, bad) in answers.items():
        good = good or [samples[name].turns[turn].response]
        prompt = tuple(encoder.encode(samples[name]).prompt(turn))
        room = longest - len(prompt)
        question = Question(prompt, fitting(good, room), fitting(bad, room))
        if question.good or question.bad:
            (held_out_questions if held_out else train).append(question)
    listed = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    run.log(f"judged answers: {listed}", "warning" if counts["too long"] else "info")
    return train, held_out_questions


def pair_rows(questions: Sequence[Question]) -> list[Row]:
    """Return every pair of the questions, the good answer and the bad one in turn."""
    return [
        row
        for question in questions
        for good in question.good
        for bad in question.bad
        for row in ((question.prompt, good), (question.prompt, bad))
    ]


class BatchSampler:
    """Which examples a step learns; it depends on the ``seed`` and the step's number.

    Of ``paired`` ones a step has ``count`` pairs, a bad answer beside a good one to its
    turn; else ``count`` answers by themselves, half of each verdict.
    """

    def __init__(
        self, questions: Sequence[Question], *, seed: int, count: int, paired: bool
    ) -> None:
        self.seed, self.count, self.paired = seed, count, paired
        self.pairs = [(q, bad) for q in questions if q.good for bad in q.bad]
        self.good = [(q.prompt, answer) for q in questions for answer in q.good]
        self.bad = [(q.prompt, answer) for q in questions for answer in q.bad]
        if paired and not self.pairs:
            expected = "a turn with a consistent and an inconsistent answer"
            raise RunError("data.judgments", expected, "none to learn from")
        if not self.good and not self.bad:
            raise RunError("data.judgments", "judged answers", "none to learn from")

    def at(self, step: int) -> Batch:
        """Return the rows that ``step`` learns, each pass in an order of its own."""
        count = self.count
        if self.paired:
            rows: list[Row] = []
            for epoch, i in self._places("pairs", len(self.pairs), step, count):
                question, bad = self.pairs[i]
                rng = step_random(self.seed, "chosen", epoch, i)
                rows += [
                    (question.prompt, rng.choice(question.good)),
                    (question.prompt, bad),
                ]
            return Batch(rows, [True, False] * count)
        pools = [(n, p) for n, p in (("good", self.good), ("bad", self.bad)) if p]
        rows, good = [], []
        for number, (name, pool) in enumerate(pools):
            share = count // len(pools) + (number < count % len(pools))
            for _, i in self._places(name, len(pool), step, share):
                rows.append(pool[i])
                good.append(name == "good")
        return Batch(rows, good)

    def _places(
        self, name: str, size: int, step: int, count: int
    ) -> list[tuple[int, int]]:
        """Return (pass, index) of the ``count`` items that ``step`` takes of a pool."""
        orders: dict[int, list[int]] = {}
        places: list[tuple[int, int]] = []
        for place in range(step * count, (step + 1) * count):
            epoch, position = divmod(place, size)
            if epoch not in orders:
                orders[epoch] = list(range(size))
                step_random(self.seed, name, epoch).shuffle(orders[epoch])
            places.append((epoch, orders[epoch][position]))
        return places
