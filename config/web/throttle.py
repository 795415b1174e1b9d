"""Limit password guessing: five wrong passwords in five minutes, then a wait.

The counts are in Valkey, so they cover all web processes; by account and by address.
The count by account starts before the password is checked, so that concurrent guesses
cannot bypass it. It ends five minutes after its first wrong password, whatever is tried
meanwhile, and with a right one.

Others could lock somebody out with wrong passwords for their account. So an address
from which somebody has signed in before has its own count for them, and the count of
others does not apply there.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import time
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.cache import cache
from django.shortcuts import render

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

WRONG_ALLOWED = 5
WINDOW = 5 * 60  # seconds
REMEMBERED = 90 * 24 * 3600  # seconds for which an address stays known to an account
FORMS = {"login", "admin:login", "password_change", "admin:password_change"}


def address_of(request: HttpRequest) -> str:
    """Return the source address of a request; for IPv6 the network of one site.

    Behind a proxy (HTTPS=1) it is the address that the proxy has added to
    X-Forwarded-For. "" if unknown: then only accounts are counted.
    """
    text = request.META.get("REMOTE_ADDR", "")
    if settings.HTTPS:
        text = request.META.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2]
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return ""
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Attempt:
    """One submitted password: its account, its address, and the counts before it."""

    def __init__(self, account: str, address: str) -> None:
        name = unicodedata.normalize("NFKC", account).strip().casefold()
        who = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:32]
        self.known = f"sign-in:known:{who}:{address}"
        self.both = f"sign-in:wrong:{who}:{address}"
        self.address = f"sign-in:wrong:{address}" if address else ""
        is_known = bool(address) and cache.get(self.known) is not None
        self.account = self.both if is_known else f"sign-in:wrong:{who}"

    def begin(self) -> int:
        """Count the attempt; return the seconds to wait, 0 if it may proceed."""
        if self.address and cache.get(self.address, 0) >= WRONG_ALLOWED:
            return _seconds_left(self.address)
        if _count(self.account) > WRONG_ALLOWED:
            return _seconds_left(self.account)
        return 0

    def was_wrong(self) -> None:
        if self.address:
            _count(self.address)
        if self.account != self.both:
            _count(self.both)

    def was_right(self) -> None:
        """Reset the count of wrong passwords, only for this account."""
        if self.address:
            wrong_here = cache.get(self.both, 0)
            if wrong_here and cache.get(self.address) is not None:
                _uncount(self.address, wrong_here)
            cache.set(self.known, 1, REMEMBERED)
        cache.delete_many([self.account, self.both])

    def was_none(self) -> None:
        """Undo the count: the form contained no password."""
        _uncount(self.account, 1)


def _count(key: str) -> int:
    """Add one within the window that the first one opened; return the count."""
    if cache.add(key, 1, WINDOW):
        cache.set(f"{key}:ends", time.time() + WINDOW, WINDOW)
        return 1
    try:
        return int(cache.incr(key))
    except ValueError:  # the window has closed meanwhile
        return _count(key)


def _uncount(key: str, number: int) -> None:
    with contextlib.suppress(ValueError):  # its window has closed meanwhile
        cache.decr(key, number)


def _seconds_left(key: str) -> int:
    ends = float(cache.get(f"{key}:ends", 0.0))
    return max(1, min(WINDOW, round(ends - time.time())))


class SignInThrottle:
    """Middleware around every form that asks for a password."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        attempt: Attempt | None = getattr(request, "password_attempt", None)
        if attempt is None:
            return response
        form = getattr(response, "context_data", None) or {}
        form = form.get("form")
        if response.status_code == 302:
            attempt.was_right()
        elif form and (form.non_field_errors() or "old_password" in form.errors):
            attempt.was_wrong()
        else:
            attempt.was_none()
        return response

    def process_view(
        self, request: HttpRequest, view: object, args: object, kwargs: object
    ) -> HttpResponse | None:
        """Refuse a form after too many wrong passwords."""
        match = request.resolver_match
        if request.method != "POST" or not match or match.view_name not in FORMS:
            return None
        account = request.POST.get("username", "")
        if request.user.is_authenticated and "password_change" in match.view_name:
            account = request.user.get_username()
        attempt = Attempt(account, address_of(request))
        seconds = attempt.begin()
        if not seconds:
            request.password_attempt = attempt  # type: ignore[attr-defined]
            return None
        minutes = -(-seconds // 60)
        response = render(request, "429.html", {"minutes": minutes}, status=429)
        response["Retry-After"] = str(seconds)
        return response
