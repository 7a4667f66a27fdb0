"""The command `aforo`: what operators type. Each command calls one function of this package or of core, and shows the result.

Whatever goes wrong is one line on stderr and exit status 1; usage errors are 2.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import tempfile
import uuid
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from core import migrations
from core.errors import AforoError
from core.queries import Queries
from core.settings import Settings, load
from core.store import create_engine
from ops import demo as demonstration
from ops import stackfile
from ops import up as whole
from ops import verify as verification
from ops.client import Answer, Client, NoAnswer
from ops.localstack import free_port

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Aforo: reservations that cannot overbook.")
sessions = typer.Typer(no_args_is_help=True, help="Sessions: what places are reserved in.")
quarantine = typer.Typer(no_args_is_help=True, help="Commands that could not be decided, and entries that were none.")
app.add_typer(sessions, name="sessions")
app.add_typer(quarantine, name="quarantine")

DEFAULT_ORIGIN = "http://127.0.0.1:8000"
WAIT_SECONDS = 30
SUCCESSES = (
    "confirmed", "waitlisted", "cancelled", "reduced", "resized", "configured", "session_closed", "session_reopened",
)  # fmt: skip

DataDir = Annotated[Path, typer.Option(help="Folder of the data, the logs and stack.json.")]
Api = Annotated[str | None, typer.Option(help="Origin of the API; else that of the running stack.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DATA_DIR = Path(".aforo")

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)


class Policy(StrEnum):
    """Who goes when places come free."""

    strict = "strict"
    fill = "fill"


class OnShrink(StrEnum):
    """What becomes of a change to fewer places than are taken."""

    refuse = "refuse"
    waitlist = "waitlist"


class Failure(Exception):
    """A command cannot do what was asked; the message is all that is shown."""


def plainly(command: Callable[..., Any]) -> Callable[..., Any]:
    """Show every foreseeable error as one line, with exit status 1."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except (Failure, NoAnswer, AforoError, demonstration.DemoFailed, stackfile.BrokenStackFile) as exc:
            err.print(str(exc), style="red", markup=False)
            raise typer.Exit(1) from exc

    return run


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"aforo {importlib.metadata.version('aforo')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Aforo: reservations that cannot overbook."""


@app.command()
def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API, on 127.0.0.1.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Celery worker processes.")] = 2,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Start everything on this machine; Ctrl-C stops it, the data stay."""
    raise typer.Exit(whole.run(port, workers, data_dir, out))


@app.command()
@plainly
def migrate(data_dir: DataDir = DATA_DIR) -> None:
    """Bring the database to this release's schema."""
    out.print(f"The database is at revision {migrations.upgrade(_settings(data_dir))}.")


