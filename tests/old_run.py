"""Three run directories with their checkpoints, as version 0.1.0 first wrote them.

``sft`` (without its last checkpoint), ``draw`` and ``reward``, made by the programs under
the web application's supervision on a project of five demo samples. Afterwards only the
places of the inputs were made relative. They are kept to show that old runs still open:
never write them anew.
"""

from pathlib import Path

OLD_RUN = Path(__file__).parent / "data" / "old_run"
