"""How a page enters a project: one function, at most two queries, one visit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from annotation.access import Forbidden, project_for
from annotation.models import Membership, Project, Role

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.http import HttpRequest


@dataclass(frozen=True)
class Visit:
    """A project, and the roles of the visitor in it."""

    project: Project
    roles: frozenset[str]

    def allows(self, *roles: str) -> bool:
        return bool(self.roles & {*roles, Role.ADMIN})


def enter(request: HttpRequest, slug: str, *roles: str) -> Project:
    """Return the project for a page of ``roles`` (none: any member), in one query.

    The visit is kept on the request, so that the frame of the page needs no second
    query. Raises ``Http404`` for strangers and :class:`~annotation.access.Forbidden`
    for members without the role.
    """
    memberships = list(
        Membership.objects.filter(
            user_id=request.user.pk or 0, project__slug=slug
        ).select_related("project")
    )
    if memberships and not getattr(request.user, "is_superuser", False):
        project = memberships[0].project
        mine = frozenset(membership.role for membership in memberships)
    else:
        project = project_for(request.user, slug)
        mine = frozenset(project.roles_of(request.user))
    visit = Visit(project, mine)
    request.visit = visit  # type: ignore[attr-defined]
    if roles and not visit.allows(*roles):
        raise Forbidden("This page", roles)
    return project


def visit_of(request: HttpRequest, slug: str) -> Visit:
    """Return the visit that :func:`enter` kept, or enter now."""
    visit: Visit | None = getattr(request, "visit", None)
    if visit is None or visit.project.slug != slug:
        enter(request, slug)
        visit = request.visit  # type: ignore[attr-defined]
    assert visit is not None
    return visit


def visitor(request: HttpRequest) -> User:
    """Return the signed-in user; :func:`enter` admits nobody else."""
    assert request.user.is_authenticated
    return request.user
