import pytest

from config.env import EnvironmentValueError, broker_url, database_settings


def test_an_ordinary_database_address():
    settings = database_settings(
        "postgresql://me:p%40ss@db.example:5433/concord?sslmode=require", pool_size=7
    )
    assert settings["NAME"] == "concord"
    assert settings["USER"] == "me"
    assert settings["PASSWORD"] == "p@ss"
    assert settings["HOST"] == "db.example"
    assert settings["PORT"] == "5433"
    assert settings["OPTIONS"]["sslmode"] == "require"
    assert settings["OPTIONS"]["pool"]["max_size"] == 7
    assert settings["CONN_HEALTH_CHECKS"] is True


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@/concord?host=/run/Post%20gres",
        "postgresql://me@%2Frun%2FPost%20gres/concord",
    ],
)
def test_a_database_behind_a_unix_socket(url):
    settings = database_settings(url, pool_size=7)
    assert settings["HOST"] == "/run/Post gres"
    assert settings["NAME"] == "concord"
    assert settings["PORT"] == ""


@pytest.mark.parametrize("url", ["mysql://a:b@c/d", "postgresql://host", "concord.db"])
def test_another_database_address_is_refused_without_showing_it(url):
    with pytest.raises(EnvironmentValueError) as caught:
        database_settings(url, pool_size=7)
    assert str(caught.value) == (
        "DATABASE_URL is not usable; allowed:"
        " postgresql://user:password@host:port/database"
    )


def test_the_broker_address_differs_only_for_unix_sockets():
    assert broker_url("redis://:key@host:6379/3") == "redis://:key@host:6379/3"
    assert broker_url("unix:///run/valkey.sock?db=2") == (
        "redis+socket:///run/valkey.sock?virtual_host=2"
    )
    assert broker_url("unix://:key@/run/valkey.sock?db=2") == (
        "redis+socket://:key@/run/valkey.sock?virtual_host=2"
    )


def test_another_broker_address_is_refused():
    with pytest.raises(EnvironmentValueError, match=r"^REDIS_URL is not usable"):
        broker_url("amqp://host")
