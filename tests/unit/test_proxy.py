"""The proxy that breaks the network for fault tests: every fault it makes is the one it says, and can be taken back."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from ops.localstack import HOST
from tests.support.proxy import Proxy
from tests.support.waiting import until

DEAF_SECONDS = 0.2
POLL_SECONDS = 0.01


class Counting(socketserver.StreamRequestHandler):
    """Answers every line with how many lines there have been."""

    def handle(self) -> None:
        while self.rfile.readline():
            self.server.lines += 1  # type: ignore[attr-defined]
            self.wfile.write(b"%d\n" % self.server.lines)  # type: ignore[attr-defined]


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    lines = 0


@pytest.fixture
def server() -> Iterator[Server]:
    with Server((HOST, 0), Counting) as server:
        threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.server_address[1], seed=1) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=5)


def ask(connection: socket.socket) -> bytes:
    connection.sendall(b"?\n")
    return connection.recv(64)


def test_it_passes_on(proxy: Proxy) -> None:
    with closing(connect(proxy)) as connection:
        assert [ask(connection), ask(connection)] == [b"1\n", b"2\n"]


def test_a_lost_reply_is_of_a_request_that_was_answered(proxy: Proxy, server: Server) -> None:
    proxy.lose_replies(1.0)
    with closing(connect(proxy)) as connection:
        assert ask(connection) == b""
    assert (server.lines, proxy.replies, proxy.lost_replies) == (1, 1, 1)
    proxy.pass_on()
    with closing(connect(proxy)) as connection:
        assert ask(connection) == b"2\n"


def test_it_loses_the_share_of_replies_that_it_was_told(proxy: Proxy) -> None:
    proxy.lose_replies(0.5)
    for _ in range(60):
        with closing(connect(proxy)) as connection:
            ask(connection)
    assert 15 <= proxy.lost_replies <= 45
    assert proxy.replies == 60


def test_half_open_swallows_for_old_connections_and_new_ones(proxy: Proxy, server: Server) -> None:
    with closing(connect(proxy)) as old:
        assert ask(old) == b"1\n"
        proxy.go_half_open()
        with closing(connect(proxy)) as new:
            for connection in (old, new):
                connection.settimeout(DEAF_SECONDS)
                with pytest.raises(TimeoutError):
                    ask(connection)
            proxy.pass_on()
            with pytest.raises(TimeoutError):
                ask(old)  # it stays deaf
    with closing(connect(proxy)) as fresh:
        assert ask(fresh) == b"2\n"
    assert server.lines == 2


def test_refused_connections_are_refused_and_old_ones_cut_until_it_passes_on_again(proxy: Proxy) -> None:
    with closing(connect(proxy)) as old:
        assert ask(old) == b"1\n"
        proxy.refuse()
        assert old.recv(64) == b""
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
    proxy.pass_on()
    with closing(connect(proxy)) as fresh:
        assert ask(fresh) == b"2\n"


def test_a_server_that_closes_is_heard(proxy: Proxy, server: Server) -> None:
    with closing(connect(proxy)) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(64) == b""
    until(lambda: not proxy._connections, 5, "the proxy forgets connections that ended")
