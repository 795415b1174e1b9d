"""Context of every page: the project, the visitor's roles, the navigation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.http import Http404
from django.urls import reverse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from annotation.models import Role
from annotation.views.door import visit_of

if TYPE_CHECKING:
    from django.http import HttpRequest

# (URL name, label, role whose work it is); the pages of a role are neighbours.
PAGES = (
    ("annotation:judge", _("Judge"), Role.LABELER),
    ("annotation:write", _("Write"), Role.LABELER),
    ("annotation:work", _("My work"), Role.LABELER),
    ("annotation:samples", _("Samples"), Role.CURATOR),
    ("annotation:review", _("Review"), Role.CURATOR),
    ("training:runs", _("Runs"), Role.TRAINER),
    ("training:checkpoints", _("Checkpoints"), Role.TRAINER),
    ("training:iterations", _("Iterations"), Role.TRAINER),
)

# Pages that belong to a navigation item besides those below its own address.
BELONGING = {"annotation:review": ("guideline", "pairs")}


@dataclass(frozen=True)
class NavItem:
    url: str
    label: str
    is_current: bool
    starts_group: bool


def visit(request: HttpRequest) -> dict[str, object]:
    """Return ``project``, ``roles`` and ``nav``, all empty outside a project.

    It costs no query for a view that called :func:`annotation.views.door.enter`.
    """
    empty: dict[str, object] = {"project": None, "roles": [], "nav": []}
    match = request.resolver_match
    user = getattr(request, "user", None)
    slug = match.kwargs.get("slug") if match else None
    if slug is None or user is None or not user.is_authenticated:
        return empty
    try:
        visit = visit_of(request, slug)
    except Http404:
        return empty
    nav: list[NavItem] = []
    last_role: str | None = None
    for name, label, role in PAGES:
        if not visit.allows(role):
            continue
        url = reverse(name, args=[slug])
        home = reverse("annotation:project", args=[slug])
        folders = [f"{home}{folder}/" for folder in BELONGING.get(name, ())]
        nav.append(
            NavItem(
                url=url,
                label=str(label),
                is_current=request.path.startswith((url, *folders)),
                starts_group=last_role is not None and role != last_role,
            )
        )
        last_role = role
    if user.is_staff:
        nav.append(NavItem(reverse("admin:index"), gettext("Admin"), False, bool(nav)))
    roles = [str(label) for role, label in Role.choices if role in visit.roles]
    return {"project": visit.project, "roles": roles, "nav": nav}
