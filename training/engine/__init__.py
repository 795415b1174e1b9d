"""The training programs: one readable program for each kind of run.

No Django here and nothing else of ``training``: the boundary to the web application is
a run directory (``docs/run-directory.md``). Every program starts as
``python -m training.engine.<program> RUN_DIR``.
"""

import os

# Read by huggingface_hub and tokenizers when they are first imported. Programs read
# local folders only, report to nobody, and fork nothing that would deadlock.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
