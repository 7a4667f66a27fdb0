"""The table: on the screen as cases end, and in docs/faults.md with the machine that it belongs to."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from ops import localstack
from tests.fault.suite.case import Result, quantile

HEADINGS = (
    "fault", "injections", "requests", "accepted", "lost", "double", "overbooked", "out of order",
    "recovery p50", "p99", "result",
)  # fmt: skip
SHOWN_FAILURES = 12


def cells(result: Result) -> list[str]:
    """One row."""
    if result.skipped is not None:
        return [result.case.fault, *["-"] * (len(HEADINGS) - 2), "skipped"]
    counts = (
        result.injections,
        result.requests,
        result.accepted,
        result.lost,
        result.double,
        result.overbooked,
        result.out_of_order,
    )
    recovery = [f"{quantile(result.recoveries, share):.2f} s" if result.recoveries else "-" for share in (0.5, 0.99)]
    return [result.case.fault, *(f"{count:,}" for count in counts), *recovery, "passed" if result.ok else "FAILED"]


def details(result: Result) -> list[str]:
    """Lines below the row: why it failed or was skipped, and what is worth knowing."""
    if result.skipped is not None:
        return [f"skipped: {result.skipped}"]
    shown = [f"failed: {failure}" for failure in result.failures[:SHOWN_FAILURES]]
    if len(result.failures) > SHOWN_FAILURES:
        shown.append(f"... and {len(result.failures) - SHOWN_FAILURES} more")
    return [*shown, *result.notes]


def table(results: list[Result]) -> str:
    """All rows, for a screen."""
    rows = [list(HEADINGS), *(cells(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = []
    for number, row in enumerate(rows):
        first, *others = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join((first.strip().ljust(widths[0]), *others)).rstrip())
        if number:
            lines += [f"    {line}" for line in details(results[number - 1])]
    return "\n".join(lines)


def document(results: list[Result], seed: int, seconds: float) -> str:
    """docs/faults.md."""
    lines = [
        "# What it survives",
        "",
        f"Written by `make faults` on {datetime.now(UTC):%Y-%m-%d}, seed {seed}, in {seconds / 60:.0f} minutes. {machine()}",
        "",
        "Each fault meets a whole running stack: gunicorn, Celery workers, the sweeper, Postgres and Valkey. Clients log every",
        "call; afterwards a checker with a model of its own compares their log with the ledger, and `aforo verify` replays it.",
        "*Lost*: accepted, and not exactly once in the ledger with an outcome. *Double*: applied, and nobody asked (again).",
        "*Overbooked*: steps over capacity. *Out of order*: answered before another one asked, and decided after it.",
        "*Recovery*: from the fault until all that was waiting then was applied. Controls take a guard away, and must fail.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{'---|' * len(HEADINGS)}",
    ]
    lines += [f"| {' | '.join(cells(result))} |" for result in results]
    lines += ["", "## How each is injected, and when it passes", ""]
    for result in results:
        found = result.case
        lines.append(f"- **{found.fault}** (`make faults CASE={found.name}`): {found.injected}. Passes when: {found.passes}.")
        lines += [f"  - {line}" for line in details(result)]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Where it ran, without naming it."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    postgres, valkey = localstack._installed()
    versions = [_version(postgres / "bin" / "postgres"), _version(valkey)]
    kernel = f"{platform.system()} {platform.release().partition('-')[0]}"
    return (
        f"Machine: {os.cpu_count()} cores, {memory:.0f} GiB of memory, {kernel}; "
        f"Postgres {versions[0]}, Valkey {versions[1]}, Python {platform.python_version()}."
    )


def _version(binary: Path) -> str:
    shown = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    return next(word.removeprefix("v=") for word in shown.split() if word.removeprefix("v=")[:1].isdigit())
