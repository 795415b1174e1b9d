"""The start page: choose a project, or go directly to one's work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth.decorators import login_required
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from annotation.models import Project, Role
from annotation.views.door import enter, visit_of

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

# The start page of each role, the most everyday work first.
STARTS = (
    (Role.LABELER, "annotation:judge"),
    (Role.CURATOR, "annotation:samples"),
    (Role.TRAINER, "training:runs"),
)


@require_safe
@login_required
def home(request: HttpRequest) -> HttpResponse:
    """Redirect a member of one project to it; others choose (``?choose``: always)."""
    projects = list(Project.objects.visible_to(request.user).order_by("name")[:200])
    if len(projects) == 1 and "choose" not in request.GET:
        return redirect(projects[0])
    return render(request, "annotation/home.html", {"projects": projects})


@require_safe
@login_required
def project(request: HttpRequest, slug: str) -> HttpResponse:
    """Redirect a member to the page of their role, an admin to the samples."""
    enter(request, slug)
    roles = visit_of(request, slug).roles
    for role, address in STARTS:
        if role in roles and Role.ADMIN not in roles:
            return redirect(address, slug)
    return redirect("annotation:samples", slug)
