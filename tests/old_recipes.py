"""The default recipe of every program, as stored before settings were in groups."""

import json
from pathlib import Path

FOLDER = Path(__file__).parent / "data" / "old_recipes"


def old_recipe(program):
    return json.loads((FOLDER / f"{program}.json").read_text())
