"""The SQL of the queue: statements that find, take and renew a person's slot at once.

``queue`` runs them and docs/queue.md explains them.
"""

from datetime import timedelta
from typing import Final

# How long a pair fetched ahead stays leased, unless the page asks for longer.
AHEAD: Final = timedelta(seconds=90)

# The first slots a person may have, level by level from the highest priority, each
# level from the person's cursor on. Whether a slot is theirs is asked in scalar
# sub-queries on purpose: the planner may turn NOT EXISTS into a join that reads every
# touch of the person before it finds the first slot.
_LEVELS: Final = """
WITH RECURSIVE here AS (
    SELECT id, lease_seconds, queue_tail, is_paused
    FROM annotation_project WHERE id = %(project)s
),
level AS (
    SELECT (
        SELECT s.priority FROM annotation_slot s
        WHERE s.project_id = %(project)s AND s.state IN ('open', 'leased')
        ORDER BY s.priority DESC LIMIT 1
    ) AS priority
    UNION ALL
    SELECT (
        SELECT s.priority FROM annotation_slot s
        WHERE s.project_id = %(project)s AND s.state IN ('open', 'leased')
          AND s.priority < level.priority
        ORDER BY s.priority DESC LIMIT 1
    )
    FROM level WHERE level.priority IS NOT NULL
),
start AS (
    SELECT level.priority, coalesce((
        SELECT c.place FROM annotation_queuecursor c
        WHERE c.project_id = %(project)s AND c.user_id = %(user)s
          AND c.priority = level.priority
    ), 0) AS place
    FROM level WHERE level.priority IS NOT NULL
)
"""

_THEIRS: Final = """
    (
        SELECT true FROM annotation_touch t
        WHERE t.pair_id = s.pair_id AND t.user_id = %(user)s
    ) IS NULL
    AND (
        SELECT sample.author_id FROM annotation_pair p
        JOIN annotation_turn turn ON turn.id = p.turn_id
        JOIN annotation_sample sample ON sample.id = turn.sample_id
        WHERE p.id = s.pair_id
    ) IS DISTINCT FROM %(user)s
"""

_FROM_CURSOR: Final = f"""
    FROM annotation_slot s
    WHERE s.project_id = %(project)s AND s.priority = start.priority
      AND s.place > start.place AND s.state IN ('open', 'leased')
      AND {_THEIRS}
"""

_FREE: Final = "(s.state = 'open' OR s.leased_until <= statement_timestamp())"

# The claim, in one statement. ``water`` is, per level, the first slot the person could
# ever have, free or held by another. The cursor moves up to it and never past it, so a
# lease that ends, a skip or a claim that is rolled back needs no update of anyone's
# cursor. ``picked`` reads its levels in the order in which ``level`` made them and
# stops at the first hit, so LIMIT 1 gives the highest priority. ``touched`` is empty
# when another tab met the pair at the same moment; then nothing is leased. ``ahead``
# marks a lease for a pair that is not on screen yet: it is short, and the touch says
# that the person has not seen it.
CLAIM: Final = f"""
{_LEVELS},
water AS MATERIALIZED (
    SELECT start.priority, start.place AS old_place, coalesce((
        SELECT s.place - 1 {_FROM_CURSOR}
        ORDER BY s.place LIMIT 1
    ), here.queue_tail) AS place
    FROM start, here
    WHERE NOT here.is_paused
),
picked AS (
    SELECT found.id, found.pair_id
    FROM water AS start CROSS JOIN LATERAL (
        SELECT s.id, s.pair_id {_FROM_CURSOR} AND {_FREE}
        ORDER BY s.place LIMIT 1
        FOR NO KEY UPDATE OF s SKIP LOCKED
    ) found
    LIMIT 1
),
touched AS (
    INSERT INTO annotation_touch (pair_id, user_id, at, is_seen)
    SELECT pair_id, %(user)s, statement_timestamp(), NOT %(ahead)s FROM picked
    ON CONFLICT DO NOTHING
    RETURNING pair_id
),
leased AS (
    UPDATE annotation_slot slot
    SET state = 'leased', holder_id = %(user)s, token = slot.token + 1,
        is_ahead = %(ahead)s, leased_at = statement_timestamp(),
        leased_until = statement_timestamp() + least(
            here.lease_seconds * interval '1 second',
            CASE WHEN %(ahead)s THEN interval '{AHEAD.seconds} seconds' END
        )
    FROM picked, touched, here
    WHERE slot.id = picked.id AND touched.pair_id = picked.pair_id
    RETURNING slot.id
),
moved AS (
    INSERT INTO annotation_queuecursor AS c (project_id, user_id, priority, place)
    SELECT %(project)s, %(user)s, priority, place FROM water
    WHERE place >= old_place + %(stride)s
    ON CONFLICT (project_id, user_id, priority)
    DO UPDATE SET place = greatest(c.place, excluded.place)
)
SELECT id FROM leased
"""

