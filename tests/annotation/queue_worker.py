"""People at their tabs, as processes of their own.

A worker takes orders through its pipe, one JSON object each, works until the queue has
nothing more for its person, and says what it believes it did, one JSON array each:
``["claimed", slot, token, pair]``, ``["judged", slot, token, judgment, is_extra]``, …,
``["failed", traceback]`` where something went wrong, ``["end"]``.
"""

import json
import os
import random
import signal
import time
import traceback
from datetime import timedelta
from itertools import count
from multiprocessing.connection import Connection

import django

django.setup()  # once, in the process that forks the workers

pipe: Connection


def main(end: Connection) -> None:
    global pipe
    pipe = end
    from django.db import connection

    while True:
        try:
            orders = json.loads(pipe.recv())
        except EOFError:
            return
        connection.settings_dict["NAME"] = orders["database"]
        connection.settings_dict["OPTIONS"].pop("pool", None)
        try:
            WORK[orders["work"]](orders)
        except Exception:
            say("failed", traceback.format_exc())
        say("end")


def say(*event: object) -> None:
    pipe.send(json.dumps(event))


def meet(orders):
    from django.contrib.auth.models import User

    from annotation.models import Project

    project = Project.objects.get(pk=orders["project"])
    user = User.objects.get(username=orders["user"])
    # All start together, so that they meet at the same slots.
    time.sleep(max(0.0, orders["start"] - time.time()))
    return project, user, random.Random(orders["seed"])


def claims(orders, project, user, another=False):
    """Claim until there is nothing; wait while others hold what is left."""
    from annotation.judging import judgments

    while True:
        found = judgments.claim_slot(project=project, user=user, another=another)
        if isinstance(found, judgments.Claim):
            say("claimed", found.slot.pk, found.token, found.pair.pk)
            yield found
        elif found.kind == "all leased" and time.time() < orders["patience"]:
            time.sleep(0.02)
        else:
            say("nothing", found.kind)
            return


def judge(orders):
    """Judge everything there is, at random; ties are wanted."""
    from annotation.judging import judgments

    project, user, rng = meet(orders)
    for found in claims(orders, project, user):
        verdict = rng.randrange(2)
        judgment = judgments.record_judgment(
            project=found.slot.project,
            slot_id=found.slot.pk,
            token=found.token,
            user=user,
            verdict=verdict,
            reasons=() if verdict else ("content",),
        )
        say("judged", found.slot.pk, found.token, judgment.pk, judgment.is_extra)


