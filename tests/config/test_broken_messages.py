"""A worker outlives every message and every pause of its servers, and does the next one."""

import base64
import json
import os
import subprocess
import time
import uuid
from pathlib import Path

import pytest
import redis
from celery import Celery
from django.conf import settings
from django.db import connection

from config.env import broker_url
from config.state import BASE_DIR, State
from local.supervisor import Supervisor

# A worker process takes seconds to start.
pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

DATABASE_NUMBER = 7  # of the session's Valkey: the other tests' messages stay away


def message(task="training.tasks.reconcile", body=None, headers=None, **changes):
    """Return a message as Celery puts it into a list of Valkey, with changes."""
    number = str(uuid.uuid4())
    if body is None:
        body = json.dumps([[], {}, {}]).encode()
    whole = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": number,
            "root_id": number,
            "parent_id": None,
            "argsrepr": "()",
            "kwargsrepr": "{}",
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            **(headers or {}),
        },
        "properties": {
            "correlation_id": number,
            "reply_to": str(uuid.uuid4()),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "default"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return {**whole, **changes}


def without(name):
    whole = message()
    del whole[name]
    return whole


def with_property(name, value):
    whole = message()
    whole["properties"][name] = value
    return whole


BROKEN = {
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe\0",
    "nothing": b"",
    "JSON nested too deep": b"[" * 100_000,
    "a list": [],
    "a number": 7,
    "null": None,
    "an empty object": {},
    "no body": without("body"),
    "no properties": without("properties"),
    "no headers": without("headers"),
    "no content type": without("content-type"),
    "properties that are text": message() | {"properties": "x"},
    "headers that are text": message() | {"headers": "x"},
    "a body that is no base64": message(body=b"") | {"body": "a"},
    "a body that is a number": message() | {"body": 7},
    "an unknown encoding of the body": with_property("body_encoding", "rot13"),
    "no tag of delivery": with_property("delivery_tag", None),
    "a tag that is a list": with_property("delivery_tag", [1]),
    "delivery info that is text": with_property("delivery_info", "x"),
    "another content type": message(
        **{"content-type": "application/x-python-serialize"}
    ),
    "an unknown content type": message(**{"content-type": "application/zzz"}),
    "a content type that is a number": message(**{"content-type": 7}),
    "an unknown charset": message(**{"content-encoding": "zzz"}),
    "a charset that is none of text": message(**{"content-encoding": "hex"}),
    "wrong compression": message(headers={"compression": "application/x-gzip"}),
    "unknown compression": message(headers={"compression": "zzz"}),
    "a body that is no JSON": message(body=b"{"),
    "a body without arguments": message(body=b"7"),
    "a body with too few parts": message(body=b"[[]]"),
    "arguments that are a number": message(body=b"[7, 7, 7]"),
    "an unknown task": message("training.tasks.none"),
    "a task that is a number": message(headers={"task": 7}),
    "a task that is a list": message(headers={"task": [7]}),
    "no id": message(headers={"id": None}),
    "an id that is a list": message(headers={"id": [7]}),
    "too many arguments": message(body=b"[[1, 2, 3], {}, {}]"),
    "an argument nobody knows": message(body=b'[[], {"zzz": 1}, {}]'),
    "a run that is text": message("training.tasks.run_hint", b'[["x"], {}, {}]'),
    "a run beyond all numbers": message(
        "training.tasks.run_hint", b"[[%s], {}, {}]" % (b"9" * 40)
    ),
    "a proposal that is text": message("training.tasks.propose", b'[["x"], {}, {}]'),
    "a time that is none": message(headers={"eta": "soon"}),
    "an end that is none": message(headers={"expires": "soon"}),
    "retries that are text": message(headers={"retries": "x"}),
    "limits that are text": message(headers={"timelimit": "x"}),
    "callbacks that are a number": message(body=b'[[], {}, {"callbacks": 7}]'),
    "a signature nobody made": message(headers={"stamps": 7, "stamped_headers": 7}),
}


@pytest.fixture
def worker(tmp_path):
    """A worker process, started as the supervisor starts it; yields it and its log."""
    database = connection.settings_dict
    url = "postgresql://{USER}:{PASSWORD}@/{NAME}?host={HOST}&port={PORT}"
    environment = os.environ | {
        "DATABASE_URL": url.format(**database),
        "REDIS_URL": redis_url(),
        "CONCORD_DATA_DIR": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }
    supervisor = Supervisor(State(tmp_path / "state"), host="127.0.0.1", port=0)
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            supervisor._worker().argv,
            cwd=BASE_DIR,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(log, " ready.")
        yield process, log
    finally:
        process.terminate()
        process.wait(30)
        with redis.Redis.from_url(redis_url()) as client:
            client.flushdb()


def redis_url():
    return settings.REDIS_URL.replace("db=0", f"db={DATABASE_NUMBER}")


def wait_for(log: Path, text: str, seconds: float = 60):
    end = time.monotonic() + seconds
    while text not in log.read_text(errors="replace"):
        assert time.monotonic() < end, log.read_text(errors="replace")[-6000:]
        time.sleep(0.05)


def send_whole_one():
    """Send a task that succeeds; return its id."""
    with Celery(broker=broker_url(redis_url()), set_as_current=False) as app:
        return app.send_task("training.tasks.reconcile", queue="default").id


def test_a_worker_goes_on_after_every_broken_message(worker):
    process, log = worker
    failed = []
    with redis.Redis.from_url(redis_url()) as client:
        for name, broken in BROKEN.items():
            raw = broken if isinstance(broken, bytes) else json.dumps(broken).encode()
            client.lpush("default", raw)
            sent = send_whole_one()
            try:
                wait_for(log, f"[{sent}] succeeded", 8)
            except AssertionError:
                failed.append(name)
            assert process.poll() is None, (name, log.read_text()[-6000:])
        assert failed == []
        assert client.llen("default") == 0
        assert client.hlen("unacked") == 0
