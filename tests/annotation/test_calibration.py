"""Calibration: the sides are not named, half are swapped, and nothing says which."""

from __future__ import annotations

import random
import re

import pytest

from actions.demo import derive, generate
from annotation.judging.calibration import (
    reasons_from_sides,
    sides_swapped,
)
from annotation.judging.pair_view import view_of_pair
from annotation.judging.progress import progress_of
from annotation.models import InputKind, Judgment, Pair, Project, Turn
from tests.annotation.test_judge_page import Fields
from tests.cast import (
    LABEL,
    SAMPLED,
    make_judgment,
    make_pair,
    make_project,
    make_sample,
    make_user,
    sign_in,
)

LONGER = LABEL.replace("2. Order the cake.", "2. Order the cake.\n3. Tell the price.")
TURNED = LABEL.replace(
    "1. Find a bakery.\n2. Order the cake.", "1. Order the cake.\n2. Find a bakery."
)
OTHER_CALL = SAMPLED.replace('"kind": "florist"', '"place": "here"')


def unsaved(pk: int, label: str = LABEL, sampled: str = SAMPLED) -> Pair:
    turn = Turn(input_kind=InputKind.USER)
    return Pair(pk=pk, turn=turn, label_text=label, sampled_text=sampled)


def test_the_share_is_what_the_project_says_and_half_of_it_is_swapped():
    project = Project(calibration_percent=20)
    seen = [
        sides_swapped(project=project, pair=unsaved(pk), user_id=user)
        for pk in range(1, 401)
        for user in (1, 2)
    ]
    shown = [swapped for swapped in seen if swapped is not None]
    assert 120 <= len(shown) <= 200
    assert 0.35 <= sum(shown) / len(shown) <= 0.65
    again = [
        sides_swapped(project=project, pair=unsaved(pk), user_id=user)
        for pk in range(1, 401)
        for user in (1, 2)
    ]
    assert again == seen


def test_without_a_share_no_pair_is_in_it():
    project = Project(calibration_percent=0)
    for pk in range(1, 200):
        assert sides_swapped(project=project, pair=unsaved(pk), user_id=1) is None


def test_a_text_outside_the_grammar_would_give_its_side_away():
    project = Project(calibration_percent=100)
    for pk in range(1, 50):
        broken = unsaved(pk, sampled="<<think>>half")
        assert sides_swapped(project=project, pair=broken, user_id=1) is None


def test_swapping_changes_no_unit_and_no_proposal_but_the_side_of_a_lone_step():
    rng = random.Random(3)
    compared = 0
    for sample in generate(seed=3, count=30):
        for turn in sample["turns"]:
            for kind in derive.applicable_kinds(turn):
                label = turn["response"]
                other, _ = derive.corrupted(turn, rng, kind)
                inside = turn["input"]["kind"] == "observation"
                one = view_of_pair(label, other, inside_thinking=inside)
                two = view_of_pair(other, label, inside_thinking=inside, is_blind=True)
                if any(row.row == "raw" for row in one.rows):
                    continue
                compared += 1
                assert {unit.key for unit in one.units} == {
                    unit.key for unit in two.units
                }
                assert {unit.key for unit in one.units if unit.differs} == {
                    unit.key for unit in two.units if unit.differs
                }
                assert set(one.proposed_reasons) == set(
                    reasons_from_sides(two.proposed_reasons, swapped=True)
                )
                assert one.order_differs == two.order_differs
    assert compared > 100


@pytest.fixture
def project(db) -> Project:
    return make_project(slug="cakes", calibration_percent=100)


def make_pair_seen(swapped: bool, user, project, label: str, sampled: str) -> Pair:
    """Make pairs until one stands for ``user`` as asked; the others get no slots."""
    while True:
        sample = make_sample(project=project, turns=(("user", "A cake.", label),))
        pair = make_pair(turn=sample.turns.get(), sampled=sampled, slots=0)
        if sides_swapped(project=project, pair=pair, user_id=user.pk) is swapped:
            break
    return pair


def open_slot(pair: Pair) -> Pair:
    from annotation.judging.slots import open_slots

    open_slots(project=pair.project, pairs=[pair.pk])
    return pair


def without_numbers(page: str) -> str:
    """Leave out what differs between any two showings: keys, tokens, signatures."""
    page = re.sub(r'(csrfmiddlewaretoken" value=|X-CSRFToken": )"[^"]*"', "", page)
    page = re.sub(r'name="(slot|token)" value="\d+"', "", page)
    page = re.sub(r'name="(since|proof)" value="[^"]*"', "", page)
    return re.sub(r'data-[a-z-]+="[\d.:TZ+-]*"|/context/\d+/', "", page)