@sessions.command("create")
@plainly
def create_session(
    title: Annotated[str, typer.Option(help="What it is called.")],
    start: Annotated[datetime, typer.Option(help="When it begins; local time.")],
    end: Annotated[datetime, typer.Option(help="When it ends; local time.")],
    capacity: Annotated[int, typer.Option(help="How many places it has.")],
    description: Annotated[str, typer.Option(help="What it is about.")] = "",
    location: Annotated[str, typer.Option(help="Where it is.")] = "",
    waitlist: Annotated[int, typer.Option(help="How many reservations may wait.")] = 0,
    policy: Annotated[
        Policy, typer.Option(help="Whether the first waits until it fits, or the first that fits goes.")
    ] = Policy.strict,
    max_seats: Annotated[int, typer.Option(help="Most seats in one reservation.")] = 20,
    api: Api = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Create a session."""
    body = {
        "title": title,
        "description": description,
        "location": location,
        "start_time": start.astimezone().isoformat(),
        "end_time": end.astimezone().isoformat(),
        "capacity": capacity,
        "waitlist_capacity": waitlist,
        "waitlist_policy": policy.value,
        "max_seats_per_reservation": max_seats,
    }
    made = _good(_client(api, data_dir).post("/api/sessions/", body))
    out.print(f"Session {made['id']}: {made['title']}, {made['capacity']} places.", markup=False)


@sessions.command("configure")
@plainly
def configure_session(
    session: Annotated[int, typer.Argument(help="Id of the session.")],
    capacity: Annotated[int | None, typer.Option(help="How many places.")] = None,
    waitlist: Annotated[int | None, typer.Option(help="How many reservations may wait.")] = None,
    policy: Annotated[Policy | None, typer.Option(help="strict, or fill.")] = None,
    max_seats: Annotated[int | None, typer.Option(help="Most seats in one reservation.")] = None,
    opens: Annotated[datetime | None, typer.Option(help="Reservations from then on; local time.")] = None,
    closes: Annotated[datetime | None, typer.Option(help="And until then; local time.")] = None,
    start: Annotated[datetime | None, typer.Option(help="When it begins; local time.")] = None,
    end: Annotated[datetime | None, typer.Option(help="When it ends; local time.")] = None,
    on_shrink: Annotated[
        OnShrink, typer.Option(help="With fewer places than are taken: refuse, or send the newest to the waitlist.")
    ] = (OnShrink.refuse),
    as_json: AsJson = False,
    api: Api = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Change a session's settings, in their turn: what is asked for before is decided by the old ones."""
    times = {"opens_at": opens, "closes_at": closes, "start_time": start, "end_time": end}
    wanted: dict[str, Any] = {
        "capacity": capacity,
        "waitlist_capacity": waitlist,
        "waitlist_policy": policy and policy.value,
        "max_seats_per_reservation": max_seats,
        **{name: moment and moment.astimezone().isoformat() for name, moment in times.items()},
    }
    body = {name: value for name, value in wanted.items() if value is not None}
    prefer = {"Prefer": f"wait={WAIT_SECONDS}"}
    answer = _client(api, data_dir).send("PATCH", f"/api/sessions/{session}/", {**body, "on_shrink": on_shrink.value}, **prefer)
    _show_answer(answer, as_json)


def _turn(kind: str, what: str) -> None:
    @sessions.command(kind, help=what)
    @plainly
    def turn(
        session: Annotated[int, typer.Argument(help="Id of the session.")],
        as_json: AsJson = False,
        api: Api = None,
        data_dir: DataDir = DATA_DIR,
    ) -> None:
        path = "cancel-session" if kind == "cancel" else kind
        _command(_client(api, data_dir), session, path, {}, True, None, as_json)


_turn("close", "Take no more reservations.")
_turn("reopen", "Take reservations again.")
_turn("cancel", "Cancel a session with all its reservations; this cannot be taken back.")


@sessions.command("list")
@plainly
def list_sessions(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are over, closed or full.")] = False,
    as_json: AsJson = False,
    api: Api = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """List sessions that can be booked."""
    client = _client(api, data_dir)
    path: str | None = "/api/sessions/?page_size=100" + ("&available=all" if everything else "")
    found: list[dict[str, Any]] = []
    while path:
        page = _good(client.get(path))
        found += page["results"]
        path = page["next"]
    if as_json:
        print(json.dumps(found))
        return
    _table(("id", "title", "starts", "places", "free", "waiting", "state"), [_session_row(session) for session in found])


@app.command()
@plainly
def reserve(
    session: Annotated[int, typer.Argument(help="Id of the session.")],
    name: Annotated[str, typer.Option(help="Who comes.")],
    email: Annotated[str, typer.Option(help="Their e-mail address.")],
    seats: Annotated[int, typer.Option(help="How many places.")] = 1,
    wait: Annotated[bool, typer.Option(help="Wait for the outcome.")] = True,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key is the same request.")] = None,
    as_json: AsJson = False,
    api: Api = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Reserve a place."""
    _command(_client(api, data_dir), session, "reserve", {"name": name, "email": email, "seats": seats}, wait, key, as_json)


@app.command()
@plainly
def cancel(
    session: Annotated[int, typer.Argument(help="Id of the session.")],
    email: Annotated[str, typer.Option(help="E-mail address of the reservation.")],
    seats: Annotated[int | None, typer.Option(help="How many places to give back; all without it.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the outcome.")] = True,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key is the same request.")] = None,
    as_json: AsJson = False,
    api: Api = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Give a place back."""
    body = {"email": email} if seats is None else {"email": email, "seats": seats}
    _command(_client(api, data_dir), session, "cancel", body, wait, key, as_json)


@app.command()
@plainly
def job(
    job_id: Annotated[str, typer.Argument(help="Id of the job.")],
    as_json: AsJson = False,
    api: Api = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Show what became of a request."""
    _show_job(_good(_client(api, data_dir).get(f"/api/jobs/{job_id}")), as_json)


@quarantine.command("list")
@plainly
def list_quarantine(
    limit: Annotated[int, typer.Option(min=1)] = 50, as_json: AsJson = False, data_dir: DataDir = DATA_DIR
) -> None:
    """List what was set aside: commands that ended their workers, and mailbox entries that were no commands."""
    queries = _queries(data_dir)
    commands, unreadable = queries.quarantined(limit), queries.unreadable(limit)
    if as_json:
        print(json.dumps({"commands": [_plain(c) for c in commands], "unreadable": [_plain(u) for u in unreadable]}, default=str))
        return
    if not commands and not unreadable:
        out.print("Nothing is in quarantine.")
    if commands:
        rows = [(c.job_id, c.session_id, c.seq, c.kind, f"{c.applied_at:%Y-%m-%d %H:%M:%S}") for c in commands]
        _table(("job", "session", "seq", "kind", "set aside at"), rows)
    if unreadable:
        entries = [(u.partition, u.stream_id, u.reason, f"{u.noticed_at:%Y-%m-%d %H:%M:%S}") for u in unreadable]
        _table(("partition", "entry", "why it was no command", "set aside at"), entries)


@quarantine.command("show")
@plainly
def show_quarantined(job_id: Annotated[str, typer.Argument(help="Id of the job.")], data_dir: DataDir = DATA_DIR) -> None:
    """Show one command that was set aside, whole."""
    found = _queries(data_dir).quarantined_job(_uuid(job_id))
    if found is None:
        raise Failure(f"No command in quarantine has the job id {job_id}.")
    out.print_json(json.dumps(_plain(found), default=str))


@app.command()
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
    client = _client(api, data_dir)
    good = _demo(client.origin, _settings(data_dir) if _has_database(data_dir) else None, people, places)
    raise typer.Exit(0 if good else 1)


@app.command()
@plainly
def verify(as_json: AsJson = False, data_dir: DataDir = DATA_DIR) -> None:
    """Replay the whole ledger and compare it with every table and with Redis. Exit status 1 if anything differs."""
    report = _verified(_settings(data_dir))
    if as_json:
        print(json.dumps({"ok": report.ok, **_plain(report)}))
    else:
        _show_report(report)
    raise typer.Exit(0 if report.ok else 1)


# -- what the commands share ---------------------------------------------------------------------------------------------


def _client(api: str | None, data_dir: Path) -> Client:
    running = None if api else stackfile.read(data_dir / whole.STACK_FILE)
    origin = api or (running.api if running else DEFAULT_ORIGIN)
    if not origin.startswith(("http://", "https://")):
        raise Failure(f"--api must begin with http:// or https://, not {origin!r}.")
    return Client(origin)


def _has_database(data_dir: Path) -> bool:
    return "AFORO_DATABASE_URL" in os.environ or stackfile.read(data_dir / whole.STACK_FILE) is not None


def _settings(data_dir: Path) -> Settings:
    """Where the servers are: from the environment, else of the stack that runs. Raises Failure, SettingsConflict."""
    running = stackfile.read(data_dir / whole.STACK_FILE)
    given: dict[str, str] = {}
    for name in ("database_url", "redis_url"):
        if f"AFORO_{name.upper()}" not in os.environ and running is not None:
            given[name] = getattr(running, name)
    if running is None and "AFORO_DATABASE_URL" not in os.environ:
        raise Failure(f"No stack runs from {data_dir}, and AFORO_DATABASE_URL is not set: there is no database to look at.")
    return load(**given)


def _queries(data_dir: Path) -> Queries:
    return Queries(create_engine(_settings(data_dir).database_url, 1))


def _good(answer: Answer) -> dict[str, Any]:
    if answer.status < 400:
        return answer.body
    lines = [answer.body.get("detail") or f"The API answered {answer.status}."]
    lines += [f"  {wrong['field']}: {wrong['message']}" for wrong in answer.body.get("errors", [])]
    raise Failure("\n".join(lines))


def _command(client: Client, session: int, kind: str, body: dict[str, Any], wait: bool, key: str | None, as_json: bool) -> None:
    headers = {"Prefer": f"wait={WAIT_SECONDS}"} if wait else {}
    if key is not None:
        headers["Idempotency_Key"] = key
    _show_answer(client.post(f"/api/sessions/{session}/{kind}/", body, **headers), as_json)


def _show_answer(answer: Answer, as_json: bool) -> None:
    found = answer.job
    if found is None:
        _good(answer)
        raise Failure(f"The API answered {answer.status} without a job.")
    _show_job(found, as_json)
    if found["outcome"] not in (None, *SUCCESSES):
        raise typer.Exit(1)


def _show_job(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    if found["outcome"] is None:
        ahead = f", {found['ahead']} ahead" if found.get("ahead") is not None else ""
        out.print(f"queued as number {found['seq']} of session {found['session_id']}{ahead}; job {found['id']}")
        return
    held = found.get("reservation")
    reservation = f", reservation {held['id']}" if held else ""
    if held and held["status"] == "waitlisted":
        reservation += f", place {held['position']} in the waitlist"
    out.print(f"{found['outcome']}: number {found['seq']} of session {found['session_id']}{reservation}; job {found['id']}")


def _session_row(session: dict[str, Any]) -> tuple[Any, ...]:
    names = ("capacity", "available_slots", "waiting", "state")
    return (session["id"], session["title"], session["start_time"][:16].replace("T", " "), *(session[name] for name in names))


def _demo_on_its_own(people: int, places: int) -> None:
    """Start a stack for the demo in a folder of its own, and stop it afterwards."""
    with tempfile.TemporaryDirectory(prefix="aforo-demo-") as folder:
        os.chmod(folder, 0o755)  # noqa: S103  the servers' own user has to enter it
        stack = whole.Stack(free_port(), 2, Path(folder), out, whole.Stopping())
        try:
            stack.start()
            running = stackfile.read(Path(folder) / whole.STACK_FILE)
            if running is None:
                raise Failure("The stack for the demo did not start.")
            good = _demo(running.api, load(database_url=running.database_url, redis_url=running.redis_url), people, places)
        except whole.CANNOT_START as exc:
            raise Failure(f"The stack for the demo cannot start: {exc}") from exc
        finally:
            stack.stop()
    raise typer.Exit(0 if good else 1)


def _demo(origin: str, settings: Settings | None, people: int, places: int) -> bool:
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(f"{people:,} people, {places:,} places", total=people)
        result = demonstration.run(origin, people, places, lambda n: bar.advance(task, n))
    _table(("", ""), _demo_rows(result))
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
        return verification.run(
            settings.database_url, settings.redis_url, lambda done, every: bar.update(task, completed=done, total=every)
        )


def _verdict(report: verification.Report) -> str:
    if report.ok:
        return (
            f"ok: {report.jobs:,} ledger rows of {report.sessions:,} sessions replayed in {report.seconds:.1f} s, no difference"
        )
    return f"{report.difference_count} differences; the first: {report.differences[0]}"


def _show_report(report: verification.Report) -> None:
    names = ("sessions", "jobs", "reservations", "compared_with_redis", "gaps", "renumbered", "replays", "quarantined")
    _table(("", ""), [(name.replace("_", " "), f"{getattr(report, name):,}") for name in names])
    out.print(_verdict(report), markup=False, style="green" if report.ok else "red")
    for difference in report.differences[1:]:
        out.print(f"  {difference}", markup=False)


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    table = Table(box=None, pad_edge=False, show_header=any(head), header_style="dim")
    for index, name in enumerate(head):
        numbers = bool(rows) and isinstance(rows[0][index], int)
        table.add_column(name, justify="right" if numbers or (not any(head) and index) else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    out.print(table)


def _plain(value: Any) -> dict[str, Any]:
    names = getattr(value, "__struct_fields__", None) or value.__slots__
    return {name: _text(getattr(value, name)) for name in names}


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError as exc:
        raise Failure(f"{text!r} is no job id.") from exc


if __name__ == "__main__":
    sys.exit(app())
