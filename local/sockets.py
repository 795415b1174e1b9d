"""Where the servers' sockets are: a short path that Postgres can reach."""

import os
import shutil
import tempfile
from pathlib import Path

from config.state import POSTGRES_SOCKET, ServerError, State
from local import accounts
from local.children import Account

SOCKET_PATH_BYTES = 107  # sun_path on Linux, without the closing zero byte


def private_place(state: State, account: Account) -> Path:
    """Return a directory outside the checkout that Postgres' user may pass through.

    Needed where Postgres' user cannot reach the checkout (a clone below a 0700 home).
    The link `private` remembers it. Lasting state is not placed under /var/tmp, where
    systemd deletes what nobody has touched for 30 days.
    """
    link = state.home / "private"
    if not link.is_symlink():
        lasting = Path("/var/lib")
        usable = not state.throwaway and os.access(lasting, os.W_OK)
        place = tempfile.mkdtemp(
            prefix="concord-", dir=lasting if usable else "/var/tmp"
        )
        link.symlink_to(place)
    place_now = link.resolve()
    if not place_now.is_dir():
        raise ServerError(f"{link} points to {place_now}, which is gone")
    accounts.let_through(place_now, account)
    return place_now


def make_sockets(state: State, account: Account | None) -> None:
    """Create the directory of the sockets: short enough, and reachable by Postgres."""
    link = state.home / "run"
    longest = len(os.fsencode(state.home.resolve() / "run" / POSTGRES_SOCKET))
    fits = longest <= SOCKET_PATH_BYTES
    reachable = account is None or accounts.can_enter(account, state.home)
    if link.is_symlink() and not link.exists():
        link.unlink()  # a temporary directory that a reboot cleared
    if fits and reachable:
        if link.is_symlink():
            link.unlink()
        link.mkdir(exist_ok=True)
    elif not link.is_symlink():
        shutil.rmtree(link, ignore_errors=True)
        if account is None or reachable:
            link.symlink_to(tempfile.mkdtemp(prefix="concord-", dir="/tmp"))
        else:
            place = private_place(state, account) / "run"
            place.mkdir(exist_ok=True)
            link.symlink_to(place)
    accounts.give(state.sockets, account)
