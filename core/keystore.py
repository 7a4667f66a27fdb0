"""The keys in Postgres: made, listed and revoked by operators, read by the API."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.engine import Connection, Engine

from core.keys import SCOPES, Key, key_of
from core.pgerrors import translated

COLUMNS = """id, client, scopes, digest, (extract(epoch FROM created_at) * 1000)::bigint,
  (extract(epoch FROM expires_at) * 1000)::bigint, (extract(epoch FROM revoked_at) * 1000)::bigint"""

KEYS_BY_ID = f"SELECT {COLUMNS} FROM api_keys WHERE id = ANY(%s::text[])"  # noqa: S608  constants

ALL_KEYS = f"SELECT {COLUMNS} FROM api_keys ORDER BY created_at, id"  # noqa: S608  constants

INSERT_KEY = """
INSERT INTO api_keys (id, client, scopes, digest, created_at, expires_at)
VALUES (%s, %s, %s::text[], %s, to_timestamp(%s / 1000.0), to_timestamp(%s / 1000.0)) ON CONFLICT DO NOTHING"""

REVOKE_KEY = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = %s"

FIRST_CLIENT = "first"


class KeyStore:
    """Blocking, like all that speaks to Postgres. Raises Unavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, key_ids: Sequence[str]) -> dict[str, Key]:
        """These keys, by id; those that there are none of are missing."""
        with translated(), self._engine.connect() as connection:
            return {key.id: key for key in _keys(connection, KEYS_BY_ID, (list(key_ids),))}

    def all(self) -> list[Key]:
        """Every key there ever was, the oldest first."""
        with translated(), self._engine.connect() as connection:
            return _keys(connection, ALL_KEYS, ())

    def add(self, key: Key) -> None:
        """Keep a new key."""
        with translated(), self._engine.begin() as connection:
            _insert(connection, key)

    def revoke(self, key_id: str) -> bool:
        """From now on the key opens nothing. Whether there is such a key."""
        with translated(), self._engine.begin() as connection:
            return connection.exec_driver_sql(REVOKE_KEY, (key_id,)).rowcount == 1


def found_first_key(connection: Connection, token: str, now_ms: int) -> None:
    """Keep the key that the environment names, with every scope, unless it is there already; revoked it stays revoked."""
    _insert(connection, key_of(token, FIRST_CLIENT, SCOPES, now_ms))


def _insert(connection: Connection, key: Key) -> None:
    values = (key.id, key.client, list(key.scopes), key.digest, key.created_at, key.expires_at)
    connection.exec_driver_sql(INSERT_KEY, values)


def _keys(connection: Connection, statement: str, parameters: tuple[object, ...]) -> list[Key]:
    rows = connection.exec_driver_sql(statement, parameters).fetchall()
    return [Key(row[0], row[1], tuple(row[2]), bytes(row[3]), *row[4:]) for row in rows]
