"""Round trips of an event loop to a server that says what a test wants it to: whole, in pieces, too late, or not at all."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from hiredis import Reader

from core.connections import Client
from core.mailbox import connect_async
from tests.http.test_tls import Authority

GREETINGS = ("CLIENT", "AUTH", "SELECT")  # what redis-py says first
SOON = 20.0

Test = Callable[["Server", Client], Awaitable[None]]


class Server:
    """Answers each command with what `replies` has for it, in turn; without one it says nothing. `None`: it hangs up."""

    def __init__(self, **replies: list[bytes | None]) -> None:
        self._replies = replies
        self.heard: list[tuple[str, ...]] = []
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection."""
        self.connections += 1
        self._writers.append(writer)
        parser = Reader()
        while data := await reader.read(65536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                name = command[0].decode()
                if name in GREETINGS:
                    writer.write(b"+OK\r\n")
                    continue
                self.heard.append(tuple(word.decode('latin-1') for word in command))
                due = self._replies.get(name, [])
                reply = due.pop(0) if due else b""
                if reply is None:
                    writer.close()
                    return
                for byte in reply:  # each piece by itself
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()

    def say(self, what: bytes) -> None:
        """Without being asked, on each connection."""
        for writer in self._writers:
            writer.write(what)

    def hang_up(self) -> None:
        """On everybody."""
        for writer in self._writers:
            writer.close()


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def tried(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A test with a server of these replies, and a client of it that waits for a reply for so long."""

    def run(test: Test, seconds: float = SOON, **replies: list[bytes | None]) -> None:
        async def whole() -> None:
            server = Server(**replies)
            async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
                host, port = listening.sockets[0].getsockname()
                url = f"redis://me:secret@{host}:{port}/3?socket_timeout={seconds}"
                client: Any = connect_async(url, max_connections=1)
                try:
                    await asyncio.wait_for(test(server, client), SOON)
                finally:
                    await client.aclose()
                    server.hang_up()

        request.param(whole())

    return run


def test_replies_are_read_in_order_whatever_pieces_they_come_in(tried: Callable[..., None]) -> None:
    async def test(server: Server, client: Client) -> None:
        for n in (1, 2):
            replies = await client.exchange([("ONE", n), ("TWO", "é", b"\xff"), ("THREE",)])
            assert replies[0::2] == [[b"a", n], None]
            assert isinstance(replies[1], redis.ResponseError)
        assert server.connections == 1

    three: list[bytes | None] = [b"$-1\r\n"] * 2
    tried(test, ONE=[b"*2\r\n$1\r\na\r\n:1\r\n", b"*2\r\n$1\r\na\r\n:2\r\n"], TWO=[b"-ERR no\r\n"] * 2, THREE=three)


def test_the_clients_own_commands_go_over_the_same_connection(tried: Callable[..., None]) -> None:
    async def test(server: Server, client: Client) -> None:
        assert await client.get("a") == b"first"
        assert await client.exchange([("GET", "a")]) == [b"second"]
        assert await client.get("a") == b"third"
        pipeline = client.pipeline()
        pipeline.get("a")
        assert await pipeline.execute() == [b"fourth"]
        assert server.connections == 1

    tried(test, GET=[b"$5\r\nfirst\r\n", b"$6\r\nsecond\r\n", b"$5\r\nthird\r\n", b"$6\r\nfourth\r\n"])


def test_who_asks_for_nothing_has_no_replies_at_once(tried: Callable[..., None]) -> None:
    async def test(server: Server, client: Client) -> None:
        assert await client.exchange([]) == []
        assert await client.pipeline().execute() == []
        assert (server.heard, server.connections) == ([], 0)

    tried(test, seconds=1.0)


def test_who_waits_too_long_is_told_so_and_the_next_exchange_is_on_a_new_connection(tried: Callable[..., None]) -> None:
    async def test(server: Server, client: Client) -> None:
        assert await client.exchange([("PING",)]) == [b"PONG"]
        for _ in range(2):
            began = asyncio.get_running_loop().time()
            with pytest.raises(redis.TimeoutError):
                await client.exchange([("SILENCE",)])
            assert asyncio.get_running_loop().time() - began >= 0.19
        assert await client.exchange([("PING",)]) == [b"PONG"]
        assert (server.connections, len(server.heard)) == (3, 4)  # nothing was said twice

    tried(test, seconds=0.2, PING=[b"+PONG\r\n"] * 2)


def test_the_time_of_each_exchange_begins_anew(tried: Callable[..., None]) -> None:
    async def test(server: Server, client: Client) -> None:
        assert await client.exchange([("PING",)]) == [b"PONG"]
        await asyncio.sleep(1.5)
        slow = asyncio.create_task(client.exchange([("SLOW",)]))
        await asyncio.sleep(0.6)  # the first one's time is over, and this one's is not
        assert server.heard == [("PING",), ("SLOW",)]
        server.say(b"+DONE\r\n")
        assert await slow == [b"DONE"]
        assert server.connections == 1

    tried(test, seconds=2, PING=[b"+PONG\r\n"])


def test_a_server_that_hangs_up_is_a_lost_connection_and_is_asked_once(tried: Callable[..., None]) -> None:
    async def test(server: Server, client: Client) -> None:
        with pytest.raises(redis.ConnectionError):
            await client.exchange([("GET", "a"), ("QUIT",)])
        assert await client.exchange([("PING",)]) == [b"PONG"]
        assert server.heard == [("GET", "a"), ("QUIT",), ("PING",)]

    tried(test, GET=[b"$1\r\nx\r\n"], QUIT=[None], PING=[b"+PONG\r\n"])


@pytest.mark.parametrize("reply", [b"-LOADING wait\r\n", b"?what\r\n"])
def test_a_server_that_is_not_ready_or_speaks_something_else_is_one_that_cannot_be_reached(
    tried: Callable[..., None], reply: bytes
) -> None:
    async def test(server: Server, client: Client) -> None:
        with pytest.raises((redis.ConnectionError, redis.InvalidResponse)):
            await client.exchange([("GET", "a")])
        assert await client.exchange([("PING",)]) == [b"PONG"]
        assert server.connections == 2

    tried(test, GET=[reply], PING=[b"+PONG\r\n"])


def test_the_reply_to_who_gave_up_is_nobody_elses(tried: Callable[..., None]) -> None:
    async def test(server: Server, client: Client) -> None:
        given_up = asyncio.create_task(client.exchange([("SLOW",)]))
        while ("SLOW",) not in server.heard:
            await asyncio.sleep(0.01)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        server.say(b"+LATE\r\n")
        assert await client.exchange([("PING",)]) == [b"PONG"]

    tried(test, PING=[b"+PONG\r\n"])


@pytest.mark.parametrize("what", [b"+NOBODY ASKED\r\n", None])
def test_a_connection_on_which_something_came_unasked_or_the_end_is_not_used_again(
    tried: Callable[..., None], what: bytes | None
) -> None:
    async def test(server: Server, client: Client) -> None:
        assert await client.exchange([("PING",)]) == [b"PONG"]
        (connection,) = client.connection_pool._available_connections  # type: ignore[attr-defined]
        server.hang_up() if what is None else server.say(what)
        while connection.is_clean:
            await asyncio.sleep(0.01)
        with pytest.raises(redis.ConnectionError):  # who keeps a connection is told
            await connection.exchange([("PING",)])
        assert await client.exchange([("PING",)]) == [b"PONG"]
        assert server.heard == [("PING",), ("PING",)]

    tried(test, PING=[b"+PONG\r\n"] * 2)


def test_two_at_once_on_one_connection_are_refused_before_anything_is_sent(tried: Callable[..., None]) -> None:
    async def test(server: Server, client: Client) -> None:
        connection: Any = await client.connection_pool.get_connection()
        found = await asyncio.gather(*(connection.exchange([("SLOW",)]) for _ in range(2)), return_exceptions=True)
        assert [type(reply) for reply in found] == [redis.ConnectionError] * 2
        assert len(server.heard) <= 1
        await client.connection_pool.release(connection)

    tried(test)


@pytest.mark.skipif(
    not shutil.which("openssl") and not os.environ.get("CI"), reason="TLS IS NOT TESTED: it needs openssl (apt-get install)"
)
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_the_same_goes_through_tls(run: Callable[..., None], tmp_path: Path) -> None:
    async def whole() -> None:
        server = Server(PING=[b"+PONG\r\n"] * 2, QUIT=[None])
        authority = Authority.new(tmp_path, "ours")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*authority.sign(tmp_path, "server"))
        async with await asyncio.start_server(server, "127.0.0.1", 0, ssl=context) as listening:
            _, port = listening.sockets[0].getsockname()
            client: Any = connect_async(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={authority.certificate}", max_connections=1)
            assert await client.exchange([("PING",)]) == [b"PONG"]
            assert await client.exchange([("PING",)]) == [b"PONG"]
            with pytest.raises(redis.ConnectionError):
                await client.exchange([("QUIT",)])
            assert server.heard == [("PING",), ("PING",), ("QUIT",)]
            await client.aclose()
            server.hang_up()

    run(asyncio.wait_for(whole(), SOON))
