"""Manifests that no reader may accept, each with one thing wrong and what is said of it."""

HASH = "ab" * 32

# A reader of two once accepted each of the first six.
BROKEN = {
    "no file": ({"files": {}}, "`files`: expected at least one file, found none"),
    "a file outside": (
        {"files": {"../outside": HASH}},
        "`files`: expected names inside the checkpoint, found '../outside'",
    ),
    "an absolute name": (
        {"files": {"/etc/hostname": HASH}},
        "`files`: expected names inside the checkpoint, found '/etc/hostname'",
    ),
    "a step in quotes": (
        {"step": "1"},
        '`step`: expected a whole number, found "1"',
    ),
    "no program": (
        {"program": ...},
        "`program`: expected a text, found nothing",
    ),
    "no kind": ({"kind": ...}, "`kind`: expected a text, found nothing"),
    "true for a step": (
        {"step": True},
        "`step`: expected a whole number, found true",
    ),
    "a step below 0": (
        {"step": -1},
        "`step`: expected a whole number from 0 to 2147483647, found -1",
    ),
    "no step": ({"step": ...}, "`step`: expected a whole number, found nothing"),
    "no name": (
        {"files": {"": HASH}},
        "`files`: expected names inside the checkpoint, found ''",
    ),
    "a short hash": (
        {"files": {"model.safetensors": "ab12"}},
        '`files.model.safetensors`: expected a SHA-256 in hexadecimal, found "ab12"',
    ),
    "files in a list": (
        {"files": ["model.safetensors"]},
        "`files`: expected a JSON object, found a list of 1",
    ),
    "a program of 3": ({"program": 3}, "`program`: expected a text, found 3"),
    "a recipe in a list": (
        {"recipe": []},
        "`recipe`: expected a JSON object, found a list of 0",
    ),
    "a parent of 3": (
        {"parents": [3]},
        "`parents`: expected a list of texts, found a list of 1",
    ),
    "tokens in a text": (
        {"new_tokens": "<<think>>"},
        '`new_tokens`: expected a list of texts, found "<<think>>"',
    ),
    "no metrics": (
        {"metrics": ...},
        "`metrics`: expected a JSON object, found nothing",
    ),
    "a loss that is no number": (
        {"metrics": {"truth": {"low": float("nan")}}},
        "`metrics.truth/low`: expected a finite number, found nan",
    ),
}


def broken(manifest, changes):
    """Return a manifest with other fields; a field that is ``...`` is left out."""
    changed = manifest | changes
    return {name: value for name, value in changed.items() if value is not ...}
