"""What one process allows its connections: how many at once, in all and from one address, and how long each may take.

Times are kept as deadlines that one sweep a process looks at, because a timer for each request would cost more than the
request's own bookkeeping; so a connection is ended up to half a second late.
"""

from __future__ import annotations

import asyncio
import ipaddress
import select
import socket
from collections.abc import Iterable, Sized
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl

from core.settings import Network, Settings

SWEEP_SECONDS = 0.5
LINGER_SECONDS = 1.0  # a client that is sent away is listened to for so long, or it would not get to read why
LINGERING_MAX = 500  # so many at once; what goes beyond is cut off

NEVER = float("inf")
HANGING_UP = select.POLLHUP | getattr(select, "POLLRDHUP", 0)  # the latter is Linux's, and says it also of who only says no more


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a connection may take over each thing, and how many there may be in this process. 0: as many as like."""

    head_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 75.0
    send_seconds: float = 30.0
    connections: int = 10_000
    connections_per_address: int = 2_000
    proxies: tuple[Network, ...] = ()

    @staticmethod
    def of(settings: Settings) -> Limits:
        """The limits that an operator has set."""
        return Limits(
            head_seconds=settings.head_seconds,
            body_seconds=settings.body_seconds,
            idle_seconds=settings.idle_seconds,
            send_seconds=settings.send_seconds,
            connections=settings.max_connections,
            connections_per_address=settings.max_connections_per_address,
            proxies=settings.proxies,
        )


class Connection(Protocol):
    """What the sweep looks at: see api.protocol.GuardedProtocol."""

    deadline: float
    stalled_until: float

    def overdue(self) -> None: ...


class Flow(FlowControl):
    """Reading goes on only when no request waits behind another: else each answer would let in as many as fit into one read."""

    def __init__(self, transport: asyncio.Transport, behind: Sized) -> None:
        super().__init__(transport)
        self._behind = behind

    def resume_reading(self) -> None:
        """If it may."""
        if not self._behind:
            super().resume_reading()


class Guard:
    """The connections of this process: counted, and swept for those whose time is over."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.now = 0.0
        self.lingering = 0
        self._of_address: dict[str, int] = {}
        self._counts_alone = lru_cache(4096)(self._is_proxy)
        self._sweeping = False
        self._always: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")

    def lines_of(self, always: list[tuple[bytes, bytes]]) -> bytes:
        """The server's own header fields as they are sent: a new list of them comes once a second, with the date."""
        if always is not self._always[0]:
            self._always = (always, b"".join([b"%b: %b\r\n" % pair for pair in always]))
        return self._always[1]

    def allow(self, connections: int) -> None:
        """There may be no more than so many, whatever the settings say."""
        self.limits = replace(self.limits, connections=max(1, min(connections, self.limits.connections)))

    def admit(self, address: str, connections: int) -> bool:
        """Whether another connection may be had, beside so many; if so it is counted, until `leave`."""
        limits = self.limits
        if limits.connections and connections > limits.connections:
            return False
        same = self._of_address.get(address, 0)
        if limits.connections_per_address and same >= limits.connections_per_address and not self._counts_alone(address):
            return False
        self._of_address[address] = same + 1
        return True

    def leave(self, address: str) -> None:
        """An admitted connection is gone."""
        left = self._of_address[address] - 1
        if left:
            self._of_address[address] = left
        else:
            del self._of_address[address]

    def watch(self, loop: asyncio.AbstractEventLoop, connections: Iterable[Connection]) -> None:
        """Sweep these connections from now on, for as long as there are any. `connections` is the server's own set."""
        self.now = loop.time()
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP_SECONDS, self._sweep, loop, connections)

    def _sweep(self, loop: asyncio.AbstractEventLoop, connections: Iterable[Connection]) -> None:
        now = self.now = loop.time()
        for one in list(connections):
            if one.deadline < now or one.stalled_until < now:
                one.overdue()
        self._sweeping = bool(connections)
        if self._sweeping:
            loop.call_later(SWEEP_SECONDS, self._sweep, loop, connections)

    def _is_proxy(self, address: str) -> bool:
        """Through a trusted proxy everybody comes from the same address."""
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self.limits.proxies)


def is_peer_gone(connected: socket.socket) -> bool:
    """Whether the other side says no more, told without reading what it said before."""
    poll = select.poll()
    poll.register(connected.fileno(), HANGING_UP)
    return bool(poll.poll(0))