@pytest.mark.parametrize(
    "other", [SAMPLED, LONGER, TURNED, OTHER_CALL, "<<think>>Hm.<</think>>No cake."]
)
def test_nothing_on_the_page_says_which_side_is_the_label(client, project, other):
    lena = sign_in(client, make_user("lena"))
    pages = []
    for swapped, label, sampled in ((True, LABEL, other), (False, other, LABEL)):
        pair = open_slot(make_pair_seen(swapped, lena, project, label, sampled))
        pages.append(client.get("/p/cakes/judge/").content.decode())
        assert f'data-pair="{pair.pk}"' in pages[-1]
        pair.slots.all().delete()
    # The same two texts in the same places, the label left or right: one page.
    assert without_numbers(pages[0]) == without_numbers(pages[1])
    text = pages[0].casefold()
    for word in (
        ">label response<",
        "sampled",
        ">label<",
        "label step",
        "swapped",
        "missing step</label>",
        "extra step</label>",
    ):
        assert word not in text
    assert "Response A" in pages[0]
    assert "Response B" in pages[0]


def test_a_named_pair_still_names_its_sides(client, project):
    Project.objects.update(calibration_percent=0)
    sign_in(client, make_user("lena"))
    make_pair(project=project)
    page = client.get("/p/cakes/judge/").content.decode()
    assert "Label response" in page
    assert "Response A" not in page
    sent = Fields(page).sent
    client.post("/p/cakes/judge/", {**sent, "verdict": "0"})
    assert Judgment.objects.get().sides_swapped is None


@pytest.mark.parametrize("other", [SAMPLED, LONGER, TURNED, OTHER_CALL])
def test_a_swapped_pair_records_what_an_unswapped_one_does(client, project, other):
    recorded = []
    for swapped in (False, True):
        lena = sign_in(client, make_user("lena"))
        pair = open_slot(make_pair_seen(swapped, lena, project, LABEL, other))
        sent = Fields(client.get("/p/cakes/judge/").content.decode()).sent
        # A form cannot choose the arrangement.
        lie = {"sides_swapped": "" if swapped else "true"}
        client.post("/p/cakes/judge/", {**sent, **lie, "verdict": "0"})
        judgment = Judgment.objects.get(pair=pair)
        assert judgment.sides_swapped is swapped
        recorded.append((sorted(judgment.units_that_differ), judgment.reasons))
        pair.slots.filter(judgment=None).delete()
    assert recorded[0] == recorded[1]
    assert recorded[0][0]


def test_a_step_only_the_label_has_is_missing_on_either_side(client, project):
    for swapped in (False, True):
        lena = sign_in(client, make_user("lena"))
        pair = open_slot(make_pair_seen(swapped, lena, project, LONGER, LABEL))
        page = client.get("/p/cakes/judge/").content.decode()
        assert "Step only in A" in page
        sent = Fields(page).sent
        client.post("/p/cakes/judge/", {**sent, "verdict": "0"})
        assert Judgment.objects.get(pair=pair).reasons == ["missing step"]
        pair.slots.filter(judgment=None).delete()


def test_compares_the_arrangements(project):
    lena, luis, lea = make_user("lena"), make_user("luis"), make_user("lea")
    Project.objects.update(overlap=1)
    project.refresh_from_db()
    for swapped, verdicts in ((False, (1, 1, 0)), (True, (0,))):
        for verdict in verdicts:
            pair = open_slot(make_pair_seen(swapped, lena, project, LABEL, SAMPLED))
            make_judgment(pair, lena, verdict)
    # One more of the unswapped ones, on which another person agrees.
    Project.objects.update(overlap=2)
    project.refresh_from_db()
    pair = open_slot(make_pair_seen(False, lena, project, LABEL, SAMPLED))
    make_judgment(pair, lena, 0)
    make_judgment(pair, luis, 0)
    Project.objects.update(calibration_percent=0)
    project.refresh_from_db()
    # Named sides: one pair is final and lena was outvoted, the other waits.
    outvoted = make_pair(project=project, slots=3)
    for user, verdict in ((lena, 1), (luis, 0), (lea, 0)):
        make_judgment(outvoted, user, verdict)
    make_judgment(make_pair(project=project), lena, 1)
    named, straight, turned = progress_of(project=project, user=lena).arrangements
    assert (named.sides_swapped, named.count, named.final) == (None, 2, 1)
    assert (named.consistent, named.agreement) == (1.0, 0.0)
    assert (straight.sides_swapped, straight.count) == (False, 4)
    assert (straight.consistent, straight.final, straight.agreement) == (0.5, 1, 1.0)
    assert (turned.sides_swapped, turned.count, turned.consistent) == (True, 1, 0.0)
    # Nobody else judged it: an outcome that is one's own word is no agreement.
    assert (turned.final, turned.agreement) == (0, None)
