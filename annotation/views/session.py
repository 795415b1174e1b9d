"""The session at the Judge page: its figures alone, and closing a notice."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from annotation.judging.session import reveal, session_of
from annotation.models import Role
from annotation.views.door import enter

if TYPE_CHECKING:
    from django.http import HttpRequest

CLOSED = "closed notices"
KEPT = 20
_KEY = re.compile(r"(run-[0-9]{1,19}-[0-9]{1,9}|break-[0-9]{1,19})\Z")


def closed_notices(request: HttpRequest) -> list[str]:
    """Return the keys of the notices that this person has closed."""
    keys = request.session.get(CLOSED, [])
    return keys if isinstance(keys, list) else []


@never_cache
@require_safe
@login_required
def session(request: HttpRequest, slug: str) -> HttpResponse:
    """Answer with the header, the strip and the notices, swapped in by their ids."""
    project = enter(request, slug, Role.LABELER)
    assert request.user.is_authenticated
    current = session_of(
        project=project, user=request.user, closed=closed_notices(request)
    )
    facts = {
        "session": current,
        "revealed": reveal(project=project, session=current),
        "is_fragment": True,
    }
    return render(request, "annotation/_session_fragment.html", facts)


@require_POST
@login_required
def close_notice(request: HttpRequest, slug: str) -> HttpResponse:
    """Hide a notice for as long as the person stays signed in."""
    project = enter(request, slug, Role.LABELER)
    key = request.POST.get("notice", "")
    if _KEY.match(key):
        others = [one for one in closed_notices(request) if one != key]
        request.session[CLOSED] = [*others, key][-KEPT:]
    if request.headers.get("X-Requested-With") == "fetch":
        return HttpResponse(status=204)
    return redirect("annotation:judge", project.slug)
