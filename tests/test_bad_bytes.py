"""Whatever a request holds, the answer is never a fault of the server.

The routes come from the URL resolver, the bodies from the forms of the pages, and the
names of further fields from what each route looks up in its query and its body.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import quote_plus, urlsplit

import pytest
from django.db import transaction
from django.http import QueryDict
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from annotation.models import Comment, Membership, Pair, Role
from config.web.errors import take_charset
from config.web.throttle import Attempt
from tests.browser.places import PLACES, Stage, make_stage
from tests.browser.stage import CAKE
from tests.cast import make_user
from training.models import Proposal

# Some thousand requests.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db,
    pytest.mark.ignore_template_errors,  # of Django's own admin
]

NUMBERS = [b"-1", b"0", b"2147483648", b"9223372036854775808", b"9" * 30, b"9" * 5000]
NO_NUMBERS = [b"NaN", b"1e400", "\u0663".encode(), "\u00b2".encode(), b"[]", b"{}"]
BYTES = [b"", b"\0", b"a\0b", b"\xff\xfe", "\ud800".encode(errors="surrogatepass")]
TEXTS = [b"http://[", b"//x", b"\r\nSet-Cookie: a=b", b"a" * 10_000, b"2026-99-99"]
VALUES = [*NUMBERS, *NO_NUMBERS, *BYTES, *TEXTS]
EVERYTHING = bool(os.environ.get("CI"))
FEW = 4
# What a field is tried with by itself: two of them, or one in a long form.
SHARPEST = [b"-1", b"9" * 30, b"\0", b"\xff\xfe"]
MOST_FIELDS = 8

FORM = "application/x-www-form-urlencoded"
CHARSETS = ["latin-1", "utf-7", "utf-16", "no-such", '"', "idna", "rot13", "hex"]
MULTIPART = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
BODIES = [
    *[(f"{FORM}; charset={charset}", b"a=%ff&next=-1") for charset in CHARSETS],
    *[
        (f"{MULTIPART}; charset={charset}", PART % (b"next", b"", b"-1") + b"--x--\r\n")
        for charset in CHARSETS
    ],
    (FORM, b"\xff\xfe=\xff&\0=\0&&&==&%=%&%zz=%"),
    (FORM, b"&".join(b"a%d=1" % n for n in range(1100))),
    ("multipart/form-data", b"--x--"),
    ("multipart/form-data; boundary=\xff", b"--x--"),
    (f"multipart/form-data; boundary={'x' * 300}", b""),
    (MULTIPART, b""),
    (MULTIPART, b"--x"),
    (MULTIPART, b"--x\r\n\r\n\r\n--x--"),
    (MULTIPART, PART % (b"\xff\0", b'; filename="\xff\0/../"', b"\xff\0") + b"--x--"),
    (MULTIPART, PART % (b"file", b"; filename*=UTF-16''%ff", b"a") + b"--x--\r\n"),
    (
        MULTIPART,
        PART % (b"a", b"\r\nContent-Transfer-Encoding: base64", b"*") + b"--x--\r\n",
    ),
    (MULTIPART, PART % (b"a", b"\r\nContent-Type: text/plain; charset=rot13", b"\xff")),
    ("application/json", b'{"next": '),
    ("application/json; charset=utf-7", b"\xff\xfe"),
    ("text/\xff; charset", b"\0"),
    ("multipart/form-data; boundary*=rot13''x", b"--x--"),
    ("multipart/form-data; charset=utf-8; boundary*=''%ff", b"--x--"),
    ("", b"a=b"),
]
HEADERS = [
    {
        "HTTP_COOKIE": "sessionid=\0; csrftoken=\xff; messages=\xff; django_language=\xff"
    },
    {
        "HTTP_COOKIE": "a=b; ;;=; \xed\xa0\x80=\xed\xa0\x80; messages=[[1]]; sessionid=-1"
    },
    {
        "HTTP_ACCEPT_LANGUAGE": "\xff\0, zh;q=9e999, *;q=\u0663".encode().decode(
            "latin-1"
        )
    },
    {"HTTP_ACCEPT": "\xff\0;q=x,/,*"},
    {"HTTP_HX_REQUEST": "true", "HTTP_HX_CURRENT_URL": "http://["},
    {"HTTP_HX_REQUEST": "true", "HTTP_HX_CURRENT_URL": "%ff%00"}
    | {"HTTP_HX_CURRENT_URL_URI_AUTOENCODED": "true", "HTTP_HX_PROMPT": "\xff"},
    {"HTTP_HX_REQUEST": "true", "HTTP_HX_TRIGGERING_EVENT": "{"},
    {"HTTP_HOST": "["},
    {"HTTP_HOST": "\xff\0"},
    {"HTTP_ORIGIN": "http://["},
    {"HTTP_ORIGIN": "\xff\0"},
    {"HTTP_REFERER": "http://["},
    {"HTTP_REFERER": "\xff\0"},
    {"HTTP_X_CSRFTOKEN": "\xff\0"},
    {"HTTP_IF_NONE_MATCH": "\xff\0", "HTTP_IF_MODIFIED_SINCE": "\xff"},
    {"HTTP_RANGE": "bytes=-9e9-\xff", "HTTP_ACCEPT_ENCODING": "\xff, gzip;q="},
    {"HTTP_X_FORWARDED_FOR": "\xff\0, ::::", "REMOTE_ADDR": ""},
    {"HTTP_X_HTTP_METHOD_OVERRIDE": "\xff", "HTTP_CONTENT_ENCODING": "gzip"},
]
METHODS = ["PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "\xff"]
PATHS = [
    "/%ff",
    "/%00",
    "/p/%ed%a0%80/",
    "/p/a%00b/",
    "//",
    "/p/../",
    "/%",
    "/p/%0d%0a/",
]


class Forms(HTMLParser):
    """Collect a page's forms: the address, the method and the fields with their values."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[tuple[str, str, list[tuple[str, str]]]] = []

    def handle_starttag(self, tag, attributes) -> None:
        facts = {name: value or "" for name, value in attributes}
        if tag == "form":
            method = facts.get("method", "get").upper()
            self.forms.append((facts.get("action", ""), method, []))
        elif (
            self.forms and facts.get("name") and tag in ("input", "button", "textarea")
        ):
            self.forms[-1][2].append((facts["name"], facts.get("value", "")))
        elif self.forms and facts.get("name") and tag == "select":
            self.forms[-1][2].append((facts["name"], ""))


