"""What a run says: tables for the screen, and the same in docs/bench.md with charts."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import charts
from tests.bench.arithmetic import Spread, figure, spread
from tests.bench.book import Book, Growth, load
from tests.bench.latency import OVERLOAD
from tests.bench.targets import judge
from tests.bench.throughput import AFORO, DIRECT, FALCON, FLOOR, LOCKS, LOCKS_AT_ONCE, QUEUED, SETWISE, WHAT
from tests.bench.workload import HOT, MANY, TITLES, ZIPF

KINDS = (HOT, MANY, ZIPF)
HEAD = """# How fast it is

Written by `make bench`, which starts its own servers with the durability of production, measures Aforo and what it is
compared with in turn, round after round, and counts what stands in the ledger. Ratios hold for the run they come from."""
HOW = """## How it is measured

- **A** sends over 64 connections and counts commands in the ledger from the first request until nothing waits any more. Sessions
  have room for all, everybody is a person of their own, so every command writes a reservation, a ledger row and a counter.
- **B** is a Falcon endpoint (gunicorn, threads) that sends a Celery task to the same Valkey, and a prefork worker of 4 processes
  with late acknowledgement; **C** the same endpoint, which carries the transaction out itself on a pooled connection, 16 in all;
  **D** pgbench with 16 clients and prepared statements: `SELECT ... FOR UPDATE`, two inserts, one update. All in
  `tests/bench/peers/`, on databases made from the same template as Aforo's: same tables, indexes and constraints.
