"""A Valkey cluster behind the calls of one server: each command goes to the node that has its key's slot, and no further.

The library's own cluster client repeats by itself what lost its reply, also in pipelines. Here only what a node refused because
the slot is elsewhere is sent again, for nothing of it ran. What belongs where is told by core/slots.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import redis
import redis.asyncio
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError

from core.slots import EVERYWHERE, Call, ClusterUrl, SlotMap

PASSED_ON_MAX: Final = 5  # times that a command is sent on, before its slot is taken for lost


def _elsewhere(reply: Any) -> bool:
    """Whether a node did nothing of it because it has not the slot, or not yet all of it."""
    return isinstance(reply, (AskError, TryAgainError))  # MovedError is an AskError


def _unreached(reply: Any) -> bool:
    return isinstance(reply, (redis.ConnectionError, redis.TimeoutError, ClusterDownError, OSError))


def _first_error(replies: Iterable[Any]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def _tried(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (RedisError, OSError) as exc:
        return exc


def _of_any(replies: Sequence[Any]) -> Any:
    """One that is no error: who is away will ask for scripts again when it is back. Raises the error if there is nothing else."""
    found = next((reply for reply in replies if not isinstance(reply, BaseException)), replies[0])
    if isinstance(found, BaseException):
        raise found
    return found


class Pipeline(redis.client.Pipeline):
    """Of a cluster: one round trip to each node concerned. Never a transaction."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, False, None)
        self._cluster = cluster

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """The replies in order; with `raise_on_error` the first that is an error is raised, else they stand among them, also that
        a node could not be reached."""
        calls, self.command_stack = self.command_stack, []
        replies = self._cluster.run(calls)
        if raise_on_error:
            _first_error(replies)
        return replies


class Cluster(redis.Redis):
    """Blocking. It has no transactions, and no commands over keys of several slots."""

    def __init__(self, url: ClusterUrl, connect: Callable[[str], redis.Redis]) -> None:
        """`connect(url)`: a client of one server that never repeats a call."""
        self._url = url
        self._connect = connect
        self._nodes: dict[str, redis.Redis] = {}
        self._map = SlotMap(url.seeds)
        super().__init__(connection_pool=self._node(url.seeds[0]).connection_pool)

    def execute_command(self, *words: Any, **options: Any) -> Any:
        """One command, at the node that has its key."""
        if words[0] in EVERYWHERE:
            return _of_any([_tried(partial(node.execute_command, *words, **options)) for node in self.nodes()])
        replies = self.run([(words, options)])
        _first_error(replies)
        return replies[0]

    def pipeline(self, transaction: bool = False, shard_hint: Any = None) -> Pipeline:
        """See Pipeline."""
        return Pipeline(self)

    def nodes(self) -> list[redis.Redis]:
        """A client of each node that has slots."""
        self._look()
        return [self._node(address) for address in self._map.addresses]

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """The replies, or why there are none."""
        self._look()
        at, failed = self._map.placed(calls)
        replies: list[Any] = [failed.get(index) for index in range(len(calls))]
        for address, indexes in at.items():
            for index, reply in zip(indexes, self._sent(address, [calls[i] for i in indexes]), strict=True):
                replies[index] = self._passed_on(calls[index], reply) if _elsewhere(reply) else reply
        if any(map(_unreached, replies)):
            self._map.doubt()
        return replies

    def _sent(self, address: str, calls: list[Call]) -> list[Any]:
        pipeline = self._node(address).pipeline(transaction=False)
        pipeline.command_stack.extend(calls)
        try:
            return pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as exc:
            return [exc] * len(calls)

    def _passed_on(self, call: Call, reply: Any) -> Any:
        for _ in range(PASSED_ON_MAX):
            if isinstance(reply, TryAgainError) or not _elsewhere(reply):
                return reply
            address = f"{reply.host}:{reply.port}"
            if isinstance(reply, MovedError):
                self._map.moved(reply.slot_id, address)
                self._map.doubt()
                reply = self._sent(address, [call])[0]
            else:
                reply = self._sent(address, [(("ASKING",), {}), call])[1]
        return reply

    def _look(self) -> None:
        if not self._map.is_due:
            return
        for address in self._map.to_ask():
            try:
                self._map.learn(self._node(address).execute_command("CLUSTER SLOTS"), address)
                return
            except (RedisError, OSError):
                continue
        self._map.learn(None, "")

    def _node(self, address: str) -> redis.Redis:
        if address not in self._nodes:
            self._nodes[address] = self._connect(self._url.node(address))
        return self._nodes[address]

    def close(self) -> None:
        """Close the connections to all nodes."""
        for node in self._nodes.values():
            node.close()


