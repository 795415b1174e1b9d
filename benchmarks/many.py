"""A project with very many pairs, for the benchmarks and tests of pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from benchmarks.claim import sql

if TYPE_CHECKING:
    from django.contrib.auth.models import User


DATABASE: Final = "concord_benchmark_pages"


SLUG: Final = "many"


TURNS: Final = 3  # of a sample


ANSWERS: Final = 4  # pairs of a turn


LABELERS: Final = 20


DRAWN: Final = 1000  # answers of one draw


ROLES: Final = {
    "lena": ("labeler",),
    "rita": ("curator",),
    "tara": ("trainer",),
    "ada": ("admin",),
}


_LABEL: Final = (
    "<<think>>The user wants a cake.\nPlan:\n1. Find a bakery.\n2. Order the cake.\n"
    '<<action>>{"name": "Find shops", "parameters": {"kind": "bakery"}}<</action>>'
)


_SAMPLED: Final = _LABEL.replace("bakery", "florist")


@dataclass(frozen=True)
class Many:
    """A project with ``pairs`` pairs, and the keys its pages' addresses need."""

    project: int
    keys: dict[str, int] = field(default_factory=dict)


def fill(pairs: int) -> Many:
    """Make a project with ``pairs`` pairs in all their states, by SQL.

    Of a hundred pairs 60 are judged twice alike, 5 three times, 5 are disputed, 10 came
    from the grammar or equal the label, and 20 wait; every 500th of these was skipped by
    somebody. 20 labelers share the judgments of 60 days; one in fifty was undone and
    given again.
    """
    from annotation.models import Membership, Project

    clear()
    people = {name: _person(name) for name in ROLES}
    _person("root", is_superuser=True, is_staff=True)
    project = Project.objects.create(
        name="Many", slug=SLUG, overlap=2, overlap_limit=2, calibration_percent=10
    )
    Membership.objects.bulk_create(
        Membership(project=project, user=people[name], role=role)
        for name, roles in ROLES.items()
        for role in roles
    )
    crew = [people["lena"].pk]
    crew += [_person(f"labeler {n}").pk for n in range(1, LABELERS)]
    Membership.objects.bulk_create(
        Membership(project=project, user_id=pk, role="labeler") for pk in crew[1:]
    )
    places = {
        "project": project.pk,
        "samples": max(1, pairs // (TURNS * ANSWERS)),
        "turns": TURNS,
        "answers": ANSWERS,
        "pairs": pairs,
        "crew": crew,
        "people": len(crew),
        "lena": people["lena"].pk,
        "rita": people["rita"].pk,
        "label": _LABEL,
        "sampled": _SAMPLED,
        "drawn": DRAWN,
    }
    for statement in _FILL:
        sql(statement, **places)
    vacuum()
    return Many(project.pk, _make_runs(project.pk, people["tara"]))


def clear() -> None:
    """Empty every table that ``fill`` fills, and what hangs on them."""
    sql(
        """TRUNCATE auth_user, annotation_project, annotation_producer, django_session
           CASCADE"""
    )


def vacuum() -> None:
    sql("VACUUM ANALYZE")


def _person(name: str, **rights: bool) -> User:
    from django.contrib.auth.models import User

    return User.objects.create(username=name, password="!", **rights)


# The state of a pair follows from its number modulo 100: the texts below repeat it.
_FILL: Final = (
    """INSERT INTO annotation_sample (project_id, external_id, author_id, scenario,
         situation, status, split, return_comment, meta, content_hash, created_at,
         updated_at)
       SELECT %(project)s, 'sample-' || n, (%(crew)s::int[])[1 + n %% %(people)s],
         'scenario ' || n %% 12, 'normal',
         CASE n %% 50 WHEN 0 THEN 'submitted' WHEN 1 THEN 'returned' ELSE 'approved' END,
         CASE WHEN n %% 10 = 0 THEN 'held-out' ELSE '' END, '', '{}', md5(n::text),
         now(), now()
       FROM generate_series(1, %(samples)s) n""",
    """INSERT INTO annotation_turn (sample_id, position, input_kind, input_text,
         response)
       SELECT s.id, n, CASE n WHEN 0 THEN 'user' ELSE 'observation' END,
         'A cake, please.', %(label)s
       FROM annotation_sample s, generate_series(0, %(turns)s - 1) n
       ORDER BY s.id, n""",
    """INSERT INTO annotation_pair (project_id, turn_id, label_text, sampled_text,
         content_hash, source, created_at)
       SELECT %(project)s, t.id, t.response, %(sampled)s || n,
         md5(t.id || ' ' || n),
         CASE WHEN number %% 100 BETWEEN 90 AND 94 THEN 'identical'
           WHEN number %% 100 >= 95 THEN 'format' ELSE 'people' END, now()
       FROM (
         SELECT t.id, t.response, n, row_number() OVER (ORDER BY t.id, n) AS number
         FROM annotation_turn t, generate_series(1, %(answers)s) n
       ) t ORDER BY number LIMIT %(pairs)s""",
    """INSERT INTO annotation_thinkingcontext (project_id, scope, title, background,
         guideline, actions, content_hash)
       VALUES (%(project)s, 'global', 'Cakes', '', '', '[]', 'c')""",
    """INSERT INTO annotation_samplecontext (sample_id, context_id, position)
       SELECT s.id, c.id, 0 FROM annotation_sample s, annotation_thinkingcontext c""",
    # From here on a pair's number is its place among the pairs.
    """CREATE TEMPORARY TABLE numbered AS
       SELECT id, turn_id, row_number() OVER (ORDER BY id) AS n,
         (row_number() OVER (ORDER BY id) %% 100)::int AS kind
       FROM annotation_pair""",
    """INSERT INTO annotation_producer (source, run_id, checkpoint_id,
         checkpoint_digest, step, policy_role, settings)
       SELECT 'policy', 1000000 + n, 1, '', 0, 'current', '{}'
       FROM generate_series(0, (%(pairs)s - 1) / %(drawn)s) n""",
    """INSERT INTO annotation_sampledresponse (turn_id, producer_id, index, text,
         observation, observation_source, format_error, created_at)
       SELECT p.turn_id, producer.id, p.n %% 10, %(sampled)s || p.n, '', '', '', now()
       FROM numbered p JOIN annotation_producer producer
         ON producer.run_id = 1000000 + (p.n - 1) / %(drawn)s
       ORDER BY p.id""",
    """INSERT INTO annotation_pairorigin (pair_id, sampled_response_id)
       SELECT p.id, r.id FROM numbered p JOIN (
         SELECT id, row_number() OVER (ORDER BY id) AS n FROM annotation_sampledresponse
       ) r USING (n)""",
    # A slot is made open; what it is in the end is told when the judgments are there.
    """INSERT INTO annotation_slot (project_id, pair_id, ordinal, round, priority,
         place, state, token, is_ahead)
       SELECT %(project)s, p.id, o, CASE WHEN o > 2 THEN 2 ELSE 1 END, 0,
         row_number() OVER (ORDER BY p.id, o), 'open', 1, false
       FROM numbered p, generate_series(1, 3) o
       WHERE p.kind < 90 AND (o < 3 OR p.kind BETWEEN 65 AND 69)""",
    """UPDATE annotation_project SET queue_tail = (SELECT max(place) FROM annotation_slot)
       WHERE id = %(project)s""",
    """CREATE TEMPORARY TABLE given AS
       SELECT s.id AS slot, s.pair_id AS pair, p.n, p.kind, s.ordinal,
         (%(crew)s::int[])[1 + (p.n + 7 * s.ordinal) %% %(people)s] AS labeler,
         CASE WHEN p.kind >= 60 THEN s.ordinal %% 2 ELSE (p.kind < 40)::int END
           AS verdict,
         now() - interval '60 days' * (1 - p.n::float / %(pairs)s) AS at
       FROM annotation_slot s JOIN numbered p ON p.id = s.pair_id
       WHERE p.kind < 70""",
    """INSERT INTO annotation_touch (pair_id, user_id, at, is_seen)
       SELECT pair, labeler, at, true FROM given""",
    """INSERT INTO annotation_judgment (project_id, pair_id, slot_id, token,
         labeler_id, verdict, reasons, units_that_differ, order_confirmed,
         sides_swapped, seconds_spent, guideline_version, is_extra, withdrawn_because,
         created_at)
       SELECT %(project)s, pair, slot, 1, labeler, verdict,
         CASE verdict WHEN 0 THEN '["parameter"]'::jsonb ELSE '[]' END, '[]', false,
         CASE WHEN n %% 20 = 0 THEN n %% 40 = 0 END, 1 + n %% 17, 1, false, '', at
       FROM given ORDER BY at, slot""",
    # One in fifty was undone, then given again: three rows, the last of which counts.
    """INSERT INTO annotation_judgment (project_id, pair_id, slot_id, token,
         labeler_id, verdict, reasons, units_that_differ, order_confirmed,
         seconds_spent, guideline_version, is_extra, supersedes_id, withdrawn_because,
         created_at)
       SELECT %(project)s, j.pair_id, j.slot_id, 1, j.labeler_id, 2, '[]', '[]',
         false, 0, 1, false, j.id, 'undone by the labeler', j.created_at
       FROM annotation_judgment j WHERE j.id %% 50 = 0 AND j.verdict <> 2""",
    """INSERT INTO annotation_judgment (project_id, pair_id, slot_id, token,
         labeler_id, verdict, reasons, units_that_differ, order_confirmed,
         seconds_spent, guideline_version, is_extra, supersedes_id, withdrawn_because,
         created_at)
       SELECT %(project)s, w.pair_id, w.slot_id, 2, w.labeler_id, first.verdict,
         first.reasons, '[]', false, 5, 1, false, w.id, '', w.created_at
       FROM annotation_judgment w JOIN annotation_judgment first
         ON first.id = w.supersedes_id WHERE w.verdict = 2""",
    """UPDATE annotation_slot s SET state = 'done', judgment_id = j.id, token = j.token
       FROM annotation_judgment j
       WHERE j.slot_id = s.id AND j.verdict <> 2 AND NOT EXISTS (
         SELECT FROM annotation_judgment later WHERE later.supersedes_id = j.id
       )""",
    """INSERT INTO annotation_skip (pair_id, user_id, reason, created_at)
       SELECT id, %(lena)s, 'I do not know.', now() FROM numbered
       WHERE kind BETWEEN 70 AND 89 AND n %% 500 = 70""",
    """INSERT INTO annotation_adjudication (pair_id, curator_id, verdict, reasons,
         units_that_differ, comment, created_at)
       SELECT id, %(rita)s, 1, '[]', '[]', '', now() FROM numbered WHERE n %% 200 = 60""",
    "DROP TABLE numbered, given",
)


def _make_runs(project: int, user: User) -> dict[str, int]:
    """Make what a trainer's pages show; return the keys their addresses need.

    Three runs, a checkpoint of each, and an iteration whose drawn pairs are judged.
    Their files are not there: a page tells what the rows say.
    """
    from django.utils import timezone

    from annotation.models import Draft, Project, Sample
    from training.iterations.deeds import start_iteration
    from training.models import (
        Checkpoint,
        IterationStep,
        Promotion,
        Proposal,
        Run,
        Snapshot,
    )

    here = Project.objects.get(pk=project)
    now = timezone.now()
    snapshot = Snapshot.objects.create(
        project=here, content_hash="1" * 64, counts={"train": 90, "judgments": 1000}
    )
    sql(
        """INSERT INTO training_snapshot_judgments (snapshot_id, judgment_id)
           SELECT %(snapshot)s, id FROM annotation_judgment""",
        snapshot=snapshot.pk,
    )
    runs, checkpoints = {}, {}
    for kind in ("sft", "draw", "reward"):
        runs[kind] = run = Run.objects.create(
            project=here,
            kind=kind,
            recipe={},
            state="finished",
            snapshot=snapshot,
            created_by=user,
            started_at=now,
            ended_at=now,
        )
        if kind != "draw":
            checkpoints[kind] = Checkpoint.objects.create(
                project=here,
                run=run,
                step=100,
                path=f"runs/{run.pk}/checkpoints/step-000100",
                digest="2" * 64,
                manifest={"files": {}, "step": 100, "metrics": {}, "recipe": {}},
                is_final=True,
            )
    policy = checkpoints["sft"]
    Promotion.objects.create(project=here, checkpoint=policy, promoted_by=user)
    sql(
        """UPDATE annotation_producer SET run_id = %(run)s, checkpoint_id = %(policy)s
           WHERE id = (SELECT max(id) FROM annotation_producer)""",
        run=runs["draw"].pk,
        policy=policy.pk,
    )
    iteration = start_iteration(project=here, user=user)
    steps = IterationStep.objects.filter(iteration=iteration)
    steps.filter(name="draw").update(
        state="done", run=runs["draw"], started_at=now, ended_at=now
    )
    steps.filter(name="judge").update(state="working", started_at=now)
    iteration.step = "judge"
    iteration.save(update_fields=["step"])
    draft = Draft.objects.create(
        project=here,
        author_id=sql("SELECT id FROM auth_user WHERE username = 'lena'")[0][0],
        content={"turns": [{"input": {"kind": "user", "text": "A cake?"}}]},
    )
    proposal = Proposal.objects.create(
        draft=draft, turn=0, asked_by=draft.author, checkpoint=policy, document={}
    )
    ((sample, pair, answer),) = sql(  # a pair that Lena has judged
        """SELECT turn.sample_id, pair.id, origin.sampled_response_id
           FROM annotation_judgment judgment
           JOIN annotation_pair pair ON pair.id = judgment.pair_id
           JOIN annotation_turn turn ON turn.id = pair.turn_id
           JOIN annotation_pairorigin origin ON origin.pair_id = pair.id
           WHERE judgment.labeler_id = %(lena)s ORDER BY pair.id LIMIT 1""",
        lena=draft.author_id,
    )
    returned = Sample.objects.filter(author=draft.author, status="returned").first()
    return {
        "sample": sample,
        "answer": answer,
        "returned": returned.pk if returned else sample,
        "pair": pair,
        "draft": draft.pk,
        "proposal": proposal.pk,
        "run": runs["reward"].pk,
        "iteration": iteration.number,
        "checkpoint": policy.pk,
        "snapshot": snapshot.pk,
        "older": sql("SELECT max(id) / 2 FROM annotation_judgment")[0][0],
    }
