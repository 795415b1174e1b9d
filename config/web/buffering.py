"""gunicorn threads that get only requests that have arrived completely.

A thread runs a page, so a slow sender must not hold one: as many slow senders as
threads would stop the site. The worker's main loop, which waits for all connections at
once, receives the request, and a thread gets it when the last byte is there. A sender
that is too slow is disconnected. Bodies beyond a megabyte are stored in a temporary
file.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import signal
import socket
import tempfile
import time
from functools import partial
from typing import IO, Any

from gunicorn import http  # type: ignore[import-untyped]
from gunicorn.http.unreader import Unreader  # type: ignore[import-untyped]
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from config.web.parent_death import die_with

HEAD_BYTES = 64 * 2**10  # gunicorn refuses longer heads anyway
IN_MEMORY = 2**20
MOST_BYTES = 2**30  # per request; pages have their own limits
READS_AT_ONCE = 16
TOO_LARGE = (
    b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)
LEAST_READ = 2**16
PATIENCE = 20.0  # seconds for the head, and for the first byte of the body
PATIENCE_OF_A_FULL_HOUSE = 2.0
SLOWEST = 8 * 2**10  # bytes a second, averaged over the body
MOST_CLOSING, LINGER = 200, 2.0  # connections, seconds
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r\n", re.I)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*\bchunked\b", re.I)
WAITS = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*\r\n", re.I)


class Request:
    """The bytes of one request as they arrive.

    It only says when they are complete: gunicorn parses them and answers invalid ones.
    """

    def __init__(self) -> None:
        self.bytes: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            max_size=IN_MEMORY
        )  # its last reader closes it
        self.head = b""
        self.has_head = False
        self.is_whole = False
        self.waits_for_leave = False
        self.received = 0
        self.since = time.monotonic()
        self._lacking = 0  # missing bytes of the body, or of the chunk
        self._line = b""  # the size of a chunk, or a line behind the last one
        self._is_chunked = self._at_the_last = False

    def take(self, data: bytes) -> None:
        """Add received bytes."""
        self.bytes.write(data)
        self.received += len(data)
        if not self.has_head:
            searched = max(0, len(self.head) - 3)
            self.head += data
            end = self.head.find(b"\r\n\r\n", searched)
            if end < 0:
                self.is_whole = len(self.head) > HEAD_BYTES
                return
            data = self.head[end + 4 :]
            self._read_head(self.head[: end + 2])
        if self._is_chunked:
            self._take_chunks(data)
        else:
            self._lacking -= len(data)
            self.is_whole = self._lacking <= 0

    def _read_head(self, head: bytes) -> None:
        self.head, self.has_head = b"", True
        self._is_chunked = bool(CHUNKED.search(head))
        length = LENGTH.search(head)
        self._lacking = int(length[1]) if length and not self._is_chunked else 0
        self.waits_for_leave = bool(WAITS.search(head))

    def _take_chunks(self, data: bytes) -> None:
        """Read chunks: a line with a size, its bytes, an empty line; size 0 ends."""
        while data and not self.is_whole:
            if self._lacking:
                passed = min(self._lacking, len(data))
                self._lacking -= passed
                data = data[passed:]
                continue
            line, end, data = data.partition(b"\n")
            self._line += line
            if len(self._line) > HEAD_BYTES:
                self.is_whole = True  # gunicorn refuses it
            if not end:
                return
            text, self._line = self._line.strip(), b""
            if self._at_the_last:
                self.is_whole = not text
                continue
            try:
                size = int(text.partition(b";")[0], 16)
            except ValueError:
                size = -1
            if size < 0:
                self.is_whole = True
            elif size == 0:
                self._at_the_last = True
            else:
                self._lacking = size + 2

    def is_too_large(self) -> bool:
        return self.received + max(0, self._lacking) > MOST_BYTES

    def is_too_slow(self, now: float) -> bool:
        allowed = PATIENCE + (self.received / SLOWEST if self.has_head else 0)
        return now - self.since > allowed


class ReceivedUnreader(Unreader):  # type: ignore[misc]
    """Reads received bytes, never the socket: no thread waits for a sender."""

    received: IO[bytes] | None = None

    def chunk(self, size_hint: int | None = None) -> bytes:
        if self.received is None:
            return b""
        data = self.received.read(max(LEAST_READ, size_hint or 0))
        if not data:
            self.received.close()
            self.received = None
        return data

    def keep_rest(self) -> None:
        """Keep the bytes after the request as read ahead: the next request's start."""
        if self.received is not None:
            ahead = self.take_buffered() + self.received.read()
            self.unread(ahead)
            self.received.close()
            self.received = None


