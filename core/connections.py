"""Connections to Redis for uvloop, whose one error that redis-py does not know would pass for a mistake of ours.

uvloop says RuntimeError when something is written to a connection that was closed a moment before; asyncio says what a lost
connection says, and so do these.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio


class _Translated:
    async def send_packed_command(self, *arguments: Any, **options: Any) -> None:
        """Raises redis.exceptions.ConnectionError also for a connection that was just closed."""
        try:
            await super().send_packed_command(*arguments, **options)  # type: ignore[misc]
        except RuntimeError as exc:
            raise redis.ConnectionError(str(exc)) from exc


class Connection(_Translated, redis.asyncio.Connection):
    """Without TLS."""


class SecureConnection(_Translated, redis.asyncio.SSLConnection):
    """With TLS."""


def with_translated_errors(pool: redis.asyncio.ConnectionPool) -> redis.asyncio.ConnectionPool:
    """The same pool, before its first connection is made."""
    translated = {redis.asyncio.Connection: Connection, redis.asyncio.SSLConnection: SecureConnection}
    pool.connection_class = translated.get(pool.connection_class, pool.connection_class)
    return pool