class AsyncPipeline(redis.asyncio.client.Pipeline):
    """The same for an event loop."""

    def __init__(self, cluster: AsyncCluster) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, False, None)
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """See Pipeline."""
        calls, self.command_stack = self.command_stack, []
        replies = await self._cluster.run(calls)
        if raise_on_error:
            _first_error(replies)
        return replies


class AsyncCluster(redis.asyncio.Redis):
    """The same for an event loop; nodes are asked at the same time."""

    def __init__(self, url: ClusterUrl, connect: Callable[[str], redis.asyncio.Redis]) -> None:
        """`connect(url)`: a client of one server that never repeats a call."""
        self._url = url
        self._connect = connect
        self._nodes: dict[str, redis.asyncio.Redis] = {}
        self._map = SlotMap(url.seeds)
        self._listened = 0
        super().__init__(connection_pool=self._node(url.seeds[0]).connection_pool)

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        """One command, at the node that has its key."""
        if words[0] in EVERYWHERE:
            calls = [node.execute_command(*words, **options) for node in await self.nodes()]
            return _of_any(await asyncio.gather(*calls, return_exceptions=True))
        replies = await self.run([(words, options)])
        _first_error(replies)
        return replies[0]

    def pipeline(self, transaction: bool = False, shard_hint: Any = None) -> AsyncPipeline:
        """See Pipeline."""
        return AsyncPipeline(self)

    async def exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """As core/connections.py does it. The replies, or why there are none."""
        return await self.run([(command, {}) for command in commands])

    def pubsub(self, **options: Any) -> redis.asyncio.client.PubSub:
        """At one node, for each hears what is published at any; another one each time, in case the last one is gone."""
        addresses = self._map.addresses
        self._listened += 1
        return self._node(addresses[self._listened % len(addresses)]).pubsub(**options)

    async def nodes(self) -> list[redis.asyncio.Redis]:
        """A client of each node that has slots."""
        await self._look()
        return [self._node(address) for address in self._map.addresses]

    async def pool(self, name: str) -> redis.asyncio.ConnectionPool:
        """The connections to the node of a key."""
        await self._look()
        return self._node(self._map.address(("GET", name)) or "").connection_pool

    def doubt(self) -> None:
        """Ask again which node has which slot, before the next call."""
        self._map.doubt()

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """The replies, or why there are none."""
        await self._look()
        at, failed = self._map.placed(calls)
        replies: list[Any] = [failed.get(index) for index in range(len(calls))]
        answers = await asyncio.gather(*(self._sent(address, [calls[i] for i in indexes]) for address, indexes in at.items()))
        for indexes, found in zip(at.values(), answers, strict=True):
            for index, reply in zip(indexes, found, strict=True):
                replies[index] = await self._passed_on(calls[index], reply) if _elsewhere(reply) else reply
        if any(map(_unreached, replies)):
            self._map.doubt()
        return replies

    async def _sent(self, address: str, calls: list[Call]) -> list[Any]:
        pipeline = self._node(address).pipeline(transaction=False)
        pipeline.command_stack.extend(calls)
        try:
            return await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as exc:
            return [exc] * len(calls)

    async def _passed_on(self, call: Call, reply: Any) -> Any:
        for _ in range(PASSED_ON_MAX):
            if isinstance(reply, TryAgainError) or not _elsewhere(reply):
                return reply
            address = f"{reply.host}:{reply.port}"
            if isinstance(reply, MovedError):
                self._map.moved(reply.slot_id, address)
                self._map.doubt()
                reply = (await self._sent(address, [call]))[0]
            else:
                reply = (await self._sent(address, [(("ASKING",), {}), call]))[1]
        return reply

    async def _look(self) -> None:
        if not self._map.is_due:
            return
        for address in self._map.to_ask():
            try:
                self._map.learn(await self._node(address).execute_command("CLUSTER SLOTS"), address)
                return
            except (RedisError, OSError):
                continue
        self._map.learn(None, "")

    def _node(self, address: str) -> redis.asyncio.Redis:
        if address not in self._nodes:
            self._nodes[address] = self._connect(self._url.node(address))
        return self._nodes[address]

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the connections to all nodes."""
        for node in self._nodes.values():
            await node.aclose(close_connection_pool)


def nodes_of(client: redis.Redis) -> list[redis.Redis]:
    """All servers behind a client."""
    return client.nodes() if isinstance(client, Cluster) else [client]


async def async_nodes_of(client: redis.asyncio.Redis) -> list[redis.asyncio.Redis]:
    """The same for an event loop."""
    return await client.nodes() if isinstance(client, AsyncCluster) else [client]


async def pool_of(client: redis.asyncio.Redis, name: str) -> redis.asyncio.ConnectionPool:
    """The connections to the server that has a key."""
    return await client.pool(name) if isinstance(client, AsyncCluster) else client.connection_pool
