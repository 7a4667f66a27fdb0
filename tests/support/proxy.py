"""A TCP proxy on loopback, between a process of ours and its Redis, broker or Postgres: where a test breaks the network.

It runs in a thread of its own, so that a test may drive it between ordinary calls. Every fault can be taken back; connections
that it has made deaf stay deaf, as they would behind a firewall that forgot them.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ops.localstack import HOST

CHUNK_BYTES = 65536
CALL_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class _Connection:
    """Both ends. `upstream` is None where the proxy has accepted and never connected on."""

    client: asyncio.StreamWriter
    upstream: asyncio.StreamWriter | None = None
    is_deaf: bool = False
    awaits_reply: bool = False

    def close(self) -> None:
        """End it; what has been passed on still arrives."""
        for end in (self.client, self.upstream):
            if end is not None:
                end.close()


class Proxy:
    """Passes everything on to `port`, until told otherwise. Its own port is `port`; close it, or use it in a `with`."""

    def __init__(self, port: int, seed: int | str = 0) -> None:
        self._target = port
        self._random = random.Random(seed)
        self._loss = 0.0
        self._is_half_open = False
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.replies = 0
        self.lost_replies = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._wait(self._listen())

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def in_place_of(self, url: str) -> str:
        """The same URL by way of this proxy."""
        assert f"{HOST}:{self._target}/" in url
        return url.replace(f":{self._target}/", f":{self.port}/")

    def lose_replies(self, share: float) -> None:
        """Of so many requests, forward them whole, await the first bytes of the reply, and cut the connection instead."""
        self._call(lambda: setattr(self, "_loss", share))

    def go_half_open(self) -> None:
        """From now on accept and swallow: nothing comes back, nothing is closed, neither old connections nor new ones."""

        def deafen() -> None:
            self._is_half_open = True
            for connection in self._connections:
                connection.is_deaf = True

        self._call(deafen)

    def point_at(self, port: int) -> None:
        """Cut every connection; new ones go to another server, as an address does that is moved."""
        self._wait(self._refuse())
        self._target = port
        self._wait(self._recover())

    def refuse(self) -> None:
        """Cut every connection and refuse new ones."""
        self._wait(self._refuse())

    def pass_on(self) -> None:
        """Be a good network again, for new connections and those that were not made deaf."""
        self._wait(self._recover())

    def close(self) -> None:
        """End every connection and the thread."""
        self._wait(self._refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECONDS)
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.close()
        while self._connections:
            await asyncio.sleep(0.001)

    async def _recover(self) -> None:
        self._loss, self._is_half_open = 0.0, False
        if self._server is None:
            await self._listen()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer, is_deaf=self._is_half_open)
        self._connections.add(connection)
        with suppress(OSError):
            try:
                await self._carry(connection, reader)
            finally:
                self._connections.discard(connection)
                connection.close()

    async def _carry(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        if connection.is_deaf:
            await self._forward(connection, reader)
            return
        back, connection.upstream = await asyncio.open_connection(HOST, self._target)
        pumps = [asyncio.create_task(self._forward(connection, reader)), asyncio.create_task(self._answer(connection, back))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _forward(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if connection.upstream is not None and not connection.is_deaf:
                connection.awaits_reply = True
                connection.upstream.write(data)
                await connection.upstream.drain()

    async def _answer(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if connection.is_deaf:
                continue
            if connection.awaits_reply:
                connection.awaits_reply = False
                self.replies += 1
                if self._random.random() < self._loss:
                    self.lost_replies += 1
                    return
            connection.client.write(data)
            await connection.client.drain()
        if connection.is_deaf:  # the server's farewell is swallowed too
            await asyncio.Event().wait()

    def _call(self, change: Callable[[], None]) -> None:
        async def call() -> None:
            change()

        self._wait(call())

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_SECONDS)
