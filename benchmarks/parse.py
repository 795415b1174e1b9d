"""Times of the grammar: parsing, aligning, checking, importing. Run: python -m benchmarks.parse

With a database (DATABASE_URL) the import of 2,000 generated samples is timed too, in a
transaction that is rolled back: python -m benchmarks.parse --database
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

from actions.calculate import CalculationError, calculate
from actions.format_check import check_text
from actions.grammar import FormatError, parse
from actions.plans import Plan, align_plans
from actions.units import align_units

SIZE = 2**20
CALL = '<<action>>{"name": "A", "parameters": {"x": 1}}<</action>>'


def fill(piece: str, before: str = "", after: str = "") -> str:
    return before + piece * (SIZE // len(piece) + 1) + after


ADVERSARIES: dict[str, Callable[[], str]] = {
    "text": lambda: fill("word "),
    "unclosed thinking": lambda: fill("word ", "<<think>>"),
    "opened tags": lambda: fill("<<think>>"),
    "closed tags": lambda: fill("<</think>>"),
    "angle brackets": lambda: fill("<"),
    "half tags": lambda: fill("<<action>", "<<think>>"),
    "calls": lambda: fill(
        CALL + "<<observation>>o<</observation>>", "<<think>>", "<</think>>x"
    ),
    "calls without observation": lambda: fill(CALL, "<<think>>"),
    "nested lists": lambda: fill("[", "<<think>><<action>>", "<</action>>"),
    "nested objects": lambda: fill('{"a":', "<<think>><<action>>", "<</action>>"),
    "quotes": lambda: fill('"', "<<think>><<action>>", "<</action>>"),
    "escaped quotes": lambda: fill('\\"', '<<think>><<action>>"', "<</action>>"),
    "backslashes": lambda: fill("\\", '<<think>><<action>>"', "<</action>>"),
    "digits": lambda: fill("9", "<<think>><<action>>", "<</action>>"),
    "minus signs": lambda: fill("-", "<<think>><<action>>", "<</action>>"),
    "spaces in a call": lambda: fill(" ", "<<think>><<action>>", "<</action>>"),
    "repeated keys": lambda: fill('"a":1,', "<<think>><<action>>{", "}<</action>>"),
    "long parameter": lambda: fill(
        "x",
        '<<think>><<action>>{"name":"A","parameters":{"a":"',
        '"}}<</action>>',
    ),
    "plan lines": lambda: fill("1. Plan:\n", "<<think>>Plan:\n", "<</think>>x"),
    "plan heads": lambda: fill("Plan:\n", "<<think>>", "<</think>>x"),
    "blank lines": lambda: fill(" \n", "<<think>>Plan:\n", "<</think>>x"),
    "one long step": lambda: fill("go ", "<<think>>Plan:\n1. ", "<</think>>x"),
    "blanks in a step": lambda: fill(" ", "<<think>>Plan:\n1.", "<</think>>x"),
    "lone surrogates": lambda: fill("\ud800"),
    "joined words": lambda: fill("a-", "<<think>>", "<</think>>x"),
    "joined digits": lambda: fill("1,", "<<think>>", "<</think>>x"),
}

TURN = (
    "<<think>>This is a new task. The guideline starts with the kitchen.\nPlan:\n"
    "1. Find a kitchen\n2. Check the time\n3. Get the price\n4. Place the order\n"
    '<<action>>{"name": "Find kitchen", "parameters": {"dish": "quiche"}}<</action>>'
)
BOMBS = ("9**9**9", "round(1, -10**9)", "9" * 500, "(" * 500, "exp(exp(exp(9)))")


def measure(work: Callable[[], object], repeat: int = 5) -> float:
    """Return the median seconds of one call."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def attempt(text: str) -> None:
    try:
        response = parse(text)
    except FormatError:
        return
    align_units(response, response)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def bomb() -> None:
    for expression in BOMBS:
        try:
            calculate(expression)
        except CalculationError:
            continue


def measure_import(count: int = 2000) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()
    from django.db import transaction

    from actions.demo import generate
    from annotation.authoring.export import export_samples
    from annotation.authoring.import_files import import_file
    from annotation.models import Project

    lines = [json.dumps(sample) for sample in generate(seed=1, count=count)]
    with transaction.atomic():
        project = Project.objects.create(name="Benchmark", slug="benchmark-parse")
        for name in ("import", "import again"):
            start = time.perf_counter()
            report = import_file(project=project, format="concord", lines=lines)
            seconds = time.perf_counter() - start
            say(f"{name:28} {count / seconds:9.0f} samples/s   ({report})")
        start = time.perf_counter()
        size = sum(map(len, export_samples(project=project, format="concord")))
        seconds = time.perf_counter() - start
        say(f"{'export':28} {count / seconds:9.0f} samples/s   ({size / 1e6:.1f} MB)")
        transaction.set_rollback(True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", action="store_true")
    arguments = parser.parse_args()
    say("parse and align 1 MB, milliseconds")
    for name, make in ADVERSARIES.items():
        text = make()
        say(f"  {name:26} {measure(lambda text=text: attempt(text)) * 1e3:9.1f}")
    response = parse(TURN)
    many = Plan(tuple(f"visit house {n}" for n in range(40_000)))
    say("one call, microseconds")
    for name, work in {
        "parse a turn": lambda: parse(TURN),
        "check a turn": lambda: check_text(TURN),
        "align a turn's units": lambda: align_units(response, response),
        "calculate five bombs": bomb,
        "align 40,000 steps": lambda: align_plans(many, many),
    }.items():
        say(f"  {name:26} {measure(work, 20 if 'steps' not in name else 3) * 1e6:9.0f}")
    if arguments.database:
        measure_import()


if __name__ == "__main__":
    main()
