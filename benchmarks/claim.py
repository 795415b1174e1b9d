"""What a claim costs: pages touched and milliseconds at several sizes, and the throughput.

    python -m benchmarks.claim [--pairs 20000 100000] [--processes 4] [--seconds 5]

Run it while Concord runs, or with DATABASE_URL set: it makes a database of its own on
that server and drops it again.
Pages are Postgres's own count, EXPLAIN (ANALYZE, BUFFERS), of the claim's one statement.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import django

DATABASE = "concord_benchmark_claim"
REPEATS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--stride", type=int, help="instead of queue.CURSOR_STRIDE")
    options = parser.parse_args()
    set_up(DATABASE, create=True)
    from annotation.judging import queue

    queue.CURSOR_STRIDE = options.stride or queue.CURSOR_STRIDE
    try:
        for pairs in options.pairs:
            measure_cost(pairs)
        measure_throughput(max(options.pairs), options.processes, options.seconds)
    finally:
        drop(DATABASE)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def set_up(name: str, *, create: bool) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    from django.core.management import call_command
    from django.db import connection

    connection.settings_dict["OPTIONS"].pop("pool", None)
    if create:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {name}")
            cursor.execute(f"CREATE DATABASE {name}")
        connection.close()
    connection.settings_dict["NAME"] = name
    if create:
        call_command("migrate", verbosity=0)


def drop(name: str) -> None:
    from django.db import connection

    connection.close()
    connection.settings_dict["NAME"] = "postgres"
    with connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def sql(statement: str, **values: object) -> list[tuple[Any, ...]]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def fill(pairs: int) -> int:
    """Make a project with ``pairs`` pairs of two open slots; return its key.

    Ten pairs share a turn, as when ten answers were drawn for each.
    """
    from annotation.models import Project

    sql("TRUNCATE auth_user, annotation_project, annotation_producer CASCADE")
    project = Project.objects.create(name="b", slug="b", queue_tail=2 * pairs).pk
    sql(
        """INSERT INTO annotation_sample (project_id, external_id, scenario, situation,
             status, split, return_comment, meta, content_hash, created_at, updated_at)
           SELECT %(project)s, n, '', 'normal', 'approved', '', '', '{}', n, now(),
             now()
           FROM generate_series(1, %(samples)s) n""",
        project=project,
        samples=pairs // 10,
    )
    sql(
        """INSERT INTO annotation_turn
             (sample_id, position, input_kind, input_text, response)
           SELECT id, 0, 'user', 'Hi.', repeat('word ', 100) FROM annotation_sample"""
    )
    sql(
        """INSERT INTO annotation_pair (project_id, turn_id, label_text, sampled_text,
             content_hash, source, created_at)
           SELECT %(project)s, turn.id, response, response || n, n, 'people', now()
           FROM annotation_turn turn, generate_series(1, 10) n ORDER BY turn.id, n""",
        project=project,
    )
    sql(
        """INSERT INTO annotation_slot
             (project_id, pair_id, ordinal, round, priority, place, state, token,
              is_ahead)
           SELECT %(project)s, id, ordinal, 1, 0,
             row_number() OVER (ORDER BY id, ordinal), 'open', 0, false
           FROM annotation_pair, generate_series(1, 2) ordinal""",
        project=project,
    )
    return project


def make_people(count: int) -> list[int]:
    rows = sql(
        """INSERT INTO auth_user (username, password, is_superuser, first_name,
             last_name, email, is_staff, is_active, date_joined)
           SELECT 'person ' || n || clock_timestamp(), '', false, '', '', '', false,
             true, now()
           FROM generate_series(1, %(count)s) n RETURNING id""",
        count=count,
    )
    sql(
        """INSERT INTO annotation_membership (project_id, user_id, role)
           SELECT project.id, person.id, 'labeler'
           FROM annotation_project project, auth_user person
           ON CONFLICT DO NOTHING"""
    )
    return [int(row[0]) for row in rows]


def vacuum() -> None:
    sql("VACUUM ANALYZE")


def pages_of(plan: dict[str, Any]) -> int:
    """Return the pages of a plan, with the writing parts that end after it."""
    pages = int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])
    for part in plan.get("Plans", []):
        if part.get("Subplan Name") == "CTE moved":
            pages += int(part["Shared Hit Blocks"]) + int(part["Shared Read Blocks"])
    return pages


def explain(project: int, user: int, *, keep: bool = False) -> tuple[int, float, bool]:
    """Claim once; return pages, milliseconds, and whether there was a slot."""
    from django.db import transaction

    from annotation.judging import queue
    from annotation.judging.queue_sql import CLAIM

    with transaction.atomic():
        before = sql("SELECT count(*) FROM annotation_slot WHERE state = 'leased'")
        ((plans,),) = sql(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {CLAIM}",
            project=project,
            user=user,
            stride=queue.CURSOR_STRIDE,
            ahead=False,
        )
        after = sql("SELECT count(*) FROM annotation_slot WHERE state = 'leased'")
        if not keep:
            transaction.set_rollback(True)
    plan = json.loads(plans) if isinstance(plans, str) else plans
    return pages_of(plan[0]["Plan"]), plan[0]["Execution Time"], before != after


def report(pairs: int, case: str, claim: Callable[[], tuple[int, float, bool]]) -> None:
    runs = [claim() for _ in range(REPEATS)]
    pages = [run[0] for run in runs]
    times = [run[1] for run in runs]
    found = "a pair" if runs[-1][2] else "nothing"
    say(
        f"{pairs:>8,}  {case:<52} {statistics.median(pages):>8,.0f} {max(pages):>9,} "
        f"{statistics.median(times):>8.2f}  {found}"
    )


def touch(user: int, condition: str) -> None:
    sql(
        f"""INSERT INTO annotation_touch (pair_id, user_id, at)
            SELECT id, %(user)s, now() FROM annotation_pair p WHERE {condition}""",
        user=user,
    )


def measure_cost(pairs: int) -> None:
    project = fill(pairs)
    new, half, all_met, leases, author = make_people(5)
    middle = "p.id <= (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY id) FROM annotation_pair)"
    touch(half, middle)
    touch(all_met, "true")
    touch(leases, "true")
    vacuum()
    say(f"\n{'pairs':>8}  {'who claims':<52} {'pages':>8} {'most':>9} {'ms':>8}  finds")
    report(pairs, "a new person", lambda: explain(project, new))
    report(
        pairs,
        "who met the first half, first claim ever",
        lambda: explain(project, half),
    )
    explain(project, half, keep=True)
    report(pairs, "the same, with a cursor", lambda: explain(project, half, keep=True))
    report(
        pairs, "who met everything, first claim ever", lambda: explain(project, all_met)
    )
    explain(project, all_met, keep=True)
    report(
        pairs, "the same, with a cursor", lambda: explain(project, all_met, keep=True)
    )

    people = make_people(200)
    for user in people:
        explain(project, user, keep=True)
    fresh = make_people(1)[0]
    report(
        pairs,
        "a new person, 200 others hold the first slots",
        lambda: explain(project, fresh),
    )

    # Everything is done but the last hundred slots.
    finish(project, keep=100)
    vacuum()
    last = make_people(1)[0]
    report(
        pairs,
        "a new person, all done but the last 100 slots",
        lambda: explain(project, last),
    )

    sql("UPDATE annotation_sample SET author_id = %(user)s", user=author)
    project = refill(project)
    vacuum()
    report(
        pairs,
        "who wrote every sample, first claim ever",
        lambda: explain(project, author),
    )
    explain(project, author, keep=True)
    report(
        pairs, "the same, with a cursor", lambda: explain(project, author, keep=True)
    )


def finish(project: int, *, keep: int) -> None:
    """Fill all slots but the last ``keep``: closed stands for done here, both leave."""
    sql(
        """UPDATE annotation_slot SET state = 'closed', holder_id = NULL,
             leased_at = NULL, leased_until = NULL
           WHERE place <= (SELECT max(place) FROM annotation_slot) - %(keep)s""",
        keep=keep,
    )


def refill(project: int) -> int:
    sql(
        """UPDATE annotation_slot SET state = 'open', holder_id = NULL,
             leased_at = NULL, leased_until = NULL"""
    )
    return project


def work(user: int, all_here: Any, seconds: float, results: Any) -> None:
    """Claim and judge as one person until the time is over; all begin together."""
    set_up(DATABASE, create=False)
    from django.contrib.auth.models import User

    from annotation.judging import judgments
    from annotation.models import Project

    person, project = User.objects.get(pk=user), Project.objects.get()
    all_here.wait(timeout=300)
    start = time.time()
    count, claiming, cpu = 0, 0.0, time.process_time()
    while time.time() < start + seconds:
        before = time.perf_counter()
        found = judgments.claim_slot(project=project, user=person)
        claiming += time.perf_counter() - before
        if not isinstance(found, judgments.Claim):
            break
        judgments.record_judgment(
            project=project,
            slot_id=found.slot.pk,
            token=found.token,
            user=person,
            verdict=1,
        )
        count += 1
    results.put((count, claiming, time.process_time() - cpu))


def measure_throughput(pairs: int, processes: int, seconds: float) -> None:
    from django.db import connection

    fill(pairs)
    people = make_people(processes)
    vacuum()
    connection.close()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    all_here = context.Barrier(processes)
    crew = [
        context.Process(target=work, args=(user, all_here, seconds, results))
        for user in people
    ]
    for process in crew:
        process.start()
    counted = [results.get() for _ in crew]
    for process in crew:
        process.join()
    total, claiming, cpu = (sum(column) for column in zip(*counted, strict=True))
    say(
        f"\n{processes} people at once, {pairs:,} pairs: {total / seconds:,.0f} claims and "
        f"as many judgments a second; a claim takes {1000 * claiming / total:.1f} ms, "
        f"a judgment {1000 * (processes * seconds - claiming) / total:.1f} ms; both "
        f"together {1000 * cpu / total:.1f} ms of Python's processor time."
    )


if __name__ == "__main__":
    main()
