"""What every page costs beside many pairs: seconds, and buffers that Postgres touched.

    python -m benchmarks.page_cost [--pairs 100000] [--only disputes work]

Run it while Concord runs, or with DATABASE_URL set: it makes a database of its own on
that server and drops it again. The pages come from the URL resolver, each visited as the
roles that may see it. Buffers (8 KiB pages of tables and indexes) are Postgres's own
count, EXPLAIN (ANALYZE, BUFFERS), of each statement of a page; seconds are of the page
without that. ``tests/test_page_cost.py`` holds the pages to LIMIT.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.claim import drop, say, set_up
from benchmarks.many import DATABASE, ROLES, SLUG, Many, fill

if TYPE_CHECKING:
    pass

LIMIT: Final = 3000
# What grows with the work done; a page that reads one of these whole does not scale.
GROWING: Final = (
    "annotation_pair",
    "annotation_slot",
    "annotation_judgment",
    "annotation_turn",
)


# --- the data ------------------------------------------------------------------------


# --- the pages -----------------------------------------------------------------------

# What ``pk`` means in the address of a page; the others are named for all.
_PK: Final = {
    "annotation:judge-context": "pair",
    "annotation:draft": "draft",
    "annotation:draft-revise": "returned",
    "annotation:sample": "sample",
    "annotation:sample-history": "sample",
    "annotation:pair": "pair",
    "training:run": "run",
    "training:run-live": "run",
    "training:run-series": "run",
    "training:run-samples": "run",
    "training:checkpoint": "checkpoint",
    "training:snapshot": "snapshot",
    "training:draft-proposal": "proposal",
}
# Pages in another state than their bare address shows.
_QUERIES: Final = {
    "annotation:disputes": ["?kind=skipped"],
    "annotation:judge-task": ["?answer={answer}"],
    "annotation:work": ["?before={older}"],
    "annotation:samples": ["?status=submitted", "?scenario=scenario+3"],
    "training:runs-compare": ["?run={run}"],
}
# Files as long as what they hold: they stream, and no page waits for them.
STREAMED: Final = {
    "annotation:samples-export",
    "training:checkpoint-download",
    "training:checkpoint-export",
}


@dataclass(frozen=True)
class Page:
    """An address as one person asks for it; ``name`` is its route's."""

    name: str
    who: str
    address: str

    def __str__(self) -> str:
        return f"{self.who} {self.address}"


def pages_of(many: Many) -> list[Page]:
    """Return every address of the URL resolver, for every role; the admin's too.

    A route that takes no GET is among them; ``visit`` finds that out.
    Raises LookupError where an address has a part that nothing here stands for.
    """
    from django.urls import get_resolver

    return [
        Page(name, who, address)
        for name, parts in _routes(get_resolver(), "")
        if name not in STREAMED
        for address in _addresses(name, parts, many)
        for who in (("root",) if name.startswith("admin:") else ROLES)
    ]


