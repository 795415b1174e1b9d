"""Many processes at one queue on a real Postgres: the promises are read off the database.

What the workers believe they did is only compared with it.
"""

import json
import signal
import time
from collections import Counter

import pytest
from django.db import connection
from django.db.models import Count, F, Q

from annotation.judging import judgments
from annotation.models import (
    Judgment,
    Membership,
    Pair,
    Role,
    Slot,
    SlotState,
    Touch,
    Verdict,
)
from tests.annotation import queue_worker
from tests.cast import make_pair, make_project, make_sample, make_user
from tests.forks import FORKS, import_before_forks

pytestmark = pytest.mark.django_db(transaction=True)

LABELERS = ["lena", "luis", "lea", "leo", "ada", "rita", "tara", "sam"]


import_before_forks(queue_worker.__name__)


class Worker:
    """One process of tests.annotation.queue_worker, forked from one that is set up."""

    def __init__(self):
        self.pipe, end = FORKS.Pipe()
        self.process = FORKS.Process(target=queue_worker.main, args=(end,))
        self.process.start()
        end.close()

    def order(self, project, work, user, seed=0, **more):
        """Send one order; what it leads to is read with ``events``."""
        orders = more | {
            "database": connection.settings_dict["NAME"],
            "project": project.pk,
            "work": work,
            "user": user,
            "seed": seed,
            "start": time.time() + 0.05,
            "patience": time.time() + 20,
        }
        self.pipe.send(json.dumps(orders))

    def event(self):
        try:
            return json.loads(self.pipe.recv())
        except EOFError:
            return ["dead"]

    def events(self):
        """Return what the worker says up to the end of its order."""
        said = []
        while (event := self.event()) != ["end"]:
            assert event != ["dead"], "the worker died; see its error output"
            said.append(event)
        return said

    def died_by(self, number):
        self.process.join(20)
        return self.process.exitcode == -number

    def stop(self):
        self.pipe.close()
        self.process.join(20)


@pytest.fixture(scope="module")
def workers():
    """Eight processes, started once: starting them costs more than their work."""
    crew = [Worker() for _ in LABELERS]
    yield crew
    for worker in crew:
        worker.stop()


@pytest.fixture
def victim():
    """A process that a test may kill."""
    worker = Worker()
    yield worker
    worker.process.kill()
    worker.stop()


@pytest.fixture
def run(workers):
    """Let each of the people named do the same work at the same time."""

    def run(project, work, people):
        crew = workers[: len(people)]
        for seed, (worker, user) in enumerate(zip(crew, people, strict=True)):
            worker.order(project, work, user, seed)
        events = [
            (number, *event)
            for number, worker in enumerate(crew)
            for event in worker.events()
        ]
        # Only now: everybody has come to the end of the order, and hears the next one.
        failures = [rest[0] for _, kind, *rest in events if kind == "failed"]
        assert not failures, "\n".join(failures)
        return events

    return run


def make_queue(pairs, *, authors=(), **fields):
    project = make_project(**fields)
    for name in LABELERS:
        Membership.objects.get_or_create(
            project=project, user=make_user(name), role=Role.LABELER
        )
    for number in range(pairs):
        author = make_user(authors[number % len(authors)]) if authors else None
        sample = make_sample(project=project, author=author)
        make_pair(turn=sample.turns.get())
    return project


def assert_claims_are_unique(events):
    """Nobody was handed a lease that somebody else has; a token is given once."""
    holders = {}
    for worker, kind, *rest in events:
        if kind == "claimed":
            slot, token, _ = rest
            holders.setdefault((slot, token), set()).add(worker)
    doubled = {lease: who for lease, who in holders.items() if len(who) > 1}
    assert not doubled, f"claimed twice: {doubled}"


