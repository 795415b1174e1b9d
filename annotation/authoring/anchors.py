"""The places of a turn that a comment can point at; no database, no HTML.

The anchor of a place says where it is ("input", "plan/3", "action/1/parameters/date",
"answer", "block/2" for thinking and observations). A comment stores the anchor and the
text found there, so that it can tell whether the text has changed since.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from django.utils.translation import gettext

from annotation.text.blocks import Block, blocks_of_text

if TYPE_CHECKING:
    from annotation.models import Comment

ANCHOR_LENGTH: Final = 200
QUOTE_LENGTH: Final = 300


@dataclass(frozen=True)
class Note:
    """A comment as a page shows it.

    ``is_changed``: the text at its place has changed since it was written.
    """

    comment: Comment
    is_changed: bool = False
    title: str = ""


@dataclass(frozen=True)
class CommentPlace:
    """A place of a turn.

    ``number`` counts the places of the turn; it serves as HTML id, whatever the anchor.
    """

    position: int
    number: int
    anchor: str
    title: str
    text: str
    notes: list[Note] = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.position}:{self.anchor}"

    @property
    def quote(self) -> str:
        return self.text[:QUOTE_LENGTH]


@dataclass(frozen=True)
class PlacedBlock:
    """A block with its own place, or with one per step, name and parameter."""

    block: Block
    place: CommentPlace | None
    steps: tuple[CommentPlace, ...] = ()
    parameters: tuple[tuple[CommentPlace, str, str], ...] = ()


@dataclass(frozen=True)
class PlacedTurn:
    position: int
    kind: str
    text: str
    whole: CommentPlace
    input: CommentPlace
    blocks: tuple[PlacedBlock, ...]
    # Comments whose place is gone.
    lost: list[Note] = field(default_factory=list)

    @property
    def number(self) -> int:
        return self.position + 1

    def places(self) -> Iterator[CommentPlace]:
        """Yield every place, in reading order."""
        yield self.whole
        yield self.input
        for one in self.blocks:
            if one.place:
                yield one.place
            yield from one.steps
            for place, _, _ in one.parameters:
                yield place

    def place(self, anchor: str) -> CommentPlace | None:
        return next((one for one in self.places() if one.anchor == anchor), None)


def place_turn(position: int, kind: str, text: str, response: str) -> PlacedTurn:
    """Return a turn with all its places; accepts any texts."""
    count = 1

    def place(anchor: str, title: str, says: str) -> CommentPlace:
        nonlocal count
        count += 1
        # The name of a parameter may be too long for an anchor; its place is then the
        # turn.
        anchor = anchor if len(anchor) <= ANCHOR_LENGTH else ""
        return CommentPlace(position, count, anchor, title, says)

    whole = CommentPlace(position, 1, "", gettext("the whole turn"), "")
    input_blocks = place("input", gettext("input"), text)
    placed: list[PlacedBlock] = []
    steps = actions = 0
    blocks = blocks_of_text(response, inside_thinking=kind == "observation")
    for number, block in enumerate(blocks if response.strip() else (), start=1):
        if block.kind == "plan":
            first = steps
            steps += len(block.steps)
            placed.append(
                PlacedBlock(
                    block,
                    None,
                    steps=tuple(
                        place(
                            f"plan/{first + n}",
                            gettext("plan step %(number)s") % {"number": first + n},
                            step,
                        )
                        for n, step in enumerate(block.steps, start=1)
                    ),
                )
            )
        elif block.kind == "action":
            actions += 1
            placed.append(
                PlacedBlock(
                    block,
                    place(f"action/{actions}/name", gettext("action"), block.name),
                    parameters=tuple(
                        (
                            place(
                                f"action/{actions}/parameters/{name}",
                                gettext("parameter %(name)s") % {"name": name},
                                value,
                            ),
                            name,
                            value,
                        )
                        for name, value in block.parameters
                    ),
                )
            )
        else:
            anchor = "answer" if block.kind == "answer" else f"block/{number}"
            title = {
                "thinking": gettext("thinking"),
                "observation": gettext("observation"),
                "answer": gettext("answer"),
            }.get(block.kind, gettext("response"))
            placed.append(PlacedBlock(block, place(anchor, title, block.text)))
    return PlacedTurn(position, kind, text, whole, input_blocks, tuple(placed))


def put_notes(turns: Iterable[PlacedTurn], comments: Iterable[Comment]) -> list[Note]:
    """Put each comment at its place; return those without one.

    These are comments on the whole sample or on a turn that was removed.
    """
    by_position = {turn.position: turn for turn in turns}
    rest: list[Note] = []
    for comment in comments:
        turn = by_position.get(-1 if comment.position is None else comment.position)
        if turn is None:
            rest.append(Note(comment, is_changed=comment.position is not None))
            continue
        place = turn.place(comment.anchor)
        if place is None:
            turn.lost.append(Note(comment, is_changed=True))
        else:
            is_changed = comment.quote != place.quote
            title = place.title if comment.anchor else ""
            place.notes.append(Note(comment, is_changed, title))
    return rest
