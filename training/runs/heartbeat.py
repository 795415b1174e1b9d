"""The two threads beside a program: one renews the lease, one takes checkpoints away."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

from django.db import InterfaceError, OperationalError, connection
from django.db.models.functions import Now

from training.models import (
    ACTIVE_STATES,
    Run,
)
from training.runs.claim import (
    Timing,
)
from training.storage import store

logger = logging.getLogger(__name__)


class Heart(threading.Thread):
    """Renews the lease from a thread of its own, whatever the supervision does.

    ``lost`` is set when the token no longer holds the run, ``stop`` when a person asked
    it to stop. While the database is away the lease cannot be renewed, and nobody else
    can claim either; so an outage alone never ends a run.
    """

    def __init__(self, run: Run, timing: Timing) -> None:
        super().__init__(name=f"heart of run {run.pk}", daemon=True)
        self.run_id, self.token, self.timing = run.pk, run.token, timing
        self.lost = threading.Event()
        self.stop = threading.Event()
        self._done = threading.Event()

    def __enter__(self) -> Heart:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        try:
            while not self._done.wait(self.timing.beat) and not self.lost.is_set():
                try:
                    self._beat()
                except (OperationalError, InterfaceError) as error:
                    logger.warning("Run %s: no database: %s", self.run_id, error)
                finally:
                    connection.close()
        finally:
            connection.close()

    def _beat(self) -> None:
        held = Run.objects.filter(
            pk=self.run_id, token=self.token, state__in=ACTIVE_STATES
        )
        if not held.update(
            leased_until=Now() + timedelta(seconds=self.timing.lease),
            heartbeat_at=Now(),
        ):
            if not self._done.is_set():
                self.lost.set()
        elif held.filter(stop_requested=True).exists():
            self.stop.set()


class Porter(threading.Thread):
    """Puts the checkpoints of a run into the store as they come, in a thread of its own."""

    def __init__(self, run: Run, every: float) -> None:
        super().__init__(name=f"porter of run {run.pk}", daemon=True)
        self.run_, self.every = run, every
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(self.every):
            try:
                store.put_checkpoints(self.run_)
            except (
                store.StoreError,
                OSError,
                OperationalError,
                InterfaceError,
            ) as error:
                logger.warning("Run %s: %s", self.run_.pk, error)
            finally:
                connection.close()

    def finish(self) -> None:
        """End it; what it carries is brought to its place first."""
        self._done.set()
        if self.is_alive():
            self.join()
