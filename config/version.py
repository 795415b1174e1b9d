"""The version of Concord: the newest heading of CHANGELOG.md."""

import re
from pathlib import Path

CHANGELOG = Path(__file__).resolve().parent.parent / "CHANGELOG.md"
HEADING = re.compile(r"^## (\d+\.\d+\.\d+)\b", re.MULTILINE)


def read_version(text: str) -> str:
    """Return the version of the first heading like `## 0.1.0 (date)`."""
    heading = HEADING.search(text)
    if heading is None:
        raise ValueError("CHANGELOG.md has no heading of the form '## 1.2.3'")
    return heading[1]


VERSION = read_version(CHANGELOG.read_text(encoding="utf-8"))
