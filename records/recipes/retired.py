"""What became of the settings of earlier versions, so that their recipes still open.

``RETIRED`` has, by program and old name, either the new name or why the setting is gone.
A value that another setting stands for is carried over (``brought_up_to_date``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from actions.tags import JSON
from records.recipes.checking import RecipeError, shown
from records.recipes.reward import DERIVED


@dataclass(frozen=True)
class Renamed:
    """A setting that has another name now."""

    to: str


@dataclass(frozen=True)
class Retired:
    """A setting that is gone; ``default`` is the value with which nothing changes."""

    why: str
    default: object


Fate: TypeAlias = Renamed | Retired

OPTIMIZER = "muon_learning_rate 0 stands for adamw."
THREADS = "set OMP_NUM_THREADS for the worker."
DEVICE = "a program takes the GPU that its worker sees; choose a queue instead."
ALPHA = "alpha is twice the rank."
EIGHT_BIT = "no figure showed a use for it."
NEW_ROWS = "it is 10."
TOKENS = "it follows from the device and halves itself when memory runs out."
OWN_SAMPLER = "Concord's own sampler draws; a policy run may take vLLM."
NUCLEUS = "responses are sampled from the whole distribution."
NAMED = "choose another algorithm: a named one is as its paper has it."
EVERY_TEST = "every held-out test leaves a checkpoint (evaluate_every)."
ATTENTION = "it follows from the device and the length of the sequences."
HEADS = "they follow from the width."
WEIGHT_DECAY = "it is 0.01."
WEIGHT_ONE = "it is 1; format_weight says what the format counts beside it."

_COMPUTE: dict[str, Fate] = {
    "threads": Retired(THREADS, 0),
    "device": Retired(DEVICE, "auto"),
}
_OPTIMIZER: dict[str, Fate] = {
    "decay_share": Renamed("decay_fraction"),
    "clip_norm": Renamed("max_grad_norm"),
}
_FROM_SCRATCH: dict[str, Fate] = {
    "optimizer": Retired(OPTIMIZER, "muon"),
    "adamw_8bit": Retired(EIGHT_BIT, False),
    "weight_decay": Retired(WEIGHT_DECAY, 0.01),
    "new_token_rate": Retired(NEW_ROWS, 10.0),
    "attention": Retired(ATTENTION, "auto"),
    "heads": Retired(HEADS, 4),
}

RETIRED: Mapping[str, Mapping[str, Fate]] = {
    "sft": {
        **_COMPUTE,
        **_OPTIMIZER,
        **_FROM_SCRATCH,
        "copying_steps": Retired("a model learns to copy by itself.", 0),
        "lora_alpha": Retired(ALPHA, 32),
        "vocabulary": Retired("it is 4096.", 4096),
        "checkpoint_every": Retired(EVERY_TEST, 200),
        "answer_tokens": Retired("it is 256.", 256),
        "compile": Retired("no figure showed a use for it.", False),
        "liger": Retired("no figure showed a use for it.", False),
    },
    "draw": {
        **_COMPUTE,
        "initial_too": Retired("leave the initial policy out of the inputs.", True),
        "keep_at_most": Retired("it is 2.", 2),
        "top_p": Retired(NUCLEUS, 1.0),
        "batch_tokens": Retired(TOKENS, 16384),
        "backend": Retired(OWN_SAMPLER, "own"),
        "action_seconds": Retired("it is 10.", 10.0),
    },
    "reward": {
        **_COMPUTE,
        **_OPTIMIZER,
        **_FROM_SCRATCH,
        "differences": Retired("it is always on.", True),
        "judgments": Retired("judged_share 0 stands for no judgments.", True),
        "references": Retired("leave it out of `derived` instead.", True),
        "quads": Retired("leave it out of `derived` instead.", True),
        "changes": Retired("leave it out of `derived` instead.", True),
        "several_changes": Retired("it is always on.", True),
        "pair_weight": Retired("it is 0.5.", 0.5),
        "threshold": Retired("it is picked on held-out judged pairs.", 0.0),
        "early_stop": Retired("a run trains to its last step.", 0),
        "checkpoint_every": Retired(EVERY_TEST, 100),
    },
    "preference": {
        **_COMPUTE,
        **_OPTIMIZER,
        "lora_alpha": Retired(ALPHA, 32),
        "new_token_rate": Retired(NEW_ROWS, 10.0),
        "label_as_good": Retired(
            "the label stands in when no answer was consistent.",
            "when none was consistent",
        ),
        "ill_formed": Retired("ill-formed answers are always learned from.", True),
        "nll_weight": Retired("the loss is DPO's as published.", 0.0),
        "good_weight": Retired("it is 1.", 1.0),
        "bad_weight": Retired("it is 1.", 1.0),
        "batch_tokens": Retired(TOKENS, 16384),
    },
    "policy": {
        **_COMPUTE,
        **_OPTIMIZER,
        "responses_per_prompt": Renamed("num_generations"),
        "draw_more": Renamed("oversampling"),
        "updates_per_draw": Renamed("num_iterations"),
        "kl_weight": Renamed("beta"),
        "clip_range": Renamed("epsilon"),
        "clip_range_high": Retired(NAMED, 0.0),
        "baseline": Retired(NAMED, "as algorithm"),
        "advantage_scale": Retired(NAMED, "as algorithm"),
        "loss": Retired(NAMED, "as algorithm"),
        "divergence": Retired(NAMED, "as algorithm"),
        "overlong": Retired(NAMED, "as algorithm"),
        "overlong_tokens": Retired("it is 64.", 64),
        "draw_rounds": Retired("dapo samples up to 10 times, the others once.", 1),
        "least_spread": Retired("it is 0.1.", 0.1),
        "batch_tokens": Retired(TOKENS, 16384),
        "vllm_memory": Retired("it is 0.3.", 0.3),
        "follow_actions": Retired("whole_tasks follows actions to the end.", False),
        "completion_weight": Retired(WEIGHT_ONE, 1.0),
        "consistency_over": Retired(
            "the reward model reads the whole answer.", "whole"
        ),
        "credit": Retired("an advantage belongs to the whole response.", "response"),
        "logit_limit": Retired("it is 4.", 4.0),
        "best_of_references": Retired("an answer is compared with its label.", False),
        "consistency_weight": Retired(WEIGHT_ONE, 1.0),
        "rule_weight": Retired(WEIGHT_ONE, 1.0),
        "preference_weight": Retired(WEIGHT_ONE, 1.0),
        "normalize_each": Retired(
            "it is on where a preference model scores, whose scores have no unit.",
            False,
        ),
        "optimizer": Retired(OPTIMIZER, "adamw"),
        "adamw_8bit": Retired(EIGHT_BIT, False),
        "critic_start": Retired("the critic starts from the policy.", "policy"),
        "critic_updates": Retired("it is 2.", 2),
        "critic_warmup_steps": Retired("policy and critic learn from the start.", 0),
        "discount": Retired("a response is not discounted: gamma is 1.", 1.0),
        "value_clip_range": Retired("it is 0.2.", 0.2),
        "lora_alpha": Retired(ALPHA, 32),
        "alarm_tolerance": Retired("it is 0.02.", 0.02),
        "alarm_evaluations": Retired("it is 2.", 2),
    },
    "evaluate": {
        **_COMPUTE,
        "top_p": Retired(NUCLEUS, 1.0),
        "batch_tokens": Retired(TOKENS, 16384),
        "backend": Retired(OWN_SAMPLER, "own"),
        "resamples": Retired("it is 1000.", 1000),
        "confidence": Retired("it is 0.95.", 0.95),
    },
}


def brought_up_to_date(
    program: str, settings: Mapping[str, JSON]
) -> tuple[dict[str, JSON], list[str]]:
    """Return stored settings under today's names, and what was dropped from them.

    Each of the messages names a setting that was not left at its default, and what
    became of it.
    """
    fates = RETIRED.get(program, {})
    today = {name: value for name, value in settings.items() if name not in fates}
    messages: list[str] = []
    for name, value in settings.items():
        match fates.get(name):
            case Renamed(to):
                today.setdefault(to, value)
            case Retired(why, default) if value != default:
                messages.append(f"setting `{name}` ({shown(value)}) is retired: {why}")
    if settings.get("optimizer") == "adamw":
        today["muon_learning_rate"] = 0.0
    if program == "policy":
        match settings.get("backend"):
            case "vllm server":
                today["backend"] = "vllm"
            case "generate" | "continuous" as backend:
                del today["backend"]
                messages.append(f"`backend` {backend} is retired: {OWN_SAMPLER}")
    if program == "reward":
        if settings.get("judgments") is False:
            today["judged_share"] = 0.0
        if not fates.keys().isdisjoint(settings) and "derived" not in today:
            today["derived"] = [name for name in DERIVED if settings.get(name, True)]
    return today, messages


def to_show(program: str, settings: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return stored settings under today's names, with those that were dropped."""
    today, _ = brought_up_to_date(program, settings)
    for name, value in settings.items():
        match RETIRED.get(program, {}).get(name):
            case Retired(_, default) if value != default:
                today[name] = value
    return today


def refuse_retired(program: str, settings: Mapping[str, object]) -> None:
    """Raise ``RecipeError`` where a new recipe has a setting of an earlier version."""
    for name, value in settings.items():
        match RETIRED.get(program, {}).get(name):
            case Renamed(to):
                raise RecipeError(name, f"its new name, `{to}`", shown(value))
            case Retired(why, _):
                gone = f"to be left out (retired: {why.rstrip('.')})"
                raise RecipeError(name, gone, shown(value))
