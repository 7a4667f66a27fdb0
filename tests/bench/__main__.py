"""`make bench`: everything once more, from an empty machine to a table; and docs/bench.md after a run at full size."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench import footprint, growth, latency, parts, report, throughput
from tests.bench.bench import FULL, QUICK, Bench
from tests.bench.book import Book
from tests.bench.load import Load, LoadFailed
from tests.bench.stage import BenchFailed, Stage
from tests.bench.workload import HOT, MANY, ZIPF
from tests.support.processes import ROOT

SEED = 20_300_401
DOCS = ROOT / "docs"


def main() -> int:
    """Parse, run, print, write. 1 when something could not be measured."""
    asked = _arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that servers and folders go away then, too
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        _run(asked)
    except (BenchFailed, LoadFailed) as exc:
        _say(f"The bench failed: {exc}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(asked: argparse.Namespace) -> None:
    settings = dict(one.split("=", 1) for one in asked.set)
    started = time.monotonic()
    with ExitStack() as open_:
        folder = _folder(open_)
        stage = Stage(folder, settings, peers=not asked.growth)
        open_.callback(stage.close)
        load = Load(folder, use_wrk=not asked.own_load)
        bench = Bench(stage, load, Book(), QUICK if asked.quick else FULL, asked.seed, _say)
        _about(bench)
        if asked.growth:
            growth.run(bench, asked.growth_max)
        else:
            measure(bench)
    bench.book.about["minutes"] = f"{(time.monotonic() - started) / 60:.1f}"
    _say(f"\n{report.on_screen(bench.book)}\n\n{bench.book.about['minutes']} minutes, seed {asked.seed}")
    if not asked.quick:
        (DOCS / "bench").mkdir(parents=True, exist_ok=True)
        bench.book.save(DOCS / "bench" / ("growth.json" if asked.growth else "full.json"))
        report.publish(DOCS)
        _say("docs/bench.md and its charts are new.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute and a half; printed, not written down")
    parser.add_argument("--growth", action="store_true", help="the same work on ever more data")
    parser.add_argument("--growth-max", type=int, default=growth.STEPS[-1][0], help="reservations at most")
    parser.add_argument("--own-load", action="store_true", help="the project's own load generator, also where wrk is installed")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of Aforo's to try")
    return parser.parse_args()


def _about(bench: Bench) -> None:
    """Say what it runs with, and keep it."""
    book = bench.book
    book.settings = bench.stage.settings()
    book.about = {"date": report.today(), "machine": report.about_machine(), "load": bench.load.name, "seed": str(bench.seed)}
    _say(f"Machine: {book.about['machine']}. Load: {bench.load.name}; it shares the cores with what it measures.")
    for line in report.settings_lines(book):
        _say(line)


def measure(bench: Bench) -> None:
    """Everything but growth, in rounds."""
    size, aforo = bench.size, bench.stage.aforo
    throughput.warm(bench)
    for number in range(size.rounds):
        throughput.one_round(bench, number)
    if ZIPF not in size.kinds:
        throughput.aforo(bench, ZIPF)
    _say(" parts")
    for _ in range(size.part_rounds):
        for processes in size.workers:
            parts.accept_then_apply(bench, processes, MANY)
        parts.accept_then_apply(bench, 1, HOT)
        throughput.floors(bench)
        parts.accept_batches(bench)
    aforo.work_with(aforo.settings.worker_processes)
    for _ in range(size.part_rounds):
        parts.apply_batches(bench)
        throughput.aforo(bench, MANY)
    few, full = parts.prepare_reading(bench)
    for _ in range(size.part_rounds):
        parts.read(bench, few, full)
        throughput.floors(bench)
    bench.stage.end_peers()
    _say(" latency")
    for kind, percents in size.loads.items():
        for percent in percents:
            latency.at(bench, kind, percent)
    footprint.memory(bench)
    footprint.idle(bench)


def _folder(open_: ExitStack) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="aforo-bench-"))
    folder.chmod(0o755)  # the servers' user has to get in
    open_.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
