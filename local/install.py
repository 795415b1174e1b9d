"""Set up the virtual environment: `python3 local/install.py`, or `make setup`.

It runs under any Python from 3.11 before anything is installed, so it imports only the
standard library. A stamp in the environment makes the next call return at once.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
VENV = BASE_DIR / ".venv"
STAMP = VENV / "concord-setup"
CONSTRAINTS = BASE_DIR / "constraints.txt"
GROUPS = ("web", "engines", "train", "dev")
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
OLDEST, FIRST_UNSUPPORTED = (3, 11), (3, 14)


def say(message: str) -> None:
    sys.stdout.write(f"set-up: {message}\n")
    sys.stdout.flush()


def has_nvidia_gpu() -> bool:
    """Look for a device; images may contain the driver's tools without a GPU."""
    return Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists()


def stamp_text() -> str:
    """Return what the set-up depends on; if it differs from the stamp, set up again."""
    parts = (
        (BASE_DIR / "pyproject.toml").read_bytes(),
        CONSTRAINTS.read_bytes(),
        str(has_nvidia_gpu()).encode(),
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest() + "\n"


def use_supported_python() -> None:
    """Continue under a Python that the dependencies support, or say which they are."""
    if OLDEST <= sys.version_info[:2] < FIRST_UNSUPPORTED:
        return
    for minor in range(FIRST_UNSUPPORTED[1] - 1, OLDEST[1] - 1, -1):
        if python := shutil.which(f"python3.{minor}"):
            os.execv(python, [python, __file__, *sys.argv[1:]])
    sys.exit(
        f"set-up: this is Python {sys.version.split()[0]}; Concord needs 3.11, 3.12 or"
        " 3.13 (make PYTHON=/path/to/python3.12 …)"
    )


def run(*arguments: str, quiet: bool = False) -> bool:
    output = subprocess.DEVNULL if quiet else None
    return (
        subprocess.run(
            arguments, stdout=output, stderr=output, cwd=BASE_DIR, check=False
        ).returncode
        == 0
    )


def make_venv() -> None:
    if (VENV / "bin" / "python").exists():
        return
    say(f"making .venv with Python {sys.version.split()[0]}")
    if not run(sys.executable, "-m", "venv", str(VENV)):
        sys.exit(
            "set-up: no virtual environment could be made; on Debian and Ubuntu the"
            " package python3-venv is needed"
        )


def install_torch(pip: tuple[str, ...]) -> None:
    """Install the CPU build of torch where no GPU would use the CUDA build.

    The CUDA build has gigabytes of libraries. A wheel on this machine (PIP_FIND_LINKS,
    pip's configuration) comes first, then torch's own index of CPU builds.
    """
    if has_nvidia_gpu() or sys.platform == "darwin":
        return  # the package index has the right build, and the next step takes it
    (torch,) = (
        line
        for line in CONSTRAINTS.read_text().splitlines()
        if line.startswith("torch==")
    )
    alone = ("--no-deps", torch)
    if run(*pip, "--no-index", *alone, quiet=True):
        say(f"{torch} was at hand")
        return
    say(f"no NVIDIA GPU: taking the CPU build of {torch}")
    short = ("--index-url", TORCH_CPU_INDEX, "--timeout", "10", "--retries", "1")
    if not run(*pip, *short, *alone):
        say(f"{TORCH_CPU_INDEX} gave nothing; the package index's build is larger")


def main() -> None:
    use_supported_python()
    stamp = stamp_text()
    if STAMP.exists() and STAMP.read_text() == stamp:
        return
    make_venv()
    pip = (
        *(str(VENV / "bin" / "python"), "-m", "pip", "install"),
        *("--disable-pip-version-check", "--constraint", str(CONSTRAINTS)),
    )
    install_torch(pip)
    project = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())
    groups = project["project"]["optional-dependencies"]
    say(f"installing {', '.join(GROUPS)}; the first time this is mostly download time")
    if not run(*pip, *(name for group in GROUPS for name in groups[group])):
        sys.exit("set-up: pip could not install the packages; its message is above")
    STAMP.write_text(stamp)
    say("done")


if __name__ == "__main__":
    main()
