"""The built-in demo: generated action tasks with an oracle of consistency.

Imported by the engine, `annotation` and `loop`. :mod:`~actions.demo.generator` writes
samples, :mod:`~actions.demo.oracle` judges any text for a turn,
:mod:`~actions.demo.derive` makes consistent and inconsistent partners of a label
response, :mod:`~actions.demo.simulators` answers the action calls.
"""

from actions.demo.generator import generate
from actions.demo.shapes import DIFFICULTIES, Difficulty

__all__ = ["DIFFICULTIES", "Difficulty", "generate"]
