"""What the local servers are given of a machine."""

from __future__ import annotations

import pytest

from ops.localstack import POSTGRES_SETTINGS, buffers_mb

GB = 2**30


@pytest.mark.parametrize(("memory", "expected"), [(0, 128), (GB, 128), (4 * GB, 256), (8 * GB, 512), (24 * GB, 1024)])
def test_postgres_takes_a_share_of_the_memory_within_bounds(memory: int, expected: int) -> None:
    assert buffers_mb(memory) == expected


def test_nothing_that_keeps_commits_safe_is_switched_off() -> None:
    assert not {"fsync", "synchronous_commit", "full_page_writes"} & set(POSTGRES_SETTINGS)