def _routes(resolver: Any, space: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each route's full name and the names of its variable parts."""
    from django.urls import URLResolver

    for one in resolver.url_patterns:
        if isinstance(one, URLResolver):
            inner = f"{space}{one.namespace}:" if one.namespace else space
            yield from _routes(one, inner)
        elif one.name:
            yield f"{space}{one.name}", tuple(one.pattern.converters)


def _addresses(name: str, parts: tuple[str, ...], many: Many) -> list[str]:
    from django.urls import reverse

    if name.startswith("admin:") and not name.endswith("_changelist"):
        return []
    values = [_values(name, part, many) for part in parts]
    bare = [
        reverse(name, kwargs=dict(zip(parts, each, strict=True)))
        for each in itertools.product(*values)
    ]
    queries = [query.format(**many.keys) for query in _QUERIES.get(name, ())]
    return bare + [bare[0] + query for query in queries]


def _values(name: str, part: str, many: Many) -> list[object]:
    from training.models import RUN_STEPS, RunKind

    if part == "pk":
        return [many.keys[_PK[name]] if name in _PK else 0]
    known: dict[str, list[object]] = {
        "slug": [SLUG],
        "number": [many.keys["iteration"]],
        "kind": list(RunKind.values),
        "step": list(RUN_STEPS),
        "language": ["en"],
        "digest": ["0"],
        "uidb64": ["x"],
        "token": ["x"],
    }
    if part not in known:
        raise LookupError(f"{name}: nothing stands for <{part}>: say what in _values")
    return known[part]


# --- what they cost ------------------------------------------------------------------


@dataclass(frozen=True)
class Statement:
    """One statement of a page: its buffers, and the tables of GROWING it read whole."""

    text: str
    buffers: int
    scanned: frozenset[str]


@dataclass(frozen=True)
class Cost:
    """What a visit cost; ``seconds`` of a visit that nothing counted."""

    page: Page
    status: int
    seconds: float
    statements: tuple[Statement, ...]

    @property
    def buffers(self) -> int:
        return sum(one.buffers for one in self.statements)

    @property
    def scanned(self) -> frozenset[str]:
        return frozenset().union(*(one.scanned for one in self.statements))

    @property
    def is_within(self) -> bool:
        return self.buffers <= LIMIT and not self.scanned

    @property
    def worst(self) -> Statement:
        return max(self.statements, key=lambda one: (len(one.scanned), one.buffers))


def visit(page: Page, *, timed: bool = True) -> Cost | None:
    """Ask for a page, for its time and again for its buffers; None: it takes no GET.

    Not ``timed`` it is asked for once, and its seconds are 0.
    """
    from django.contrib.auth.models import User
    from django.db import connection
    from django.test import Client

    client = Client()
    client.force_login(User.objects.get(username=page.who))
    statements: list[Statement] = []
    seconds = 0.0
    if timed:
        begin = time.perf_counter()
        b"".join(client.get(page.address))
        seconds = time.perf_counter() - begin
    with connection.execute_wrapper(_counting(statements)):
        answer = client.get(page.address)
        if answer.status_code == 405:
            return None
        b"".join(answer)
    return Cost(page, answer.status_code, seconds, tuple(statements))


def _counting(statements: list[Statement]) -> Callable[..., Any]:
    """Return a wrapper that explains each statement before it is run.

    Explaining runs it too, so what it writes is rolled back before the real one.
    """
    from django.db import connection, transaction

    is_explaining = False

    def wrapper(execute: Any, text: str, values: Any, many: bool, context: Any) -> Any:
        nonlocal is_explaining
        if not is_explaining and not many and _EXPLAINED.match(text):
            is_explaining = True
            try:
                with transaction.atomic(), connection.cursor() as cursor:
                    cursor.execute(
                        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", values
                    )
                    ((plan,),) = cursor.fetchall()
                    transaction.set_rollback(True)
            finally:
                is_explaining = False
            plan = json.loads(plan) if isinstance(plan, str) else plan
            statements.append(_read(text, plan[0]["Plan"]))
        return execute(text, values, many, context)

    return wrapper


_EXPLAINED: Final = re.compile(
    r"\s*(select|with|insert|update|delete)\b", re.IGNORECASE
)


def _read(text: str, plan: dict[str, Any]) -> Statement:
    """Read a plan: the root's count has its parts in it, but for writing CTEs."""
    buffers, scanned = _buffers(plan), set()
    for node in _nodes(plan):
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in GROWING:
            scanned.add(node["Relation Name"].removeprefix("annotation_"))
        if node["Node Type"] == "ModifyTable" and "Subplan Name" in node:
            buffers += _buffers(node)
    return Statement(text, buffers, frozenset(scanned))


def _buffers(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--only", nargs="+", help="parts of addresses")
    parser.add_argument("--who", nargs="+", help="of lena, rita, tara, ada, root")
    parser.add_argument("--worst", action="store_true", help="show the worst statement")
    options = parser.parse_args()
    set_up(DATABASE, create=True)
    from django.conf import settings

    settings.ALLOWED_HOSTS = ["testserver"]
    logging.getLogger("django.request").setLevel(logging.CRITICAL)
    # Straight from their sources: nothing is collected for a benchmark.
    storage = "django.contrib.staticfiles.storage.StaticFilesStorage"
    settings.STORAGES = settings.STORAGES | {"staticfiles": {"BACKEND": storage}}
    try:
        begin = time.perf_counter()
        many = fill(options.pairs)
        say(f"{options.pairs:,} pairs in {time.perf_counter() - begin:.0f} s")
        say(f"{'seconds':>9} {'buffers':>9} {'limit':>6}  page")
        for page in pages_of(many):
            if options.only and not any(part in page.address for part in options.only):
                continue
            if options.who and page.who not in options.who:
                continue
            if cost := visit(page):
                report(cost, show_worst=options.worst)
    finally:
        drop(DATABASE)


def report(cost: Cost, *, show_worst: bool = False) -> None:
    read_whole = ", ".join(sorted(cost.scanned))
    say(
        f"{cost.seconds:>9.3f} {cost.buffers:>9,} {LIMIT:>6,}  "
        f"{'  ' if cost.is_within else '! '}{cost.page} ({cost.status})"
        + (f", reads all of {read_whole}" if read_whole else "")
    )
    if show_worst and not cost.is_within:
        say(f"    {cost.worst.buffers:,}: {cost.worst.text[:3000]}")


if __name__ == "__main__":
    main()