- **D1** is what D becomes when it is written as one statement, which holds the row lock for a single round trip.
- **E** writes the same rows by `INSERT ... SELECT`, 10,000 in a transaction, on one connection.
- **F** answers an empty 202 on the server that the API runs on (gunicorn, its worker class, its protocol) without a framework.
- Every measurement begins with empty tables, and Redis knows the sessions. Between two of them dirty pages are written and the
  append-only file is rewritten when it is due. Nobody else is stopped: what is not measured runs idle."""
PARTS = (
    ("accept hot", "accept alone, one hot session"),
    ("accept many", "accept alone, 1,000 sessions"),
    ("apply 1 hot", "apply alone, one hot session"),
    ("apply 1 many", "apply alone, 1,000 sessions, 1 worker process"),
    ("apply 2 many", "… 2 worker processes"),
    ("apply 4 many", "… 4 worker processes"),
    ("batch accept", "batch endpoint, commands accepted"),
    ("batch applied", "batch endpoint, commands accepted and applied"),
    ("read list", "GET /api/sessions/ (20 of 1,100 sessions)"),
    ("read session", "GET /api/sessions/{id}/ (10 reservations)"),
    ("read list of 100", "GET /api/sessions/?page_size=100"),
    ("read session with 100", "GET /api/sessions/{id}/ (100 reservations)"),
    ("overload hot", "applied at 3 times capacity, one hot session"),
    ("overload many", "applied at 3 times capacity, 1,000 sessions"),
)
ROOTS = ("API", "worker", "sweeper", "Postgres", "Valkey")
SIZES = (
    ("bytes queued", "Redis per queued command", "bytes"),
    ("bytes finished", "Redis per finished job", "bytes"),
    ("bytes stored", "Postgres per reservation, with its ledger row and all indexes", "bytes"),
    ("idle", "idle, all processes together", "% of a core"),
    *((f"idle {name}", f"… {name}", "% of a core") for name in ROOTS),
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a title, and lines to be read below it."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    below: list[str] = field(default_factory=list)


def tables(book: Book) -> list[Table]:
    """All that this run has."""
    makers = (_targets, _throughput, _latencies, _parts, _processor, _sizes, _memory, _growth)
    return [table for table in (make(book) for make in makers) if table.rows]


def _throughput(book: Book) -> Table:
    rows = []
    for name in (AFORO, QUEUED, DIRECT, LOCKS, LOCKS_AT_ONCE, SETWISE, FLOOR, FALCON):
        cells = [_shown(book.of(name if name in (FLOOR, FALCON) else f"{name} {kind}")) for kind in KINDS]
        if any(cells):
            rows.append((f"{name}  {WHAT[name]}", *cells))
    for name in (QUEUED, DIRECT, LOCKS, LOCKS_AT_ONCE, SETWISE, FLOOR):
        cells = [_ratio(book.ratio(f"{AFORO} {kind}", FLOOR if name == FLOOR else f"{name} {kind}")) for kind in KINDS]
        if any(cells):
            rows.append((f"A/{name}", *cells))
    return Table("Reservations a second", ("", *(TITLES[kind] for kind in KINDS)), rows, ["Medians, with least and most."])


def _targets(book: Book) -> Table:
    rows = []
    for one in judge(book):
        if one.measured is not None:
            rows.append((one.target.title, one.target.wanted, one.shown, "met" if one.met else "not met"))
    return Table("Targets", ("", "target", "measured", ""), rows)


def _latencies(book: Book) -> Table:
    rows: list[tuple[str, ...]] = []
    for one in book.latencies:
        accept, outcome = (" / ".join(_ms(value) for value in values) for values in (one.accept, one.outcome))
        load = f"{one.percent} % of capacity" if one.percent < OVERLOAD else f"{one.percent // 100} times capacity"
        shares = f"{one.refused_share:.0%}", f"{one.unanswered_share:.0%}"
        rows.append((f"{TITLES[one.kind]}, {load}", f"{one.rate:,.0f}/s", accept, outcome, *shares))
    below = [
        "Open loop, milliseconds from the moment a request was due, at p50 / p99 / p99.9: until its 202, and until the outcome",
        "for the one in ten that waits for it (`Prefer: wait`). Above capacity: of those that were accepted; what was refused",
        "was answered 503, what was not answered found no connection free before the end.",
        *_overload_lines(book),
    ]
    return Table("Latency", ("", "requests", "accept", "outcome", "refused", "unanswered"), rows, below)


def _overload_lines(book: Book) -> list[str]:
    found = []
    for kind in KINDS:
        shown = []
        for words, status in (("a 202", 202), ("a 503", 503)):
            told = [(share, book.of(f"overload {status} {share} {kind}")) for share in ("p50", "p99")]
            shown += [f"{words} {share} {_ms(spread.median)} ms" for share, spread in told if spread]
        if shown:
            found.append(f"At 3 times capacity, {TITLES[kind]}, from the moment of sending: {', '.join(shown)}.")
    return found


def _parts(book: Book) -> Table:
    rows = []
    for name, words in PARTS:
        found = book.of(name)
        if found:
            to = f"{SETWISE} {name.split()[-1]}" if name.startswith("apply") else FLOOR
            rows.append((words, _shown(found), f"{_ratio(book.ratio(name, to))} of {to[0]}"))
    return Table("Parts by themselves, a second", ("", "", ""), rows)


def _processor(book: Book) -> Table:
    rows = []
    for name in ROOTS:
        found = [book.of(f"cpu {name} {kind}") for kind in KINDS]
        if any(found):
            rows.append((name, *(_shown(one) for one in found)))
    if rows:
        sizes = (_shown(book.of(f"a batch {kind}")) for kind in KINDS)
        rows.append(("commands in a worker's transaction, on average", *sizes))
    below = ["With the machine's cores it says what can be had at most; unlike rates, it hardly depends on what else runs."]
    return Table(
        "Processor time for each command, accepted and applied, in µs", ("", *(TITLES[kind] for kind in KINDS)), rows, below
    )


def _sizes(book: Book) -> Table:
    rows = [(words, f"{found} {unit}") for name, words, unit in SIZES if (found := book.of(name))]
    return Table("What it takes", ("", ""), rows)


def _memory(book: Book) -> Table:
    rows = [(name, str(count), f"{each:.0f} MB") for name, count, each in book.memory]
    return Table("Memory of each process (resident, without Postgres's shared buffers)", ("", "processes", "each"), rows)


def _growth(book: Book) -> Table:
    rows = []
    for one in book.growth:
        pairs = [(spread(one.read_p99[name]).median, spread(one.read_p99_beside[name]).median) for name in one.read_p99]
        reads = [f"{_ms(large)} ({_ms(beside)})" for large, beside in pairs]
        rows.append(
            (
                f"{one.reservations:,} in {one.sessions:,} sessions",
                f"{figure(spread(one.apply).median)} ({figure(spread(one.apply_beside).median)})",
                *reads,
                _first_read(one),
                f"{one.bytes / 2**20:,.0f} MB",
            )
        )
    names = tuple(f"p99 of {name}, ms" for name in (book.growth[0].read_p99 if book.growth else ()))
    below = [
        "In parentheses: a database of 1,000 reservations on the same servers, measured at the same time. Commands and reads go",
        "to 100 sessions in use; the first read is that of a session that nobody had asked for since it was filled.",
    ]
    return Table("Growth", ("reservations", "applied a second", *names, "first read, p50, ms", "database"), rows, below)


def _first_read(one: Growth) -> str:
    if not one.first_read:
        return "-"
    return f"{_ms(spread(one.first_read).median)} ({_ms(spread(one.first_read_beside).median)})"


def _shown(found: Spread | None) -> str:
    return "" if found is None else str(found)


def _ratio(value: float | None) -> str:
    return "" if value is None else figure(value)


def _ms(seconds: float) -> str:
    return "> 10,000" if math.isinf(seconds) else "-" if math.isnan(seconds) else figure(seconds * 1000)


def on_screen(book: Book) -> str:
    """Everything, aligned."""
    parts = []
    for table in tables(book):
        rows = [table.headings, *table.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(table.headings))]
        lines = [table.title, "=" * len(table.title)]
        for row in rows:
            first, *others = row
            cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
            lines.append("  ".join((first.ljust(widths[0]), *cells)).rstrip())
        parts.append("\n".join([*filter(None, lines), *table.below]))
    return "\n\n".join(parts)


def settings_lines(book: Book) -> list[str]:
    """What it ran with, a line for each server."""
    return [f"{name}: {', '.join(f'{key} {value}' for key, value in found.items())}" for name, found in book.settings.items()]


def about_machine() -> str:
    """Where it ran, without naming it."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {system}, Python {platform.python_version()}"


