"""What the local servers are given of a machine."""

from __future__ import annotations

import socket

import pytest

from ops.localstack import HOST, POSTGRES_SETTINGS, buffers_mb, free_port

GB = 2**30


@pytest.mark.parametrize(("memory", "expected"), [(0, 128), (GB, 128), (4 * GB, 256), (8 * GB, 512), (24 * GB, 1024)])
def test_postgres_takes_a_share_of_the_memory_within_bounds(memory: int, expected: int) -> None:
    assert buffers_mb(memory) == expected


def test_nothing_that_keeps_commits_safe_is_switched_off() -> None:
    assert not {"fsync", "synchronous_commit", "full_page_writes"} & set(POSTGRES_SETTINGS)


def test_a_free_port_is_kept_for_the_server_that_it_is_for() -> None:
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((HOST, port))  # what the system gives away has to pass this
    socket.create_server((HOST, port)).close()
