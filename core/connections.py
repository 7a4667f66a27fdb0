"""Clients of Redis for an event loop: lean where every request passes, and told of lost connections also by uvloop.

uvloop says RuntimeError when something is written to a connection that was closed a moment before; asyncio says what a lost
connection says, and so do these. redis-py packs in Python, starts a task for each write and a timer for each reply, and reads
through a stream, which took longer than all else that is done to a group of commands: here hiredis packs, and replies are read
as they come, with one future for all of them. redis-py still makes the connections, and talks over them in its own way besides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import redis.asyncio
from hiredis import PushNotification, pack_command
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio.client import Pipeline
from redis.exceptions import ResponseError

CLOSED = "Connection closed by server."


class _Wire(asyncio.Protocol):
    """What a connection's transport tells: replies that are waited for are read at once, all else is redis-py's stream's.

    One timer looks after them, which runs out as long after the last exchange as each may take: one for each would cost more.
    """

    def __init__(self, connection: Any) -> None:
        self.writer = connection._writer
        self._transport: asyncio.Transport = self.writer.transport
        self._stream: Any = self._transport.get_protocol()
        self._reader = connection._parser._reader
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[list[Any]] | None = None  # while one is waited for
        self._replies: list[Any] = []
        self._count = 0
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    def exchange(self, packed: bytes, count: int, seconds: float | None) -> asyncio.Future[list[Any]]:
        """Send commands; so many replies are to come, within so many seconds."""
        if self._answer is not None:
            raise RuntimeError("another exchange is under way")
        if seconds is not None:
            self._deadline = self._loop.time() + seconds
            if self._timer is None:
                self._timer = self._loop.call_later(seconds, self._look)
        self._transport.write(packed)
        self._replies, self._count = [], count
        self._answer = answer = self._loop.create_future()
        return answer

    def forget(self) -> None:
        """The connection is at its end."""
        self._fail(redis.ConnectionError(CLOSED))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        """Replies, or parts of them."""
        if self._answer is None:
            self._stream.data_received(data)
            return
        try:
            self._read(data)
        except Exception as exc:
            self._fail(exc)

    def _read(self, data: bytes) -> None:
        reader, replies = self._reader, self._replies
        reader.feed(data)
        while len(replies) < self._count:
            reply = reader.gets()
            if reply is NOT_ENOUGH_DATA:
                return
            if isinstance(reply, PushNotification):
                continue
            first = reply[0] if type(reply) is list and reply else reply
            if isinstance(first, redis.ConnectionError):  # a server that is not ready, or that lets us do nothing
                raise first
            replies.append(reply)
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(replies)

    def _fail(self, exc: Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(exc)

    def _look(self) -> None:
        self._timer = None
        if self._answer is None:
            return
        left = self._deadline - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._fail(redis.TimeoutError("Redis did not answer in time"))

    def eof_received(self) -> bool | None:
        """The server says no more."""
        self._fail(redis.ConnectionError(CLOSED))
        stays: bool | None = self._stream.eof_received()
        return stays

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._fail(redis.ConnectionError(str(exc) if exc else CLOSED))
        self.forget()
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        """The server takes nothing more for now."""
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """It does."""
        self._stream.resume_writing()


class _Ours:
    _wire: _Wire | None = None

    async def send_packed_command(self, *arguments: Any, **options: Any) -> None:
        """Raises redis.exceptions.ConnectionError also for a connection that was just closed."""
        try:
            await super().send_packed_command(*arguments, **options)  # type: ignore[misc]
        except RuntimeError as exc:
            raise redis.ConnectionError(str(exc)) from exc

    async def exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send them in one write, and read a reply to each; an error is a reply, too. Raises ConnectionError, TimeoutError."""
        wire: _Wire | None = None
        try:
            if not self.is_clean:
                raise redis.ConnectionError(CLOSED)
            wire = self._wire
            if wire is None or wire.writer is not self._writer:  # type: ignore[attr-defined]
                wire = self._wire = _Wire(self)
            packed = b"".join(map(pack_command, commands))
            return await wire.exchange(packed, len(commands), self.socket_timeout)  # type: ignore[attr-defined]
        except BaseException as exc:
            if wire is not None:
                wire.forget()
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            if isinstance(exc, (OSError, RuntimeError)):
                raise redis.ConnectionError(str(exc)) from exc
            raise

    @property
    def is_clean(self) -> bool:
        """Whether it is open, as far as is known, and nothing is left on it that nobody read."""
        writer, parser = self._writer, self._parser  # type: ignore[attr-defined]
        if writer is None or not parser._connected or writer.transport.is_closing():
            return False
        stream = parser._stream
        return not (stream._buffer or stream._eof or parser._reader.has_data())


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


def _is_put_back(pool: Any, connection: Any) -> bool:
    """Back to those that are free, unless it must go the pool's own way."""
    if pool._condition._waiters or connection._should_reconnect:
        return False
    pool._in_use_connections.remove(connection)
    pool._available_connections.append(connection)
    return True


async def _exchange(pool: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    if not commands:
        return []  # a reply to nothing would never come
    connection = _at_hand(pool) or await pool.get_connection()
    try:
        replies: list[Any] = await connection.exchange(commands)
        return replies
    finally:
        if not _is_put_back(pool, connection):
            await pool.release(connection)


class _Round(Pipeline):
    """Commands that go together in one round trip."""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Their replies. Raises ConnectionError, TimeoutError; the first error among the replies only if that is wanted."""
        stack, self.command_stack = self.command_stack, []
        replies = await _exchange(self.connection_pool, [_apart(command) for command, _ in stack])
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

    async def exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands of one word and their arguments together. The replies as they come; an error is a reply, too.
        Raises ConnectionError, TimeoutError."""
        return await _exchange(self.connection_pool, commands)


def client(pool: redis.asyncio.ConnectionPool) -> Client:
    """A client on this pool, before its first connection is made."""
    ours = {redis.asyncio.Connection: Connection, redis.asyncio.SSLConnection: SecureConnection}
    pool.connection_class = ours.get(pool.connection_class, pool.connection_class)
    return Client(connection_pool=pool)
