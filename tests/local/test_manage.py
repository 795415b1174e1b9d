"""`make manage`, from the first minute on, and what it says where it cannot go on."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest

from config.state import BASE_DIR, State
from local import servers
from tests.local.site import clean_environment

# Starts of the servers, and of Django.
pytestmark = pytest.mark.slow

CHAT = {
    "messages": [
        {"role": "user", "content": "Are you open?"},
        {"role": "assistant", "content": "Until six."},
    ]
}


@pytest.fixture
def state():
    home = Path(tempfile.mkdtemp(prefix="concord-manage-", dir="/tmp"))
    state = State(home, throwaway=True)
    yield state
    state.remove()


def manage(state, *arguments, with_servers=True, words=""):
    around = [sys.executable, "-m", "local.servers"] if with_servers else []
    return subprocess.run(
        [*around, sys.executable, "manage.py", *arguments],
        cwd=BASE_DIR,
        env=clean_environment(state),
        input=words,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_first_command_of_all_finds_its_tables(state, tmp_path):
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps(CHAT) + "\n")
    form = ["--project", "Shop", "--create", "--format", "openai-chat", str(file)]
    done = manage(state, "import_samples", *form)
    assert done.returncode == 0, done.stderr
    assert "1 new" in done.stdout
    assert "The database is new: making its tables." in done.stderr
    again = manage(state, "import_samples", *form)
    assert "1 unchanged" in again.stdout
    assert "The database is new" not in again.stderr


def test_a_shell_that_comes_first_finds_its_tables(state):
    count = "from annotation.models import Project; print(Project.objects.count())"
    done = manage(state, "shell", "-v", "0", words=count)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0"
    assert "The database is new: making its tables." in done.stderr


def test_tables_of_another_version_are_left_alone_and_named(state):
    with (
        servers.running(state, [servers.Postgres(state), servers.Valkey(state)]),
        psycopg.connect(state.database_url) as connection,
    ):
        connection.execute("CREATE TABLE annotation_project (id int)")
    done = manage(state, "changepassword", "ada")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith(
        "The database is not up to date with this version. First run: make up,"
        ' or make manage ARGS="migrate"\n'
    )


def test_without_a_database_it_says_how_to_have_one(state):
    done = manage(state, "changepassword", "ada", with_servers=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert 'make manage ARGS="' in done.stderr.splitlines()[-1]
