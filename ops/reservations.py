"""`aforo reserve` and `aforo cancel`: ask for places and give them back, over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.jobs import send
from ops.shell import DATA_DIR, Api, AsJson, DataDir, client_of, plainly


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
    send(client_of(api, data_dir), session, "reserve", {"name": name, "email": email, "seats": seats}, wait, key, as_json)


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
    send(client_of(api, data_dir), session, "cancel", body, wait, key, as_json)
