"""A pair as the rows of the Judge page: aligned parts, and where they differ.

The rows come from the two texts alone, without database or HTML, so the page cannot
show where an answer came from. The first text stands left: the label, or in calibration
(:mod:`annotation.judging.calibration`) either of the two. In calibration no word names
the label, and the rows depend on left and right only.

Words are compared up to ``WORDS`` per side and marked only where the texts share enough
for marks to help; longer texts are shown whole and unmarked. Beyond ``UNITS`` units the
two whole texts replace the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from django.utils.translation import get_language, gettext, ngettext

from actions.grammar import ActionCall, FormatError, Observation, Response, parse
from actions.json_values import dump_json
from actions.plans import Plan, PlanAlignment, align_plans
from actions.units import UnitPair, align_units, unit_pairs_of_text
from annotation.text.blocks import Block, blocks_of_text
from annotation.text.word_diff import Passage, Piece, compare_words

UNITS = 120
Tone = Literal["", "yes", "no"]


@dataclass(frozen=True)
class Unit:
    """A part that a person can mark; ``number`` counts from 1 in reading order."""

    number: int
    key: str
    differs: bool
    reason: str
    title: str


@dataclass(frozen=True)
class TextRow:
    title: str
    kind: Literal["thinking", "observation", "answer"]
    unit: Unit | None
    label: Passage | None
    sampled: Passage | None
    mid: str
    tone: Tone
    row = "text"


@dataclass(frozen=True)
class Step:
    """A plan step on one side.

    ``means`` is the matching step of the other side, if its place differs.
    """

    number: int
    text: str
    means: int | None
    is_alone: bool


@dataclass(frozen=True)
class StepRow:
    unit: Unit
    label: Step | None
    sampled: Step | None


@dataclass(frozen=True)
class Connector:
    """A line of the rail between the plans, as the ``d`` of an SVG path."""

    d: str
    kind: Literal["", "x", "lone"]


@dataclass(frozen=True)
class PlanRow:
    steps: tuple[StepRow, ...]
    label_count: int
    sampled_count: int
    connectors: tuple[Connector, ...]
    height: int
    description: str
    row = "plan"


@dataclass(frozen=True)
class ParameterRow:
    unit: Unit
    name: str
    label: str | None
    sampled: str | None


@dataclass(frozen=True)
class ActionRow:
    unit: Unit
    label: str | None
    sampled: str | None
    parameters: tuple[ParameterRow, ...]
    mid: str
    tone: Tone
    row = "action"


@dataclass(frozen=True)
class RawRow:
    """The sampled text breaks the grammar: shown raw, beside the label's blocks."""

    unit: Unit | None
    label: tuple[Block, ...]
    sampled: tuple[Block, ...]
    row = "raw"


Row = TextRow | PlanRow | ActionRow | RawRow


@dataclass(frozen=True)
class PairView:
    rows: tuple[Row, ...]
    units: tuple[Unit, ...]
    order_differs: bool
    is_cut: bool
    is_blind: bool = False

    @property
    def proposed_reasons(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(unit.reason for unit in self.units if unit.differs))


def view_of_pair(
    label_text: str, sampled_text: str, *, inside_thinking: bool, is_blind: bool = False
) -> PairView:
    """Return the rows of a pair; cached, because several people see each pair.

    Any two texts give a view: one that breaks the grammar is shown raw. ``is_blind``
    names the sides A and B; the first text stands left either way.
    """
    return _view(label_text, sampled_text, inside_thinking, is_blind, get_language())


@lru_cache(maxsize=256)
def _view(
    label_text: str,
    sampled_text: str,
    inside_thinking: bool,
    is_blind: bool,
    language: str | None,
) -> PairView:
    try:
        label = parse(label_text, inside_thinking=inside_thinking)
        sampled = parse(sampled_text, inside_thinking=inside_thinking)
    except FormatError:
        return _raw_view(label_text, sampled_text, inside_thinking)
    pairs = align_units(label, sampled)
    shown = pairs[:UNITS]
    units = {
        pair.key: Unit(number, pair.key, pair.differs, pair.reason or "", _title(pair))
        for number, pair in enumerate(shown, start=1)
    }
    alignment = _alignment(label, sampled)
    rows: list[Row] = []
    position = 0
    while position < len(shown):
        pair = shown[position]
        end = position + 1
        if pair.kind == "plan step":
            while end < len(shown) and shown[end].kind == "plan step":
                end += 1
            rows.append(_plan_row(shown[position:end], units, alignment, is_blind))
        elif pair.kind == "action name":
            while end < len(shown) and shown[end].kind == "parameter":
                end += 1
            rows.append(
                _action_row(shown[position:end], units, label, sampled, is_blind)
            )
        else:
            if pair.kind == "answer":
                rows += _observation_rows(label, sampled)
            rows.append(_text_row(pair, units, is_blind))
        position = end
    is_cut = len(pairs) > len(shown)
    if is_cut:
        left, right = (
            gettext("The whole label response"),
            gettext("The whole sampled response"),
        )
        if is_blind:
            left, right = (
                gettext("The whole response A"),
                gettext("The whole response B"),
            )
        rows.append(
            RawRow(
                None,
                (Block("raw", text=label_text, error=left),),
                (Block("raw", text=sampled_text, error=right),),
            )
        )
    return PairView(
        rows=tuple(rows),
        units=tuple(units.values()),
        order_differs=bool(alignment.inversions),
        is_cut=is_cut,
        is_blind=is_blind,
    )


