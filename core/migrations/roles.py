"""The role of the running app, beside the owner that migrates: made where it is missing, and given what it needs, no more.

What it needs stands in core/tables.py. It is granted anew after every migration, so that new tables are covered and what a
release no longer needs is taken back.
"""

from __future__ import annotations

from psycopg2.extensions import encrypt_password
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ProgrammingError

from core.errors import SettingsConflict
from core.store import connection_options
from core.tables import APP_FUNCTIONS, APP_RIGHTS, APP_SEQUENCES

WHO_MIGRATES = "SELECT current_user, current_schema()"
HAS_ROLE = text("SELECT 1 FROM pg_roles WHERE rolname = :role")


def grant_to_app(connection: Connection, app_url: str) -> None:
    """Let the role of `app_url` do what the running app does; nothing to do where it is the one that migrates.

    Raises SettingsConflict when there is no such role and this one may not make it.
    """
    app = connection_options(app_url)
    owner, schema = connection.exec_driver_sql(WHO_MIGRATES).one()
    role = app.get("user")
    if role in (None, owner):
        return
    if connection.execute(HAS_ROLE, {"role": role}).one_or_none() is None:
        _make(connection, role, app.get("password"), owner)
    for statement in _grants(_quoted(connection, role), _quoted(connection, schema)):
        connection.exec_driver_sql(statement)


def _make(connection: Connection, role: str, password: str | None, owner: str) -> None:
    """A role that may log in and nothing else. The server, and its log, see a verifier of the password and never itself."""
    login = f"CREATE ROLE {_quoted(connection, role)} LOGIN"
    if password is not None:
        verifier = encrypt_password(password, role, connection.connection.dbapi_connection, "scram-sha-256")
        login += f" PASSWORD '{verifier}'"  # base64 and digits: nothing that a quote would have to guard
    try:
        connection.exec_driver_sql(login)
    except ProgrammingError as exc:
        raise SettingsConflict(
            f"There is no database role {role} (AFORO_DATABASE_URL), and {owner} may not make it: "
            f"have an administrator do so, with the right to log in, then migrate again."
        ) from exc


def _grants(role: str, schema: str) -> list[str]:
    """The statements, for quoted names. That others may create in the schema was Postgres's own default before 15."""
    what = (("TABLE", APP_RIGHTS), ("SEQUENCE", APP_SEQUENCES), ("FUNCTION", APP_FUNCTIONS))
    rights = [(kind, *right) for kind, found in what for right in found.items()]
    return [
        f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC, {role}",
        f"GRANT USAGE ON SCHEMA {schema} TO {role}",
        *(f"REVOKE ALL ON {kind} {name} FROM {role}" for kind, name, _ in rights),
        *(f"GRANT {right} ON {kind} {name} TO {role}" for kind, name, right in rights),
    ]


def _quoted(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(name)
