"""The state directory: everything of an installation except its code.

Its content belongs to the user that runs Concord and is closed to all others.
"""

import contextlib
import os
import secrets
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from config import env

BASE_DIR = Path(__file__).resolve().parent.parent
DATABASE = ROLE = "concord"
POSTGRES_SOCKET = ".s.PGSQL.5432"
VALKEY_SOCKET = "valkey.sock"


class ServerError(Exception):
    """A server cannot run; the message says which one, why, and where its log is."""


@dataclass(frozen=True)
class State:
    """The state directory: servers' data, sockets, secret key, logs, run directories.

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
        """Create the directory, or close an existing one: its files are ours only."""
        os.umask(0o077)
        self.home.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        mode = stat.S_IMODE(self.home.stat().st_mode)
        # Postgres' group may pass through (local/accounts.py).
        if mode & ~0o710:
            self._close(mode & 0o710)

    def _close(self, mode: int) -> None:
        """Close to others what earlier versions left open."""
        with contextlib.suppress(PermissionError):  # another user's file
            for path in self.home.iterdir():
                if not path.is_symlink() and path.name not in ("run", "postgres"):
                    path.chmod(0o700 if path.is_dir() else 0o600)
            self.home.chmod(mode)

    def secret_key(self) -> str:
        """Return the secret key of this installation."""
        return self._secret("secret_key")

    def valkey_password(self) -> str:
        return self._secret("valkey_password")

    def _secret(self, name: str) -> str:
        """Return a secret of this installation; created once, readable by us only."""
        file = self.home / name
        self.make()
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as output:
                output.write(secrets.token_urlsafe(48))
        for _ in range(50):
            if key := file.read_text(encoding="ascii").strip():
                return key
            time.sleep(0.02)  # another process has not written the file yet
        raise ServerError(f"{file} is empty; delete it to have a new key made")

    def remove(self) -> None:
        """Delete the directory and what its links point to."""
        for name in ("run", "private"):
            link = self.home / name
            if link.is_symlink():
                shutil.rmtree(link.resolve(), ignore_errors=True)
        shutil.rmtree(self.home, ignore_errors=True)
