"""`make faults`: every case at full size, one after the other, and the table. Exit status 1 when any of them fails."""

from __future__ import annotations

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import tests.fault.suite.cases  # noqa: F401  registers them
from tests.fault.suite import report
from tests.fault.suite.case import CASES, carry_out
from tests.support.processes import ROOT
from tests.support.stack import Servers

DOCUMENT = ROOT / "docs" / "faults.md"


class SharedServers:
    """One Postgres and one Valkey for all cases that do not hurt them, started when the first one asks."""

    def __init__(self, open_: ExitStack) -> None:
        self._open = open_
        self._servers: Servers | None = None

    def __call__(self) -> Servers:
        if self._servers is None:
            folder = Path(tempfile.mkdtemp(prefix="aforo-faults-shared-"))
            folder.chmod(0o755)
            self._open.callback(shutil.rmtree, folder, ignore_errors=True)
            self._servers = Servers(folder)
            self._open.callback(self._servers.close)
        return self._servers


def main() -> int:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="only this one (may be given again)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--scale", type=float, default=1.0, help="a part of the full size")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long the soak lasts")
    asked = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # so that servers and folders go away then, too
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    chosen = [CASES[name] for name in asked.case] if asked.case else [found for found in CASES.values() if not found.apart]
    print(f"{len(chosen)} cases, seed {asked.seed}. {report.machine()}", flush=True)
    started = time.monotonic()
    results = []
    with ExitStack() as open_:
        shared = SharedServers(open_)
        for found in chosen:
            print(f"{found.name} ...", end="", flush=True)
            result = carry_out(found, asked.seed, asked.scale, asked.minutes, shared)
            results.append(result)
            outcome = "skipped" if result.skipped else "passed" if result.ok else "FAILED"
            print(f" {outcome} after {result.seconds:.0f} s", *report.details(result), sep="\n    ", flush=True)
            if not asked.case and asked.scale >= 1:  # after each case, so that a run that is broken off is not lost
                DOCUMENT.parent.mkdir(exist_ok=True)
                DOCUMENT.write_text(report.document(results, asked.seed, time.monotonic() - started), "utf-8")
    print(f"\n{report.table(results)}\n\nseed {asked.seed}, {time.monotonic() - started:.0f} s")
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