@pytest.fixture
def stage(settings, tmp_path) -> Stage:
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    stage = make_stage()
    lena = make_user("lena")
    lena.is_staff = lena.is_superuser = True
    lena.save()
    for membership in list(Membership.objects.filter(user=lena, role=Role.LABELER)):
        Membership.objects.get_or_create(
            project=membership.project, user=lena, role=Role.ADMIN
        )
    draft = stage.project.drafts.get(pk=stage.values["draft"])
    proposal = Proposal.objects.create(
        draft=draft,
        turn=1,
        document={"turns": [CAKE["turns"][0]]},
        checkpoint_id=stage.values["checkpoint"],
        asked_by=lena,
        state="ready",
        text="Gladly.",
    )
    stage.values |= {
        "proposal": proposal.pk,
        "comment": Comment.objects.latest("pk").pk,
        "judged": Pair.objects.filter(project=stage.project).first().pk,
        "context": stage.project.contexts.first().pk,
    }
    return stage


# Which value of the stage a route's `pk` is; a route that is not here fails the test.
KEYS = {
    "annotation:judge-context": "context",
    "annotation:example-pin": "judged",
    "annotation:example-unpin": "judged",
    "annotation:draft-duplicate": "cake",
    "annotation:draft-revise": "returned",
    "annotation:draft": "draft",
    "annotation:draft-save": "draft",
    "annotation:draft-delete": "draft",
    "annotation:sample": "submitted",
    "annotation:sample-approve": "submitted",
    "annotation:sample-retire": "cake",
    "annotation:sample-history": "cake",
    "annotation:sample-return": "submitted",
    "annotation:pair": "judged",
    "annotation:pair-settle": "judged",
    "annotation:review-approve": "submitted",
    "annotation:review-return": "submitted",
    "annotation:review-comment": "submitted",
    "annotation:review-fix": "submitted",
    "annotation:comment-resolve": "comment",
    "training:run": "sft",
    "training:run-live": "policy",
    "training:run-series": "sft",
    "training:run-samples": "policy",
    "training:run-stop": "policy",
    "training:run-resume": "failed",
    "training:run-place": "waiting",
    "training:checkpoint": "checkpoint",
    "training:checkpoint-promote": "candidate",
    "training:checkpoint-download": "checkpoint",
    "training:checkpoint-export": "checkpoint",
    "training:draft-propose": "draft",
    "training:draft-proposal": "proposal",
    "training:draft-proposal-use": "proposal",
    "training:snapshot": "snapshot",
}
WORDS = {
    "number": "3",
    "step": "policy",
    "kind": "sft",
    "language": "zh-hans",
    "digest": "x",
    "object_id": "1",
    "id": "1",
    "content_type_id": "1",
    "app_label": "auth",
    "url": "x",
}


