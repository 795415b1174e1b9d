"""Hints on the thinking method where a response leaves its questions open.

The method (Leung & Wang, arXiv 2502.13475): check whether the last plan step matches
the input; answer from the thinking elements in their order (chat history, global
thinking context, built-in actions, local thinking context, memory and knowledge); fetch
a local context only when the earlier elements do not suffice; make a plan when a task
takes several steps. The rules compare words only. They ask and never refuse, and a
person can dismiss each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from django.utils.translation import gettext as _

from actions.builtins import GET_THINKING_CONTEXT
from actions.grammar import Response
from actions.plans import Plan
from actions.words import meaning_words, numbers
from annotation.authoring.drafts import TurnTexts

# Share of the input's words that an element must contain to be named as the likely one.
ENOUGH: Final = 0.2
# One word in four may be chance; a fetch is suggested from a higher share on.
ENOUGH_TO_FETCH: Final = 0.3
# Hints read no more than this much of a text.
READ: Final = 20_000

_STEP = re.compile(
    r"\b(step|plan|next|task|resum|continu|back to)|步骤|计划|任务|下一步", re.I
)
_ELEMENT = re.compile(
    r"\b(histor|earlier|before|already|said|told|asked|guideline|background|context|"
    r"built-in|calculat|search|memory|know|request|question|answers? it)|"
    r"历史|之前|已经|背景|指南|上下文|内置|计算|搜索|记忆|知识",
    re.I,
)
_CARRY_ON = re.compile(
    r"\b(again|retry|instead|another|other|offer|ask|tell|sorry|cannot|can't|fail|"
    r"not work|closed|try)|重试|再试|换|失败|抱歉|无法|告诉",
    re.I,
)


@dataclass(frozen=True)
class Source:
    """The words of a thinking context; ``key`` is its row, if it has one."""

    title: str
    words: frozenset[str]
    key: int | None = None


@dataclass(frozen=True)
class Knowledge:
    """The contexts that the policy has in a draft, and those that it could fetch."""

    at_hand: tuple[Source, ...] = ()
    local: tuple[Source, ...] = ()


@dataclass(frozen=True)
class Hint:
    """A question; ``deed`` names a button that acts on it, ``label`` is its text."""

    code: str
    text: str
    deed: str = ""
    label: str = ""


def source_of(title: str, *texts: str, key: int | None = None) -> Source:
    return Source(title, _words("\n".join((title, *texts))), key)


@lru_cache(maxsize=2048)
def _words(text: str) -> frozenset[str]:
    """Return the words of a text, cached: most texts stay as they were."""
    return frozenset(meaning_words(text[:READ]))


def hints_of_turn(
    turns: Sequence[TurnTexts],
    responses: Sequence[Response | None],
    knowledge: Knowledge,
) -> list[Hint]:
    """Return the questions that the last of ``turns`` leaves open.

    ``responses[i]`` is turn i's response, None where it cannot be read.
    """
    turn, response = turns[-1], responses[-1]
    if response is None:
        return []
    if turn.inside:
        return _hints_of_result(turn, response)
    hints = []
    thinking = response.thinking_text
    if not response.opens:
        hints.append(
            Hint(
                "thinking",
                _(
                    "The response has no thinking. Which thinking element does the "
                    "answer come from?"
                ),
            )
        )
    plan, step = _waiting_step(responses[:-1])
    has_plan = response.plan is not None
    if (
        plan is not None
        and response.opens
        and not has_plan
        and not _STEP.search(thinking)
    ):
        hints.append(
            Hint(
                "step",
                _(
                    "Does the input match the last plan step, “%(step)s”? Say so in the "
                    "thinking, or say that this is a new task and plan it."
                )
                % {"step": step},
            )
        )
    element = _element(turns, knowledge)
    if (
        response.opens
        and not response.actions
        and not has_plan
        and plan is None
        and not _ELEMENT.search(thinking)
    ):
        message = _(
            "Which thinking element is used? In this order: chat history, global "
            "thinking context, built-in actions, local thinking context, memory and "
            "knowledge."
        )
        if element:
            message += " " + _("Judging by the words, the closest is: %(element)s.") % {
                "element": element
            }
        hints.append(Hint("element", message))
    if (hint := _fetch_hint(turns, response, knowledge, element, plan)) is not None:
        hints.append(hint)
    if plan is None and not has_plan and response.actions and not _fetches(response):
        hints.append(
            Hint(
                "plan",
                _(
                    "An action is called and there is no plan so far. Does this task "
                    "take several steps? Then it needs one."
                ),
            )
        )
    if response.plan is not None and len(response.plan.steps) == 1:
        hints.append(
            Hint("short", _("A plan of one step: is a plan needed for this at all?"))
        )
    return hints


def _hints_of_result(turn: TurnTexts, response: Response) -> list[Hint]:
    reply = response.thinking_text + "\n" + response.answer
    if turn.text.startswith("Exception "):
        if _CARRY_ON.search(reply):
            return []
        return [
            Hint(
                "exception",
                _(
                    "The action failed. What happens now: try again, another way, ask, "
                    "or give up?"
                ),
            )
        ]
    shared = set(meaning_words(reply)) & set(meaning_words(turn.text))
    if turn.text.strip() and not shared and not (numbers(reply) & numbers(turn.text)):
        return [
            Hint(
                "result",
                _("The response does not use the result. What does the result mean?"),
            )
        ]
    return []


def _waiting_step(responses: Sequence[Response | None]) -> tuple[Plan | None, str]:
    """Return the last plan before this turn, and the step that is due next."""
    plan: Plan | None = None
    after: list[str] = []
    for response in responses:
        if response is None:
            continue
        if response.plan is not None:
            plan, after = response.plan, []
        elif plan is not None:
            after.append(response.thinking_text)
    if plan is None:
        return None, ""
    thinking = "\n".join(after)
    reached = [int(number) for number in re.findall(r"\b[Ss]tep (\d{1,3})\b", thinking)]
    number = max([1, *(n for n in reached if 1 <= n <= len(plan.steps))])
    return plan, plan.steps[number - 1]


def _element(turns: Sequence[TurnTexts], knowledge: Knowledge) -> str:
    """Return the first thinking element that shares enough words with the input."""
    query = _words(turns[-1].text)
    history: set[str] = set()
    for turn in turns[:-1]:
        history |= _words(turn.text) | _words(turn.response)
    if _share(query, history) >= 2 * ENOUGH:
        return _("chat history")
    best = max(
        knowledge.at_hand, key=lambda one: _share(query, one.words), default=None
    )
    if best is not None and _share(query, best.words) >= ENOUGH:
        return _("global thinking context “%(title)s”") % {"title": best.title}
    if re.search(
        r"\d\s*[-+*/×%]\s*\d|\b(percent|calculate|sum|total)\b", turns[-1].text
    ):
        return _("built-in action Calculate")
    return ""


def _share(query: Set[str], words: Set[str]) -> float:
    return len(query & words) / len(query) if query else 0.0


def _fetch_hint(
    turns: Sequence[TurnTexts],
    response: Response,
    knowledge: Knowledge,
    element: str,
    plan: Plan | None,
) -> Hint | None:
    if element or plan is not None or _fetches(response):
        return None
    query = _words(turns[-1].text)
    best = max(knowledge.local, key=lambda one: _share(query, one.words), default=None)
    if best is None or _share(query, best.words) < ENOUGH_TO_FETCH:
        return None
    return Hint(
        "fetch",
        _(
            "The contexts at hand do not cover this; the local thinking context "
            "“%(title)s” may."
        )
        % {"title": best.title},
        deed="fetch",
        label=_("Insert Get thinking context and its result"),
    )


def _fetches(response: Response) -> bool:
    return any(call.name == GET_THINKING_CONTEXT.name for call in response.actions)
