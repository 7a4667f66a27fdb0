"""The body of a batch: up to a thousand commands. A sound one is read at once; of any other, every wrong command is named by its
index."""

from __future__ import annotations

from typing import Any, Literal

import falcon.asgi
import msgspec

from api.bodies import (
    BatchBody,
    CancelBody,
    ReserveBody,
    cancel_arguments,
    parse,
    person_arguments,
    read_bytes,
    reserve_arguments,
    wrong_fields,
)
from core.batches import Wanted
from core.errors import InvalidFields
from core.model import GROUP_MAX, RESERVE, Arguments

BATCH_BYTES = 512 * 1024
BATCH_MAX = 1000
LARGEST_ID = 2**63 - 1


class BatchCommand(msgspec.Struct, forbid_unknown_fields=True):
    """One command of POST /api/batches/. `kind`: reserve or cancel; `name` belongs to reserve."""

    session: int
    kind: Literal["reserve", "cancel"]
    email: str
    name: str | msgspec.UnsetType = msgspec.UNSET
    seats: int | msgspec.UnsetType = msgspec.UNSET


class _SoundBatch(BatchBody):
    """A batch where nothing is wrong, read at once."""

    commands: list[BatchCommand]


_sound_batch = msgspec.json.Decoder(_SoundBatch)


async def read_batch(req: falcon.asgi.Request) -> BatchBody:
    """The body as a batch, whose commands may be wrong yet: see batch_commands. Raises as read_body does."""
    return decode_batch(await read_bytes(req, BATCH_BYTES))


def decode_batch(body: bytes) -> BatchBody:
    """The same of its bytes. Raises InvalidJson, InvalidFields."""
    try:
        return _sound_batch.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return parse(body, BatchBody)


def batch_commands(body: BatchBody, any_client: bool) -> list[Wanted]:
    """The commands of a batch; `any_client`: its cancels reach what others reserved. Raises InvalidFields that names each wrong
    one by its index."""
    wrong: dict[str, str] = {}
    wanted: list[Wanted] = []
    if not 1 <= len(body.commands) <= BATCH_MAX:
        raise InvalidFields({"commands": f"must be 1 to {BATCH_MAX} commands"})
    for index, found in enumerate(body.commands):
        try:
            wanted.append(_plain(found) or _batch_command(found, any_client))
        except InvalidFields as exc:
            wrong |= {f"commands[{index}]{'.' if name else ''}{name}": message for name, message in exc.fields.items()}
    if not wrong and body.atomic:
        wrong = _not_atomic(wanted)
    if wrong:
        raise InvalidFields(wrong)
    return wanted


def _plain(found: Any) -> Wanted | None:
    """The usual command, if nothing is wrong with it."""
    if not isinstance(found, BatchCommand) or found.kind != RESERVE or not 1 <= found.session <= LARGEST_ID:
        return None
    name, seats = found.name, found.seats
    if name is msgspec.UNSET:
        return None
    try:
        return Wanted(RESERVE, found.session, person_arguments(name, found.email, 1 if seats is msgspec.UNSET else seats))
    except ValueError:
        return None


def _batch_command(found: Any, any_client: bool) -> Wanted:
    try:
        command = found if isinstance(found, BatchCommand) else msgspec.convert(found, BatchCommand)
    except msgspec.ValidationError:
        raise InvalidFields(wrong_fields(found, BatchCommand)) from None
    if not 1 <= command.session <= LARGEST_ID:
        raise InvalidFields({"session": "must be a session's id"})
    given = {name: value for name in ("name", "email", "seats") if (value := getattr(command, name)) is not msgspec.UNSET}
    shape = ReserveBody if command.kind == RESERVE else CancelBody
    if wrong := wrong_fields(given, shape):
        raise InvalidFields(wrong)
    return Wanted(command.kind, command.session, _arguments(msgspec.convert(given, shape), any_client))


def _arguments(body: ReserveBody | CancelBody, any_client: bool) -> Arguments:
    return reserve_arguments(body) if isinstance(body, ReserveBody) else cancel_arguments(body, any_client)


def _not_atomic(wanted: list[Wanted]) -> dict[str, str]:
    """Why these commands cannot be all or nothing, if so."""
    if any(one.kind != RESERVE for one in wanted):
        return {"atomic": "all of the commands must be reserve"}
    if len({one.session_id for one in wanted}) > 1:
        return {"atomic": "all of the commands must be for one session"}
    return {"atomic": f"must be at most {GROUP_MAX} people"} if len(wanted) > GROUP_MAX else {}
