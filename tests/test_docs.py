"""Documents that would mislead when they drift from the code."""

import ast
import re
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from actions import builtins
from config.state import BASE_DIR
from config.version import VERSION, read_version
from records.recipes import RECIPES
from records.recipes.retired import RETIRED

READERS = {"flag", "integer", "matching", "text", "words", "path", "secret", "given"}
PACKAGES = ["actions", "annotation", "config", "local", "loop", "records", "training"]


def sources() -> list[Path]:
    return [p for name in PACKAGES for p in (BASE_DIR / name).rglob("*.py")]


def variables_read(path: Path, *, past_the_readers: bool = False) -> set[str]:
    """Return the literal names of the environment variables a module reads."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        first = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            typed = called.startswith("env.") and node.func.attr in READERS
            if called in ("os.environ.get", "os.getenv") or (
                typed and not past_the_readers
            ):
                first = node.args[0]
        elif (
            isinstance(node, ast.Subscript)
            and isinstance(node.ctx, ast.Load)
            and ast.unparse(node.value) == "os.environ"
        ):
            first = node.slice
        if isinstance(first, ast.Constant):
            names.add(first.value)
    return names - {"PATH"}


def test_operations_lists_every_environment_variable():
    listed = set(
        re.findall(
            r"^\| `([A-Z_]+)`", (BASE_DIR / "docs" / "operations.md").read_text(), re.M
        )
    )
    read = set().union(*map(variables_read, sources()))
    assert "DATABASE_URL" in read
    assert read - listed - {f"{name}_FILE" for name in listed} == set()
    others = {"PYTHON", "CI", "OMP_NUM_THREADS"}  # read elsewhere
    assert listed - read - others == set()


def test_the_web_side_reads_the_environment_only_by_the_typed_readers():
    read = {
        str(path.relative_to(BASE_DIR)): names
        for path in sources()
        if "engine" not in path.parts
        if (names := variables_read(path, past_the_readers=True))
    }
    assert read == {}


def test_every_built_in_action_is_described():
    documents = "\n".join(
        path.read_text(encoding="utf-8") for path in (BASE_DIR / "docs").glob("*.md")
    )
    missing = [d.name for d in builtins.BUILT_IN_ACTIONS if d.name not in documents]
    assert missing == []


def test_the_version_is_the_newest_heading_of_the_changelog():
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    assert read_version("# Changes\n\n## 1.2.3 (soon)\n\n## 1.2.2\n") == "1.2.3"
    with pytest.raises(ValueError, match="has no heading"):
        read_version("# Changes\n")


def test_make_help_lists_every_target():
    makefile = (BASE_DIR / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    shown = subprocess.run(
        ["make", "help"], cwd=BASE_DIR, capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall(r"make (\w+)", shown)) >= set(phony.split())


def test_every_pin_of_a_group_is_in_the_constraints():
    project = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())["project"]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (BASE_DIR / "constraints.txt").read_text().splitlines()
    }
    wanted = {
        re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
        for group in ("web", "engines", "train", "dev")
        for requirement in project["optional-dependencies"][group]
    }
    assert wanted - pinned == set()


COMPOSE = BASE_DIR / "docker" / "compose.yaml"


def test_compose_has_the_parts_and_builds_the_targets_of_the_dockerfile():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert set(services) == {
        *("postgres", "valkey", "prepare", "web", "worker", "scheduler", "gpu-worker")
    }
    dockerfile = (COMPOSE.parent / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM .* AS (\w+)$", dockerfile, re.MULTILINE))
    targets = {s["build"]["target"] for s in services.values() if "build" in s}
    assert targets == {"web", "gpu"}
    assert targets <= stages


def test_compose_needs_no_variable_that_operations_does_not_name():
    used = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE.read_text()))
    documented = (BASE_DIR / "docs" / "operations.md").read_text()
    assert {name for name in used if f"`{name}`" not in documented} == set()


WORKFLOW = BASE_DIR / ".github" / "workflows" / "ci.yml"


def test_the_hosted_checks_run_what_a_change_has_to_pass():
    job = yaml.safe_load(WORKFLOW.read_text())["jobs"]["test"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    local = (BASE_DIR / ".ci" / "run").read_text()
    assert {"make test", ".venv/bin/pytest -m browser"} <= set(commands)
    assert all(f"\n{command} " in local for command in (commands[0], commands[-1]))
    project = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]


def test_the_hosted_checks_pin_their_actions_and_get_no_secret():
    text = WORKFLOW.read_text()
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert [name for name in used if not re.search(r"@[0-9a-f]{40}$", name)] == []
    assert "secrets" not in text
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


def test_every_vendored_file_is_named_with_its_version_and_licence():
    vendor = BASE_DIR / "static" / "vendor"
    versions = dict(
        re.findall(r"^(\S+) (\d\S*), ", (vendor / "VERSIONS.txt").read_text(), re.M)
    )
    assert set(versions) == {"htmx.org", "uPlot"}
    page = (BASE_DIR / "THIRD_PARTY.md").read_text(encoding="utf-8")
    assert [v for v in versions.values() if f"| {v} |" not in page] == []
    folders = {path for path in vendor.iterdir() if path.is_dir()}
    assert [f for f in folders if not (f / "LICENSE").is_file()] == []
    assert [f.name for f in folders if f"`static/vendor/{f.name}/`" not in page] == []


PAGES = sorted(
    [
        *(BASE_DIR / "docs").rglob("*.md"),
        *(BASE_DIR / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
        *(BASE_DIR / f"{name}.md" for name in ("SECURITY", "THIRD_PARTY")),
    ]
)
# Written once and kept: their commands and paths are those of their day.
RECORDS = {BASE_DIR / "docs" / f"experiments{part}.md" for part in ("", "-archive")}
FOLDERS = {
    *(*PACKAGES, "benchmarks", "docker", "docs", "locale", "static", "templates"),
    *("tests", ".ci", ".github"),
}


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


def links_of(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(
        r'(?:src|href)="([^"]+)"', text
    )


def is_broken(page: Path, link: str) -> bool:
    if re.match(r"https?://", link):
        return False
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    return not target.exists() or (bool(anchor) and anchor not in anchors_of(target))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    assert [link for link in links_of(page) if is_broken(page, link)] == []


def test_a_link_that_leads_nowhere_is_noticed():
    page = BASE_DIR / "docs" / "index.md"
    assert is_broken(page, "no-such-page.md")
    assert is_broken(page, "glossary.md#no-such-heading")
    assert not is_broken(page, "glossary.md#action-tasks")


def paths_named(text: str) -> set[str]:
    """Return what in backticks, or in a command, reads as a path of the repository.

    A file may be named without its folder.
    """
    words = re.findall(r"`([\w./*<>-]+)`", text)
    modules = re.findall(r"python -m ([\w.]+)", text)
    return {
        *(word for word in words if word.partition("/")[0] in FOLDERS and "/" in word),
        *(f"**/{word}" for word in words if re.fullmatch(r"\w+\.(py|js)", word)),
        *(module.replace(".", "/") for module in modules),
    }


def is_there(path: str) -> bool:
    if path.startswith("**/"):
        return any(any((BASE_DIR / folder).glob(path)) for folder in FOLDERS)
    if re.search(r"[*<>]", path):
        return any(BASE_DIR.glob(re.sub(r"<\w+>", "*", path)))
    return (BASE_DIR / path).exists() or (BASE_DIR / f"{path}.py").exists()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in RECORDS], ids=lambda page: page.name
)
def test_every_path_and_module_that_a_page_names_is_there(page):
    named = paths_named(page.read_text(encoding="utf-8"))
    assert sorted(path for path in named if not is_there(path)) == []


def test_a_path_that_is_not_there_is_noticed():
    named = paths_named(
        "`training/no_such.py`, `python -m training.engine.no_such DIR`"
    )
    assert named == {"training/no_such.py", "training/engine/no_such"}
    assert not any(map(is_there, named))


def test_the_index_lists_every_page_of_docs():
    index = BASE_DIR / "docs" / "index.md"
    linked = {
        (index.parent / link.partition("#")[0]).resolve() for link in links_of(index)
    }
    pages = {page for page in PAGES if page.is_relative_to(index.parent)}
    assert sorted(page.name for page in pages - linked - {index}) == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in RECORDS], ids=lambda page: page.name
)
def test_what_a_page_says_is_in_a_module_is_there(page):
    pairs = re.findall(
        r"`(\w+)`\s+in\s+`([\w/]+\.py)`", page.read_text(encoding="utf-8")
    )
    missing = [
        (name, path)
        for name, path in pairs
        if not any(
            re.search(rf"^\s*(?:def|class) {name}\b|^{name}\b", file.read_text(), re.M)
            for folder in FOLDERS
            for file in (
                [BASE_DIR / path] if "/" in path else (BASE_DIR / folder).rglob(path)
            )
        )
    ]
    assert missing == []


def test_prose_is_wrapped_at_100_columns():
    long = []
    for page in PAGES:
        text = re.sub(
            r"^( *)```.*?^ *```$",
            "",
            page.read_text(encoding="utf-8"),
            flags=re.M | re.S,
        )
        long += [
            f"{page.name}: {line[:60]}"
            for line in text.splitlines()
            # Tables, headings, pictures, links and formulas cannot be broken.
            if len(line) > 100
            and not re.match(r"\||#|!?\[|<|    ", line)
            and " " in line[:100].strip()
        ]
    assert long == []


def test_no_page_names_a_setting_that_is_retired():
    today = {field.name for kind in RECIPES.values() for field in fields(kind)}
    files = {"judgments"}  # the name of a data file as well
    retired = {name for kind in RETIRED.values() for name in kind} - today - files
    assert "kl_weight" in retired
    named = {
        page.name: words
        for page in PAGES
        if page not in RECORDS
        and (words := retired & set(re.findall(r"`(\w+)`", page.read_text())))
    }
    assert named == {}
