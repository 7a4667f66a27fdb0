"""`aforo demo` and `aforo verify`: what operators type to see for themselves that nothing is overbooked and nothing is lost.

The work is done in demo.py and verify.py; here it is started, watched and shown.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from core.settings import Settings, load
from ops import demo as demonstration
from ops import stackfile
from ops import up as whole
from ops import verify as verification
from ops.client import Client
from ops.localstack import free_port
from ops.shell import (
    DATA_DIR,
    Api,
    AsJson,
    DataDir,
    Failure,
    client_of,
    err,
    has_database,
    out,
    plain,
    plainly,
    settings_of,
    show_table,
)


@plainly
def demo(
    people: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many people come.")] = 10_000,
    places: Annotated[int, typer.Option(min=0, max=1_000_000, help="How many places there are.")] = 500,
    api: Api = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Let 10,000 people after 500 places, and count what became of them."""
    if api is None and stackfile.read(data_dir / whole.STACK_FILE) is None:
        _demo_on_its_own(people, places)
        return
    client = client_of(api, data_dir)
    good = _demo(client, settings_of(data_dir) if has_database(data_dir) else None, people, places)
    raise typer.Exit(0 if good else 1)


@plainly
def verify(as_json: AsJson = False, data_dir: DataDir = DATA_DIR) -> None:
    """Replay the whole ledger and compare it with every table and with Redis. Exit status 1 if anything differs."""
    report = _verified(settings_of(data_dir))
    if as_json:
        print(json.dumps({"ok": report.ok, **plain(report)}))
    else:
        _show_report(report)
    raise typer.Exit(0 if report.ok else 1)


def _demo_on_its_own(people: int, places: int) -> None:
    """Start a stack for the demo in a folder of its own, and stop it afterwards."""
    with tempfile.TemporaryDirectory(prefix="aforo-demo-") as folder:
        os.chmod(folder, 0o755)  # noqa: S103  the servers' own user has to enter it
        stack = whole.Stack(free_port(), 2, Path(folder), out, whole.Stopping(), AFORO_AUTH="open")
        try:
            stack.start()
            running = stackfile.read(Path(folder) / whole.STACK_FILE)
            if running is None:
                raise Failure("The stack for the demo did not start.")
            settings = load(database_url=running.database_url, redis_url=running.redis_url)
            good = _demo(Client(running.api), settings, people, places)
        except whole.CANNOT_START as exc:
            raise Failure(f"The stack for the demo cannot start: {exc}") from exc
        finally:
            stack.stop()
    raise typer.Exit(0 if good else 1)


def _demo(client: Client, settings: Settings | None, people: int, places: int) -> bool:
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(f"{people:,} people, {places:,} places", total=people)
        result = demonstration.run(client, people, places, lambda n: bar.advance(task, n))
    show_table(("", ""), _demo_rows(result))
    if settings is None:
        out.print("verify: not run, because AFORO_DATABASE_URL is not set.")
        return result.overbooked == 0
    report = _verified(settings)
    out.print(f"verify: {_verdict(report)}", markup=False)
    return result.overbooked == 0 and report.ok


def _demo_rows(result: demonstration.Result) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = [("confirmed", f"{result.outcomes['confirmed']:,}")]
    refused = {name: count for name, count in result.outcomes.most_common() if name != "confirmed"}
    rows += [(f"refused: {name}", f"{count:,}") for name, count in refused.items()]
    return [
        *rows,
        ("overbooked", f"{result.overbooked:,}"),
        ("accepted a second", f"{result.people / result.accept_seconds:,.0f}"),
        ("accepted and applied a second", f"{result.people / result.total_seconds:,.0f}"),
        ("latency of accepting, p50", f"{result.latency(0.5) * 1000:.1f} ms"),
        ("latency of accepting, p99", f"{result.latency(0.99) * 1000:.1f} ms"),
    ]


def _verified(settings: Settings) -> verification.Report:
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("Replaying the ledger", total=None)
        report = verification.run(
            settings.database_url, settings.redis_url, lambda done, every: bar.update(task, completed=done, total=every)
        )
    verification.note(report, settings.redis_url)
    return report


def _verdict(report: verification.Report) -> str:
    if report.ok:
        return (
            f"ok: {report.jobs:,} ledger rows of {report.sessions:,} sessions replayed in {report.seconds:.1f} s, no difference"
        )
    return f"{report.difference_count} differences; the first: {report.differences[0]}"


def _show_report(report: verification.Report) -> None:
    names = ("sessions", "jobs", "reservations", "compared_with_redis", "gaps", "renumbered", "replays", "quarantined", "pruning")
    show_table(("", ""), [(name.replace("_", " "), f"{getattr(report, name):,}") for name in names])
    out.print(_verdict(report), markup=False, style="green" if report.ok else "red")
    for difference in report.differences[1:]:
        out.print(f"  {difference}", markup=False)
    if report.notes:
        out.print("Redis was once put back to an older state; the first commands that were renumbered since:")
    for note in report.notes:
        out.print(f"  {note}", markup=False)
