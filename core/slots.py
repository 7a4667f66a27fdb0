"""Where in a Valkey cluster a command belongs: the URL that names the cluster, the slots and the nodes that have them. No I/O.

All keys of a partition share a slot (core/lua/accept.lua); what has no key goes to every node, or to the one that the command
behind it goes to.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ClusterDownError

SWITCH: Final = "cluster"
LOOK_AGAIN_SECONDS: Final = 0.5  # between two looks at which node has which slot, while one cannot be reached
DEFAULT_PORT: Final = 6379
EVERY_SLOT: Final = REDIS_CLUSTER_HASH_SLOTS
EVERYWHERE: Final = frozenset({"SCRIPT LOAD", "PING", "FLUSHDB", "BGREWRITEAOF"})
WITHOUT_KEY: Final = frozenset({"TIME", "INFO", "CONFIG GET", "CLUSTER SLOTS", "CLUSTER INFO"})
BEHIND_A_COUNT: Final = frozenset({"EVAL", "EVALSHA"})
Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ClusterUrl:
    """Where a cluster is asked for at first, and how any of its nodes is reached."""

    seeds: tuple[str, ...]
    parts: tuple[str, str, str]  # scheme, what stands before the @, query

    @staticmethod
    def parse(url: str) -> ClusterUrl | None:
        """From `redis://user:password@one:6379,two:6379/0?cluster=true`; None of a URL that names one server."""
        split = urlsplit(url)
        given = dict(parse_qsl(split.query))
        if given.pop(SWITCH, "").lower() not in ("true", "yes", "1"):
            return None
        credentials, at, hosts = split.netloc.rpartition("@")
        seeds = tuple(_with_port(host) for host in hosts.split(",") if host)
        return ClusterUrl(seeds, (split.scheme, credentials + at, urlencode(given)))

    def node(self, address: str) -> str:
        """The URL of one node."""
        scheme, before, query = self.parts
        return urlunsplit((scheme, before + address, "/0", query, ""))


def _with_port(host: str) -> str:
    return host if host.rpartition("]")[2].count(":") else f"{host}:{DEFAULT_PORT}"


class SlotMap:
    """Which node has which slot, as far as is known."""

    def __init__(self, seeds: Sequence[str]) -> None:
        self._seeds = seeds
        self._of_slot: dict[int, str] = {}
        self._looked_at = float("-inf")
        self._is_stale = True

    @property
    def is_due(self) -> bool:
        """Whether the cluster has to be asked."""
        return (self._is_stale and time.monotonic() - self._looked_at > LOOK_AGAIN_SECONDS) or not self._of_slot

    def doubt(self) -> None:
        """Somebody could not be reached: others may have taken over."""
        self._is_stale = True

    def learn(self, slots: Iterable[Sequence[Any]] | None, asked: str) -> None:
        """What a node says, or None if nobody does; then what was known stays."""
        self._looked_at = time.monotonic()
        if slots is None:
            return
        self._is_stale = False
        own_host = asked.rpartition(":")[0]
        found: dict[int, str] = {}
        for first, last, (host, port, *_), *_replicas in slots:
            address = f"{_text(host) or own_host}:{port}"
            found.update(dict.fromkeys(range(first, last + 1), address))
        self._of_slot = found

    def moved(self, slot: int, address: str) -> None:
        """A node said who has it now."""
        self._of_slot[slot] = address

    @property
    def addresses(self) -> list[str]:
        """All that have slots; before they are known, those that were named."""
        return sorted(set(self._of_slot.values())) or list(self._seeds)

    def to_ask(self) -> list[str]:
        """Whom to ask for the map, in this order."""
        return list(dict.fromkeys([*self.addresses, *self._seeds]))

    def address(self, words: Sequence[Any]) -> str | None:
        """The node of a command; None of one without a key. Raises ClusterDownError when nobody has its slot."""
        name = words[0]
        if name in EVERYWHERE or name in WITHOUT_KEY:
            return None
        found = words[3] if name in BEHIND_A_COUNT else words[1]
        slot = key_slot(found.encode() if isinstance(found, str) else bytes(found))
        if slot not in self._of_slot:
            raise ClusterDownError("Hash slot not served")
        return self._of_slot[slot]

    def placed(self, calls: Sequence[Call]) -> tuple[dict[str, list[int]], dict[int, Exception]]:
        """Which calls go to which node; and those that go nowhere."""
        at: dict[str, list[int]] = defaultdict(list)
        failed: dict[int, Exception] = {}
        waiting: list[int] = []
        for index, (words, _) in enumerate(calls):
            try:
                address = self.address(words)
            except ClusterDownError as exc:
                failed[index] = exc
                continue
            if address is None:
                waiting.append(index)
                continue
            at[address] += [*waiting, index]
            waiting = []
        if waiting:
            at[next(iter(at), self.addresses[0])] += waiting
        return at, failed


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
