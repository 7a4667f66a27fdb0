"""A disk that is full where processes keep their counts: they go on, for a count that is not shared ends nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.damage import NotPossible, small_disk
from tests.support.processes import ROOT

COUNT = """
from core import telemetry
print("begun", flush=True)
input()
for number in range(3000):
    telemetry.CONNECTIONS_ENDED.labels(str(number)).inc()
telemetry.metrics_text()
print("counted", flush=True)
"""


@pytest.mark.parametrize("is_full_at_first", [True, False])
def test_whoever_counts_on_a_full_disk_lives(tmp_path: Path, is_full_at_first: bool) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    try:
        with small_disk(folder, 1) as disk:
            if is_full_at_first:
                disk.fill()
            command = [sys.executable, "-c", COUNT]
            environment = {"PATH": "/usr/bin:/bin", "AFORO_METRICS_DIR": str(folder)}
            with subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "begun\n"
                disk.fill()
                rest, _ = process.communicate("\n", timeout=60)
            assert (process.returncode, rest) == (0, "counted\n")
    except NotPossible as exc:
        pytest.skip(str(exc))
