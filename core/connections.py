"""Clients of Redis for an event loop: lean where every request passes, and told of lost connections also by uvloop.

uvloop says RuntimeError when something is written to a connection that was closed a moment before; asyncio says what a lost
connection says, and so do these. redis-py packs in Python, starts a task for each write and a timer for each reply, which took
longer than all else that is done to a group of commands: here hiredis packs, and one timer bounds the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import redis.asyncio
from hiredis import pack_command
from redis.asyncio.client import Pipeline
from redis.exceptions import ResponseError


class _Ours:
    async def send_packed_command(self, *arguments: Any, **options: Any) -> None:
        """Raises redis.exceptions.ConnectionError also for a connection that was just closed."""
        try:
            await super().send_packed_command(*arguments, **options)  # type: ignore[misc]
        except RuntimeError as exc:
            raise redis.ConnectionError(str(exc)) from exc

    async def exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send them in one write, and read a reply to each; an error is a reply, too. Raises ConnectionError, TimeoutError."""
        try:
            async with asyncio.timeout(self.socket_timeout):  # type: ignore[attr-defined]
                self._writer.write(b"".join(map(pack_command, commands)))  # type: ignore[attr-defined]
                await self._writer.drain()  # type: ignore[attr-defined]
                read = self._parser.read_response  # type: ignore[attr-defined]
                return [await read() for _ in commands]
        except BaseException as exc:
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            if isinstance(exc, TimeoutError) and not isinstance(exc, redis.RedisError):
                raise redis.TimeoutError("Redis did not answer in time") from exc
            if isinstance(exc, (OSError, RuntimeError)):
                raise redis.ConnectionError(str(exc)) from exc
            raise

    @property
    def is_clean(self) -> bool:
        """Whether it is open, as far as is known, and nothing is left on it that nobody read."""
        parser: Any = self._parser  # type: ignore[attr-defined]
        if self._writer is None or not parser._connected:  # type: ignore[attr-defined]
            return False
        return not (parser._reader.has_data() or parser._stream.at_eof() or parser._stream._buffer)


class Connection(_Ours, redis.asyncio.Connection):
    """Without TLS."""


class SecureConnection(_Ours, redis.asyncio.SSLConnection):
    """With TLS."""


def _apart(command: tuple[Any, ...]) -> tuple[Any, ...]:
    """A command whose name is two words, as servers want it: XINFO STREAM."""
    return command if " " not in command[0] else (*command[0].split(), *command[1:])


def _at_hand(pool: Any) -> Any:
    """A free connection that needs no second look. The pool's own way takes a lock, a timer and a task's turn for it: half of
    what a whole round trip costs."""
    free = pool._available_connections
    if not free or pool._condition._waiters or not free[-1].is_clean:
        return None
    connection = free.pop()
    pool._in_use_connections.add(connection)
    return connection


async def _put_back(pool: Any, connection: Any) -> None:
    if pool._condition._waiters or connection.should_reconnect():
        await pool.release(connection)
    else:
        pool._in_use_connections.remove(connection)
        pool._available_connections.append(connection)


class _Round(Pipeline):
    """Commands that go together in one round trip."""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Their replies. Raises ConnectionError, TimeoutError; the first error among the replies only if that is wanted."""
        stack, self.command_stack = self.command_stack, []
        pool: Any = self.connection_pool
        connection = _at_hand(pool) or await pool.get_connection()
        try:
            replies = await connection.exchange([_apart(command) for command, _ in stack])
        finally:
            await _put_back(pool, connection)
        callbacks = self.response_callbacks
        for index, (command, options) in enumerate(stack):
            reply, read = replies[index], callbacks.get(command[0])
            if isinstance(reply, ResponseError):
                if raise_on_error:
                    raise reply
            elif read is not None:
                options.pop("keys", None)
                replies[index] = read(reply, **options)
        return replies


class Client(redis.asyncio.Redis):
    """redis-py's, but for its pipelines, which are never transactions here."""

    def pipeline(self, transaction: bool = False, shard_hint: str | None = None) -> _Round:
        """Commands to be sent together. Raises ValueError for a transaction."""
        if transaction:
            raise ValueError("no transactions here: scripts are atomic")
        return _Round(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def client(pool: redis.asyncio.ConnectionPool) -> Client:
    """A client on this pool, before its first connection is made."""
    ours = {redis.asyncio.Connection: Connection, redis.asyncio.SSLConnection: SecureConnection}
    pool.connection_class = ours.get(pool.connection_class, pool.connection_class)
    return Client(connection_pool=pool)
