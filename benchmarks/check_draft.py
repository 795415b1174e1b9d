"""What a check of a draft costs while it is typed: the rules alone, and the whole request.

    python -m benchmarks.check_draft [--turns 6 12 40]

Run it while Concord runs, or with DATABASE_URL set: it makes a database of its own on
that server and drops it again. The request goes through Django's test client: every
middleware, the view, its queries and its templates.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable

from benchmarks.claim import drop, say, set_up

DATABASE = "concord_benchmark_draft"
REPEATS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, nargs="+", default=[6, 12, 40])
    options = parser.parse_args()
    set_up(DATABASE, create=True)
    try:
        measure(options.turns)
    finally:
        drop(DATABASE)


def measure(sizes: list[int]) -> None:
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.test import Client

    from actions.demo import generate
    from annotation.authoring.sample_rows import save_sample
    from annotation.models import Membership, Project, Role

    settings.ALLOWED_HOSTS = ["testserver"]
    settings.SECURE_SSL_REDIRECT = False
    user = User.objects.create_user("writer")
    project = Project.objects.create(name="Drafts", slug="drafts")
    Membership.objects.create(project=project, user=user, role=Role.LABELER)
    samples = list(generate(seed=1, count=80))
    for sample in samples:
        save_sample(project=project, document=sample)
    client = Client()
    client.force_login(user)
    for size in sizes:
        turns = [turn for sample in samples for turn in sample["turns"]][:size]
        measure_size(client, project, user, samples, turns)


def measure_size(client, project, user, samples, turns) -> None:
    from actions.grammar import parse
    from annotation.authoring.draft_blocks import blocks_to_edit
    from annotation.authoring.draft_checks import check_turns
    from annotation.authoring.drafts import contexts_of
    from annotation.authoring.method_hints import Knowledge
    from annotation.models import Draft

    size = len(turns)
    content = {"turns": turns, "contexts": []}
    contexts = contexts_of(
        context for sample in samples[:3] for context in sample["contexts"]
    )
    rules = figures(lambda: check_turns(content, contexts, Knowledge()))
    say(f"{size} turns, the rules: {rules}")
    draft = Draft.objects.create(project=project, author=user, content=content)
    response = parse(turns[0]["response"])
    blocks = [
        {
            "kind": one.kind,
            "source": one.source,
            "steps": list(one.steps),
            "text": one.text,
        }
        for one in blocks_to_edit(response, contexts.every_action())
    ]
    form = {
        "situation": "normal",
        "context": [
            str(pk) for pk in project.contexts.values_list("pk", flat=True)[:3]
        ],
        "turn_key": [str(number) for number in range(size)],
        "turn_kind": [turn["input"]["kind"] for turn in turns],
        "turn_response": [turn["response"] for turn in turns],
        "turn_blocks": [json.dumps(blocks), *[""] * (size - 1)],
        "reference_of": [str(number) for number in range(size)],
        "reference_text": [turn["references"][0] for turn in turns],
        "redraw": "1",
    }
    version = itertools.count()

    def save() -> None:
        number = next(version)
        texts = [f"{turn['input']['text']} {number}" for turn in turns]
        answer = client.post(
            f"/p/drafts/write/{draft.pk}/save/",
            form | {"version": str(number), "turn_text": texts},
        )
        if answer.status_code != 200 or b"conflict-title" in answer.content:
            sys.exit(f"{answer.status_code}: {answer.content.decode()[:500]}")

    say(f"{size} turns, the whole request: {figures(save)}")


def figures(deed: Callable[[], object]) -> str:
    deed()
    times, work = [], []
    for _ in range(REPEATS):
        start, before = time.perf_counter(), time.process_time()
        deed()
        times.append((time.perf_counter() - start) * 1000)
        work.append((time.process_time() - before) * 1000)
    times.sort()
    p95 = times[int(0.95 * len(times)) - 1]
    return (
        f"median {statistics.median(times):.1f} ms, p95 {p95:.1f} ms; "
        f"processor {statistics.median(work):.1f} ms"
    )


if __name__ == "__main__":
    main()