class BufferingWorker(ThreadWorker):  # type: ignore[misc]
    """A gthread worker whose threads get complete requests only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.receiving: dict[Any, Request] = {}  # by connection, oldest first
        self.closing: dict[socket.socket, float] = {}  # the deadline of each

    def init_process(self) -> None:
        # gunicorn checks once a second whether its master lives, but waits for threads.
        die_with(self.ppid, signal.SIGKILL)
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        """Start to receive a request, where gunicorn would take a thread."""
        if conn.parser is None:
            conn.parser = http.get_parser(self.cfg, conn.sock, conn.client)
            conn.parser.unreader = ReceivedUnreader()
            conn.close = partial(self._close, conn.sock)
        request = Request()
        if ahead := conn.parser.unreader.take_buffered():
            request.take(ahead)  # bytes that came with the request before
        conn.sock.setblocking(False)
        self.receiving[conn] = request
        self.poller.register(
            conn.sock, selectors.EVENT_READ, partial(self._receive, conn)
        )
        self._receive(conn, conn.sock)

    def _receive(self, conn: Any, sock: Any) -> None:
        """Receive part of a request, and hand it to a thread when it is complete."""
        request = self.receiving[conn]
        try:
            for _ in range(READS_AT_ONCE):
                if request.is_whole:
                    break
                data = sock.recv(2**16)
                if not data:
                    return self._drop(conn)
                request.take(data)
                if request.is_too_large():
                    sock.send(TOO_LARGE)
                    return self._drop(conn, graceful=True)
                if request.waits_for_leave and not request.is_whole:
                    request.waits_for_leave = False
                    sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return self._drop(conn)
        if not request.is_whole:
            return None  # let others run first; the poller calls again at once
        self._forget(conn)
        request.bytes.seek(0)
        conn.parser.unreader.received = request.bytes
        conn.data_ready = True
        super().enqueue_req(conn)
        return None

    def _forget(self, conn: Any) -> None:
        del self.receiving[conn]
        with contextlib.suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)

    def _drop(self, conn: Any, graceful: bool = False) -> None:
        self.receiving[conn].bytes.close()
        self._forget(conn)
        self.nr_conns -= 1
        conn.close(graceful=graceful)

    def finish_request(self, conn: Any, fs: Any) -> None:
        if conn.parser is not None:
            conn.parser.unreader.keep_rest()
        super().finish_request(conn, fs)

    def _close(self, sock: socket.socket, graceful: bool = False) -> None:
        """Close a connection without blocking the main loop until the other side does.

        Bytes that still arrive are read and dropped for a moment: a connection closed
        with unread bytes is reset, and the other side may lose the end of the answer.
        """
        with contextlib.suppress(OSError):
            if graceful and len(self.closing) < MOST_CLOSING:
                sock.shutdown(socket.SHUT_WR)
                sock.setblocking(False)
                self.poller.register(sock, selectors.EVENT_READ, self._drop_rest)
                self.closing[sock] = time.monotonic() + LINGER
                return
        sock.close()

    def _drop_rest(self, sock: socket.socket) -> None:
        try:
            if sock.recv(2**16):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        del self.closing[sock]
        self.poller.unregister(sock)
        sock.close()

    def murder_pending(self) -> None:
        """Disconnect slow senders; the main loop calls this at least once a second."""
        super().murder_pending()
        now = time.monotonic()
        is_full = self.nr_conns >= self.worker_connections
        for conn, request in list(self.receiving.items()):
            if (
                request.is_too_slow(now)
                or (is_full and now - request.since > PATIENCE_OF_A_FULL_HOUSE)
                or not (self.alive or request.received)
            ):
                self._drop(conn)
        for sock, ends in list(self.closing.items()):
            if now > ends:
                self._end(sock)
