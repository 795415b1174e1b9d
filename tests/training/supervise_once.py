"""A worker process of its own: supervise one run, say how that ended.

    python tests/training/supervise_once.py RUN_ID JSON_LIST_COMMAND JSON_TIMING

SIGTERM sets the shutdown event, as a Celery worker's warm shutdown does.
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from training.runs import claim, supervise  # noqa: E402 - needs django.setup()

if __name__ == "__main__":
    run_id, command, timing = int(sys.argv[1]), *map(json.loads, sys.argv[2:4])
    signal.signal(signal.SIGTERM, lambda *_: supervise.SHUTDOWN.set())
    print("ready", flush=True)  # noqa: T201
    outcome = supervise.supervise(
        run_id, command=command or None, timing=claim.Timing(**timing)
    )
    print(outcome.value if outcome else "nothing to claim", flush=True)  # noqa: T201