def _raw_view(label_text: str, sampled_text: str, inside_thinking: bool) -> PairView:
    """Show a pair with a side that breaks the grammar; a bad label has no units."""
    title = gettext("the format")
    unit = Unit(1, "format", differs=True, reason="content", title=title)
    try:
        label = parse(label_text, inside_thinking=inside_thinking)
    except FormatError:
        pass
    else:
        pair = unit_pairs_of_text(label, sampled_text, inside_thinking=inside_thinking)[
            0
        ]
        unit = Unit(1, pair.key, pair.differs, pair.reason or "", title)
    row = RawRow(
        unit,
        blocks_of_text(label_text, inside_thinking=inside_thinking),
        blocks_of_text(sampled_text, inside_thinking=inside_thinking),
    )
    return PairView(rows=(row,), units=(unit,), order_differs=False, is_cut=False)


def _title(pair: UnitPair) -> str:
    place = pair.key.split("/")
    match pair.kind:
        case "plan step":
            return gettext("plan step %(number)s") % {"number": place[1]}
        case "parameter":
            return gettext("parameter %(name)s") % {"name": "/".join(place[3:])}
        case "thinking":
            return gettext("the thinking")
        case "action name":
            return gettext("the action name")
        case "use of result":
            return gettext("the use of result")
        case "answer":
            return gettext("the answer")
        case _:
            return gettext("the format")


def _alignment(label: Response, sampled: Response) -> PlanAlignment:
    return align_plans(label.plan or Plan(()), sampled.plan or Plan(()))


def _text_row(pair: UnitPair, units: dict[str, Unit], is_blind: bool) -> TextRow:
    kind: Literal["thinking", "answer"] = (
        "answer" if pair.kind == "answer" else "thinking"
    )
    title = {
        "use of result": gettext("Use of result"),
        "answer": gettext("Answer"),
    }.get(pair.kind, gettext("Thinking"))
    label = None if pair.label is None else pair.label.strip()
    sampled = None if pair.sampled is None else pair.sampled.strip()
    mid, tone = "", ""
    left = right = None
    if label is None:
        mid = gettext("only in B") if is_blind else gettext("extra")
        tone, right = "no", Passage((Piece(sampled or ""),))
    elif sampled is None:
        mid = gettext("only in A") if is_blind else gettext("missing")
        tone, left = "no", Passage((Piece(label),))
    else:
        left, right, share = compare_words(label, sampled)
        if share == 1.0 and label == sampled:
            mid, tone = gettext("same text"), "yes"
        elif pair.differs:
            mid, tone = gettext("differs"), "no"
        else:
            mid = gettext("other words")
    return TextRow(
        title,
        kind,
        units[pair.key],
        left,
        right,
        mid,
        "no" if tone == "no" else "yes" if tone else "",
    )


def _observation_rows(label: Response, sampled: Response) -> list[Row]:
    """Show the observations inside a whole episode; they are not units."""
    ours = [node.text for node in label.thinking if isinstance(node, Observation)]
    theirs = [node.text for node in sampled.thinking if isinstance(node, Observation)]
    rows: list[Row] = []
    title = gettext("Observation")
    for i in range(min(max(len(ours), len(theirs)), UNITS)):
        left = Passage((Piece(ours[i]),)) if i < len(ours) else None
        right = Passage((Piece(theirs[i]),)) if i < len(theirs) else None
        rows.append(TextRow(title, "observation", None, left, right, "", ""))
    return rows


