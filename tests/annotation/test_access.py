"""The doors of a project."""

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import Http404

from annotation.access import project_for
from tests.cast import make_project, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project()


def test_a_member_comes_in(project):
    assert project_for(make_user("lena"), project.slug) == project


def test_a_member_with_the_role_comes_in(project):
    assert project_for(make_user("rita"), project.slug, "curator", "trainer") == project


def test_an_admin_has_every_role(project):
    assert project_for(make_user("ada"), project.slug, "trainer") == project


def test_a_superuser_is_no_stranger(project):
    root = make_user("root", is_superuser=True)
    assert project_for(root, project.slug, "trainer") == project


def test_an_insider_without_the_role_is_told(project):
    with pytest.raises(PermissionDenied) as caught:
        project_for(make_user("lena"), project.slug, "curator", "trainer")
    assert str(caught.value) == "This page is for the role curator or trainer."


def test_a_stranger_cannot_tell_the_project_from_none(project):
    for user in (make_user("sam"), AnonymousUser()):
        for slug in (project.slug, "no-such-project"):
            with pytest.raises(Http404):
                project_for(user, slug, "labeler")
