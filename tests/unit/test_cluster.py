"""Which node of a cluster gets what, and what is never sent twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from redis.exceptions import AskError, MovedError

from core.cluster import AsyncCluster, Cluster
from core.errors import SettingsConflict
from core.settings import load
from core.slots import ClusterUrl

URL = ClusterUrl(("one:1", "two:2"), ("redis", "me:secret@", ""))
HALVES = [[0, 8191, [b"one", 1, b"id"]], [8192, 16383, [b"two", 2, b"id"]]]
LOW, HIGH = "b", "a"  # keys of the first and of the second half
LOST = redis.ConnectionError("the reply is lost")


class Node:
    """A server that answers what a test says and remembers what it was sent."""

    def __init__(self, url: str, replies: dict[str, list[Any]], sent: list[tuple[str, ...]]) -> None:
        self._address = url.rpartition("@")[2].partition("/")[0]
        self._replies = replies
        self._sent = sent
        self.connection_pool = self.command_stack = None

    def execute_command(self, *words: Any) -> Any:
        return HALVES

    def pipeline(self, transaction: bool) -> Node:
        found = Node(f"@{self._address}", self._replies, self._sent)
        found.command_stack = []
        return found

    def execute(self, raise_on_error: bool) -> list[Any]:
        self._sent += [(self._address, *map(str, words)) for words, _ in self.command_stack]
        replies = [self._replies[self._address].pop(0) for _ in self.command_stack]
        if replies == [LOST] * len(replies):
            raise LOST
        return replies


class AsyncNode(Node):
    """The same for an event loop."""

    async def execute_command(self, *words: Any) -> Any:
        return HALVES

    async def execute(self, raise_on_error: bool) -> list[Any]:
        return super().execute(raise_on_error)

    def pipeline(self, transaction: bool) -> AsyncNode:
        found = AsyncNode(f"@{self._address}", self._replies, self._sent)
        found.command_stack = []
        return found


def passed(kind: str, calls: list[tuple[Any, ...]], **replies: list[Any]) -> tuple[list[Any], list[tuple[str, ...]]]:
    """What a pipeline answers, and what was sent where."""
    sent: list[tuple[str, ...]] = []
    of_nodes = {"one:1": replies.get("one", []), "two:2": replies.get("two", [])}
    given = [(words, {}) for words in calls]
    if kind == "blocking":
        return Cluster(URL, lambda url: Node(url, of_nodes, sent)).run(given), sent  # type: ignore[arg-type, return-value]
    cluster = AsyncCluster(URL, lambda url: AsyncNode(url, of_nodes, sent))  # type: ignore[arg-type, return-value]
    return asyncio.run(cluster.run(given)), sent


both = pytest.mark.parametrize("kind", ["blocking", "asynchronous"])


@both
def test_each_command_goes_to_the_node_of_its_key_and_the_clock_along_with_the_first(kind: str) -> None:
    calls = [("TIME",), ("GET", HIGH), ("EVALSHA", "sha", 1, LOW, "x"), ("GET", HIGH)]
    replies, sent = passed(kind, calls, one=["low"], two=["now", "high", "again"])
    assert replies == ["now", "high", "low", "again"]
    assert sorted(sent) == [
        ("one:1", "EVALSHA", "sha", "1", LOW, "x"), ("two:2", "GET", HIGH), ("two:2", "GET", HIGH), ("two:2", "TIME"),
    ]  # fmt: skip


@both
def test_a_lost_reply_is_never_asked_for_again_and_spoils_no_other(kind: str) -> None:
    replies, sent = passed(kind, [("INCR", LOW), ("INCR", HIGH)], one=[LOST], two=[7])
    assert replies == [LOST, 7]
    assert sorted(sent) == [("one:1", "INCR", LOW), ("two:2", "INCR", HIGH)]


@both
def test_what_a_node_refused_because_the_slot_is_elsewhere_is_sent_there(kind: str) -> None:
    replies, sent = passed(kind, [("INCR", LOW)], one=[MovedError("3300 two:2")], two=[7])
    assert (replies, sent) == ([7], [("one:1", "INCR", LOW), ("two:2", "INCR", LOW)])
    replies, sent = passed(kind, [("INCR", LOW)], one=[AskError("3300 two:2")], two=["OK", 7])
    assert (replies, sent) == ([7], [("one:1", "INCR", LOW), ("two:2", "ASKING"), ("two:2", "INCR", LOW)])


@both
def test_a_slot_that_is_sent_to_and_fro_is_given_up(kind: str) -> None:
    there, back = MovedError("3300 two:2"), MovedError("3300 one:1")
    replies, sent = passed(kind, [("INCR", LOW)], one=[there] * 9, two=[back] * 9)
    assert isinstance(replies[0], MovedError)
    assert len(sent) < 9


def test_a_cluster_is_named_by_its_url() -> None:
    found = ClusterUrl.parse("rediss://me:secret@one:7000,two/0?cluster=true&ssl_ca_certs=/etc/ca.pem")
    assert found is not None
    assert found.seeds == ("one:7000", "two:6379")
    assert found.node("three:7001") == "rediss://me:secret@three:7001/0?ssl_ca_certs=%2Fetc%2Fca.pem"
    assert ClusterUrl.parse("redis://one:6379/0") is None


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "AFORO_BROKER_URL is needed"),
        ({"broker_url": "redis://one:1/0?cluster=true"}, "AFORO_BROKER_URL is needed"),
        ({"broker_url": "redis://other:1/0", "redis_replicas": 1}, "AFORO_REDIS_REPLICAS must be 0"),
    ],
)
def test_what_a_cluster_does_not_have_is_said_at_the_start(more: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsConflict, match=reason):
        load(database_url="postgresql://one/x", redis_url="redis://one:1/0?cluster=true", **more)