def _plan_row(
    pairs: tuple[UnitPair, ...],
    units: dict[str, Unit],
    alignment: PlanAlignment,
    is_blind: bool,
) -> PlanRow:
    label_row: dict[int, int] = {}
    sampled_row: dict[int, int] = {}
    for row, pair in enumerate(pairs):
        if pair.label is not None:
            label_row[len(label_row)] = row
        if pair.sampled is not None:
            sampled_row[len(sampled_row)] = row
    crossing = {match for inversion in alignment.inversions for match in inversion}
    label_means = dict(crossing)
    sampled_means = {j: i for i, j in crossing}
    missing, extra = set(alignment.missing), set(alignment.extra)

    steps: list[StepRow] = []
    label_of_row = {row: i for i, row in label_row.items()}
    sampled_of_row = {row: j for j, row in sampled_row.items()}
    for row, pair in enumerate(pairs):
        left = right = None
        if pair.label is not None:
            i = label_of_row[row]
            left = Step(i + 1, pair.label, _one_based(label_means.get(i)), i in missing)
        if pair.sampled is not None:
            j = sampled_of_row[row]
            right = Step(
                j + 1, pair.sampled, _one_based(sampled_means.get(j)), j in extra
            )
        steps.append(StepRow(units[pair.key], left, right))

    if is_blind:
        turned = gettext("step %(a)s of A is step %(b)s of B")
        alone_left = gettext("step %(step)s of A has no partner")
        alone_right = gettext("step %(step)s of B has no partner")
    else:
        turned = gettext("label step %(a)s is sampled step %(b)s")
        alone_left = gettext("label step %(step)s has no partner")
        alone_right = gettext("sampled step %(step)s has no partner")
    connectors: list[Connector] = []
    sentences: list[str] = []
    for i, j, _ in alignment.matched:
        if i in label_row and j in sampled_row:
            y1, y2 = _middle(label_row[i]), _middle(sampled_row[j])
            kind: Literal["", "x"] = "x" if (i, j) in crossing else ""
            connectors.append(Connector(f"M0 {y1} C36 {y1} 48 {y2} 84 {y2}", kind))
            if kind:
                sentences.append(turned % {"a": i + 1, "b": j + 1})
    for i in alignment.missing:
        if i in label_row:
            connectors.append(Connector(f"M0 {_middle(label_row[i])} h34", "lone"))
            sentences.append(alone_left % {"step": i + 1})
    for j in alignment.extra:
        if j in sampled_row:
            connectors.append(Connector(f"M84 {_middle(sampled_row[j])} h-34", "lone"))
            sentences.append(alone_right % {"step": j + 1})
    # Draw crossings last, above the faint lines.
    connectors.sort(key=lambda connector: connector.kind == "x")
    return PlanRow(
        steps=tuple(steps),
        label_count=len(label_row),
        sampled_count=len(sampled_row),
        connectors=tuple(connectors),
        height=10 * len(pairs),
        description="; ".join(sentences)
        or gettext("the steps stand in the same order"),
    )


def _one_based(step: int | None) -> int | None:
    return None if step is None else step + 1


def _middle(row: int) -> int:
    return 10 * row + 5


def _action_row(
    pairs: tuple[UnitPair, ...],
    units: dict[str, Unit],
    label: Response,
    sampled: Response,
    is_blind: bool,
) -> ActionRow:
    name, parameters = pairs[0], pairs[1:]
    number = int(name.key.split("/")[1]) - 1
    call = label.actions[number] if number < len(label.actions) else None
    other = sampled.actions[number] if number < len(sampled.actions) else None
    differing = sum(pair.differs for pair in parameters)
    tone: Tone = "no"
    if name.label is None:
        mid = gettext("only in B") if is_blind else gettext("extra action")
    elif name.sampled is None:
        mid = gettext("only in A") if is_blind else gettext("no action")
    elif name.differs:
        mid = gettext("other action")
    elif differing:
        mid = ngettext(
            "%(count)s value differs", "%(count)s values differ", differing
        ) % {"count": differing}
    else:
        mid, tone = gettext("same call"), "yes"
    return ActionRow(
        unit=units[name.key],
        label=name.label,
        sampled=name.sampled,
        parameters=tuple(
            ParameterRow(
                units[pair.key],
                pair.key.split("/", 3)[3],
                *_shown(pair, pair.key.split("/", 3)[3], call, other),
            )
            for pair in parameters
        ),
        mid=mid,
        tone=tone,
    )


def _shown(
    pair: UnitPair, name: str, call: ActionCall | None, other: ActionCall | None
) -> tuple[str | None, str | None]:
    """Return both values as text; as JSON where text and number would look alike."""
    alike = pair.label is not None and pair.label == pair.sampled
    if pair.differs and alike and call and other:
        return dump_json(call.parameters[name]), dump_json(other.parameters[name])
    return pair.label, pair.sampled
