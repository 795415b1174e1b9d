"""A small browser for scripted people: cookies, forms, redirects; no JavaScript.

The scripted labelers and the scripted trainer of ``loop.run`` use the product through
it: their actions pass the same pages, forms and checks as a person's.
"""

from __future__ import annotations

import http.client
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit

VOID_VALUES = {"submit", "button", "image", "reset", "file"}


class PageError(Exception):
    """A page did not answer as expected."""


@dataclass
class Form:
    """A form as a browser would send it unchanged.

    ``values`` maps a field's name to the values it would send; ``choices`` maps the
    name of a select to the values it offers.
    """

    action: str
    method: str = "get"
    identity: str = ""
    values: dict[str, list[str]] = field(default_factory=dict)
    choices: dict[str, list[str]] = field(default_factory=dict)


class _FormParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.forms: list[Form] = []
        self._form: Form | None = None
        self._select: str | None = None
        self._select_chosen = False
        self._select_multiple = False
        self._textarea: str | None = None
        self._text: list[str] = []
        self.errors: list[str] = []
        self._error_depth = 0

    def handle_starttag(
        self, tag: str, attributes: list[tuple[str, str | None]]
    ) -> None:
        a = {name: value or "" for name, value in attributes}
        if "errorlist" in a.get("class", "").split():
            self._error_depth = 1
        if tag == "form":
            self._form = Form(
                a.get("action", ""), a.get("method", "get").lower(), a.get("id", "")
            )
            self.forms.append(self._form)
        form = self._form
        if form is None or "disabled" in a:
            return
        name = a.get("name", "")
        if tag == "input" and name and a.get("type", "text") not in VOID_VALUES:
            if a.get("type") in {"checkbox", "radio"}:
                form.choices.setdefault(name, []).append(a.get("value", "on"))
                if "checked" not in a:
                    return
                form.values.setdefault(name, []).append(a.get("value", "on"))
            else:
                form.values.setdefault(name, []).append(a.get("value", ""))
        elif tag == "select" and name:
            self._select, self._select_chosen = name, False
            self._select_multiple = "multiple" in a
            form.choices[name] = []
        elif tag == "option" and self._select is not None:
            value = a.get("value", "")
            form.choices[self._select].append(value)
            if "selected" in a:
                form.values.setdefault(self._select, []).append(value)
                self._select_chosen = True
        elif tag == "textarea" and name:
            self._textarea, self._text = name, []

    def handle_data(self, data: str) -> None:
        if self._textarea is not None:
            self._text.append(data)
        if self._error_depth and data.strip():
            self.errors.append(data.strip())

    def handle_endtag(self, tag: str) -> None:
        form = self._form
        if tag == "ul":
            self._error_depth = 0
        if tag == "form":
            self._form = None
        elif tag == "select" and form is not None and self._select is not None:
            offered = form.choices[self._select]
            if not self._select_chosen and offered and not self._select_multiple:
                form.values[self._select] = [offered[0]]
            self._select = None
        elif tag == "textarea" and form is not None and self._textarea is not None:
            text = "".join(self._text)
            form.values[self._textarea] = [text.removeprefix("\n")]
            self._textarea = None


@dataclass(frozen=True)
class Page:
    """The answer of an address after redirects."""

    status: int
    address: str
    text: str

    def forms(self) -> list[Form]:
        parser = _FormParser()
        parser.feed(self.text)
        return parser.forms

    def form_with(self, *names: str) -> Form:
        """Return the first form that has all fields ``names``.

        Raises PageError when there is none.
        """
        for form in self.forms():
            if all(name in form.values or name in form.choices for name in names):
                return form
        raise PageError(
            f"{self.address} ({self.status}): no form with the fields {', '.join(names)}"
        )

    def errors(self) -> list[str]:
        """Return the messages of the page's error lists."""
        parser = _FormParser()
        parser.feed(self.text)
        return parser.errors


class Browser:
    """One visitor of one server, signed in or not; not safe for several threads."""

    def __init__(self, origin: str, *, seconds: float = 60) -> None:
        parts = urlsplit(origin)
        if parts.scheme != "http" or parts.hostname is None:
            raise PageError(f"expected an http:// address, found {origin!r}")
        self.origin = origin.rstrip("/")
        self._connection = http.client.HTTPConnection(
            parts.hostname, parts.port or 80, timeout=seconds
        )
        self._cookies: dict[str, str] = {}

    def close(self) -> None:
        self._connection.close()

    def get(self, path: str) -> Page:
        return self._request("GET", path, None)

    def submit(self, page: Page, form: Form, **changes: object) -> Page:
        """Send ``form`` with ``changes``; a list sends a field several times.

        None removes a field (an unticked box).
        """
        values = {name: list(sent) for name, sent in form.values.items()}
        for name, change in changes.items():
            if change is None:
                values.pop(name, None)
            elif isinstance(change, (list, tuple)):
                values[name] = [str(one) for one in change]
            else:
                values[name] = [str(change)]
        target = urljoin(page.address, form.action or page.address)
        if form.method == "get":
            return self.get(f"{urlsplit(target).path}?{urlencode(values, doseq=True)}")
        return self._request("POST", target, urlencode(values, doseq=True))

    def sign_in(self, username: str, password: str) -> Page:
        page = self.get("/accounts/login/")
        form = page.form_with("username", "password")
        page = self.submit(page, form, username=username, password=password)
        if urlsplit(page.address).path == "/accounts/login/":
            raise PageError(f"{username} could not sign in: {page.errors()}")
        return page

    def _request(self, method: str, address: str, body: str | None) -> Page:
        for _ in range(10):
            parts = urlsplit(urljoin(self.origin + "/", address))
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            headers = {"Referer": self.origin + path}
            if self._cookies:
                headers["Cookie"] = "; ".join(
                    f"{name}={value}" for name, value in self._cookies.items()
                )
            if body is not None:
                headers["Content-Type"] = "application/x-www-form-urlencoded"
            response = self._send(method, path, body, headers)
            text = response.read().decode()
            for cookie in response.headers.get_all("Set-Cookie") or []:
                for name, morsel in SimpleCookie(cookie).items():
                    self._cookies[name] = morsel.value
            location = response.headers.get("Location")
            if response.status in {301, 302, 303} and location:
                method, address, body = "GET", location, None
                continue
            return Page(response.status, self.origin + path, text)
        raise PageError(f"{address}: more than ten redirects")

    def _send(
        self, method: str, path: str, body: str | None, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        """Send on the open connection; on a new one where a resend could do harm.

        A server may close an open connection at any time. A GET is then repeated. A
        POST might have been processed already, so it always uses a new connection.
        """
        if method != "GET":
            self._connection.close()
        try:
            self._connection.request(method, path, body, headers)
            return self._connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):
            if method != "GET":
                raise
            self._connection.close()
            self._connection.request(method, path, body, headers)
            return self._connection.getresponse()
