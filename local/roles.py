"""Who may connect to the embedded Postgres, and as which role.

The kernel identifies who connects (peer authentication): only the user that started
Concord is admitted, as the application's role or as the superuser. There is no password
to store or to steal. The application's role owns its database and may create others
(for tests); it is no superuser.
"""

import os
import pwd
from pathlib import Path

from config.state import DATABASE, ROLE
from local import accounts
from local.children import Account

SUPERUSER = "postgres"
WRITTEN_BY_US = "# Written by Concord at each start (local/roles.py).\n"

# Of the tables, views, sequences and functions that the superuser owns. A sequence that
# belongs to a column follows its table.
GIVE_OBJECTS = f"""
DO $$
DECLARE statement text;
BEGIN
  FOR statement IN
    SELECT format('ALTER %s %s OWNER TO {ROLE}',
                  CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                               WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
                  pg_class.oid::regclass)
      FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
     WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
       AND relowner = '{SUPERUSER}'::regrole
       AND relkind IN ('r', 'p', 'v', 'm', 'S')
       AND NOT EXISTS (SELECT FROM pg_depend
                        WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid
                          AND deptype IN ('a', 'i') AND relkind = 'S')
    UNION ALL
    SELECT format('ALTER ROUTINE %s OWNER TO {ROLE}', pg_proc.oid::regprocedure)
      FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
     WHERE nspname NOT IN ('pg_catalog', 'information_schema')
       AND proowner = '{SUPERUSER}'::regrole
       AND NOT EXISTS (SELECT FROM pg_depend
                        WHERE classid = 'pg_proc'::regclass AND objid = pg_proc.oid
                          AND deptype = 'e')
  LOOP
    EXECUTE statement;
  END LOOP;
END $$
"""


def write_access(data: Path, account: Account | None) -> None:
    """Write Postgres' access files, which it reads at its start."""
    me = pwd.getpwuid(os.geteuid()).pw_name
    lines = [f'concord "{me}" {role}\n' for role in (ROLE, SUPERUSER)]
    for name, text in (
        ("pg_hba.conf", "local all all peer map=concord\n"),
        ("pg_ident.conf", "".join(lines)),
    ):
        staged = data / f"{name}.new"
        staged.write_text(WRITTEN_BY_US + text, encoding="utf-8")
        accounts.give(staged, account)
        staged.replace(data / name)


def are_ready(sockets: Path) -> bool:
    """Whether the application's role has its database; create it where needed."""
    import psycopg  # slow to import, and set-up runs without it

    def connect(role: str, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host=str(sockets),
            user=role,
            dbname=database,
            connect_timeout=5,
            autocommit=True,
        )

    def application_owns_database() -> bool:
        with connect(ROLE, DATABASE) as connection:
            row = connection.execute(
                "SELECT NOT rolsuper AND datdba = pg_roles.oid FROM pg_roles,"
                " pg_database WHERE rolname = current_user"
                " AND datname = current_database()"
            ).fetchone()
        return row == (True,)

    def rename_superuser() -> None:
        """Rename the first superuser, which had the name of the application's role."""
        with connect(ROLE, "postgres") as connection, connection.transaction():
            # A session cannot rename its own role.
            connection.execute("CREATE ROLE concord_renames SUPERUSER")
            connection.execute("SET LOCAL SESSION AUTHORIZATION concord_renames")
            connection.execute(f"ALTER ROLE {ROLE} RENAME TO {SUPERUSER}")
            connection.execute("RESET SESSION AUTHORIZATION")
            connection.execute("DROP ROLE concord_renames")

    def make_role_and_database() -> None:
        with connect(SUPERUSER, "postgres") as connection:
            if not connection.execute(
                "SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE]
            ).fetchone():
                connection.execute(f"CREATE ROLE {ROLE} LOGIN CREATEDB")
            if not connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]
            ).fetchone():
                connection.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
        with connect(SUPERUSER, DATABASE) as connection, connection.transaction():
            connection.execute(GIVE_OBJECTS)
            connection.execute(f"ALTER DATABASE {DATABASE} OWNER TO {ROLE}")

    try:
        try:
            if application_owns_database():
                return True
        except psycopg.OperationalError as error:
            if "does not exist" not in str(error):
                return False
        try:
            make_role_and_database()
        except psycopg.OperationalError as error:
            if f'role "{SUPERUSER}" does not exist' not in str(error):
                return False
            rename_superuser()
            make_role_and_database()
        return application_owns_database()
    except (psycopg.OperationalError, psycopg.errors.DuplicateObject):
        return False  # starting, stopping, or another process does the same
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
        return False
