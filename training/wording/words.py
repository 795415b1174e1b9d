"""Labels and help texts of the training programs, in the visitor's language.

The engine does not import Django, so its texts are translated here, where pages show
them: the help texts of recipes, and the names of settings and metrics as words.
``texts_of_the_engine`` lists them all for the message catalog.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from django.utils.translation import gettext

from records.recipes import RECIPES
from records.recipes.groups import title_of

SPELLED = {
    "num": "number of",
    "grad": "gradient",
    "kl": "KL",
    "nll": "NLL",
    "vllm": "vLLM",
    "lora": "LoRA",
    "auc": "AUC",
    "ece": "ECE",
    "gae": "GAE",
    "rm": "RM",
    "mfu": "MFU",
}

# Parts of the names of metrics and figures; other names are shown unchanged.
PARTS = [
    "accuracy",
    "action_name",
    "action_parameters",
    "all",
    "auc",
    "bad",
    "bad_caught",
    "bad_precision",
    "by_rule",
    "calibration",
    "changes_caught",
    "checkpoint",
    "chosen_by",
    "chosen_step",
    "clip_ratio",
    "completion",
    "consistency",
    "count",
    "cut_off",
    "critic",
    "current",
    "derived",
    "distinct",
    "ece",
    "entropy",
    "errors",
    "evaluation",
    "explained_variance",
    "format",
    "format_errors",
    "format_score",
    "format_valid",
    "gain",
    "generation",
    "good",
    "good_accepted",
    "gradient_norm",
    "groups_without_signal",
    "held_out",
    "held_out_format_valid",
    "held_out_loss",
    "held_out_samples",
    "held_out_turns",
    "held_out_turns_right",
    "held_out_turns_too_long",
    "high",
    "identical",
    "initial",
    "interval",
    "judged",
    "judgments",
    "judgments_held_out",
    "judgments_saved",
    "kept",
    "kl",
    "learning_rate",
    "left_out",
    "logprob",
    "looks",
    "loss",
    "low",
    "margin",
    "misses",
    "observation",
    "oracle",
    "order",
    "pair",
    "pairs",
    "pairwise",
    "parameter",
    "parameters",
    "picked_on",
    "plan_order",
    "policies",
    "policy",
    "preference",
    "quads",
    "quads_held_out",
    "raw",
    "received",
    "recall",
    "reference",
    "references",
    "references_accepted",
    "response_tokens",
    "responses",
    "reward",
    "rm_accepted",
    "rm_agreement",
    "rm_consistent",
    "rm_score",
    "rule",
    "samples",
    "scoring",
    "seconds",
    "seconds_per_step",
    "seen",
    "settled_by_rule",
    "slots",
    "steps",
    "stopped",
    "tasks_complete",
    "temperature",
    "threshold",
    "token_accuracy",
    "tokens",
    "tokens_per_second",
    "train",
    "trained_on",
    "truth",
    "truth_at_start",
    "turns",
    "turns_left_out",
    "turns_per_response",
    "turns_right",
    "turns_label_unreadable",
    "turns_too_long",
    "unit",
    "units",
    "unseen",
    "update",
    "whole",
    "held-out",
    "held-out-unseen",
    "normal",
    "exception",
    "interruption",
    "noise",
    "nested",
    "refusal",
    "answer",
    "action",
    "extra_step",
    "missing_step",
    "step_order",
    "wording",
    "value",
    "format_error",
]


def words(name: str) -> str:
    """Return the name of a metric or setting as words, in the field's spelling."""
    return ", ".join(_said(part) for part in name.split("/"))


def _said(part: str) -> str:
    text = _spelled(part)
    return gettext(text) if text else ""


def _spelled(part: str) -> str:
    return " ".join(SPELLED.get(word, word) for word in part.replace("_", " ").split())


def about(kind: str) -> list[str]:
    """Return a recipe's description of itself, by paragraphs."""
    return [gettext(paragraph) for paragraph in _paragraphs(kind)]


def help_of(setting: Mapping[str, object]) -> str:
    """Return the help text of a recipe's field from its metadata."""
    text = setting.get("help")
    return gettext(str(text)) if text else ""


When: TypeAlias = Mapping[str, Sequence[str | bool]]


def only_with(when: When) -> str:
    """Return in words the only choices with which a setting is used."""
    choices = [
        words(name)
        if list(values) == [True]
        else gettext("%(setting)s: %(values)s")
        % {"setting": words(name), "values": ", ".join(map(str, values))}
        for name, values in when.items()
    ]
    return gettext("Only with %(choices)s") % {"choices": "; ".join(choices)}


def texts_of_the_engine() -> Iterator[str]:
    """Yield every text that the functions above may have to translate."""
    for part in PARTS:
        yield _spelled(part)
    for kind, recipe in RECIPES.items():
        yield from _paragraphs(kind)
        for field in dataclasses.fields(recipe):
            yield title_of(recipe, field.name) or "Recipe"
            yield _spelled(field.name)
            for name in ("help", "unit"):
                if text := field.metadata.get(name):
                    yield str(text)


def _paragraphs(kind: str) -> list[str]:
    text = inspect.cleandoc(RECIPES[kind].__doc__ or "")
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
