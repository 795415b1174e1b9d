"""The user that Postgres runs as when we are root: one that nobody else uses.

Postgres refuses to run as root. As `nobody` it would share its files, its memory and
its rights with whatever else runs as `nobody`. So it gets a user number that this
system does not use, and a group of the same number. The group gives access to the
directories above the data, which belong to root and are closed to all others.
"""

import os
import pwd
import subprocess
import zlib
from pathlib import Path

from local.children import Account

# Numbers that distributions and systemd leave free (systemd.io/UIDS-GIDS).
FIRST_FREE, LAST_FREE = 60578, 61183
NOBODY = 65534


def nobody() -> Account:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return Account(NOBODY, NOBODY)
    return Account(entry.pw_uid, entry.pw_gid)


def of_its_own(checkout: Path) -> Account:
    """Return the account of a checkout's state directories: the same at each start."""
    numbers = range(FIRST_FREE, LAST_FREE + 1)
    first = zlib.crc32(os.fsencode(checkout)) % len(numbers)
    taken = {user.pw_uid for user in pwd.getpwall()}
    for number in (*numbers[first:], *numbers[:first]):
        if number not in taken:
            return Account(number, number)
    return nobody()


def give(path: Path, account: Account | None) -> None:
    """Let only that user enter a directory, or read a file."""
    path.chmod(0o700 if path.is_dir() else 0o600)
    if account is not None:
        os.chown(path, account.uid, account.gid)


def give_all(directory: Path, account: Account) -> None:
    """Change the owner of everything below the directory, then of the directory.

    The directory comes last: its owner says whether the rest is done.
    """
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(folder) / name
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    os.chown(directory, account.uid, account.gid)


def let_through(directory: Path, account: Account) -> None:
    """Let that user, and no other, pass through a directory of ours."""
    os.chown(directory, -1, account.gid)
    directory.chmod(0o710)


def can(account: Account, script: str, argument: Path) -> bool:
    """Run a shell test as that user: file modes alone do not tell the truth."""
    tried = subprocess.run(
        ["/bin/sh", "-c", script, "sh", str(argument)],
        user=account.uid,
        group=account.gid,
        extra_groups=[],
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return tried.returncode == 0


def can_enter(account: Account, directory: Path) -> bool:
    return can(account, 'cd "$1"', directory)