def address_of(name: str, pattern: URLPattern, stage: Stage, text: str) -> str:
    """Return an address at which the route answers; ``text`` is its whole pattern."""

    def value(found: re.Match[str]) -> str:
        key = found["key"]
        if key == "slug":
            return str(stage.values["slug"])
        return str(stage.values[KEYS[name]]) if key == "pk" else WORDS[key]

    text = re.sub(r"\(\?P(<\w+>)[^)]*\)", r"\1", text)  # Django's admin has such
    path = re.sub(r"<(?:\w+:)?(?P<key>\w+)>", value, text)
    return "/" + re.sub(r"\\Z|[\^$]", "", path)


def full_patterns(resolver=None, before="", prefix=""):
    for each in (resolver or get_resolver()).url_patterns:
        text = before + str(each.pattern)
        if isinstance(each, URLResolver):
            namespace = f"{each.namespace}:" if each.namespace else ""
            yield from full_patterns(each, text, prefix + namespace)
        else:
            yield prefix + str(each.name or each.pattern), each, text


@contextlib.contextmanager
def names_looked_up(monkeypatch) -> Iterator[set[str]]:
    """Record the names that are looked up in any query or form meanwhile."""
    names: set[str] = set()
    with monkeypatch.context() as patch:
        for method in ("__getitem__", "get", "getlist", "__contains__"):
            real = getattr(QueryDict, method)

            def look(self, name, *rest, real=real, **more):
                if isinstance(name, str):
                    names.add(name)
                return real(self, name, *rest, **more)

            patch.setattr(QueryDict, method, look)
        yield names


class Fuzzer:
    """Sends requests as Lena, who may do everything, and undoes what each has done."""

    def __init__(self) -> None:
        self.client = Client(
            raise_request_exception=False,
            enforce_csrf_checks=True,
            REMOTE_ADDR="192.0.2.9",  # its wrong passwords are not those of other tests
        )
        handler = self.client.handler
        self.client.handler = lambda environ: handler(take_charset(environ))  # as wsgi
        self.client.force_login(make_user("lena"))
        self.client.get("/accounts/password_change/")
        self.token = self.client.cookies["csrftoken"].value
        self.faults: list[str] = []
        self.sent = 0

    def send(self, method, path, body=b"", kind="", **headers) -> int:
        self.sent += 1
        headers = {"HTTP_X_CSRFTOKEN": self.token} | headers
        cookies = self.client.cookies.copy()
        if "HTTP_COOKIE" not in headers:
            self.client.cookies = cookies.copy()
        with transaction.atomic():
            try:
                response = self.client.generic(method, path, body, kind, **headers)
                status = response.status_code
                if response.streaming:
                    for _ in response.streaming_content:
                        pass
            except Exception as error:
                status, response = 599, None
                self.note(method, path, body, kind, headers, repr(error))
            if status >= 500 and response is not None:
                info = getattr(response, "exc_info", None)
                self.note(method, path, body, kind, headers, f"{status} {info}")
            transaction.set_rollback(True)
        self.client.cookies = cookies
        return status

    def note(self, method, path, body, kind, headers, what: str) -> None:
        headers = {k: v for k, v in headers.items() if k != "HTTP_X_CSRFTOKEN"}
        self.faults.append(
            f"{method} {path[:200]} {kind} {body[:200]!r} {headers}: {what}"
        )


def encode(fields: list[tuple[str, bytes]]) -> bytes:
    pairs = (f"{quote_plus(name)}={quote_plus(value)}" for name, value in fields)
    return "&".join(pairs).encode("ascii")


def values_in_turn() -> Iterator[list[bytes]]:
    """Yield all values with CI=1; else a few, the next ones each time."""
    while EVERYTHING:
        yield VALUES
    for first in itertools.count(step=FEW):
        yield [VALUES[(first + n) % len(VALUES)] for n in range(FEW)]