def everything(orders):
    """Judge, but also skip, undo, release, post twice, and let leases run out."""
    from django.db.models.functions import Now

    from annotation.judging import judgments, queue
    from annotation.models import Slot

    project, user, rng = meet(orders)
    # What a page that is left showed may be another's at once: much passes on here.
    queue.GRACE = timedelta(0)

    def post(found, verdict):
        reasons = () if verdict else ("content",)
        try:
            judgment = judgments.record_judgment(
                project=found.slot.project,
                slot_id=found.slot.pk,
                token=found.token,
                user=user,
                verdict=verdict,
                reasons=reasons,
                proof=found.slot.lease_proof,
            )
        except judgments.JudgingError as error:  # the other tab was first
            say("refused", type(error).__name__)
        else:
            say("judged", found.slot.pk, found.token, judgment.pk, judgment.is_extra)

    def look_ahead(found):
        """Fetch the next pair, as a page does, and perhaps leave the page."""
        ahead = judgments.claim_ahead(
            project=project, user=user, shown=found.slot.pk, token=found.token
        ).claim
        held = [found]
        if isinstance(ahead, judgments.Claim):
            say("claimed", ahead.slot.pk, ahead.token, ahead.pair.pk)
            held.append(ahead)
        # Nobody waits for pairs that a page which is no more has kept.
        if rng.random() < 0.8:
            judgments.leave_slots(
                project=project,
                user=user,
                leases=[
                    judgments.Lease(one.slot.pk, one.token, one.slot.leased_at)
                    for one in held
                ],
            )

    late = []
    deeds = count()
    for found in claims(orders, project, user):
        done = next(deeds)
        lease = {
            "project": project,
            "slot_id": found.slot.pk,
            "token": found.token,
            "user": user,
        }
        chance = rng.random() if done < 200 else 0.0
        try:
            if rng.random() < 0.5:
                look_ahead(found)
            if 0.0 < chance < 0.05:
                judgments.set_aside(**lease)
            elif chance < 0.70:
                verdict = rng.randrange(2)
                post(found, verdict)
                if rng.random() < 0.2:
                    post(found, verdict)
            elif chance < 0.74:
                judgments.skip_slot(**lease, reason="Cannot tell.")
                post(found, 1)  # from the other tab: kept as an extra
            elif chance < 0.78:
                judgments.release_slot(**lease)
            elif chance < 0.86:
                post(found, 1)
                again = judgments.undo_judgment(project=project, user=user)
                say("claimed", again.slot.pk, again.token, again.pair.pk)
                if rng.random() < 0.7:
                    post(again, 0)
            elif chance < 0.94:
                # The lease runs out in the middle of the work; post when it may be
                # another's, or never.
                Slot.objects.filter(pk=found.slot.pk, token=found.token).filter(
                    state="leased"
                ).update(leased_until=Now() - timedelta(seconds=1))
                late.append(found)
                say("let run out", found.slot.pk, found.token)
                for other in claims(orders | {"patience": 0}, project, user, True):
                    post(other, 1)
                    break
            else:
                judgments.extend_lease(**lease)
                post(found, 1)
        except judgments.JudgingError as error:
            say("refused", type(error).__name__)
        if late and rng.random() < 0.3:
            post(late.pop(0), 1)
        if done > 600:
            raise RuntimeError("The queue does not come to an end.")
    for found in late:
        post(found, 1)


def hold(orders):
    """Claim one pair and hold it, as one tab of a person."""
    project, user, _ = meet(orders)
    next(claims(orders, project, user))


def look_ahead(orders):
    """Show a pair and fetch the one after it, as one tab of a person."""
    from annotation.judging import judgments

    project, user, _ = meet(orders)
    found = next(claims(orders, project, user))
    for _ in range(5):
        ahead = judgments.claim_ahead(
            project=project, user=user, shown=found.slot.pk, token=found.token
        ).claim
        say("claimed", ahead.slot.pk, ahead.token, ahead.pair.pk)


def die_before_commit(orders):
    """Be killed after the claim's statement, before it is committed."""
    from django.db import transaction

    from annotation.judging import judgments

    project, user, _ = meet(orders)
    with transaction.atomic():
        found = judgments.claim_slot(project=project, user=user)
        say("claimed", found.slot.pk, found.token, found.pair.pk)
        if orders.get("wait"):
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGKILL)


def die_while_judging(orders):
    """Be killed with a judgment written and the slot filled, nothing committed."""
    from django.db import transaction

    from annotation.judging import judgments

    project, user, _ = meet(orders)
    found = next(claims(orders, project, user))
    with transaction.atomic():
        judgments.record_judgment(
            project=found.slot.project,
            slot_id=found.slot.pk,
            token=found.token,
            user=user,
            verdict=1,
        )
        os.kill(os.getpid(), signal.SIGKILL)


def naive(orders):
    """Claim as it is often done: read the first open slot, then mark it."""
    from django.db import IntegrityError
    from django.db.models.functions import Now

    from annotation.models import Slot, Touch

    project, user, _ = meet(orders)
    while slot := (
        Slot.objects.filter(project=project, state="open")
        .exclude(pair__touches__user=user)
        .order_by("-priority", "place")
        .first()
    ):
        slot.state, slot.holder, slot.token = "leased", user, slot.token + 1
        slot.leased_at = slot.leased_until = Now()
        slot.save()
        try:
            Touch.objects.create(pair_id=slot.pair_id, user=user)
        except IntegrityError:
            continue
        say("claimed", slot.pk, slot.token, slot.pair_id)


WORK = {
    work.__name__: work
    for work in (
        judge,
        everything,
        hold,
        look_ahead,
        die_before_commit,
        die_while_judging,
        naive,
    )
}
