"""For operators: is the process alive, can it serve, and how is it doing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import falcon.asgi
import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from core import telemetry
from core.bootstrap import ApiServices
from core.cluster import AsyncCluster, async_nodes_of
from core.errors import AforoError, Unavailable
from core.mailbox import key
from core.migrations import newest, older
from core.slots import EVERY_SLOT

# What Redis must be set to, so that an accepted command survives a crash and is never evicted.
DURABLE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}


class Alive:
    """GET /healthz"""

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """The process answers."""
        resp.data = b'{"status":"ok"}'


class Ready:
    """GET /readyz"""

    def __init__(self, services: ApiServices) -> None:
        self._services = services
        self._newest, self._older = newest(), older()

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Everything it needs is there and set up as it must be."""
        results = await asyncio.gather(
            self._postgres(), self._redis(), self._durable(), self._replicas(), self._partitions()
        )
        checks: dict[str, Any] = {"redis": results[1], "redis_durability": results[2], **results[3], **results[4], **results[0]}
        ready = all(check["ok"] for check in checks.values())
        resp.status = 200 if ready else 503
        if not ready:
            resp.set_header("Retry-After", "2")
        resp.data = msgspec.json.encode({"status": "ready" if ready else "not_ready", "checks": checks})

    async def _postgres(self) -> dict[str, Any]:
        try:
            revision = await self._services.in_thread(self._services.queries.migration)
        except AforoError as exc:
            return {"postgres": _check(False, str(exc)), "migrations": _check(False, "cannot be read")}
        enough = revision is not None and revision not in self._older
        detail = f"at {revision}" + ("" if enough else f", this release needs {self._newest}")
        return {"postgres": _check(True, "reachable"), "migrations": _check(enough, detail)}

    async def _redis(self) -> dict[str, Any]:
        try:
            nodes = await async_nodes_of(self._services.redis)
            await asyncio.gather(*(node.ping() for node in nodes))
            if isinstance(self._services.redis, AsyncCluster):
                return await self._whole(nodes)
        except (RedisError, OSError):
            return _check(False, "cannot be reached")
        return _check(True, "reachable")

    async def _whole(self, nodes: Sequence[redis.asyncio.Redis]) -> dict[str, Any]:
        """Of a cluster: whether somebody has every slot."""
        states = [await node.cluster("INFO") for node in nodes]
        served = all(str(state["cluster_slots_ok"]) == str(EVERY_SLOT) for state in states)
        return _check(served, f"a cluster, {len(nodes)} nodes have slots" + ("" if served else ", and some slots nobody has"))

    async def _durable(self) -> dict[str, Any]:
        wrong: list[str] = []
        try:
            for node in await async_nodes_of(self._services.redis):
                given = await node.config_get(*DURABLE)
                found = {_text(name): _text(value) for name, value in given.items()}
                differ = [(name, value) for name, value in DURABLE.items() if found.get(name) != value]
                wrong += [f"{name} is {found.get(name)}, not {value}" for name, value in differ]
        except (RedisError, OSError):
            return _check(False, "its settings cannot be read")
        return _check(not wrong, "; ".join(wrong) or "every accepted command is on disk before its 202")

    async def _partitions(self) -> dict[str, Any]:
        """Whether their number is being changed, and Redis goes by the same as Postgres."""
        try:
            found = await self._services.arrangement()
            mark = await self._services.redis.get(key(0, "lanes"))
        except (AforoError, RedisError, OSError):
            return {}
        if found.is_moving:
            again = f"`aforo repartition {found.moving_to}` ends it, with --abort it is given up"
            return {"partitions": _check(False, f"being changed from {found.partitions} to {found.moving_to}; {again}")}
        if mark not in (None, str(found.lanes).encode()):
            return {"partitions": _check(False, f"Redis goes by others: run `aforo repartition {found.partitions}`")}
        return {}

    async def _replicas(self) -> dict[str, Any]:
        """Whether as many follow as must confirm each command; that they write it down shows when they do."""
        wanted = self._services.settings.redis_replicas
        if not wanted:
            return {}
        try:
            found = await self._services.redis.info("replication")
        except (RedisError, OSError):
            return {"redis_replicas": _check(False, "cannot be asked")}
        follow = found.get("connected_slaves", 0)
        return {"redis_replicas": _check(follow >= wanted, f"{follow} follow, {wanted} must confirm each command")}


class Metrics:
    """GET /metrics"""

    def __init__(self, services: ApiServices) -> None:
        self._services = services

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Prometheus's text format; the mailboxes are measured as they are asked for."""
        resp.content_type = "text/plain; version=0.0.4; charset=utf-8"
        telemetry.flush_tallies()
        text = await asyncio.to_thread(telemetry.metrics_text)
        try:
            depths = await self._services.projections.depths()
        except Unavailable:
            resp.data = text
            return
        lines = ["# HELP aforo_mailbox_depth Commands waiting.", "# TYPE aforo_mailbox_depth gauge"]
        lines += [f'aforo_mailbox_depth{{partition="{p}"}} {depth}' for p, (depth, _) in enumerate(depths)]
        lines += ["# HELP aforo_mailbox_oldest_seconds Age of the oldest.", "# TYPE aforo_mailbox_oldest_seconds gauge"]
        lines += [f'aforo_mailbox_oldest_seconds{{partition="{p}"}} {(age or 0) / 1000}' for p, (_, age) in enumerate(depths)]
        resp.data = text + "\n".join(lines).encode() + b"\n"


def _check(ok: bool, detail: str) -> dict[str, Any]:
    return {"ok": ok, "detail": detail}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
