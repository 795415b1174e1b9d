"""Who may import what (DESIGN, section 4), beyond what import-linter can say."""

import subprocess
import sys

import grimp
import pytest

from config.state import BASE_DIR
from tests.conftest import may_import_torch

TRAINING_LIBRARIES = [
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "safetensors",
    "tokenizers",
]
WEB_LIBRARIES = [
    "django",
    "celery",
    "kombu",
    "redis",
    "psycopg",
    "annotation",
    "config",
    "local",
    "loop",
]

# Runs in a process of its own: refuses some imports, then imports all of the rest.
IMPORT_ALL = """
import importlib, pkgutil, sys

blocked, packages, skipped, set_up = map(str.split, sys.argv[1:5])

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is blocked in this test")

sys.meta_path.insert(0, Refuse())
if set_up:
    import django
    django.setup()
names = []
for package in packages:
    module = importlib.import_module(package)
    names.append(package)
    for found in pkgutil.walk_packages(module.__path__, package + "."):
        if not any((found.name + ".").startswith(s + ".") for s in skipped):
            importlib.import_module(found.name)
            names.append(found.name)
print(len(names))
"""


def import_all(*, blocked, packages, skipped=(), set_up=False) -> int:
    arguments = [" ".join(words) for words in (blocked, packages, skipped)]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *arguments, "django" if set_up else ""],
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_everything_but_the_engine_imports_without_torch():
    count = import_all(
        blocked=TRAINING_LIBRARIES,
        packages=[
            "actions",
            "records",
            "annotation",
            "training",
            "config",
            "local",
            "loop",
        ],
        skipped=["training.engine"],
        set_up=True,
    )
    assert count > 40


def test_the_tests_of_all_but_the_engine_import_no_torch(request):
    if any(map(may_import_torch, request.session.items)):
        pytest.skip("tests of the engine run beside")
    assert sys.modules["torch"] is None


def test_the_records_import_without_torch():
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import sys, records.recipes; print(sorted(sys.modules))",
        ],
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "'torch'" not in done.stdout
    assert "'records.recipes'" in done.stdout


@pytest.mark.slow
def test_the_engine_imports_without_django():
    count = import_all(blocked=WEB_LIBRARIES, packages=["records", "training.engine"])
    assert count > 5


@pytest.fixture(scope="module")
def graph():
    houses = ("actions", "records", "annotation", "training", "config", "local", "loop")
    return grimp.build_graph(*houses, cache_dir=None)


def in_engine(module: str) -> bool:
    return f"{module}.".startswith("training.engine.")


def test_the_engine_takes_nothing_from_the_rest_of_training(graph):
    taken = {
        (module, imported)
        for module in graph.modules
        if in_engine(module)
        for imported in graph.find_modules_directly_imported_by(module)
        if not in_engine(imported) and not imported.startswith(("actions", "records"))
    }
    assert taken == set()


# Plain Python: the gate that a page and a program share.
SHARED = {
    "training.engine.reward_model.metrics",
}


def test_the_web_side_takes_only_plain_modules_from_the_engine(graph):
    taken = {
        (module, imported)
        for module in graph.modules
        if not in_engine(module)
        for imported in graph.find_modules_directly_imported_by(module)
        if in_engine(imported) and imported not in SHARED
    }
    assert taken == set()
