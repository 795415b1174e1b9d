"""A worker process of its own: supervise one run, say how that ended.

It says ``ready``, then the outcome, through its pipe. SIGTERM sets the shutdown event, as
a Celery worker's warm shutdown does.
"""

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import django

django.setup()  # once, in the process that forks the workers

from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402

from training.runs import claim, supervise  # noqa: E402 - needs django.setup()


def main(
    end: Connection,
    database: str,
    data_dir: Path,
    run_id: int,
    command: list[str],
    timing: dict[str, float],
) -> None:
    os.environ["PGAPPNAME"] = "supervise_once"
    connection.settings_dict["NAME"] = database
    settings.DATA_DIR = data_dir
    signal.signal(signal.SIGTERM, lambda *_: supervise.SHUTDOWN.set())
    end.send("ready")
    outcome = supervise.supervise(
        run_id, command=command or None, timing=claim.Timing(**timing)
    )
    end.send(outcome.value if outcome else "nothing to claim")
