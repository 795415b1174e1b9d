"""The doors of a project: who may come in, and who may do what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.exceptions import PermissionDenied
from django.shortcuts import get_object_or_404

from annotation.models import Project, Role

if TYPE_CHECKING:
    from collections.abc import Collection

    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser


class Forbidden(PermissionDenied):
    """A member asked for a deed that their roles do not allow.

    A view may let it pass: Django answers 403.
    """

    def __init__(self, deed: str, needed: Collection[str] = ()) -> None:
        self.deed = deed
        self.needed = tuple(needed)
        roles = " or ".join(self.needed)
        super().__init__(f"{deed} is for the role {roles}." if roles else deed)


def has_role(
    project: Project, user: AbstractBaseUser | AnonymousUser, *roles: str
) -> bool:
    """Say whether ``user`` has one of ``roles`` here; an admin has them all."""
    mine = project.roles_of(user)
    return bool(mine & {*roles, Role.ADMIN})


def require_role(
    project: Project,
    user: AbstractBaseUser | AnonymousUser,
    *roles: str,
    deed: str = "This",
) -> None:
    """Raise :class:`Forbidden` unless ``user`` has one of ``roles`` here."""
    if not has_role(project, user, *roles):
        raise Forbidden(deed, roles or (Role.ADMIN,))


def project_for(
    user: AbstractBaseUser | AnonymousUser, slug: str, *roles: str
) -> Project:
    """Return the project ``slug`` as ``user`` may enter it.

    Raises ``Http404`` for strangers, so that they cannot tell a foreign project from
    none, and :class:`Forbidden` (a ``PermissionDenied``) for members who have none of
    ``roles``. Without ``roles`` any member may enter.
    """
    project = get_object_or_404(Project.objects.visible_to(user), slug=slug)
    if roles:
        require_role(project, user, *roles, deed="This page")
    return project
