"""A person's session at the Judge page: goal, pace, last decisions, two notices.

Everything is computed from the judgments, in one expression that a page adds to a query
it makes anyway (``expression``): nothing is stored, and a reload shows the same. The
notices (many equal answers in a row, a long stretch without a pause) block nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import JSONField, QuerySet
from django.db.models.expressions import RawSQL
from django.db.models.functions import JSONObject
from django.utils import timezone
from django.utils.translation import gettext, ngettext

from annotation.judging.judgments import UNDO_DEPTH
from annotation.models import (
    Judgment,
    Pair,
    PolicyRole,
    ProducerSource,
    Project,
    SampledResponse,
    Verdict,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User

EQUAL_IN_A_ROW: Final = 20
PAUSE: Final = timedelta(minutes=5)
# How far back a stretch of judging is searched, also past midnight.
LOOK_BACK: Final = timedelta(hours=6)

# The index judgment_by_labeler_time serves ``recent``; the strip uses
# judgment_by_labeler. The successor is read in a scalar sub-query on purpose: for a
# join the planner may read the whole table for the few hundred rows of a day.
_SESSION: Final = """
(
    WITH recent AS MATERIALIZED (
        SELECT j.id, j.verdict, j.seconds_spent, j.created_at
        FROM annotation_judgment j
        WHERE j.labeler_id = %(user)s AND j.project_id = %(project)s
          AND j.created_at >= %(since)s AND j.verdict <> 2
          AND (
              SELECT true FROM annotation_judgment later
              WHERE later.supersedes_id = j.id
          ) IS NULL
    ),
    today AS (
        SELECT count(*) AS count,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds_spent)
                   FILTER (WHERE seconds_spent > 0) AS median
        FROM recent WHERE created_at >= %(midnight)s
    ),
    newest AS (SELECT * FROM recent ORDER BY id DESC LIMIT 1),
    last_other AS MATERIALIZED (
        SELECT coalesce(max(id), 0) AS id
        FROM recent WHERE verdict <> (SELECT verdict FROM newest)
    ),
    equal_run AS (
        SELECT count(*) AS count, min(id) AS first
        FROM recent WHERE id > (SELECT id FROM last_other)
    ),
    gaps AS (
        SELECT id, created_at,
               created_at - lag(created_at) OVER (ORDER BY created_at, id) AS gap
        FROM recent
    ),
    stretch AS (
        SELECT id, created_at FROM gaps
        WHERE gap IS NULL OR gap >= %(pause)s
        ORDER BY created_at DESC, id DESC LIMIT 1
    ),
    strip AS (
        SELECT j.id, j.verdict, j.is_extra, j.pair_id, turn.position, sample.scenario
        FROM annotation_judgment j
        JOIN annotation_pair p ON p.id = j.pair_id
        JOIN annotation_turn turn ON turn.id = p.turn_id
        JOIN annotation_sample sample ON sample.id = turn.sample_id
        WHERE j.labeler_id = %(user)s AND j.project_id = %(project)s
          AND j.verdict <> 2 AND NOT EXISTS (
              SELECT FROM annotation_judgment later WHERE later.supersedes_id = j.id
          )
        ORDER BY j.id DESC LIMIT %(depth)s
    )
    SELECT jsonb_build_object(
        'today', today.count,
        'median', today.median,
        'run', equal_run.count,
        'run_first', equal_run.first,
        'verdict', newest.verdict,
        'stretch_first', stretch.id,
        'stretch_minutes',
            extract(epoch FROM newest.created_at - stretch.created_at) / 60,
        'is_going_on', newest.created_at > %(now)s - %(pause)s,
        'strip', (SELECT jsonb_agg(to_jsonb(strip) ORDER BY strip.id) FROM strip)
    )
    FROM today CROSS JOIN equal_run
    LEFT JOIN newest ON true LEFT JOIN stretch ON true
)
"""


@dataclass(frozen=True)
class Decision:
    """A square of the strip: one of the person's last ten decisions that stand."""

    pk: int
    pair: int
    verdict: int
    is_extra: bool
    scenario: str
    position: int

    @property
    def mark(self) -> str:
        return "s" if self.is_extra else "" if self.verdict else "n"

    @property
    def name(self) -> str:
        """Return the verdict and the number of the pair, in words."""
        words = {
            "verdict": Verdict(self.verdict).label,
            "scenario": self.scenario or gettext("no scenario"),
            "turn": self.position + 1,
        }
        if self.is_extra:
            return (
                gettext(
                    "%(verdict)s: %(scenario)s, turn %(turn)s. Came late: it does not "
                    "count and cannot be undone."
                )
                % words
            )
        return gettext("%(verdict)s: %(scenario)s, turn %(turn)s") % words


@dataclass(frozen=True)
class SessionNotice:
    """A notice; ``key`` identifies its occasion, so that closing it lasts."""

    key: str
    text: str


@dataclass(frozen=True)
class Session:
    """The session's figures; ``goal`` 0 means none; ``last`` starts with the oldest."""

    today: int
    goal: int
    median: float | None
    last: tuple[Decision, ...]
    notices: tuple[SessionNotice, ...]

    @property
    def newest_first(self) -> tuple[Decision, ...]:
        return self.last[::-1]


