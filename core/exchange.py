"""Round trips to Redis for workers: several commands in one write, a reply to each, and as little as possible around them.

redis-py takes some 100 µs of processor time for a call; a batch makes four of them, and for a small one that was a third of a
worker's share. Here hiredis packs and reads, over connections of redis-py's own making.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import redis
from hiredis import pack_command
from redis.exceptions import NoScriptError, RedisError, ResponseError

from core.errors import Unavailable

RESTED_SECONDS = 0.1  # a connection that was idle for longer may have been closed by the server
Command = tuple[Any, ...]
Call = tuple[str, Sequence[Any]]  # of a script: its key, its arguments


class Exchange:
    """Over one client. Blocking; never repeats a call. For any number of threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._idle: list[tuple[Any, float]] = []  # connections, and when each was used last
        self.is_lean = type(client) is redis.Redis  # a cluster has its own way of sending

    def __call__(self, commands: Sequence[Command]) -> list[Any]:
        """The replies in order; an error is a reply, too. Raises RedisError or OSError when the connection fails."""
        return self.send(commands).replies()

    def send(self, commands: Sequence[Command], behind: Sent | None = None) -> Sent:
        """Send them, and leave the replies for later; `behind` others, on their connection. Raises RedisError or OSError when the
        connection fails."""
        sent = behind or Sent(self, self._connection() if self.is_lean else None)
        sent.add(commands)
        return sent

    def give_back(self, connection: Any, is_sound: bool) -> None:
        """For the next call."""
        if not is_sound:
            connection.disconnect()  # it connects again when it is used
        self._idle.append((connection, time.monotonic()))

    def _connection(self) -> Any:
        try:
            connection, used = self._idle.pop()
        except IndexError:  # asked for before, another thread might take the last one in between
            return self._client.connection_pool.make_connection()
        try:
            if time.monotonic() - used > RESTED_SECONDS and connection.can_read():  # nothing is due: it is the end
                connection.disconnect()
        except (RedisError, OSError):
            connection.disconnect()
        return connection

    def by_pipeline(self, commands: Sequence[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for name, *arguments in commands:
            getattr(pipeline, name.lower())(*arguments)
        return pipeline.execute(raise_on_error=False)


class Sent:
    """Commands on their way. Their replies are read once, or they are dropped."""

    def __init__(self, exchange: Exchange, connection: Any) -> None:
        self._exchange = exchange
        self._connection = connection
        self._replies: list[Any] = []  # without a connection of its own each is there at once
        self._due = 0

    def add(self, commands: Sequence[Command]) -> None:
        """Some more. Raises RedisError or OSError."""
        if self._connection is None:
            self._replies += self._exchange.by_pipeline(commands)
            return
        try:
            self._connection.send_packed_command([b"".join(map(pack_command, commands))], check_health=False)
            self._due += len(commands)
        except BaseException:
            self.drop()
            raise

    def replies(self) -> list[Any]:
        """Wait for them. Raises RedisError or OSError."""
        connection, self._connection = self._connection, None
        if connection is not None:
            is_sound = False
            try:
                self._replies = [_read(connection) for _ in range(self._due)]
                is_sound = True
            finally:
                self._exchange.give_back(connection, is_sound)
        return self._replies

    def drop(self) -> None:
        """Nobody waits for the replies any more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._exchange.give_back(connection, is_sound=False)


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

    def __call__(self, calls: Sequence[Call]) -> list[Any]:
        """The answers. Raises Unavailable, also where only one of them failed."""
        return checked(self.tried(calls))

    def tried(self, calls: Sequence[Call]) -> list[Any]:
        """The answers, or why there are none. Raises Unavailable where there is no answer at all."""
        return self.tried_with(calls, self, ())[0]

    def tried_with(self, calls: Sequence[Call], other: Scripts, its_calls: Sequence[Call]) -> tuple[list[Any], list[Any]]:
        """The answers to these, and to another script's calls after them, in one round trip. Raises as `tried` does."""
        try:
            replies = iter(self._exchange([*self._commands(calls), *other._commands(its_calls)]))
            answers, its_answers = list(islice(replies, len(calls))), list(replies)
            self._make_good(calls, answers)
            other._make_good(its_calls, its_answers)
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
        return answers, its_answers

    @property
    def is_lean(self) -> bool:
        """Whether commands of other kinds can be sent with its calls."""
        return self._exchange.is_lean

    def before(self, calls: Sequence[Call], commands: Sequence[Command]) -> tuple[list[Any], list[Any]]:
        """The answers, and the replies to other commands sent behind its calls. Raises Unavailable, also where one failed."""
        try:
            replies = self._exchange([*self._commands(calls), *commands])
            answers = replies[: len(calls)]
            self._make_good(calls, answers)
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
        return checked(answers), checked(replies[len(calls) :])

    def send(self, calls: Sequence[Call], behind: Sent | None = None) -> Sent:
        """Call it, and leave the answers for `answers_to`; `behind` calls sent before. Raises Unavailable."""
        try:
            return self._exchange.send(self._commands(calls), behind)
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc

    def answers_to(self, calls: Sequence[Call], sent: Sent) -> list[Any]:
        """Of calls that were sent. Raises Unavailable, also where only one of them failed."""
        try:
            answers = sent.replies()
            self._make_good(calls, answers)
        except (RedisError, OSError) as exc:
            raise Unavailable("Redis cannot be reached.") from exc
        return checked(answers)

    def _make_good(self, calls: Sequence[Call], answers: list[Any]) -> None:
        """Call again what did not run, as the server had forgotten the script; the others did."""
        again = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if again:
            self._sha = None
            for i, answer in zip(again, self._exchange(self._commands([calls[i] for i in again])), strict=True):
                answers[i] = answer

    def _commands(self, calls: Sequence[Call]) -> list[Command]:
        if self._sha is None and calls:
            self._sha = self._client.script_load(self._source)
        return [("EVALSHA", self._sha, 1, name, *arguments) for name, arguments in calls]


def checked(answers: list[Any]) -> list[Any]:
    """The same, if none of them failed. Raises Unavailable."""
    for answer in answers:
        if isinstance(answer, (RedisError, OSError)):
            raise Unavailable("Redis cannot be reached.") from answer
    return answers
