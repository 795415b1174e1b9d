"""The doors of a project: who may come in, and who may do what.

A page opens the door (``project_for``); a deed asks again in its own transaction
(``require_role``), where the answer holds until it commits.
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

# Who may write samples, and who may do with others' samples what authors do with theirs.
WRITERS: Final = (Role.LABELER, Role.CURATOR)
CURATORS: Final = frozenset({Role.CURATOR, Role.ADMIN})

# FOR SHARE makes whoever takes the role away, or deactivates the person, wait for the
# transaction that asked; and makes who asks wait for them, and see what they did.
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
    """A member asked for a deed that their roles do not allow.

    A view may let it pass: Django answers 403.
    """

    def __init__(self, deed: str, needed: Collection[str] = ()) -> None:
        self.deed = deed
        self.needed = tuple(needed)
        roles = " or ".join(self.needed)
        super().__init__(f"{deed} is for the role {roles}." if roles else deed)


class NotAMember(Http404):
    """The person is not, or no longer, in the project: to them it is not there.

    A view may let it pass: Django answers 404.
    """


def roles_held(
    project: Project, user: AbstractBaseUser | AnonymousUser
) -> frozenset[str]:
    """Return the roles ``user`` has here, which stay theirs until the transaction ends.

    Read from the database, whatever ``user`` knows of itself: a superuser has all, who
    is deactivated has none. Call it first in a transaction: memberships are locked
    before all else (:mod:`annotation.judging.queue`). Raises NotAMember where there are none.
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
    """Return the roles of ``user``, who has one of ``roles`` here; an admin has them all.

    Every deed begins with it, inside its transaction (see ``roles_held``). Raises
    :class:`NotAMember`, and :class:`Forbidden` for members who have none of ``roles``.
    """
    held = roles_held(project, user)
    if not held & {*roles, Role.ADMIN}:
        raise Forbidden(deed, roles or (Role.ADMIN,))
    return held


def project_for(
    user: AbstractBaseUser | AnonymousUser, slug: str, *roles: str
) -> Project:
    """Return the project ``slug`` as ``user`` may enter it.

    Raises ``Http404`` for strangers, so that they cannot tell a foreign project from
    none, and :class:`Forbidden` (a ``PermissionDenied``) for members who have none of
    ``roles``. Without ``roles`` any member may enter.
    """
    project = get_object_or_404(Project.objects.visible_to(user), slug=slug)
    if roles and not project.roles_of(user) & {*roles, Role.ADMIN}:
        raise Forbidden("This page", roles)
    return project
