"""Round trips to Redis for workers: several commands in one write, a reply to each, and as little as possible around them.

redis-py takes some 100 µs of processor time for a call; a batch makes four of them, and for a small one that was a third of a
worker's share. Here hiredis packs and reads, over connections of redis-py's own making.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis
from hiredis import pack_command
from redis.exceptions import NoScriptError, RedisError, ResponseError

from core.errors import Unavailable

RESTED_SECONDS = 0.1  # a connection that was idle for longer may have been closed by the server
Command = tuple[Any, ...]


class Exchange:
    """Over one client. Blocking; never repeats a call. For any number of threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._idle: list[tuple[Any, float]] = []  # connections, and when each was used last
        self._is_lean = type(client) is redis.Redis  # a cluster has its own way of sending

    def __call__(self, commands: Sequence[Command]) -> list[Any]:
        """The replies in order; an error is a reply, too. Raises RedisError or OSError when the connection fails."""
        if not self._is_lean:
            return self._by_pipeline(commands)
        connection = self._connection()
        try:
            connection.send_packed_command([b"".join(map(pack_command, commands))], check_health=False)
            replies = [_read(connection) for _ in commands]
        except BaseException:
            connection.disconnect()  # it connects again when it is used
            self._idle.append((connection, time.monotonic()))
            raise
        self._idle.append((connection, time.monotonic()))
        return replies

    def _connection(self) -> Any:
        if not self._idle:
            return self._client.connection_pool.make_connection()
        connection, used = self._idle.pop()
        try:
            if time.monotonic() - used > RESTED_SECONDS and connection.can_read():  # nothing is due: it is the end
                connection.disconnect()
        except (RedisError, OSError):
            connection.disconnect()
        return connection

    def _by_pipeline(self, commands: Sequence[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for name, *arguments in commands:
            getattr(pipeline, name.lower())(*arguments)
        return pipeline.execute(raise_on_error=False)


def _read(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as exc:
        return exc


class Scripts:
    """Calls of one script, each with its key, in one round trip."""

    def __init__(self, client: redis.Redis, exchange: Exchange, source: str) -> None:
        self._client = client
        self._exchange = exchange
        self._source = source
        self._sha: str | None = None

    def __call__(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """The answers. Raises Unavailable, also where only one of them failed."""
        answers = self.tried(calls)
        for answer in answers:
            if isinstance(answer, (RedisError, OSError)):
                raise Unavailable("Redis cannot be reached.") from answer
        return answers

    def tried(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """The answers, or why there are none. Raises Unavailable where there is no answer at all."""
        try:
            answers = self._ask(calls)
            again = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if again:  # these did not run; the others did
                self._sha = None
                for i, answer in zip(again, self._ask([calls[i] for i in again]), strict=True):
                    answers[i] = answer
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
        return answers

    def _ask(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        if self._sha is None:
            self._sha = self._client.script_load(self._source)
        return self._exchange([("EVALSHA", self._sha, 1, name, *arguments) for name, arguments in calls])
