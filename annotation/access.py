"""Access control of a project: who may enter, and who may do what.

A page calls ``project_for``. A deed asks again in its own transaction
(``require_role``), where the answer holds until the commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from django.core.exceptions import PermissionDenied
from django.db import connection
from django.db.transaction import TransactionManagementError
from django.http import Http404
from django.shortcuts import get_object_or_404

from annotation.models import Project, Role

if TYPE_CHECKING:
    from collections.abc import Collection

    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

# Roles that write samples, and roles that may treat others' samples as their authors
# may.
WRITERS: Final = (Role.LABELER, Role.CURATOR)
CURATORS: Final = frozenset({Role.CURATOR, Role.ADMIN})

# FOR SHARE: whoever takes the role away or deactivates the person waits for this
# transaction; this transaction waits for theirs and then sees the change.
_ROLES: Final = """
SELECT person.is_superuser, ARRAY(
    SELECT role FROM annotation_membership
    WHERE project_id = %s AND user_id = person.id
    FOR SHARE
)
FROM auth_user person
WHERE person.id = %s AND person.is_active
FOR SHARE OF person
"""


class Forbidden(PermissionDenied):
    """A member's roles do not allow the deed.

    A view may leave it uncaught: Django answers 403.
    """

    def __init__(self, deed: str, needed: Collection[str] = ()) -> None:
        self.deed = deed
        self.needed = tuple(needed)
        roles = " or ".join(self.needed)
        super().__init__(f"{deed} is for the role {roles}." if roles else deed)


class NotAMember(Http404):
    """The person is not, or no longer, a member: for them the project does not exist.

    A view may leave it uncaught: Django answers 404.
    """


def roles_held(
    project: Project, user: AbstractBaseUser | AnonymousUser
) -> frozenset[str]:
    """Return the roles of ``user`` here and lock them until the transaction ends.

    The roles come from the database, not from the ``user`` object: a superuser has all,
    a deactivated user none. Call this first in a transaction: memberships are locked
    before everything else (:mod:`annotation.judging.queue`). Raises NotAMember when
    there are none.
    """
    if not connection.in_atomic_block:
        raise TransactionManagementError("Roles are asked for in a transaction.")
    with connection.cursor() as cursor:
        cursor.execute(_ROLES, [project.pk, user.pk])
        is_superuser, roles = cursor.fetchone() or (False, [])
    if is_superuser:
        return frozenset(Role.values)
    if not roles:
        raise NotAMember(f"{user} is not in {project}.")
    return frozenset(roles)


def require_role(
    project: Project,
    user: AbstractBaseUser | AnonymousUser,
    *roles: str,
    deed: str = "This",
) -> frozenset[str]:
    """Return the roles of ``user``, who must have one of ``roles``; an admin has all.

    Every deed begins with it, inside its transaction (see ``roles_held``). Raises
    :class:`NotAMember`, and :class:`Forbidden` for members without one of ``roles``.
    """
    held = roles_held(project, user)
    if not held & {*roles, Role.ADMIN}:
        raise Forbidden(deed, roles or (Role.ADMIN,))
    return held


def project_for(
    user: AbstractBaseUser | AnonymousUser, slug: str, *roles: str
) -> Project:
    """Return the project ``slug`` if ``user`` may enter it.

    Raises ``Http404`` for strangers, so that they cannot tell a foreign project from a
    missing one, and :class:`Forbidden` (a ``PermissionDenied``) for members without one
    of ``roles``. Without ``roles`` any member may enter.
    """
    project = get_object_or_404(Project.objects.visible_to(user), slug=slug)
    if roles and not project.roles_of(user) & {*roles, Role.ADMIN}:
        raise Forbidden("This page", roles)
    return project
