"""A model's configs: clean while a program works with it, and saved as its directory has them.

Two kinds of trouble come with a published model. Flags of ``config.json`` that add to
what a forward pass returns (a mixture of experts' router logits and the loss made of
them) break passes with a cache; they are off while a program works, and saved as they
were. A ``generation_config.json`` that transformers reads, with a temperature but without
``do_sample``, say, is one that it refuses to write: it is made valid when it is read.

The trainers of TRL and transformers write into the configs of the model that they are
given. ``restore`` undoes it, before answers are sampled and before anything is saved.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from records.finite import first_not_finite
from training.engine.run.directory import RunError

# What a forward pass returns besides logits.
FLAGS = ("output_router_logits", "output_attentions", "output_hidden_states")
# Settings of sampling that mean nothing to greedy decoding.
SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
MODES = ("do_sample", "num_beams", "return_dict_in_generate")  # on which others hang
AS_LOADED = "as_loaded"  # the attribute of a model with what ``keep`` saw


@dataclass
class AsLoaded:
    """The configs of a model, and the flags that its directory has for each of them."""

    flags: list[dict[str, Any]]
    config: PreTrainedConfig | None = None
    generation: GenerationConfig | None = None


def clean(model: PreTrainedModel) -> None:
    """Switch off what a freshly loaded model returns besides logits."""
    flags: list[dict[str, Any]] = []
    for config in _configs(model.config):
        flags.append(
            {name: vars(config)[name] for name in FLAGS if name in vars(config)}
        )
        vars(config).update(dict.fromkeys(flags[-1], False))
    vars(model)[AS_LOADED] = AsLoaded(flags)


def keep(model: PreTrainedModel) -> None:
    """Remember the configs of a loaded model, to which ``restore`` returns."""
    kept = vars(model)[AS_LOADED]
    kept.config = copy.deepcopy(model.config)
    kept.generation = copy.deepcopy(model.generation_config)


def restore(model: PreTrainedModel) -> None:
    """Undo what trainers wrote into the configs since ``keep``."""
    kept: AsLoaded | None = vars(model).get(AS_LOADED)
    if kept is None or kept.config is None:
        return
    for config, before in zip(
        _configs(model.config), _configs(kept.config), strict=True
    ):
        for name in [name for name in vars(config) if name not in vars(before)]:
            delattr(config, name)
        for name, value in vars(before).items():
            # A private one is how to compute: the attention that the recipe chose.
            if not (name.startswith("_") or isinstance(value, PreTrainedConfig)):
                vars(config)[name] = copy.deepcopy(value)
    if kept.generation is not None:
        model.generation_config = copy.deepcopy(kept.generation)


@contextlib.contextmanager
def flags_as_loaded(model: PreTrainedModel) -> Iterator[None]:
    """Give the configs the flags of the model's directory, to be saved with them."""
    kept: AsLoaded | None = vars(model).get(AS_LOADED)
    configs = _configs(model.config) if kept else []
    now = [
        {name: vars(config)[name] for name in FLAGS if name in vars(config)}
        for config in configs
    ]
    for config, flags in zip(configs, kept.flags if kept else [], strict=True):
        vars(config).update(flags)
    try:
        yield
    finally:
        for config, flags in zip(configs, now, strict=True):
            vars(config).update(flags)


def _configs(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    """Return a config and those within it, of its text model say, in a fixed order."""
    within = [
        each
        for name in sorted(vars(config))
        if isinstance(each := vars(config)[name], PreTrainedConfig)
    ]
    return [config, *(each for one in within for each in _configs(one))]


# Generation


def read_generation_config(folder: Path) -> GenerationConfig | None:
    """Return the ``generation_config.json`` of a model directory made valid, if it has one.

    Raises ``RunError`` where it is not a JSON object.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return None
    place = f"model directory {folder.name}: {path.name}"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(place, "a JSON object", str(error)) from error
    if not isinstance(settings, dict):
        raise RunError(place, "a JSON object", type(settings).__name__)
    return valid_generation(settings)


def valid_generation(settings: Mapping[str, Any]) -> GenerationConfig:
    """Return the settings as a config that transformers writes as well as reads.

    A temperature without ``do_sample`` is meant to be sampled with. What remains without
    effect or is not valid is left out.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    chosen = _valid_part(given)
    without_effect = (given.keys() - chosen.keys()) & set(SAMPLING)
    if without_effect and "do_sample" not in given and given.get("temperature") != 0:
        chosen = _valid_part({**given, "do_sample": True})
    return GenerationConfig(**chosen)  # type: ignore[no-untyped-call]


def _valid_part(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings that are valid beside each other."""
    chosen: dict[str, Any] = {}
    for name in sorted(settings, key=lambda name: name not in MODES):
        trial = {**chosen, name: settings[name]}
        try:
            config = GenerationConfig(**trial)  # type: ignore[no-untyped-call]
            config.validate(strict=True)
            config.to_json_string()
        except Exception:  # whatever one setting breaks, it is left out
            continue
        is_number = isinstance(settings[name], int | float)
        is_method = callable(getattr(GenerationConfig, name, None))
        if (
            first_not_finite(settings[name]) is None
            and (is_number or name not in SAMPLING)
            and not is_method
        ):
            chosen = trial
    return chosen