def assert_promises(project):
    """What must be true of a queue at any time, whatever happened to it."""
    slots = Slot.objects.filter(project=project)
    recorded = Judgment.objects.filter(pair__project=project)
    counted = recorded.counted()

    # Never more than k judgments counted; k grows only by a tie, up to the limit.
    over = (
        Pair.objects.filter(project=project)
        .annotate(
            counted=Count("slots", filter=Q(slots__state=SlotState.DONE)),
            live=Count("slots", filter=~Q(slots__state=SlotState.CLOSED)),
        )
        .filter(
            Q(counted__gt=project.overlap_limit) | Q(live__gt=project.overlap_limit)
        )
    )
    assert not over.exists()

    # A slot is filled by one judgment of its own pair, given under its own lease.
    assert slots.filter(state=SlotState.DONE).count() == counted.count()
    assert not counted.exclude(fills=F("slot"), fills__pair=F("pair")).exists()
    assert not counted.exclude(fills__token=F("token")).exists()
    assert not counted.filter(Q(is_extra=True) | Q(verdict=Verdict.WITHDRAWN)).exists()
    assert set(counted) == set(recorded.current().filter(is_extra=False))

    # One person counts once for a pair, has met it, and did not write it.
    voices = Counter(counted.values_list("pair", "labeler"))
    assert all(number == 1 for number in voices.values())
    met = set(Touch.objects.values_list("pair", "user"))
    assert set(voices) <= met
    assert not recorded.filter(labeler=F("pair__turn__sample__author")).exists()
    assert not Touch.objects.filter(user=F("pair__turn__sample__author")).exists()

    # Who holds a slot has met its pair, and no judgment of theirs stands, counted or
    # late: they could not give another, and would be handed the pair for ever.
    held = set(slots.leased().values_list("pair", "holder"))
    standing = set(recorded.current().values_list("pair", "labeler"))
    assert held <= met
    assert not held & standing
    assert standing <= met

    # Histories are chains: a withdrawal follows a verdict, a verdict a withdrawal.
    later = recorded.filter(supersedes__isnull=False)
    assert not later.filter(verdict=2, supersedes__verdict=2).exists()
    assert not later.exclude(verdict=2).exclude(supersedes__verdict=2).exists()
    assert not later.exclude(
        pair=F("supersedes__pair"), labeler=F("supersedes__labeler")
    ).exists()


def assert_nobody_is_forgotten(project, names):
    """Every slot that still waits has been met (or written) by every labeler."""
    for slot in Slot.objects.filter(project=project).waiting():
        met = set(slot.pair.touches.values_list("user__username", flat=True))
        author = slot.pair.turn.sample.author
        free = set(names) - met - {author.username if author else ""}
        assert not free, f"slot {slot.pk} ({slot.state}) still waits for {free}"


@pytest.mark.slow
def test_eight_people_fill_every_slot_exactly_once(run):
    project = make_queue(80, authors=LABELERS, overlap=3, overlap_limit=3)
    events = run(project, "judge", LABELERS)
    assert_claims_are_unique(events)
    assert_promises(project)
    slots = Slot.objects.filter(project=project)
    assert slots.count() == slots.filter(state=SlotState.DONE).count() == 240
    judged = Counter(rest[0] for _, kind, *rest in events if kind == "judged")
    assert set(judged.values()) == {1}
    assert len(judged) == 240
    assert Pair.objects.filter(project=project).settled().count() == 80


@pytest.mark.slow
def test_ties_add_one_slot_each_however_close_the_judgments_come(run):
    project = make_queue(80, overlap=2, overlap_limit=3)
    events = run(project, "judge", LABELERS)
    assert_claims_are_unique(events)
    assert_promises(project)
    assert not Slot.objects.filter(project=project).waiting().exists()
    for pair in Pair.objects.filter(project=project):
        verdicts = [slot.judgment.verdict for slot in pair.slots.order_by("ordinal")]
        is_tie = sum(verdicts[:2]) == 1
        assert len(verdicts) == (3 if is_tie else 2)


