"""Access control of runs, checkpoints and iterations: trainers, and the product."""

from __future__ import annotations

from typing import TYPE_CHECKING

from annotation.access import require_role
from annotation.models import Role

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from annotation.models import Project


def require_trainer(project: Project, user: User | None, *, deed: str) -> None:
    """Require the role of trainer, first in a deed's transaction (``require_role``).

    Without a user the product itself acts: a command, or work that a person began
    earlier.
    """
    if user is not None:
        require_role(project, user, Role.TRAINER, deed=deed)
