"""Rendering a model directory's chat template, which is a program that somebody else wrote.

transformers runs it in Jinja's sandbox, which keeps it from the machine's files but
bounds neither its time nor its memory. It is therefore rendered in a fork, which is
killed at its limits. A fork bounds products of numbers and of texts as well, which no
signal can interrupt.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from training.engine.run.directory import RunError

SECONDS = 10.0
MEMORY = 2**30  # bytes beyond what the process has
LONGEST = 2**20  # bytes of what a few short messages become

_rendered: dict[str, str] = {}


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]
) -> str:
    """Return the messages in the tokenizer's chat template, ready for an answer.

    Raises ``ValueError`` with the template's own words where it refuses the messages,
    ``RunError`` where it does not come to an end.
    """
    told = [tokenizer.chat_template, tokenizer.special_tokens_map, messages]
    key = json.dumps(told, default=str)
    if key not in _rendered:
        found = _in_a_fork(tokenizer, list(messages))
        if found[:1] == b"!":
            raise ValueError(f"chat template: {found[1:].decode()}")
        _rendered[key] = found[1:].decode()
    return _rendered[key]


def _in_a_fork(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]
) -> bytes:
    """Return "=" and the text, or "!" and what the template or Jinja says of it."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads; the child only renders, writes and ends.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _limit_oneself()
            _tell(writing, _render(tokenizer, messages))
        finally:
            os._exit(0)
    os.close(writing)
    try:
        return _hear(reading)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]
) -> bytes:
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        assert isinstance(text, str)
        return b"=" + text.encode()
    except MemoryError:
        return b""
    except Exception as error:  # templates refuse a role by raising errors of their own
        return b"!" + str(error).encode()[:2000]


def _limit_oneself() -> None:
    """Bound this process even when the one that would kill it is gone."""
    seconds = int(2 * SECONDS) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with contextlib.suppress(OSError, ValueError):  # no /proc, or a lower limit
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _tell(writing: int, text: bytes) -> None:
    rest = memoryview(text[: LONGEST + 1])
    while rest:
        rest = rest[os.write(writing, rest) :]


def _hear(reading: int) -> bytes:
    """Return all that the child writes; raise ``RunError`` at a limit."""
    end = time.monotonic() + SECONDS
    found = b""
    while select.select([reading], [], [], max(0.0, end - time.monotonic()))[0]:
        piece = os.read(reading, 65536)
        found += piece
        if not piece:
            break
    else:
        raise RunError("chat template", f"a text within {SECONDS:g} seconds", "none")
    if not found or len(found) > LONGEST:
        most = f"a text of at most {LONGEST // 2**20} MiB"
        raise RunError("chat template", most, "one that needs more memory")
    return found
