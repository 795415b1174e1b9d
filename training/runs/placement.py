"""Where runs may run: workers' announcements, runs' wishes, and who has a GPU.

A worker started with ``CONCORD_DEVICE=cuda:1`` serves one GPU; with ``CONCORD_QUEUE``
it serves a queue of that name (else the queue has the device's name). It takes runs
that wish for its queue and runs without a wish. A worker with neither takes runs
without a wish.

A GPU runs one run at a time, or several if each of them shares it. This is decided when
a run is claimed, under a Postgres lock for that GPU: two workers that serve the same
GPU, or one worker with several threads, cannot both find it free.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.db.models import Q, QuerySet
from django.utils import timezone

from training.models import Device, Run

if TYPE_CHECKING:
    from datetime import datetime

logger = logging.getLogger(__name__)

EVERY = 30.0  # seconds between two announcements of a worker
AWAY = timedelta(minutes=2)  # without an announcement for this long, a worker is away
FORGET = timedelta(days=30)


@dataclass(frozen=True)
class Place:
    """Where a worker runs programs; ``queue`` and ``device`` may be empty."""

    host: str
    queue: str = ""
    device: str = ""

    @property
    def gpu(self) -> str:
        """The GPU as runs record it, ``gpu-box cuda:1``; empty without one."""
        return f"{self.host} {self.device}" if self.device.startswith("cuda") else ""

    def takes(self) -> Q:
        """Return the filter on runs that this place may take."""
        wish = Q(queue="") | Q(queue=self.queue)
        if self.gpu:  # one GPU is not enough for several processes
            return wish & ~Q(recipe__has_key="processes", recipe__processes__gt=1)
        return wish

    def has_room_for(self, run: Run) -> bool:
        """Whether ``run`` may start on this GPU now; holds its lock until commit."""
        if not self.gpu:
            return True
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
                [f"concord gpu {self.gpu}"],
            )
        others = Run.objects.active().filter(device=self.gpu).exclude(pk=run.pk)
        if run.shares_device:
            others = others.filter(shares_device=False)
        return not others.exists()


def this_place() -> Place:
    """Return the place of this worker, from its environment."""
    device = settings.WORKER_DEVICE
    return Place(socket.gethostname(), settings.WORKER_QUEUE or device, device)


def visible_devices(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that hide other GPUs from a program of a worker.

    The number in ``device`` counts the GPUs visible to the worker itself, as torch
    counts.
    """
    if not device:
        return {}
    if not device.startswith("cuda:"):
        return {"CUDA_VISIBLE_DEVICES": ""}
    number = device.removeprefix("cuda:")
    visible = [
        part.strip() for part in environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    ]
    if visible != [""]:
        # Beyond the end of the list there is no such GPU: the program sees none and
        # says so.
        number = visible[int(number)] if int(number) < len(visible) else ""
    return {
        "CUDA_VISIBLE_DEVICES": number,
        # Otherwise torch may number GPUs by speed, and nvidia-smi by slot.
        "CUDA_DEVICE_ORDER": environment.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
    }


# Announcing


def announce(place: Place) -> None:
    """Store this place for the pages; delete places not seen for a month."""
    now = timezone.now()
    Device.objects.update_or_create(
        host=place.host,
        queue=place.queue,
        device=place.device,
        defaults={"seen_at": now},
    )
    Device.objects.filter(seen_at__lt=now - FORGET).delete()


def keep_announcing(place: Place, until: threading.Event) -> None:
    """Announce a place periodically in its own thread; survives outages."""
    while True:
        try:
            announce(place)
        except (OperationalError, InterfaceError) as error:
            logger.warning("Not announced %s: no database: %s", place.queue, error)
        finally:
            connection.close()
        if until.wait(EVERY):
            return


# Wishing


@dataclass(frozen=True)
class Queue:
    """A queue that workers have announced; ``hosts`` in order."""

    name: str
    hosts: tuple[str, ...]
    seen_at: datetime

    @property
    def is_away(self) -> bool:
        return timezone.now() - self.seen_at > AWAY


def announced_queues() -> list[Queue]:
    """Return the queues that a run may wish for, by name."""
    by_queue: dict[str, list[Device]] = {}
    for each in Device.objects.order_by("queue", "host"):
        by_queue.setdefault(each.queue, []).append(each)
    return [
        Queue(
            name,
            tuple(dict.fromkeys(each.host for each in devices)),
            max(each.seen_at for each in devices),
        )
        for name, devices in by_queue.items()
    ]


def holders(run: Run) -> QuerySet[Run]:
    """Return the runs that hold the GPUs of the queue that ``run`` wishes for."""
    gpus = [
        Place(each.host, each.queue, each.device).gpu
        for each in Device.objects.filter(queue=run.queue)
    ]
    held = Run.objects.active().filter(device__in=[gpu for gpu in gpus if gpu])
    if run.shares_device:
        held = held.filter(shares_device=False)
    return held.select_related("project").order_by("pk")