@dataclass(frozen=True)
class Revealed:
    """The source of a judged answer, and the others' verdicts once it is settled."""

    decision: Decision
    origins: tuple[str, ...]
    others: tuple[str, ...]
    is_settled: bool


def expression(*, project: Project, user: User) -> RawSQL:
    """Return the session's figures as one JSON expression for any query's values."""
    now = timezone.now()
    midnight = midnight_of(now)
    places = {
        "user": user.pk,
        "project": project.pk,
        "now": now,
        "midnight": midnight,
        "since": min(midnight, now - LOOK_BACK),
        "pause": PAUSE,
        "depth": UNDO_DEPTH,
    }
    return RawSQL(*_positional(_SESSION, places), output_field=JSONField())


def session_from(
    columns: Mapping[str, Any], *, project: Project, closed: Collection[str] = ()
) -> Session:
    """Read the result of ``expression``; skip notices whose key is in ``closed``."""
    notices = [*_equal_answers(columns), *_long_stretch(columns, project)]
    return Session(
        today=columns["today"],
        goal=project.daily_goal,
        median=columns["median"],
        last=tuple(
            Decision(
                pk=one["id"],
                pair=one["pair_id"],
                verdict=one["verdict"],
                is_extra=one["is_extra"],
                scenario=one["scenario"],
                position=one["position"],
            )
            for one in columns["strip"] or ()
        ),
        notices=tuple(notice for notice in notices if notice.key not in closed),
    )


def session_of(
    *, project: Project, user: User, closed: Collection[str] = ()
) -> Session:
    """Return the session, in one query."""
    here = Project.objects.filter(pk=project.pk)
    columns = here.values_list(expression(project=project, user=user)).get()[0]
    return session_from(columns, project=project, closed=closed)


def reveal(*, project: Project, session: Session) -> Revealed | None:
    """Return the source of the newest judged answer, if the project reveals it.

    One query. The others' verdicts are given for a settled pair only: before that they
    would be a hint to a colleague in the same room who gets the pair next.
    """
    if not project.reveal_after or not session.last:
        return None
    decision = session.last[-1]
    facts = (
        Pair.objects.filter(pk=decision.pair)
        .with_outcome()
        .values_list(
            "outcome",
            _array(
                SampledResponse.objects.filter(origin__pair=decision.pair).order_by(
                    "producer", "index"
                ),
                source="producer__source",
                role="producer__policy_role",
                run="producer__run_id",
                step="producer__step",
            ),
            _array(
                Judgment.objects.counted()
                .filter(pair=decision.pair)
                .exclude(pk=decision.pk)
                .order_by("pk"),
                verdict="verdict",
            ),
        )
        .first()
    )
    if facts is None:
        return None
    outcome, origins, others = facts
    return Revealed(
        decision=decision,
        origins=tuple(dict.fromkeys(map(_origin_in_words, origins))),
        others=tuple(str(Verdict(one["verdict"]).label) for one in others)
        if outcome is not None
        else (),
        is_settled=outcome is not None,
    )


def _origin_in_words(origin: Mapping[str, Any]) -> str:
    if origin["source"] != ProducerSource.POLICY:
        return str(ProducerSource(origin["source"]).label)
    return gettext("%(role)s, run %(run)s, step %(step)s") % {
        **origin,
        "role": PolicyRole(origin["role"]).label,
    }


def midnight_of(now: datetime) -> datetime:
    """Return when today began in the project's time zone (``TIME_ZONE``)."""
    local = timezone.localtime(now)
    return local.replace(hour=0, minute=0, second=0, microsecond=0)


def _equal_answers(columns: Mapping[str, Any]) -> list[SessionNotice]:
    run = columns["run"]
    if run < EQUAL_IN_A_ROW:
        return []
    text = ngettext(
        "Your last %(count)s answer was “%(verdict)s”.",
        "Your last %(count)s answers were all “%(verdict)s”. That can be right; if it "
        "surprises you, look at the next pair as if it were the first.",
        run,
    ) % {"count": run, "verdict": Verdict(columns["verdict"]).label.lower()}
    key = f"run-{columns['run_first']}-{run // EQUAL_IN_A_ROW}"
    return [SessionNotice(key, text)]


def _long_stretch(columns: Mapping[str, Any], project: Project) -> list[SessionNotice]:
    after = project.break_after_minutes
    minutes = columns["stretch_minutes"] or 0
    if not after or minutes < after or not columns["is_going_on"]:
        return []
    text = ngettext(
        "You have judged for %(count)s minute without a pause. A short break keeps "
        "judgments sharp; the pair waits for you.",
        "You have judged for %(count)s minutes without a pause. A short break keeps "
        "judgments sharp; the pair waits for you.",
        int(minutes),
    ) % {"count": int(minutes)}
    return [SessionNotice(f"break-{columns['stretch_first']}", text)]


def _array(rows: QuerySet[Any], **fields: str) -> ArraySubquery:
    return ArraySubquery(rows.values(one=JSONObject(**fields)))


def _positional(sql: str, places: Mapping[str, object]) -> tuple[str, list[object]]:
    """Replace named parameters by the positional ones that an ORM expression takes."""
    params: list[object] = []

    def take(match: re.Match[str]) -> str:
        params.append(places[match[1]])
        return "%s"

    return re.sub(r"%\((\w+)\)s", take, sql), params
