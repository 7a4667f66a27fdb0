"""What clients send: the shape of every body, read strictly, so that every wrong field is named at once, and its fields as a
command's arguments. A batch's commands are read in batchbody.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Literal, TypeVar

import falcon.asgi
import msgspec

from api.errors import BodyTooLarge, InvalidJson, UnsupportedMediaType
from api.requests import TRUNCATED
from core import validation
from core.errors import InvalidFields
from core.model import SEATS_MAX, STRICT, CancelArguments, ConfigureArguments, ReserveArguments

TOO_LARGE = "The body must be at most {limit} bytes."
NOT_JSON = "The body is not valid JSON: {reason}"
EMPTY = "The body is empty."
BROKE_OFF = "The body broke off."
PLAIN = "identity"
ENCODED = "The body must be sent as it is, without Content-Encoding."
BODY_BYTES = 16 * 1024
Policy = Literal["strict", "fill"]
Shape = TypeVar("Shape", bound=msgspec.Struct)


class ReserveBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/sessions/{id}/reserve/"""

    name: str
    email: str
    seats: int = 1


class CancelBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/sessions/{id}/cancel/"""

    email: str
    seats: int | msgspec.UnsetType = msgspec.UNSET


class ReservationPatch(msgspec.Struct, forbid_unknown_fields=True):
    """PATCH /api/reservations/{id}"""

    name: str | msgspec.UnsetType = msgspec.UNSET
    checked_in: bool | msgspec.UnsetType = msgspec.UNSET


class SessionBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/sessions/"""

    title: str
    start_time: datetime
    end_time: datetime
    capacity: int
    description: str = ""
    location: str = ""
    public: bool = False
    waitlist_capacity: int = 0
    waitlist_policy: Policy = STRICT
    max_seats_per_reservation: int = SEATS_MAX
    opens_at: datetime | None = None
    closes_at: datetime | None = None


class SessionPatch(msgspec.Struct, forbid_unknown_fields=True):
    """PATCH /api/sessions/{id}/"""

    title: str | msgspec.UnsetType = msgspec.UNSET
    description: str | msgspec.UnsetType = msgspec.UNSET
    location: str | msgspec.UnsetType = msgspec.UNSET
    public: bool | msgspec.UnsetType = msgspec.UNSET
    capacity: int | msgspec.UnsetType = msgspec.UNSET
    waitlist_capacity: int | msgspec.UnsetType = msgspec.UNSET
    waitlist_policy: Policy | msgspec.UnsetType = msgspec.UNSET
    max_seats_per_reservation: int | msgspec.UnsetType = msgspec.UNSET
    opens_at: datetime | msgspec.UnsetType | None = msgspec.UNSET
    closes_at: datetime | msgspec.UnsetType | None = msgspec.UNSET
    start_time: datetime | msgspec.UnsetType = msgspec.UNSET
    end_time: datetime | msgspec.UnsetType = msgspec.UNSET
    on_shrink: Literal["refuse", "waitlist"] | msgspec.UnsetType = msgspec.UNSET


class SignInBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /console/session"""

    key: str


class EmptyBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/sessions/{id}/close/, /reopen/ and /cancel-session/"""


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/batches/. The commands are read one by one, so that each wrong one is named by its index."""

    commands: list[Any]
    atomic: bool = False


_decoders: dict[type, msgspec.json.Decoder] = {
    shape: msgspec.json.Decoder(shape)
    for shape in (ReserveBody, CancelBody, ReservationPatch, SessionBody, SessionPatch, EmptyBody, BatchBody, SignInBody)
}

_RULES: dict[str, Callable[[Any], Any]] = {
    "title": partial(validation.line, longest=validation.TITLE_MAX),
    "description": partial(validation.block, longest=validation.DESCRIPTION_MAX),
    "location": partial(validation.line, longest=validation.LOCATION_MAX, shortest=0),
    "start_time": validation.moment,
    "end_time": validation.moment,
    "opens_at": validation.moment,
    "closes_at": validation.moment,
    "capacity": validation.capacity,
    "waitlist_capacity": validation.capacity,
    "max_seats_per_reservation": validation.seats,
    "seats": validation.seats,
    "name": partial(validation.line, longest=validation.NAME_MAX),
    "email": validation.email,
}


async def read_body(req: falcon.asgi.Request, shape: type[Shape], limit_bytes: int = BODY_BYTES) -> Shape:
    """The body as `shape`. Raises UnsupportedMediaType, BodyTooLarge, InvalidJson, InvalidFields (every wrong field)."""
    return parse(await read_bytes(req, limit_bytes), shape)


async def read_bytes(req: falcon.asgi.Request, limit_bytes: int) -> bytes:
    """The body as it came, of a request that says it is JSON. Raises UnsupportedMediaType, BodyTooLarge, InvalidJson."""
    kind = (req.content_type or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType
    if (req.get_header("Content-Encoding") or PLAIN).strip().lower() != PLAIN:
        raise UnsupportedMediaType(ENCODED)
    if (req.content_length or 0) > limit_bytes:
        raise BodyTooLarge(TOO_LARGE, limit=limit_bytes)
    body = await req.stream.read(limit_bytes + 1)
    if len(body) > limit_bytes:
        raise BodyTooLarge(TOO_LARGE, limit=limit_bytes)
    if TRUNCATED in req.scope:
        raise InvalidJson(BROKE_OFF)  # it may look whole without being it
    return body


async def read_nothing(req: falcon.asgi.Request) -> None:
    """A request that needs no body: none, or an empty object. Raises as read_body does."""
    if req.content_length or req.get_header("Transfer-Encoding"):
        await read_body(req, EmptyBody)


def parse(body: bytes, shape: type[Shape]) -> Shape:
    """Decode `body`; see read_body for the errors."""
    try:
        return _decoders[shape].decode(body)
    except msgspec.ValidationError:
        raise InvalidFields(_wrong_fields(body, shape) or {"": "the body has the wrong shape"}) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise (InvalidJson(NOT_JSON, reason=exc) if body else InvalidJson(EMPTY)) from None


def _wrong_fields(body: bytes, shape: type[msgspec.Struct]) -> dict[str, str]:
    """Look field by field at a body that does not fit, so that all that is wrong is named at once."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidJson(NOT_JSON, reason=exc) from None
    return wrong_fields(found, shape)


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", re.ASCII)
UNNAMED = "?"  # what could not be a field's name may be anything, somebody's address too: it is not said again


def wrong_fields(found: Any, shape: type[msgspec.Struct]) -> dict[str, str]:
    """What keeps a decoded value from being a `shape`, by field."""
    if not isinstance(found, dict):
        return {"": "must be a JSON object"}
    fields = {field.name: field for field in msgspec.structs.fields(shape)}
    unknown = (name if _NAME.fullmatch(name) else UNNAMED for name in found if name not in fields)
    wrong = dict.fromkeys(unknown, "is not a field of this request")
    for name, field in fields.items():
        if name not in found:
            if field.required:
                wrong[name] = "is required"
            continue
        try:
            msgspec.convert(found[name], field.type)
        except msgspec.ValidationError as exc:
            wrong[name] = _plain(str(exc))
    return wrong


def _plain(message: str) -> str:
    return message.partition(" - at ")[0].replace("`", "").replace("Expected", "expected").replace("Invalid", "invalid")


def clean(body: msgspec.Struct) -> dict[str, Any]:
    """The body's fields, checked and cleaned by core.validation. Raises InvalidFields naming each wrong one."""
    values: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name in body.__struct_fields__:
        value = getattr(body, name)
        if value is msgspec.UNSET:
            continue
        if value is None or name not in _RULES:
            values[name] = value
            continue
        try:
            values[name] = _RULES[name](value)
        except ValueError as exc:
            wrong[name] = str(exc)
    for first, last in (("start_time", "end_time"), ("opens_at", "closes_at")):
        if not wrong and values.get(first) and values.get(last) and values[last] <= values[first]:
            wrong[last] = f"must be after {first}"
    if wrong:
        raise InvalidFields(wrong)
    return values


def reserve_arguments(body: ReserveBody) -> ReserveArguments:
    """A reserve body as the command's arguments. Raises InvalidFields."""
    try:
        return person_arguments(body.name, body.email, body.seats)
    except ValueError:
        clean(body)
        raise


def person_arguments(name: str, email: str, seats: int = 1) -> ReserveArguments:
    """The same from its fields. Raises ValueError for the first that is wrong."""
    shown, email_key = validation.email(email)
    return ReserveArguments(
        validation.line(name, validation.NAME_MAX), shown, email_key, 1 if seats == 1 else validation.seats(seats)
    )


def cancel_arguments(body: CancelBody, any_client: bool) -> CancelArguments:
    """A cancel body as the command's arguments; `any_client`: also what others reserved. Raises InvalidFields."""
    values = clean(body)
    return CancelArguments(*values["email"], values.get("seats"), None, any_client)


def configure_arguments(values: dict[str, Any]) -> ConfigureArguments:
    """The settings of a cleaned patch as the command's arguments."""
    return ConfigureArguments(**{name: _ms(value) for name, value in values.items()})


def _ms(value: Any) -> Any:
    return round(value.timestamp() * 1000) if isinstance(value, datetime) else value
