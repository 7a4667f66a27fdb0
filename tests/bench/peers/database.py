"""The database by itself: pgbench, which carries out the transaction of transaction.py with neither HTTP nor Python, and the
set-wise limit, the same rows by INSERT … SELECT."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from ops import localstack
from tests.bench.data import Block, Books
from tests.bench.peers.transaction import pgbench_script
from tests.bench.workload import HOT, MANY, ZIPF, ZIPF_EXPONENT

CLIENTS = 16
SPARE_SECONDS = 60
RATE = re.compile(r"tps = ([0-9.]+)")
SETWISE_ROWS = 10_000  # in one transaction
CHOICES = {
    HOT: "{first}",
    MANY: "random({first}, {last})",
    ZIPF: f"{{first}} - 1 + random_zipfian(1, {{count}}, {ZIPF_EXPONENT})",
}


def pgbench(url: str, block: Block, kind: str, seconds: int, folder: Path, *, at_once: bool = False) -> float:
    """Reservations a second, each a transaction under its session's row lock, statements prepared."""
    choice = CHOICES[kind].format(first=block.first, last=block.last, count=block.count)
    script = folder / "reserve.sql"
    script.write_text(pgbench_script(choice, at_once=at_once), "utf-8")
    binary, _ = localstack._installed()
    command = [
        str(binary / "bin" / "pgbench"), "--no-vacuum", "--protocol", "prepared", "--client", str(CLIENTS), "--jobs", "1",
        "--time", str(seconds), "--define", "n=0", "--random-seed", "1", "--file", str(script), url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + SPARE_SECONDS, check=False)
    found = RATE.search(done.stdout)
    if done.returncode or not found:
        raise RuntimeError(f"pgbench failed: {done.stderr}")
    return float(found[1])


def setwise(books: Books, block: Block, seconds: float) -> float:
    """Reservations a second by one connection that writes thousands at a time, as fast as it can."""
    started = time.monotonic()
    for made in books.filling(block, SETWISE_ROWS):
        taken = time.monotonic() - started
        if taken > seconds:
            return made / taken
    raise AssertionError("it has no end")
