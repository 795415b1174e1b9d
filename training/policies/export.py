"""Export a checkpoint as a plain Hugging Face directory that does not need Concord.

Programs already save the model in that form, with adapters merged. The export leaves
out the state that only a resume needs and adds a model card, so it needs no torch.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from django.utils import translation

from records.checkpoints import verify_checkpoint
from training.models import Checkpoint, Run, RunInput
from training.storage import store
from training.wording.figures import number_text, plain_figures
from training.wording.words import words

CARD = "README.md"
UNKNOWN_LICENCE = "unknown"
LONGEST_LINEAGE = 50


class ExportError(Exception):
    """A checkpoint cannot be written to this place."""


def exported_files(checkpoint: Checkpoint) -> list[str]:
    """Return the files of the model, without the trainer's state."""
    return sorted(
        name
        for name in checkpoint.manifest["files"]
        if not name.startswith("trainer/") and name != CARD
    )


def export_checkpoint(
    *, checkpoint: Checkpoint, target: Path, licence: str = UNKNOWN_LICENCE
) -> Path:
    """Write the model and its card to the new directory ``target``.

    It is written aside, synced and renamed, so ``target`` is complete or absent. Raises
    ExportError when ``target`` exists, CheckpointError for damaged files.
    """
    if target.exists():
        raise ExportError(f"{target} exists already")
    store.fetch(checkpoint)
    source = verify_checkpoint(checkpoint.directory, digest=checkpoint.digest).path
    staging = target.with_name(f".staging-{target.name}")
    shutil.rmtree(staging, ignore_errors=True)
    for name in exported_files(checkpoint):
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, staging / name)
    (staging / CARD).write_text(model_card(checkpoint, licence), encoding="utf-8")
    for path in [*staging.rglob("*"), staging]:
        _sync(path)
    staging.rename(target)
    _sync(target.parent)
    return target


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def model_card(checkpoint: Checkpoint, licence: str = UNKNOWN_LICENCE) -> str:
    """Return the model card: origin, training data, figures, and how to load it.

    Always in English: people read it wherever the model goes.
    """
    with translation.override("en"):
        return _card(checkpoint, licence)


def _card(checkpoint: Checkpoint, licence: str) -> str:
    run = checkpoint.run
    is_reward_model = checkpoint.manifest.get("kind") == "reward"
    # Every JSON text is a YAML text, whatever characters a name contains.
    facts = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if is_reward_model else "text-generation",
        "license": licence,
        "tags": ["concord", run.kind, "reward-model" if is_reward_model else "policy"],
    }
    front = "\n".join(f"{name}: {json.dumps(value)}" for name, value in facts.items())
    what = "reward model" if is_reward_model else "policy"
    sections = [
        f"---\n{front}\n---",
        f"# {_plain(checkpoint.project.name)}: {what}, {run.kind} run {run.pk}, "
        f"step {checkpoint.step}",
        _REWARD if is_reward_model else _POLICY,
        "## Data\n\n" + (_table(_data(run)) or "Not recorded."),
        "## Lineage\n\n" + "\n".join(f"* {line}" for line in _lineage(checkpoint)),
        "## Figures at this step\n\n"
        + (
            _table(dict(plain_figures(checkpoint.manifest.get("metrics", {}))))
            or "None were measured."
        ),
        "## Recipe\n\n```json\n"
        + json.dumps(checkpoint.manifest.get("recipe", {}), indent=1)
        + "\n```",
        f"## Licence\n\n{licence}",
    ]
    return "\n\n".join(sections) + "\n"


_POLICY = """A causal language model that thinks and acts in text: thinking, action calls and
observations stand between six tags, each one token of the tokenizer and none of them
special, so they stay in the decoded text. Decoding stops at `<</action>>` (run the call,
append `<<observation>>…<</observation>>`, go on) or at the end of the turn; both are in
`generation_config.json`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(PATH)
model = AutoModelForCausalLM.from_pretrained(PATH)
messages = [
    {"role": "system", "content": "…thinking context…"},
    {"role": "user", "content": "…"},
]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
ids = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :]))
```"""

_REWARD = """Says whether a sampled response says the same as a label response, by the same logic
and in the same order. A two-output classifier (1: consistent) that is read at the
`<<match>>` marks of a prompt in which both responses are packed; `reward.json` names the
layout, the labels and the threshold. transformers loads it; packing a pair takes
`training/engine/reward_model/packing.py` of Concord.

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(PATH)
model = AutoModelForSequenceClassification.from_pretrained(PATH)
```"""


def _data(run: Run) -> dict[str, str]:
    if run.snapshot is None:
        return {}
    counts = {words(n): number_text(v) for n, v in run.snapshot.counts.items()}
    return {**counts, "snapshot (SHA-256)": run.snapshot.content_hash}


def _lineage(checkpoint: Checkpoint) -> Iterator[str]:
    """Name the checkpoint and its ancestors, nearest first, each once."""
    yield f"this checkpoint: `{checkpoint.digest}`"
    visited = {checkpoint.pk}
    waiting = [checkpoint.run_id]
    while waiting and len(visited) <= LONGEST_LINEAGE:
        run_id = waiting.pop(0)
        rows = RunInput.objects.filter(run_id=run_id).select_related("checkpoint__run")
        for each in rows.order_by("pk"):
            parent = each.checkpoint
            if parent.pk not in visited:
                visited.add(parent.pk)
                waiting.append(parent.run_id)
            yield (
                f"run {run_id} took as {each.role}: {parent.run.kind} run "
                f"{parent.run_id}, step {parent.step}, `{parent.digest}`"
            )


def _table(facts: Mapping[str, object]) -> str:
    if not facts:
        return ""
    rows = "\n".join(
        f"| {_plain(name)} | {_plain(str(value))} |" for name, value in facts.items()
    )
    return f"| | |\n|---|---|\n{rows}"


def _plain(text: str) -> str:
    """Return text on one line that Markdown shows as plain text."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
