"""`aforo sessions`: create, list, configure, close and cancel what places are reserved in, over HTTP."""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from ops.jobs import WAITING, good, send, show_answer
from ops.shell import DATA_DIR, Api, AsJson, DataDir, client_of, out, plainly, show_table

app = typer.Typer(no_args_is_help=True, help="Sessions: what places are reserved in.")


class Policy(StrEnum):
    """Who goes when places come free."""

    strict = "strict"
    fill = "fill"


class OnShrink(StrEnum):
    """What becomes of a change to fewer places than are taken."""

    refuse = "refuse"
    waitlist = "waitlist"


@app.command("create")
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
    made = good(client_of(api, data_dir).post("/api/sessions/", body))
    out.print(f"Session {made['id']}: {made['title']}, {made['capacity']} places.", markup=False)


@app.command("configure")
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
    body["on_shrink"] = on_shrink.value
    show_answer(client_of(api, data_dir).send("PATCH", f"/api/sessions/{session}/", body, **WAITING), as_json)


def _turn(kind: str, what: str) -> None:
    @app.command(kind, help=what)
    @plainly
    def turn(
        session: Annotated[int, typer.Argument(help="Id of the session.")],
        as_json: AsJson = False,
        api: Api = None,
        data_dir: DataDir = DATA_DIR,
    ) -> None:
        path = "cancel-session" if kind == "cancel" else kind
        send(client_of(api, data_dir), session, path, {}, True, None, as_json)


_turn("close", "Take no more reservations.")
_turn("reopen", "Take reservations again.")
_turn("cancel", "Cancel a session with all its reservations; this cannot be taken back.")


@app.command("list")
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
        page = good(client.get(path))
        found += page["results"]
        path = page["next"]
    if as_json:
        print(json.dumps(found))
        return
    show_table(("id", "title", "starts", "places", "free", "waiting", "state"), [_session_row(session) for session in found])


def _session_row(session: dict[str, Any]) -> tuple[Any, ...]:
    names = ("capacity", "available_slots", "waiting", "state")
    return (session["id"], session["title"], session["start_time"][:16].replace("T", " "), *(session[name] for name in names))
