"""Who sends slowly waits alone: the pages of all others are answered."""

import contextlib
import hashlib
import http.client
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from config.state import BASE_DIR, State
from tests.local.site import Site

# Real servers, and senders that take their time.
pytestmark = pytest.mark.slow

HEAD = b"POST /accounts/login/ HTTP/1.1\r\nHost: localhost\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
SLOW = [
    HEAD + FORM + b"Content-Length: 1000000\r\n\r\nusername=",
    HEAD + FORM + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\nusername=",
    HEAD + b"X-Slow: ",
    HEAD + FORM + b"Content-Length: 99999999999999999999\r\n\r\nusername=",
]


@contextmanager
def slow_senders(address, count):
    """Keep so many requests open that send a byte now and then."""
    ended = threading.Event()
    with ExitStack() as stack:
        stack.callback(ended.set)
        senders = [
            stack.enter_context(socket.create_connection(address, timeout=5))
            for _ in range(count)
        ]
        for number, sender in enumerate(senders):
            sender.sendall(SLOW[number % len(SLOW)])

        def drip():
            while not ended.wait(0.2):
                for sender in senders:
                    try:
                        sender.send(b"a")
                    except OSError:
                        continue

        threading.Thread(target=drip, daemon=True).start()
        yield senders


def seconds_for(url):
    begin = time.monotonic()
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert answer.status == 200
        answer.read()
    return time.monotonic() - begin


def test_a_page_comes_while_two_hundred_send_slowly():
    home = Path(tempfile.mkdtemp(prefix="concord-slow-", dir="/tmp"))
    state = State(home)
    try:
        with Site(state, CONCORD_DEMO="0") as site:
            url = site.started().address + "/accounts/login/"
            host, _, port = site.address.removeprefix("http://").partition(":")
            seconds_for(url)
            with slow_senders((host, int(port)), 200):
                time.sleep(1)
                assert max(seconds_for(url) for _ in range(5)) < 2
    finally:
        state.remove()


@contextmanager
def echo(worker="config.web.buffering.BufferingWorker", threads=2):
    """A server of one process that tells what it was sent; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        address = listener.getsockname()
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "tests.config.echo"),
                *("--bind", f"fd://{number}", "--worker-class", worker),
                *("--threads", str(threads), "--no-control-socket"),
                *("--graceful-timeout", "1", "--log-level", "warning"),
            ],
            cwd=BASE_DIR,
            pass_fds=[number],
            env={k: v for k, v in os.environ.items() if k != "LISTEN_FDS"},
        )
        try:
            seconds_for(f"http://127.0.0.1:{address[1]}/")
            yield address
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture(scope="module")
def server():
    with echo() as address:
        yield address


def told(connection):
    answer = connection.getresponse()
    assert answer.status == 200
    return json.loads(answer.read())


def facts_of(body, path="/x"):
    digest = hashlib.sha256(body).hexdigest()
    return {"path": path, "bytes": len(body), "sha256": digest}


@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
def test_a_body_of_any_size_arrives_whole(server, size):
    body = os.urandom(size)
    with closing(http.client.HTTPConnection(*server, timeout=20)) as connection:
        for _ in range(2):  # the second on the kept connection
            connection.request("POST", "/x", body)
            assert told(connection) == facts_of(body)


@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
def test_a_chunked_body_arrives_whole(server, size):
    pieces = [os.urandom(size) for _ in range(3)]
    with closing(http.client.HTTPConnection(*server, timeout=20)) as connection:
        for _ in range(2):
            connection.request("POST", "/x", iter(pieces), encode_chunked=True)
            assert told(connection) == facts_of(b"".join(pieces))


def receive(sender, enough):
    """Return what comes until ``enough`` says so."""
    text = b""
    while not enough(text):
        assert select.select([sender], [], [], 10)[0], text
        data = sender.recv(65536)
        if not data:
            break
        text += data
    return text


def test_a_request_in_single_bytes_is_one_request(server):
    chunks = b"Transfer-Encoding: chunked\r\nTrailer: A\r\n\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n"
    for request in (
        b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /x HTTP/1.1\r\nHost: localhost\r\n" + chunks,
    ):
        with socket.create_connection(server, timeout=10) as sender:
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in request:
                sender.send(bytes([byte]))
            answer = receive(sender, lambda text: text.endswith(b"}"))
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == facts_of(b"abc")


def test_requests_sent_at_once_are_answered_one_after_the_other(server):
    one = b"POST /%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab"
    chunked = (
        b"POST /%s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nab\r\n0\r\n\r\n"
    )
    with socket.create_connection(server, timeout=10) as sender:
        sender.sendall(one % b"1" + chunked % b"2" + one % b"3" + chunked % b"4")
        answer = receive(sender, lambda text: text.count(b"}") == 4)
    places = [answer.index(b'"/%d"' % number) for number in (1, 2, 3, 4)]
    assert places == sorted(places)


def test_a_sender_that_waits_for_leave_gets_it(server):
    with socket.create_connection(server, timeout=10) as sender:
        sender.sendall(
            b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        leave = receive(sender, lambda text: b"\r\n\r\n" in text)
        assert leave.startswith(b"HTTP/1.1 100 Continue\r\n")
        sender.sendall(b"ab")
        answer = receive(sender, lambda text: text.endswith(b"}"))
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2]) == facts_of(b"ab")


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 2000000000\r\n\r\nab",
        b"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\nab",
    ],
)
def test_a_request_larger_than_any_page_takes_is_refused_at_once(server, body):
    with socket.create_connection(server, timeout=10) as sender:
        sender.sendall(b"POST /x HTTP/1.1\r\nHost: localhost\r\n" + body)
        answer = receive(sender, lambda text: b"\r\n\r\n" in text)
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\0" * 200_000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length : 5\r\n\r\nab",
        b"\r\n\r\n\r\n\r\n",
    ],
)
def test_nonsense_ends_its_own_connection_and_holds_no_thread(server, nonsense):
    with ExitStack() as stack:
        for _ in range(4):  # more than there are threads
            sender = stack.enter_context(socket.create_connection(server, timeout=10))
            sender.sendall(nonsense)
        assert seconds_for(f"http://127.0.0.1:{server[1]}/") < 2


def test_who_sends_too_slowly_is_cut_off():
    with (
        echo("tests.config.echo.HastyWorker") as address,
        slow_senders(address, 6) as senders,
    ):
        for sender in senders[:3]:
            sender.settimeout(10)
            # Closed with bytes unread, the connection may end by a reset as well.
            with contextlib.suppress(ConnectionError):
                assert sender.recv(1000) == b""