@pytest.mark.slow
def test_everything_at_once_keeps_the_promises(run):
    project = make_queue(80, authors=["lena", "luis", "rita"], overlap=2)
    # Three people at two tabs each, and two at one.
    people = ["lena", "lena", "luis", "luis", "lea", "lea", "leo", "ada"]
    events = run(project, "everything", people)
    assert_promises(project)
    kinds = Counter(kind for _, kind, *_ in events)
    assert kinds["let run out"] > 10
    assert Judgment.objects.filter(is_extra=True).exists()
    assert Judgment.objects.filter(verdict=Verdict.WITHDRAWN).exists()
    # Two tabs of one person may show one lease; two people never do.
    tabs = {0: 0, 1: 0, 2: 2, 3: 2, 4: 4, 5: 4}
    assert_claims_are_unique(
        [(tabs.get(worker, worker), *event) for worker, *event in events]
    )
    # Whoever comes once more finds all that was left behind.
    run(project, "judge", sorted(set(people)))
    assert_promises(project)
    assert_nobody_is_forgotten(project, set(people))


def test_eight_tabs_of_one_person_show_one_pair(run):
    project = make_queue(20, overlap=2)
    events = run(project, "hold", ["lena"] * 8)
    assert len({tuple(rest) for _, kind, *rest in events if kind == "claimed"}) == 1
    assert Slot.objects.leased().count() == Touch.objects.count() == 1


def test_eight_tabs_of_one_person_look_ahead_to_one_pair(run):
    project = make_queue(10)
    events = run(project, "look_ahead", ["lena"] * 8)
    assert Slot.objects.leased().count() == 2
    assert Slot.objects.filter(is_ahead=True).count() == 1
    assert len({slot for _, kind, slot, *_ in events if kind == "claimed"}) == 2


@pytest.mark.slow
def test_two_tabs_of_each_person_share_the_work_without_error(run):
    project = make_queue(60, overlap=2, overlap_limit=2)
    run(project, "everything", ["lena", "lena", "luis", "luis"])
    run(project, "judge", ["lea", "leo", "ada"])
    assert_promises(project)
    assert_nobody_is_forgotten(project, ["lea", "leo", "ada"])


def test_a_worker_killed_before_its_commit_leaves_no_trace(victim):
    project = make_queue(1, overlap=1)
    victim.order(project, "die_before_commit", "lena")
    slot = Slot.objects.get()
    assert victim.event()[:2] == ["claimed", slot.pk]
    assert victim.died_by(signal.SIGKILL)
    slot.refresh_from_db()
    assert (slot.state, slot.token) == (SlotState.OPEN, 0)
    assert not Touch.objects.exists()
    found = judgments.claim_slot(project=project, user=make_user("luis"))
    assert found.slot == slot


def test_a_slot_locked_by_a_claim_that_fails_is_not_lost(monkeypatch, victim):
    monkeypatch.setattr("annotation.judging.queue.CURSOR_STRIDE", 1)
    project = make_queue(3, overlap=1)
    luis = make_user("luis")
    first = Slot.objects.order_by("place").first()
    victim.order(project, "die_before_commit", "lena", wait=True)
    assert victim.event()[:2] == ["claimed", first.pk]
    met = [
        judgments.claim_slot(project=project, user=luis, another=True) for _ in range(2)
    ]
    assert first.pk not in [found.slot.pk for found in met]
    victim.process.kill()
    assert victim.died_by(signal.SIGKILL)
    deadline = time.time() + 5
    found = None
    while not isinstance(found, judgments.Claim) and time.time() < deadline:
        found = judgments.claim_slot(project=project, user=luis, another=True)
    assert found.slot == first


def test_a_worker_killed_while_judging_keeps_its_lease_and_nothing_else(victim):
    project = make_queue(1, overlap=1)
    victim.order(project, "die_while_judging", "lena")
    assert victim.died_by(signal.SIGKILL)
    slot = Slot.objects.get()
    assert (slot.state, slot.holder) == (SlotState.LEASED, make_user("lena"))
    assert not Judgment.objects.exists()
    assert_promises(project)
    again = judgments.claim_slot(project=project, user=make_user("lena"))
    assert (again.slot, again.token) == (slot, slot.token)


def test_a_naive_claim_is_caught_by_these_assertions(run):
    """The test of the tests: read-then-write hands out slots twice, and is found out."""
    project = make_queue(40, overlap=2)
    events = run(project, "naive", LABELERS)
    with pytest.raises(AssertionError, match="claimed twice"):
        assert_claims_are_unique(events)
