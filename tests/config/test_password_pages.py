"""The pages around a password, where Concord sends no mail."""

import pytest

from tests.cast import make_user, sign_in

pytestmark = pytest.mark.django_db


def test_who_forgot_the_password_is_told_who_sets_a_new_one(client, mailoutbox):
    make_user("lena", email="lena@cakes.example")
    assert (
        "/accounts/password_reset/" in client.get("/accounts/login/").content.decode()
    )
    page = client.get("/accounts/password_reset/")
    assert page.status_code == 200
    text = page.content.decode()
    assert "An administrator can set a new password for you" in text
    assert "Django" not in text
    sent = client.post("/accounts/password_reset/", {"email": "lena@cakes.example"})
    assert sent.status_code == 405
    assert mailoutbox == []


@pytest.mark.parametrize(
    "address",
    ["password_reset/done/", "reset/MQ/set-password/", "reset/done/"],
)
def test_there_are_no_pages_of_a_mail_that_is_never_sent(client, address):
    assert client.get(f"/accounts/{address}").status_code == 404


def test_the_other_pages_are_where_they_were(client):
    assert client.get("/accounts/login/").status_code == 200
    sign_in(client, make_user("lena"))
    for address in ("password_change/", "password_change/done/"):
        assert client.get(f"/accounts/{address}").status_code == 200
    assert client.post("/accounts/logout/")["Location"] == "/accounts/login/"
