"""Two threads beside a program: one renews the lease, one stores checkpoints."""

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
    """Renews the lease in its own thread, independent of the supervision.

    ``lost`` is set when the token no longer holds the run, ``stop`` when a person asked
    it to stop. While the database is down the lease cannot be renewed, but nobody else
    can claim either; an outage alone therefore never ends a run.
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
    """Copies new checkpoints of a run to the store, in its own thread."""

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
        """End the thread after the copy in progress is complete."""
        self._done.set()
        if self.is_alive():
            self.join()
