#!/usr/bin/env python
"""Run a Django management command."""

import os
import sys

import django
from django.core.management import call_command, execute_from_command_line
from django.db import OperationalError, ProgrammingError, connection
from psycopg.errors import UndefinedColumn, UndefinedTable

# These show an error themselves: their tables are there before them.
SHOW_ERRORS = ("shell", "dbshell", "dumpdata")


def main() -> None:
    try:
        if sys.argv[1:2] and sys.argv[1] in SHOW_ERRORS:
            django.setup()
            make_tables_of_new_database()
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
        if not make_tables_of_new_database():
            sys.exit(
                "The database is not up to date with this version. First run: make up,"
                ' or make manage ARGS="migrate"'
            )
        execute_from_command_line(sys.argv)


def make_tables_of_new_database() -> bool:
    """Give a new database its tables; one that has any is left as it is."""
    connection.close()
    if connection.introspection.table_names():
        return False
    sys.stderr.write("The database is new: making its tables.\n")
    call_command("migrate", interactive=False, verbosity=0)
    return True


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    main()
