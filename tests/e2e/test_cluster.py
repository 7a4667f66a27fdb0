"""Mailboxes on a Valkey cluster of three: accepted and applied through all, whichever is away or gives a slot to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from core.model import partition_of_session
from ops import verify
from tests.conftest import temporary_folder
from tests.support.clusters import ValkeyCluster
from tests.support.crowd import crowd
from tests.support.http import Api
from tests.support.stack import Deployment, Servers, Stack
from tests.support.waiting import until

PARTITIONS = 16
SESSIONS = 12


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    """Three servers that share the slots."""
    with temporary_folder("cluster") as folder, closing(ValkeyCluster(folder)) as found:
        yield found


class OnCluster:
    """Servers whose deployments have their mailboxes on a cluster; the Redis stays what the broker is."""

    def __init__(self, servers: Servers, cluster: ValkeyCluster) -> None:
        self._servers = servers
        self._cluster = cluster
        self.broker_url = ""

    def deployment(self) -> Deployment:
        found = self._servers.deployment()
        self.broker_url = found.redis_url
        return replace(found, redis_url=self._cluster.url, redis_owner_url=self._cluster.owner_url)


def test_a_node_that_restarts_and_a_slot_that_moves_cost_nothing_that_was_accepted(
    servers: Servers, cluster: ValkeyCluster, stacks: Callable[..., Stack]
) -> None:
    on = OnCluster(servers, cluster)
    deployment = on.deployment()
    stack = stacks(on=_Given(deployment), broker_url=on.broker_url, rate_per_address="100000/s")
    with Api(stack.url) as api:
        assert api.get("/readyz").json()["checks"]["redis"]["detail"] == "a cluster, 3 nodes have slots"
        sessions = [api.new_session(capacity=100_000) for _ in range(SESSIONS)]
        partitions = [partition_of_session(session, PARTITIONS) for session in sessions]
        assert len({cluster.node_of(partition).port for partition in partitions}) == 3
        assert {api.reserve(session).status_code for session in sessions} == {201}

        with crowd(stack, sessions) as people:
            people.more(200)
            away = cluster.node_of(partitions[0])
            elsewhere = [session for session, p in zip(sessions, partitions, strict=True) if cluster.node_of(p) is not away]
            away.running.kill()
            assert {api.reserve(session).status_code for session in elsewhere} == {201}
            assert api.reserve(sessions[0], wait=None).status_code == 503
            away.running.start()
            until(cluster.is_whole, 30, "the node is back")
            people.more(200)
            before = cluster.node_of(partitions[0])
            cluster.move(partitions[0], next(node for node in cluster.nodes if node is not before))
            people.more(200)
        people.check()
        assert api.get("/readyz").status_code == 200
        assert {api.reserve(session).status_code for session in sessions} == {201}  # rung for and told of, wherever they are now
    assert verify.run(stack.database_url, stack.redis_url).differences == []


class _Given:
    """In the place of servers: this deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    def deployment(self, _first_key: str | None = None) -> Deployment:
        return self._deployment
