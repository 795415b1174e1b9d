"""`manage.py prepare` and `seed_demo`, as the supervisor calls them."""

from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db.models import Count

from annotation.management.commands import seed_demo
from annotation.models import (
    Comment,
    GuidelineVersion,
    Judgment,
    Membership,
    Pair,
    Project,
    Role,
    Sample,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def small_demo(monkeypatch):
    """Thirty samples are one of each scenario and situation."""
    monkeypatch.setattr(
        seed_demo, "SAMPLES", (("", 30), ("held-out", 3), ("held-out-unseen", 3))
    )


def seed() -> str:
    output = StringIO()
    call_command("seed_demo", stdout=output)
    return output.getvalue()


def test_the_demo_has_approved_samples_of_each_scenario_situation_and_split():
    seed()
    samples = Sample.objects.filter(project__name="Demo: action tasks")
    samples = samples.exclude(status="submitted")  # what people wrote, for review
    assert set(samples.values_list("status", flat=True)) == {"approved"}
    by_split = samples.values_list("split").annotate(Count("pk"))
    assert dict(by_split) == {"": 30, "held-out": 3, "held-out-unseen": 3}
    for field, count in (("scenario", 5), ("situation", 6)):
        assert samples.filter(split="").values(field).distinct().count() == count


def test_the_demo_has_a_person_per_role():
    seed()
    roles = Membership.objects.values_list("user__username", "role")
    assert set(roles) == {
        ("ada", Role.ADMIN),
        ("lena", Role.LABELER),
        ("luis", Role.LABELER),
        ("rita", Role.CURATOR),
        ("tara", Role.TRAINER),
    }
    assert set(User.objects.filter(is_superuser=True)) == {
        User.objects.get(username="ada")
    }


def test_the_shown_passwords_are_those_that_work(client):
    said = seed()
    name, _, password = next(
        line.split() for line in said.splitlines() if "tara" in line
    )
    assert client.login(username=name, password=password)


def test_somebody_who_is_there_already_keeps_the_password(client):
    User.objects.create_user("lena", password="her own words")
    said = seed()
    assert "lena  Labeler   (the one this person has)" in said
    assert client.login(username="lena", password="her own words")


def test_a_second_demo_is_refused_and_changes_nothing():
    seed()
    kinds = (Sample, User, Pair, Judgment, GuidelineVersion, Comment)
    before = [kind.objects.count() for kind in kinds]
    with pytest.raises(CommandError) as caught:
        seed()
    assert str(caught.value) == 'The project "Demo: action tasks" is there already.'
    assert [kind.objects.count() for kind in kinds] == before


def prepare(settings, tmp_path) -> str:
    settings.STATIC_ROOT = tmp_path / "static"
    output = StringIO()
    call_command("prepare", stdout=output)
    return output.getvalue()


def test_prepare_seeds_an_empty_database_and_collects_static_files(settings, tmp_path):
    said = prepare(settings, tmp_path)
    assert "… writing the demo project" in said
    assert "… collecting static files" in said
    assert (tmp_path / "static" / "concord.css").exists()
    assert Project.objects.count() == 1


def test_prepare_says_and_writes_nothing_the_second_time(settings, tmp_path):
    prepare(settings, tmp_path)
    before = Pair.objects.count(), Judgment.objects.count()
    assert prepare(settings, tmp_path) == ""
    assert (Pair.objects.count(), Judgment.objects.count()) == before


def test_prepare_leaves_a_database_with_any_project_alone(settings, tmp_path):
    Project.objects.create(name="Ours", slug="ours")
    assert "demo" not in prepare(settings, tmp_path)
    assert Project.objects.count() == 1
    assert (Sample.objects.count(), Pair.objects.count()) == (0, 0)
    assert Project.objects.get().guideline == ""


def test_prepare_writes_no_demo_where_none_is_wanted(settings, tmp_path):
    settings.DEMO = False
    assert "demo" not in prepare(settings, tmp_path)
    assert Project.objects.count() == 0
