"""The scripts' texts in the language of the page: Django's catalog, cached for ever.

The address names the language and a hash of the catalog, so a browser fetches it again
only when it has changed. English pages need none: the English texts are in the code.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.http import Http404
from django.urls import reverse
from django.utils.translation import get_language, override, to_locale
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe
from django.views.i18n import JavaScriptCatalog

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

# Only our app: without this list the catalog would include the admin's texts.
_catalogue = JavaScriptCatalog.as_view(packages=["config"])


@require_safe
@cache_control(public=True, max_age=365 * 24 * 3600, immutable=True)
def words(request: HttpRequest, language: str, digest: str) -> HttpResponseBase:
    """Answer the catalog of ``language``, whatever the visitor's own language is."""
    if language not in dict(settings.LANGUAGES):
        raise Http404("no such language")
    with override(language):
        return _catalogue(request)


def words_url() -> str:
    """Return the address of the catalog for the page's language, "" for English."""
    language = get_language() or settings.LANGUAGE_CODE
    digest = _digest(language)
    if not digest:
        return ""
    return reverse("words", args=[language, digest])


@cache
def _digest(language: str) -> str:
    """Return a hash of the catalog of ``language``; "" if there is none."""
    name = f"{to_locale(language)}/LC_MESSAGES/djangojs.mo"
    files = [Path(place) / name for place in settings.LOCALE_PATHS]
    content = b"".join(file.read_bytes() for file in files if file.is_file())
    return hashlib.sha256(content).hexdigest()[:12] if content else ""
