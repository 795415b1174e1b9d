"""Five wrong passwords in five minutes, then a wait: by account and by address."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client

from config.web import throttle
from tests.cast import PASSWORD, make_user

pytestmark = pytest.mark.django_db

# The counts are in the Valkey of the test session: each test has people and addresses
# of its own.
_numbers = count(int(time.time() * 1000) % 2**31)


@pytest.fixture
def name():
    return make_user(f"lena-{next(_numbers)}").username


@pytest.fixture
def elsewhere():
    """Return a function that gives another address each time."""

    def address():
        number = next(_numbers)
        return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    return address


def sign_in(name, password, address, path="/accounts/login/", **more):
    client = Client(REMOTE_ADDR=address, **more)
    return client.post(path, {"username": name, "password": password})


@pytest.mark.parametrize("path", ["/accounts/login/", "/admin/login/"])
def test_the_sixth_wrong_password_of_an_account_is_refused(name, elsewhere, path):
    for _ in range(5):
        assert sign_in(name, "wrong", elsewhere(), path).status_code == 200
    refused = sign_in(name, "wrong", elsewhere(), path)
    assert refused.status_code == 429
    assert 290 <= int(refused["Retry-After"]) <= 300
    assert "Wait 5 minutes, then try again." in refused.content.decode()


def test_the_right_password_is_refused_too_meanwhile(name, elsewhere):
    for _ in range(5):
        sign_in(name, "wrong", elsewhere())
    assert sign_in(name, PASSWORD, elsewhere()).status_code == 429
    assert sign_in(name.upper() + " ", PASSWORD, elsewhere()).status_code == 429


def test_both_sign_in_pages_count_together(name, elsewhere):
    for path in ["/accounts/login/", "/admin/login/"] * 2:
        sign_in(name, "wrong", elsewhere(), path)
    sign_in(name, "wrong", elsewhere())
    assert sign_in(name, "wrong", elsewhere(), "/admin/login/").status_code == 429


def test_the_sixth_wrong_password_of_an_address_is_refused(name, elsewhere):
    address = elsewhere()
    for number in range(5):
        answer = sign_in(f"{name}-{number}", "wrong", address)
        assert answer.status_code == 200
    assert sign_in(name, PASSWORD, address).status_code == 429
    assert sign_in(name, PASSWORD, elsewhere()).status_code == 302


def test_a_right_password_forgets_the_wrong_ones_before_it(name, elsewhere):
    address = elsewhere()
    for _ in range(2):
        for _ in range(4):
            assert sign_in(name, "wrong", address).status_code == 200
        assert sign_in(name, PASSWORD, address).status_code == 302


def test_a_right_password_does_not_forget_the_guesses_at_others(name, elsewhere):
    address = elsewhere()
    for number in range(4):
        sign_in(f"{name}-{number}", "wrong", address)
    assert sign_in(name, PASSWORD, address).status_code == 302
    assert sign_in(f"{name}-5", "wrong", address).status_code == 200
    assert sign_in(f"{name}-6", "wrong", address).status_code == 429


def test_nobody_is_locked_out_by_others_where_they_signed_in_before(name, elsewhere):
    home = elsewhere()
    assert sign_in(name, PASSWORD, home).status_code == 302
    for _ in range(7):
        guess = sign_in(name, "wrong", elsewhere())
    assert guess.status_code == 429
    assert sign_in(name, PASSWORD, home).status_code == 302
    # The others gain nothing by it.
    assert sign_in(name, PASSWORD, elsewhere()).status_code == 429
    for _ in range(5):
        assert sign_in(name, "wrong", home).status_code == 200
    assert sign_in(name, PASSWORD, home).status_code == 429


def test_the_wait_ends_and_trying_does_not_prolong_it(name, elsewhere, monkeypatch):
    monkeypatch.setattr(throttle, "WINDOW", 2)
    for _ in range(5):
        sign_in(name, "wrong", elsewhere())
    refused = sign_in(name, "wrong", elsewhere())
    assert refused["Retry-After"] in ("1", "2")
    end = time.monotonic() + 2.2
    while time.monotonic() < end:
        sign_in(name, "wrong", elsewhere())
        time.sleep(0.2)
    # A new window has begun with one of these at most a moment ago.
    assert sign_in(name, PASSWORD, elsewhere()).status_code == 302


def test_a_form_without_name_or_password_is_no_attempt(name, elsewhere):
    for _ in range(7):
        assert sign_in(name, "", elsewhere()).status_code == 200
    assert sign_in(name, PASSWORD, elsewhere()).status_code == 302


def test_wrong_old_passwords_of_a_session_are_counted_too(name, elsewhere):
    client = Client(REMOTE_ADDR=elsewhere())
    assert client.login(username=name, password=PASSWORD)
    form = {"new_password1": "a new one of mine", "new_password2": "a new one of mine"}
    address = "/accounts/password_change/"
    for _ in range(5):
        answer = client.post(address, {"old_password": "guess", **form})
        assert answer.status_code == 200
    assert client.post(address, {"old_password": "guess", **form}).status_code == 429


def test_behind_a_proxy_the_address_is_the_one_it_adds(name, elsewhere, settings):
    settings.HTTPS = True
    for number in range(6):
        header = f"192.0.2.{number}, {elsewhere()}"
        answer = sign_in(
            f"{name}-{number}", "x", "127.0.0.1", HTTP_X_FORWARDED_FOR=header
        )
        assert answer.status_code == 200
    header = f"192.0.2.1, {elsewhere()}"
    for number in range(6):
        answer = sign_in(
            f"{name}-{number}", "x", "127.0.0.1", HTTP_X_FORWARDED_FOR=header
        )
    assert answer.status_code == 429


def test_addresses_of_one_ipv6_network_are_one(name):
    network = f"2001:db8:{next(_numbers) % 65536:x}:{next(_numbers) % 65536:x}"
    for number in range(5):
        sign_in(f"{name}-{number}", "wrong", f"{network}::{number + 1:x}")
    assert sign_in(name, PASSWORD, f"{network}::ffff").status_code == 429


@pytest.mark.django_db(transaction=True)
def test_guesses_at_the_same_moment_are_counted_one_by_one(name, elsewhere):
    addresses = [elsewhere() for _ in range(12)]

    def guess(address):
        try:
            return sign_in(name, "wrong", address).status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(guess, addresses))
    assert sorted(statuses) == [200] * 5 + [429] * 7


def test_what_is_kept_names_nobody(name, elsewhere):
    sign_in(name, "wrong", elsewhere())
    with cache._cache.get_client() as client:
        keys = b" ".join(client.keys("*sign-in*"))
    assert keys
    assert name.encode() not in keys
