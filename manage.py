#!/usr/bin/env python
"""Run a Django management command."""

import os
import sys

from django.core.management import call_command, execute_from_command_line
from django.db import OperationalError, ProgrammingError, connection
from psycopg.errors import UndefinedColumn, UndefinedTable


def main() -> None:
    try:
        execute_from_command_line(sys.argv)
    except OperationalError as error:
        if connection.connection is not None:
            raise  # it answers, and says something else
        sys.exit(
            f"The database does not answer: {error}\n"
            'With the one that Concord brings along: make manage ARGS="…"'
        )
    except ProgrammingError as error:
        if not isinstance(error.__cause__, UndefinedTable | UndefinedColumn):
            raise
        make_tables_or_end()
        execute_from_command_line(sys.argv)


def make_tables_or_end() -> None:
    """Give a new database its tables; one of an earlier version is left as it is."""
    connection.close()
    if connection.introspection.table_names():
        sys.exit(
            "The database is not up to date with this version. First run: make up,"
            ' or make manage ARGS="migrate"'
        )
    sys.stderr.write("The database is new: making its tables.\n")
    call_command("migrate", interactive=False, verbosity=0)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    main()