# Pairs that were leased to the person, never seen or left again, and lost: the person
# may meet them again. The touch is deleted, and the cursors go back to before the
# pair's slots.
_FORGOTTEN: Final = """
forgotten AS (
    DELETE FROM annotation_touch t USING annotation_pair p
    WHERE t.user_id = %(user)s AND NOT t.is_seen
      AND p.id = t.pair_id AND p.project_id = %(project)s
      AND NOT EXISTS (
          SELECT FROM annotation_slot s
          WHERE s.pair_id = t.pair_id AND s.state = 'leased' AND s.holder_id = %(user)s
      )
      AND NOT EXISTS (
          SELECT FROM annotation_judgment j
          WHERE j.pair_id = t.pair_id AND j.labeler_id = %(user)s
      )
      AND NOT EXISTS (
          SELECT FROM annotation_skip k
          WHERE k.pair_id = t.pair_id AND k.user_id = %(user)s
      )
    RETURNING t.pair_id
),
set_back AS (
    UPDATE annotation_queuecursor c SET place = least(c.place, back.place)
    FROM (
        SELECT s.priority, min(s.place) - 1 AS place
        FROM annotation_slot s JOIN forgotten USING (pair_id)
        WHERE s.state IN ('open', 'leased')
        GROUP BY s.priority
    ) back
    WHERE c.project_id = %(project)s AND c.user_id = %(user)s
      AND c.priority = back.priority
)
"""

# Renew the person's newest lease, the one on screen before one fetched ahead. It may
# have run out: while nobody else took the slot, the person continues with it. The
# statement waits for a deed that is writing the slot; otherwise a reload at that moment
# would show another pair.
RENEW: Final = f"""
WITH {_FORGOTTEN},
renewed AS (
    UPDATE annotation_slot slot
    SET is_ahead = false, leased_at = statement_timestamp(),
        leased_until =
            statement_timestamp() + project.lease_seconds * interval '1 second'
    FROM annotation_project project
    WHERE project.id = %(project)s AND NOT project.is_paused AND slot.id = (
        SELECT s.id FROM annotation_slot s
        WHERE s.holder_id = %(user)s AND s.project_id = %(project)s
          AND s.state = 'leased'
        ORDER BY s.is_ahead, s.leased_at DESC, s.id DESC LIMIT 1
        FOR NO KEY UPDATE
    )
    RETURNING slot.id, slot.pair_id
),
seen AS (
    UPDATE annotation_touch t SET is_seen = true FROM renewed
    WHERE t.pair_id = renewed.pair_id AND t.user_id = %(user)s AND NOT t.is_seen
)
SELECT id FROM renewed
"""

# A page names the pair it shows and asks for the next one. The pair on screen gets a
# whole lease if it is still the person's. Next is what the person holds besides (after
# an undo, the pair that was on screen before), else what they already have ahead.
# ``held`` locks all rows written here in the order of their keys, as all statements
# that lock several rows do.
TURN_OVER: Final = f"""
WITH {_FORGOTTEN},
here AS (
    SELECT id, is_paused, lease_seconds * interval '1 second' AS whole,
        least(
            lease_seconds * interval '1 second', interval '{AHEAD.seconds} seconds'
        ) AS short
    FROM annotation_project WHERE id = %(project)s
),
held AS MATERIALIZED (
    SELECT s.id, s.token, s.is_ahead, s.leased_at
    FROM annotation_slot s
    WHERE s.holder_id = %(user)s AND s.project_id = %(project)s AND s.state = 'leased'
      AND (s.id = %(shown)s OR s.is_ahead OR s.id = (
          SELECT newest.id FROM annotation_slot newest
          WHERE newest.holder_id = %(user)s AND newest.project_id = %(project)s
            AND newest.state = 'leased' AND newest.id <> %(shown)s
          ORDER BY newest.is_ahead, newest.leased_at DESC, newest.id DESC LIMIT 1
      ))
    ORDER BY s.id
    FOR NO KEY UPDATE OF s
),
shown AS (
    UPDATE annotation_slot slot
    SET is_ahead = false,
        leased_at = CASE
            WHEN held.is_ahead THEN statement_timestamp() ELSE held.leased_at END,
        leased_until = greatest(slot.leased_until, statement_timestamp() + here.whole)
    FROM here, held
    WHERE slot.id = held.id AND held.id = %(shown)s AND held.token = %(token)s
    RETURNING slot.pair_id, slot.leased_at
),
seen AS (
    UPDATE annotation_touch t SET is_seen = true FROM shown
    WHERE t.pair_id = shown.pair_id AND t.user_id = %(user)s AND NOT t.is_seen
),
picked AS (
    SELECT held.id FROM held, here
    WHERE held.id <> %(shown)s AND NOT here.is_paused
    ORDER BY held.is_ahead, held.leased_at DESC, held.id DESC LIMIT 1
),
next AS (
    UPDATE annotation_slot slot
    SET is_ahead = (slot.id = picked.id),
        leased_at = CASE
            WHEN slot.id = picked.id THEN statement_timestamp() ELSE slot.leased_at END,
        leased_until = CASE
            WHEN slot.id = picked.id
            THEN greatest(slot.leased_until, statement_timestamp() + here.short)
            ELSE slot.leased_until END
    FROM held, picked, here, shown
    WHERE slot.id = held.id AND held.id <> %(shown)s
    RETURNING slot.id, slot.id = picked.id AS is_picked
)
SELECT shown.leased_at, next.id FROM shown LEFT JOIN next ON next.is_picked
"""

EXPLAIN: Final = f"""
{_LEVELS}
SELECT
    here.is_paused,
    EXISTS (SELECT FROM start) AS is_wanted,
    EXISTS (
        SELECT FROM start CROSS JOIN LATERAL (
            SELECT s.id {_FROM_CURSOR} AND {_FREE} ORDER BY s.place LIMIT 1
        ) found
    ) AS is_free,
    (
        SELECT min(s.leased_until) FROM annotation_slot s
        WHERE s.project_id = %(project)s AND s.state = 'leased'
          AND s.leased_until > statement_timestamp() AND {_THEIRS}
    ) AS next_free_at
FROM here
"""
