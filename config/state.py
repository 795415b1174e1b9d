"""The state directory: everything of an installation that is not code.

What is in it belongs to the user that runs Concord and is closed to all others.
"""

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from config import env
from local import accounts
from local.processes import Account
from local.roles import DATABASE, ROLE

BASE_DIR = Path(__file__).resolve().parent.parent
SOCKET_PATH_BYTES = 107  # sun_path on Linux, without the closing zero byte
POSTGRES_SOCKET = ".s.PGSQL.5432"
VALKEY_SOCKET = "valkey.sock"


class EngineError(Exception):
    """An engine cannot run; the message says which one, why and where its log is."""


@dataclass(frozen=True)
class State:
    """The state directory: engines' data, sockets, secret key, logs, run directories.

    `throwaway` is for tests: nothing in it has to survive a power cut.
    """

    home: Path
    throwaway: bool = False

    @classmethod
    def from_environment(cls) -> "State":
        return cls(env.path("CONCORD_STATE_DIR", BASE_DIR / ".concord"))

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def sockets(self) -> Path:
        """The directory of both sockets; `run` may be a link to a shorter place."""
        return Path(os.path.realpath(self.home / "run"))

    @property
    def database_url(self) -> str:
        return f"postgresql://{ROLE}@/{DATABASE}?host={quote(str(self.sockets))}"

    @property
    def redis_url(self) -> str:
        path = quote(str(self.sockets / VALKEY_SOCKET))
        return f"unix://:{self.valkey_password()}@{path}?db=0"

    def make(self) -> None:
        """Make the directory, or close an older one; what we write in it is ours only."""
        os.umask(0o077)
        self.home.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        mode = stat.S_IMODE(self.home.stat().st_mode)
        # The group's right to pass through is that of Postgres (accounts.let_through).
        if mode & ~0o710:
            self._close(mode & 0o710)

    def _close(self, mode: int) -> None:
        """Take from others what earlier versions left open to them."""
        with contextlib.suppress(PermissionError):  # another's, who decides about it
            for path in self.home.iterdir():
                if not path.is_symlink() and path.name not in ("run", "postgres"):
                    path.chmod(0o700 if path.is_dir() else 0o600)
            self.home.chmod(mode)

    def private_place(self, account: Account) -> Path:
        """Return a directory outside the checkout that Postgres' user may pass through.

        Needed where Postgres' user cannot reach the checkout (a clone below a 0700
        home). The link `private` remembers it. Not under /var/tmp for lasting state:
        systemd deletes there what nobody has touched for 30 days.
        """
        link = self.home / "private"
        if not link.is_symlink():
            lasting = Path("/var/lib")
            usable = not self.throwaway and os.access(lasting, os.W_OK)
            place = tempfile.mkdtemp(
                prefix="concord-", dir=lasting if usable else "/var/tmp"
            )
            link.symlink_to(place)
        place_now = link.resolve()
        if not place_now.is_dir():
            raise EngineError(f"{link} points to {place_now}, which is gone")
        accounts.let_through(place_now, account)
        return place_now

    def make_sockets(self, account: Account | None) -> None:
        """Make the directory of the sockets, short enough and reachable by Postgres."""
        link = self.home / "run"
        longest = len(os.fsencode(self.home.resolve() / "run" / POSTGRES_SOCKET))
        fits = longest <= SOCKET_PATH_BYTES
        reachable = account is None or accounts.can_enter(account, self.home)
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
                place = self.private_place(account) / "run"
                place.mkdir(exist_ok=True)
                link.symlink_to(place)
        accounts.give(self.sockets, account)

    def secret_key(self) -> str:
        """Return the secret key of this installation."""
        return self._secret("secret_key")

    def valkey_password(self) -> str:
        return self._secret("valkey_password")

    def _secret(self, name: str) -> str:
        """Return a secret of this installation; made once, readable by us only."""
        file = self.home / name
        self.make()
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as output:
                output.write(secrets.token_urlsafe(48))
        for _ in range(50):
            if key := file.read_text(encoding="ascii").strip():
                return key
            time.sleep(0.02)  # another process has made the file, not yet its content
        raise EngineError(f"{file} is empty; delete it to have a new key made")

    def remove(self) -> None:
        """Delete the directory and what its links point to."""
        for name in ("run", "private"):
            link = self.home / name
            if link.is_symlink():
                shutil.rmtree(link.resolve(), ignore_errors=True)
        shutil.rmtree(self.home, ignore_errors=True)