def spoiled(fields: list[tuple[str, bytes]], values: list[bytes]) -> Iterator[bytes]:
    """Return bodies in which all fields are bad alike, or one after the other is."""
    for value in values:
        yield encode([(name, value) for name, _ in fields])
    each = 2 if len(fields) <= MOST_FIELDS else 1
    for place, (name, _) in enumerate(fields):
        for number in range(place, place + each):
            changed = list(fields)
            changed[place] = (name, SHARPEST[number % len(SHARPEST)])
            yield encode(changed)


def forms_of_all_pages(
    fuzzer: Fuzzer, stage: Stage
) -> dict[str, list[tuple[str, bytes]]]:
    """Return the bodies that the pages' forms would send, by address."""
    bodies: dict[str, list[tuple[str, bytes]]] = {}
    for place in PLACES:
        address = stage.address(place)
        page = fuzzer.client.get(address)
        parser = Forms()
        parser.feed(page.content.decode())
        for action, method, fields in parser.forms:
            target = urlsplit(action or address).path
            if method == "POST" and len(fields) > len(bodies.get(target, [])):
                bodies[target] = [(name, value.encode()) for name, value in fields]
    return bodies


IN_FULL = {
    *("annotation:home", "annotation:judge", "annotation:samples-import"),
    *("annotation:comment-resolve", "login", "admin:index", "healthz", "set_language"),
}


def test_no_request_is_answered_by_a_fault_of_the_server(stage, monkeypatch):
    fuzzer = Fuzzer()
    bodies = forms_of_all_pages(fuzzer, stage)
    posts, turns = set(), values_in_turn()
    for name, pattern, text in full_patterns():
        path = address_of(name, pattern, stage, text)
        is_admin = name.startswith("admin:")
        with names_looked_up(monkeypatch) as looked_up:
            fuzzer.send("GET", path)
        names = sorted(looked_up - {"csrfmiddlewaretoken"})
        if names and not is_admin:
            for query in spoiled([(each, b"") for each in names], next(turns)):
                fuzzer.send("GET", f"{path}?{query.decode()}")
        if "<int:" in text:
            for number in NUMBERS[2:5]:
                key = stage.values[KEYS[name]] if "pk" in text else 3
                other = re.sub(rf"/{key}(?=/)", f"/{number.decode()}", path)
                assert other != path
                fuzzer.send("GET", other)
                fuzzer.send("POST", other, b"a=b", FORM)
        fuzzer.send("GET", path, QUERY_STRING="\xff=\xff&%00=%00&%ed%a0%80&a=%")
        body = bodies.get(path, [])
        with names_looked_up(monkeypatch) as looked_up:
            status = fuzzer.send("POST", path, encode(body), FORM)
        if name in IN_FULL:
            for method in METHODS:
                fuzzer.send(method, path, b"a=b", FORM)
            for headers in HEADERS:
                fuzzer.send("GET", path, **headers)
                fuzzer.send("POST", path, encode(body), FORM, **headers)
        if status == 405:
            continue
        posts.add(name)
        # Django reads all bodies alike: the rest of them are for a few routes.
        some = BODIES if name in IN_FULL else BODIES[1:2] if is_admin else BODIES[::6]
        for kind, bad in some:
            fuzzer.send("POST", f"{path}?a=%ff", bad, kind)
        if is_admin:
            continue
        more = looked_up - {each for each, _ in body} - {"csrfmiddlewaretoken"}
        fields = [each for each in body if each[0] != "csrfmiddlewaretoken"]
        fields += [(each, b"") for each in sorted(more)]
        for spoiled_body in spoiled(fields, next(turns)) if fields else ():
            fuzzer.send("POST", path, spoiled_body, FORM)
    Attempt("lena", "192.0.2.9").was_right()  # the throttle forgets her wrong ones
    for path in PATHS:
        fuzzer.send("GET", path)
        fuzzer.send("POST", path, b"\xff", FORM)
        fuzzer.send("POST", path, b"", "multipart/form-data")
    assert len({name for name in posts if not name.startswith("admin:")}) >= 36
    assert fuzzer.sent > (2000 if EVERYTHING else 1000)
    assert fuzzer.faults == [], "\n".join(fuzzer.faults[:40])
