"""Models and tokenizers from directories: the only caller of ``from_pretrained``.

A model directory may come from anybody. It is read, never run: no code of its own, no
pickled weights, nothing fetched from a network, no question asked on standard input. A
chat template, which is a program too, is rendered by ``chat_template``.

A directory that cannot be used so ends in a ``RunError`` that says why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from training.engine.modeling.configs import (
    clean,
    keep,
    read_generation_config,
    valid_generation,
)
from training.engine.modeling.exactness import refuse_packed_rows
from training.engine.modeling.finite_weights import weights_must_be_finite
from training.engine.modeling.heads import classifier_class
from training.engine.modeling.new_tokens import fit_vocabulary
from training.engine.modeling.place import Place, on_device
from training.engine.modeling.tokenizer import add_tags
from training.engine.run.directory import RunError

SAFE = {"local_files_only": True, "trust_remote_code": False}
HEADS = ("score.", "classifier.")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")


def load_policy(
    path: Path | str, place: Place
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the causal language model of a local directory, ready to be trained.

    Weights in fp32 on ``place.device``; tags and padding are added where they lack. The
    configs are clean (``configs``). A model that mixes conversations packed into one row
    refuses such rows.
    """
    tokenizer = load_tokenizer(path)
    generation = read_generation_config(Path(path))
    model = _load_model(AutoModelForCausalLM, path, generation_config=generation)
    if model.generation_config is not None:  # made of config.json where there is none
        model.generation_config = valid_generation(
            model.generation_config.to_diff_dict()
        )
    known = len(tokenizer)
    add_tags(tokenizer)
    fit_vocabulary(model, tokenizer, known)
    keep(model)
    refuse_packed_rows(on_device(model, place))
    return model, tokenizer


def load_classifier(
    path: Path | str, place: Place, *, outputs: int | None = None
) -> PreTrainedModel:
    """Return the sequence classifier of a local directory, in fp32 on ``place.device``.

    With ``outputs`` it has so many; a head that has others, as a language model's has,
    is dropped and a new one starts at random. Without, it has the directory's own.
    """
    settings: dict[str, Any] = {}
    if outputs is not None:
        settings = {"num_labels": outputs, "ignore_mismatched_sizes": True}
    folder = Path(path)
    _check(folder)
    with _told(folder):
        config = AutoConfig.from_pretrained(str(folder), **SAFE)
    model = _load_model(classifier_class(type(config)), path, **settings)
    return on_device(model, place)


def load_tokenizer(path: Path | str) -> PreTrainedTokenizerBase:
    """Return the tokenizer saved in a local model directory, padding on the left."""
    folder = Path(path)
    with _told(folder):
        found = AutoTokenizer.from_pretrained(str(folder), padding_side="left", **SAFE)
    assert isinstance(found, PreTrainedTokenizerBase)
    return found


def _load_model(kind: Any, path: Path | str, **settings: Any) -> PreTrainedModel:
    """Return the model in fp32; ``kind`` is an auto class of transformers."""
    folder = Path(path)
    _check(folder)
    with _told(folder):
        model, found = kind.from_pretrained(
            str(folder),
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **SAFE,
            **settings,
        )
    # What the weights lack transformers fills with random numbers. Only the head of a
    # classifier may be new.
    absent = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    absent -= {
        name for name in absent if name.startswith(HEADS) and "num_labels" in settings
    }
    if absent:
        raise RunError(_place(folder), f"weights of {min(absent)}", "none that fit")
    assert isinstance(model, PreTrainedModel)
    weights_must_be_finite(model, _place(folder))
    clean(model)
    return model


def _check(folder: Path) -> None:
    """Raise ``RunError`` for a directory without whole weights in a safe format."""
    if (folder / "adapter_config.json").is_file():
        found = "an adapter, which has to be merged into its model first"
        raise RunError(_place(folder), "a whole model", found)
    if not (folder / "config.json").is_file():
        raise RunError(_place(folder), "a Hugging Face model directory", "another")
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for kind in PICKLED for path in folder.glob(kind))
    found = f"{pickled[0]}, a format that can run code" if pickled else "no weights"
    raise RunError(_place(folder), "weights in safetensors", found)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say in a sentence why transformers cannot read a directory."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        why = " ".join(str(error).split())
        expected, found = "a model directory that transformers can read", why[:300]
        if "trust_remote_code" in why:
            expected = "a model that transformers knows"
            found = "one that brings code of its own, which is never run"
        elif why.startswith("Unrecognized configuration class"):
            expected = "an architecture that can be trained for this"
            found = "another"
        raise RunError(_place(folder), expected, found) from error


def _place(folder: Path) -> str:
    return f"model directory {folder.name}"
