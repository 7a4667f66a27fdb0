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
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from core import migrations
from core.settings import Settings, load
from ops import demo as demonstration
from ops import keys, privacy, stackfile
from ops import up as whole
from ops import verify as verification
from ops.client import Answer, Client
from ops.localstack import free_port
from ops.repartition import repartition
from ops.restored import restored
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
    queries_of,
    settings_of,
    show_table,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Aforo: reservations that cannot overbook.")
sessions = typer.Typer(no_args_is_help=True, help="Sessions: what places are reserved in.")
quarantine = typer.Typer(no_args_is_help=True, help="Commands that could not be decided, and entries that were none.")
app.add_typer(sessions, name="sessions")
app.add_typer(keys.app, name="keys")
app.add_typer(quarantine, name="quarantine")

WAIT_SECONDS = 30
SUCCESSES = (
    "confirmed", "waitlisted", "cancelled", "reduced", "resized", "configured", "session_closed", "session_reopened",
)  # fmt: skip


class Policy(StrEnum):
    """Who goes when places come free."""

    strict = "strict"
    fill = "fill"


class OnShrink(StrEnum):
    """What becomes of a change to fewer places than are taken."""

    refuse = "refuse"
    waitlist = "waitlist"


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
    out.print(f"The database is at revision {migrations.upgrade(settings_of(data_dir))}.")


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
    public: Annotated[bool, typer.Option("--public", help="Give it a page where anybody may reserve.")] = False,
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
        "public": public,
    }
    made = _good(client_of(api, data_dir).post("/api/sessions/", body))
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
    answer = client_of(api, data_dir).send("PATCH", f"/api/sessions/{session}/", {**body, "on_shrink": on_shrink.value}, **prefer)
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
        _command(client_of(api, data_dir), session, path, {}, True, None, as_json)


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
    client = client_of(api, data_dir)
    path: str | None = "/api/sessions/?page_size=100" + ("&available=all" if everything else "")
    found: list[dict[str, Any]] = []
    while path:
        page = _good(client.get(path))
        found += page["results"]
        path = page["next"]
    if as_json:
        print(json.dumps(found))
        return
    show_table(("id", "title", "starts", "places", "free", "waiting", "state"), [_session_row(session) for session in found])


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
    _command(client_of(api, data_dir), session, "reserve", {"name": name, "email": email, "seats": seats}, wait, key, as_json)


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
    _command(client_of(api, data_dir), session, "cancel", body, wait, key, as_json)


@app.command()
@plainly
def job(
    job_id: Annotated[str, typer.Argument(help="Id of the job.")],
    as_json: AsJson = False,
    api: Api = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Show what became of a request."""
    _show_job(_good(client_of(api, data_dir).get(f"/api/jobs/{job_id}")), as_json)


@quarantine.command("list")
@plainly
def list_quarantine(
    limit: Annotated[int, typer.Option(min=1)] = 50, as_json: AsJson = False, data_dir: DataDir = DATA_DIR
) -> None:
    """List what was set aside: commands that ended their workers, and mailbox entries that were no commands."""
    queries = queries_of(data_dir)
    commands, unreadable = queries.quarantined(limit), queries.unreadable(limit)
    if as_json:
        print(json.dumps({"commands": [plain(c) for c in commands], "unreadable": [plain(u) for u in unreadable]}, default=str))
        return
    if not commands and not unreadable:
        out.print("Nothing is in quarantine.")
    if commands:
        rows = [(c.job_id, c.session_id, c.seq, c.kind, f"{c.applied_at:%Y-%m-%d %H:%M:%S}") for c in commands]
        show_table(("job", "session", "seq", "kind", "set aside at"), rows)
    if unreadable:
        entries = [(u.partition, u.stream_id, u.reason, f"{u.noticed_at:%Y-%m-%d %H:%M:%S}") for u in unreadable]
        show_table(("partition", "entry", "why it was no command", "set aside at"), entries)


@quarantine.command("show")
@plainly
def show_quarantined(job_id: Annotated[str, typer.Argument(help="Id of the job.")], data_dir: DataDir = DATA_DIR) -> None:
    """Show one command that was set aside, whole."""
    found = queries_of(data_dir).quarantined_job(_uuid(job_id))
    if found is None:
        raise Failure(f"No command in quarantine has the job id {job_id}.")
    out.print_json(json.dumps(plain(found), default=str))


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
    client = client_of(api, data_dir)
    good = _demo(client, settings_of(data_dir) if has_database(data_dir) else None, people, places)
    raise typer.Exit(0 if good else 1)


app.command()(privacy.forget)
app.command()(privacy.prune)
app.command()(restored)
app.command()(repartition)


@app.command()
@plainly
def verify(as_json: AsJson = False, data_dir: DataDir = DATA_DIR) -> None:
    """Replay the whole ledger and compare it with every table and with Redis. Exit status 1 if anything differs."""
    report = _verified(settings_of(data_dir))
    if as_json:
        print(json.dumps({"ok": report.ok, **plain(report)}))
    else:
        _show_report(report)
    raise typer.Exit(0 if report.ok else 1)


# -- what the commands share ---------------------------------------------------------------------------------------------


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


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError as exc:
        raise Failure(f"{text!r} is no job id.") from exc


if __name__ == "__main__":
    sys.exit(app())
