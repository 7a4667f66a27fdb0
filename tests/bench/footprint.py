"""What Aforo's processes take: memory each, and processor time while nothing happens. From /proc, so on Linux only."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from tests.bench.bench import Bench
from tests.support.processes import children_of

PROC = Path("/proc")
REST_SECONDS = 2.0  # until what was just measured has calmed down
TICKS = os.sysconf("SC_CLK_TCK")


def memory(bench: Bench) -> None:
    """Resident memory of every process: the first of its kind, and its children."""
    if not PROC.exists():
        return
    found: dict[str, list[float]] = defaultdict(list)
    for name, root in bench.stage.roots().items():
        for pid in (root, *children_of(root)):
            with suppress(OSError, KeyError, IndexError):
                lines = (PROC / str(pid) / "status").read_text("ascii", "replace").splitlines()
                fields = dict(line.split(":", 1) for line in lines)
                own = int(fields["VmRSS"].split()[0]) - int(fields.get("RssShmem", "0").split()[0])
                found[name if pid == root else f"{name}, each below it"].append(own / 1024)
    bench.book.memory = [(name, len(sizes), sum(sizes) / len(sizes)) for name, sizes in found.items()]


def idle(bench: Bench) -> None:
    """The share of one core that all processes together take while nothing is asked of them."""
    if not PROC.exists():
        return
    bench.stage.tidy_up()
    time.sleep(REST_SECONDS)
    started, before = time.monotonic(), processor_seconds(bench)
    time.sleep(bench.size.idle_seconds)
    used = {name: after - before[name] for name, after in processor_seconds(bench).items()}
    seconds = time.monotonic() - started
    for name, own in used.items():
        bench.note(f"idle {name}", 100 * own / seconds, "% of a core")
    bench.note("idle", 100 * sum(used.values()) / seconds, "% of a core")


def processor_seconds(bench: Bench) -> dict[str, float]:
    """Processor time that each kind of process has taken so far; none where it cannot be told."""
    return {name: cpu_seconds(root) for name, root in bench.stage.roots().items()} if PROC.exists() else {}


def cpu_seconds(root: int) -> float:
    """Processor time of a process, its children, and those of them that have ended."""
    ticks = 0
    for pid in (root, *children_of(root)):
        with suppress(OSError):
            fields = (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15] if pid == root else fields[11:13]))
    return ticks / TICKS
