"""`aforo keys`: make, list and revoke the keys that clients call with. A key is shown once; only its hash is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer

from core import mailbox
from core.errors import Unavailable
from core.keys import Key, key_of, new_token
from core.keystore import KeyStore
from core.settings import Settings
from core.store import create_engine
from ops.shell import DATA_DIR, AsJson, DataDir, Failure, err, out, plainly, settings_of, show_table

DAY_MS = 86_400_000
Result = TypeVar("Result")

app = typer.Typer(no_args_is_help=True, help="Keys: what clients call the API with.")


class Scope(StrEnum):
    """What a key may do."""

    read = "read"
    reserve = "reserve"
    attendees = "attendees"
    manage = "manage"
    operate = "operate"


@app.command("create")
@plainly
def create_key(
    client: Annotated[str, typer.Option(help="Whose key it is. Several keys of one client own the same reservations.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do; several times for several scopes.")],
    days: Annotated[int | None, typer.Option(min=1, max=36_500, help="For how many days; for good without it.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Make a key. It is shown once, and only its hash is kept."""
    token, key = create(settings_of(data_dir), client, [one.value for one in scope], days)
    if as_json:
        print(json.dumps({"key": token, **_row(key)}))
        return
    out.print(token, markup=False)
    err.print(f"The key {key.id} of {key.client}: {', '.join(key.scopes)}. It is not shown again.", markup=False)


@app.command("new")
@plainly
def new_key() -> None:
    """Print a fresh key that is not kept anywhere, to set as AFORO_FIRST_KEY."""
    out.print(new_token(), markup=False)


@app.command("list")
@plainly
def list_keys(as_json: AsJson = False, data_dir: DataDir = DATA_DIR) -> None:
    """List all keys, the oldest first."""
    rows = [_row(key) for key in all_keys(settings_of(data_dir))]
    if as_json:
        print(json.dumps(rows))
        return
    names = ("id", "client", "scopes", "state", "created", "expires")
    show_table(names, [_cells(row) for row in rows])


@app.command("revoke")
@plainly
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="Id of the key: its middle part.")], data_dir: DataDir = DATA_DIR
) -> None:
    """Take a key back; within five seconds no process accepts it any more."""
    told = revoke(settings_of(data_dir), key_id)
    out.print(f"The key {key_id} is revoked.")
    if not told:
        err.print("Redis could not be told: an API process that does not reach Postgres either goes on with it until it does.")


def create(settings: Settings, client: str, scopes: list[str], days: int | None) -> tuple[str, Key]:
    """Make a key that is valid from now on, for so many days or for good. The key itself, and its record. Raises Failure."""
    now_ms = int(time.time() * 1000)
    token = new_token()
    try:
        key = key_of(token, client, scopes, now_ms, None if days is None else now_ms + days * DAY_MS)
    except ValueError as exc:
        raise Failure(f"{exc}.") from exc
    _with_store(settings, lambda store: store.add(key))
    return token, key


def all_keys(settings: Settings) -> list[Key]:
    """Every key there ever was."""
    return _with_store(settings, lambda store: store.all())


def revoke(settings: Settings, key_id: str) -> bool:
    """From now on, within seconds everywhere, the key opens nothing. False if Redis could not be told, so that API processes
    that do not reach Postgres do not know. Raises Failure when there is no such key."""
    if not _with_store(settings, lambda store: store.revoke(key_id)):
        raise Failure(f"There is no key with the id {key_id}.")
    try:
        mailbox.announce_revoked(settings.redis_url, key_id)
    except Unavailable:
        return False
    return True


def _with_store(settings: Settings, call: Callable[[KeyStore], Result]) -> Result:
    engine = create_engine(settings.owner_database, 1)
    try:
        return call(KeyStore(engine))
    finally:
        engine.dispose()


def _row(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "client": key.client,
        "scopes": list(key.scopes),
        "state": _state(key),
        "created": _when(key.created_at),
        "expires": None if key.expires_at is None else _when(key.expires_at),
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """For people: times to the minute, as sessions show theirs."""
    times = [(row[name] or "")[:16].replace("T", " ") for name in ("created", "expires")]
    return row["id"], row["client"], " ".join(row["scopes"]), row["state"], *times


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "valid" if key.is_valid(time.time() * 1000) else "expired"


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