def today() -> str:
    """The date."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def markdown(table: Table) -> str:
    """One table for docs/bench.md."""
    lines = [f"## {table.title}", "", f"| {' | '.join(table.headings)} |", f"|{'---|' * len(table.headings)}"]
    lines += [f"| {' | '.join(row)} |" for row in table.rows]
    return "\n".join([*lines, "", *table.below]).rstrip()


def document(full: Book | None, growth: Book | None) -> str:
    """docs/bench.md, of the last full run and the last growth run."""
    parts = [HEAD]
    if full:
        parts.append(_ran("make bench", full))
        shown = {table.title: markdown(table) for table in tables(full)}
        shown["Reservations a second"] += "\n\n![Throughput beside the peers](bench/throughput.svg)"
        if full.latencies:
            shown["Latency"] += "\n\n![Latency by load](bench/latency.svg)"
        parts += [*shown.values(), HOW]
    if growth:
        parts += [markdown(table) for table in tables(growth)]
        parts += ["![Rates by size](bench/growth.svg)", _ran("make bench GROWTH=1", growth)]
    return "\n\n".join(parts) + "\n"


def _ran(command: str, book: Book) -> str:
    about = book.about
    lines = [
        f"`{command}` on {about['date']}, {about['minutes']} minutes, seed {about['seed']}, on a machine of {about['machine']}.",
        f"Load: {about['load']}; it shares the cores with what it measures.",
        "Settings, read back from the servers:",
        "",
        *(f"- {line}" for line in settings_lines(book)),
    ]
    return "\n".join(lines)


def publish(folder: Path) -> None:
    """Write docs/bench.md and its charts anew from the runs that are kept in `folder`/bench."""
    full, growth = (load(folder / "bench" / f"{name}.json") for name in ("full", "growth"))
    drawn = {}
    if full:
        drawn |= {"throughput": charts.throughput(full), "latency": charts.latency(full)}
    if growth:
        drawn["growth"] = charts.growth(growth)
    for name, drawing in drawn.items():
        (folder / "bench" / f"{name}.svg").write_text(drawing, "utf-8")
    (folder / "bench.md").write_text(document(full, growth), "utf-8")
