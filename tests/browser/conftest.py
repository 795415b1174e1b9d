"""Chromium for the browser tests, and a page that fails the test on any page error."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth.models import User
from django.db import connection
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.cast import PASSWORD

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
Visit = Callable[..., Page]
SignIn = Callable[..., Page]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Start Chromium once.

    Playwright's event loop lives in this thread, where Django would then refuse the
    tests' own queries; they are as synchronous as ever.
    """
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser, live_server) -> Iterator[Visit]:
    """Return ``visit(**context)``: an empty page of somebody who is not signed in.

    At the end no page may have logged an error, a policy violation among them, except
    those that a test lists in ``page.expected_errors``.
    """
    contexts: list[BrowserContext] = []
    errors: list[str] = []
    expected: list[str] = []

    def enter(**settings) -> Page:
        settings = {"viewport": {"width": 1440, "height": 900}} | settings
        context = chromium.new_context(base_url=live_server.url, **settings)
        context.set_default_timeout(10_000)
        contexts.append(context)
        context.on(
            "console",
            lambda line: errors.append(line.text) if line.type == "error" else None,
        )
        context.on("weberror", lambda error: errors.append(str(error.error)))
        page = context.new_page()
        page.expected_errors = expected
        return page

    yield enter
    for context in contexts:
        for page in context.pages:
            # A page that is left may have a last word, sent behind its back.
            page.goto("about:blank")
        context.close()
    wait_until_idle()
    surprising = [
        error for error in errors if not any(known in error for known in expected)
    ]
    assert surprising == []


def wait_until_idle() -> None:
    """Let requests under way end: the next test empties the tables under them."""
    quiet = 0
    for _ in range(100):
        time.sleep(0.02)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle'"
                " AND datname = current_database() AND pid <> pg_backend_pid()"
            )
            (busy,) = cursor.fetchone()
        quiet = 0 if busy else quiet + 1
        if quiet == 3:
            return


@pytest.fixture
def sign_in(visit) -> SignIn:
    """Return ``sign_in(user, **context)``: a page of that user, on the start page."""

    def enter(user: User, **settings) -> Page:
        page = visit(**settings)
        page.goto("/accounts/login/")
        page.fill("#id_username", user.username)
        page.fill("#id_password", PASSWORD)
        page.click("main button.primary")
        page.wait_for_url(lambda url: "/accounts/login/" not in url)
        return page

    return enter
