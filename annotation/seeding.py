"""Fill the demo project, so that each of its pages has something to do at once.

A guideline with examples, pairs to judge, judgments, a disagreement, drafts to review:
all made by the deeds that people's clicks call. The demo's generator makes the answers
in the pairs (rewordings and inserted errors), and they are stored as such: no count of
a policy's responses includes them. The demo's oracle gives the verdicts, except one
that makes the disagreement. Seeded judgments took no time and are dated long before the
project, so that they do not count toward anybody's day, goal, pace or recent agreement.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from django.db import transaction
from django.utils import timezone

from actions.demo import derive, oracle
from actions.demo.shapes import Sample as DemoSample
from annotation.authoring.review import comment_on
from annotation.authoring.sample_rows import save_sample
from annotation.judging.guidelines import (
    confirm_reading,
    pin_example,
    publish_guideline,
)
from annotation.judging.judgments import record_judgment
from annotation.judging.pairing import ResponseRow, receive_responses
from annotation.judging.progress import DAYS
from annotation.judging.queue import Claim, claim_slot
from annotation.models import GuidelineVersion, Judgment, Pair, Project

if TYPE_CHECKING:
    from django.contrib.auth.models import User

# Further back than any figure of a person's work or of the project's pace reaches.
LONG_AGO: Final = timedelta(days=2 * DAYS)
TEXTS: Final = Path(__file__).with_name("seed")

# By sample number: the error in the answer to each of its turns; without an error the
# answer is a rewording of the label.
JUDGED: Final[dict[int, tuple[str, ...]]] = {
    0: ("plan order", "", "parameter", "", ""),
    3: ("", "", "", "action name", ""),
    6: ("plan order", "", "use of result", "", "", "answer"),
}
WAITING: Final[dict[int, tuple[str, ...]]] = {
    8: ("plan order", "", "parameter", "", "", "answer"),
    2: ("", "use of result", "", "parameter", "several"),
    14: ("missing step", "question", ""),
    20: ("", "action name", "", "", "use of result", "", "answer"),
    26: ("changed step", "", "question", "", "", "several"),
}
# The pair that one labeler judges consistent: the last plan with its steps reversed.
DISPUTED: Final = (6, 0)
EXAMPLES: Final = (
    (3, 0, "Other words for each step, the same steps in the same order."),
    (0, 0, "The same steps, each in its own right sensible, but in another order."),
    (0, 2, "Everything is the same but one value: that is another order for the shop."),
)
COMMENT: Final = (
    "The guideline wants cake and address confirmed before the order is placed; the "
    "last two steps stand the wrong way round."
)


@dataclass(frozen=True)
class Cast:
    """The people of the demo: two labelers and a curator."""

    labelers: tuple[User, User]
    curator: User


@transaction.atomic
def furnish(*, project: Project, samples: Sequence[DemoSample], cast: Cast) -> None:
    """Give a project with the demo's samples all that the pages show.

    ``samples`` are the first training samples that were imported, as the generator
    wrote them.
    """
    publish_the_guideline(project, cast)
    hand_in_drafts(project, cast)
    ask(project, samples, JUDGED, random.Random(1))
    judge(project, samples, cast)
    for sample, turn, note in EXAMPLES:
        pin_example(
            project=project,
            pair=_pair(project, samples, sample, turn),
            curator=cast.curator,
            note=note,
        )
    ask(project, samples, WAITING, random.Random(13))


def publish_the_guideline(project: Project, cast: Cast) -> None:
    """Publish two versions; the labelers have read the second and judge by it."""
    text = (TEXTS / "guideline.md").read_text(encoding="utf-8")
    more = (TEXTS / "guideline-order.md").read_text(encoding="utf-8")
    GuidelineVersion.objects.create(
        project=project, version=1, text=text, author=cast.curator
    )
    Project.objects.filter(pk=project.pk).update(guideline=text, guideline_version=1)
    published = publish_guideline(
        project=project,
        author=cast.curator,
        text=f"{text}\n{more}",
        base_version=1,
        change="What counts as another order, and what to do when in doubt.",
    )
    for labeler in cast.labelers:
        confirm_reading(project=project, user=labeler, version=published.version)


def hand_in_drafts(project: Project, cast: Cast) -> None:
    """Submit the samples of ``drafts.json``; the first has a flaw and a comment."""
    documents = json.loads((TEXTS / "drafts.json").read_text(encoding="utf-8"))
    first, second = cast.labelers
    drafts = [
        save_sample(
            project=project, document=document, author=author, status="submitted"
        )
        for document, author in zip(documents, (first, second, second), strict=True)
    ]
    comment_on(
        project=project,
        sample=drafts[0],
        user=cast.curator,
        text=COMMENT,
        position=0,
        anchor="plan/3",
    )


def ask(
    project: Project,
    samples: Sequence[DemoSample],
    script: Mapping[int, Sequence[str]],
    rng: random.Random,
) -> None:
    """Queue an answer to each turn of the named samples, in that order."""
    receive_responses(
        project=project,
        producer=None,
        responses=[
            ResponseRow(samples[number]["id"], position, 0, text)
            for number, kinds in script.items()
            for position, text in enumerate(answers(samples[number], kinds, rng))
        ],
    )


def answers(sample: DemoSample, kinds: Sequence[str], rng: random.Random) -> list[str]:
    """Return an answer per turn, with the kind of error that is named for it."""
    return [
        derive.corrupted(turn, rng, kind)[0] if kind else derive.reworded(turn, rng)
        for turn, kind in zip(sample["turns"], kinds, strict=True)
    ]


def judge(project: Project, samples: Sequence[DemoSample], cast: Cast) -> None:
    """Let the labelers judge all waiting pairs as the oracle does, except one."""
    turns = {
        (sample["id"], position): turn
        for sample in samples
        for position, turn in enumerate(sample["turns"])
    }
    number, position = DISPUTED
    disputed = samples[number]["id"], position
    for labeler in cast.labelers:
        while isinstance(
            claim := claim_slot(project=project, user=labeler, another=True), Claim
        ):
            turn = claim.pair.turn
            place = turn.sample.external_id, turn.position
            truth = oracle.judge(turns[place], claim.pair.sampled_text)
            is_overlooked = place == disputed and labeler == cast.labelers[1]
            is_same = truth.consistent or is_overlooked
            record_judgment(
                project=project,
                slot_id=claim.slot.pk,
                token=claim.token,
                user=labeler,
                verdict=int(is_same),
                units_that_differ=() if is_same else truth.units_that_differ,
                order_confirmed=True,
            )
    Judgment.objects.filter(project=project).update(
        created_at=timezone.now() - LONG_AGO
    )


def _pair(
    project: Project, samples: Sequence[DemoSample], number: int, position: int
) -> Pair:
    return Pair.objects.get(
        project=project,
        turn__sample__external_id=samples[number]["id"],
        turn__position=position,
    )
