"""Reading what is not the body: path ids, query parameters, Prefer, Idempotency-Key, cursors."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Final

import falcon.asgi
import msgspec

from api.errors import InvalidIdempotencyKey
from core import validation
from core.errors import InvalidFields, UnknownBatch, UnknownJob, UnknownReservation, UnknownSession
from core.finding import SessionSearch

ORDERINGS: Final = ("start_time", "-start_time", "id", "-id")
LARGEST_SEQ: Final = 9_999_999_999
LONGEST_WAIT_SECONDS: Final = 30
LARGEST_ID: Final = 2**63 - 1
TRUNCATED: Final = "aforo.truncated"  # in a request's scope: its body broke off
END: Final = "aforo.end"  # in a request's scope: what to call when the client is gone or the server stops
COOKIE: Final = "aforo_console"
ENDED: Final = "aforo.ended"  # one of them has happened
FAILED: Final = "aforo.failed"  # in a request's scope: the error that it met before it came to Falcon
TAKEN_IN: Final = "aforo.taken_in"  # in a request's scope: whose command may be accepted by now, and so has to be answered
ACCEPTED: Final = "aforo.accepted"  # in a request's scope: its receipt, its decided job and how long that was waited for
INTAKE: Final = "aforo.intake"  # in the server's state: what takes commands in ahead of Falcon; see api/intake.py
WHOLE: Final = "aforo.whole"  # in a request's scope: sends a whole answer at once, if it can; see api/protocol.py
_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)
KEY: Final = re.compile(r"[A-Za-z0-9_-]{8,128}", re.ASCII)
_WAIT = re.compile(r'\s*wait\s*=\s*(?:"([0-9]{1,9})"|([0-9]{1,9}))\s*(?:;[^,]*)?', re.ASCII | re.IGNORECASE)


def session_id(text: str) -> int:
    """A session's id from the path. Raises UnknownSession for what cannot be one."""
    if not _ID.fullmatch(text) or int(text) > LARGEST_ID:
        raise UnknownSession
    return int(text)


def job_id(text: str) -> str:
    """A job's id from the path. Raises UnknownJob for what cannot be one."""
    if not _JOB_ID.fullmatch(text):
        raise UnknownJob
    return text


def batch_id(text: str) -> str:
    """A batch's id from the path. Raises UnknownBatch for what cannot be one."""
    if not _JOB_ID.fullmatch(text):
        raise UnknownBatch
    return text


def reservation_id(text: str) -> int:
    """A reservation's id from the path. Raises UnknownReservation for what cannot be one."""
    if not _ID.fullmatch(text) or int(text) > LARGEST_ID:
        raise UnknownReservation
    return int(text)


def cookie(req: falcon.asgi.Request) -> str | None:
    """The cookie of whoever is signed in to the console, if there is one."""
    found = req.get_cookie_values(COOKIE)
    return found[0] if found and found[0] else None


def bearer(req: falcon.asgi.Request) -> str | None:
    """The token of `Authorization: Bearer …`, if there is one."""
    scheme, _, token = (req.get_header("Authorization") or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def person(req: falcon.asgi.Request) -> str:
    """The key of the address that `email` names. Raises InvalidFields."""
    text = req.get_param("email")
    if text is None:
        raise InvalidFields({"email": "is required"})
    try:
        # In a query + stands for a space, which no address has.
        return validation.email(text.strip().replace(" ", "+"))[1]
    except ValueError as exc:
        raise InvalidFields({"email": str(exc)}) from exc


def least_seq(req: falcon.asgi.Request) -> int | None:
    """`min_seq`: the command whose effect must be seen. Raises InvalidFields."""
    if req.get_param("min_seq") is None:
        return None
    return number(req, "min_seq", 0, LARGEST_SEQ)


def moment(req: falcon.asgi.Request, name: str) -> datetime | None:
    """A query parameter that is a time with its offset. Raises InvalidFields."""
    text = req.get_param(name)
    if text is None:
        return None
    try:
        # In a query + stands for a space, so an offset that was not escaped arrives as one.
        return validation.moment(msgspec.convert(text.replace(" ", "+"), datetime))
    except (msgspec.ValidationError, ValueError) as exc:
        message = "must be a time with its offset, like 2030-05-01T18:00:00Z"
        raise InvalidFields({name: message}) from exc


def session_search(req: falcon.asgi.Request) -> SessionSearch:
    """Which sessions a list is to show. Raises InvalidFields."""
    try:
        words = validation.words(req.get_param("q") or "")
    except ValueError as exc:
        raise InvalidFields({"q": str(exc)}) from exc
    ordering = choice(req, "ordering", *ORDERINGS)
    return SessionSearch(
        open_only=choice(req, "available", "open", "all") == "open",
        words=words,
        starts_after=moment(req, "starts_after"),
        starts_before=moment(req, "starts_before"),
        ordering=ordering,
        after=session_cursor(req, ordering),
    )


def session_cursor(req: falcon.asgi.Request, ordering: str) -> tuple[datetime | None, int] | None:
    """Where a page of sessions begins: after this (start_time, id). Raises InvalidFields, also for another ordering's."""
    text = req.get_param("cursor")
    if not text:
        return None
    try:
        decoded = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
        made_for, start_ms, last_id = msgspec.json.decode(decoded, type=tuple[str, int, int])
        if made_for == ordering and 0 < last_id <= LARGEST_ID:
            return datetime.fromtimestamp(start_ms / 1000, UTC), last_id
    except (binascii.Error, ValueError, OverflowError, msgspec.MsgspecError):
        pass
    raise InvalidFields({"cursor": "is not one that this service gave out for this ordering"})


def session_cursor_text(ordering: str, start_time: datetime, session: int) -> str:
    """The cursor that continues after this session."""
    raw = msgspec.json.encode((ordering, round(start_time.timestamp() * 1000), session))
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def idempotency_key(req: falcon.asgi.Request) -> str | None:
    """The Idempotency-Key header, if there is one. Raises InvalidIdempotencyKey."""
    key = req.get_header("Idempotency-Key")
    if key is not None and not KEY.fullmatch(key):
        raise InvalidIdempotencyKey
    return key


def preferred_wait(req: falcon.asgi.Request) -> int:
    """Seconds of `Prefer: wait=N`, at most 30; 0 without one, and for a malformed one, as RFC 7240 wants."""
    header = req.get_header("Prefer")
    if header is None:
        return 0
    return next((seconds for seconds in map(wait_of, header.split(",")) if seconds is not None), 0)


def wait_of(preference: str) -> int | None:
    """Seconds of one preference that is `wait=N`, as above; None for any other."""
    match = _WAIT.fullmatch(preference)
    return min(int(match[1] or match[2]), LONGEST_WAIT_SECONDS) if match else None


def number(req: falcon.asgi.Request, name: str, default: int, largest: int) -> int:
    """An integer query parameter from 1 to `largest`. Raises InvalidFields."""
    text = req.get_param(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) or not 1 <= int(text) <= largest:
        raise InvalidFields({name: f"must be a whole number from 1 to {largest}"})
    return int(text)


def choice(req: falcon.asgi.Request, name: str, default: str, *others: str) -> str:
    """A query parameter out of a few words. Raises InvalidFields."""
    text = req.get_param(name)
    if text is None:
        return default
    if text != default and text not in others:
        raise InvalidFields({name: f"must be one of: {', '.join((default, *others))}"})
    return text


def cursor(req: falcon.asgi.Request) -> tuple[int, int] | None:
    """Where a page of reservations begins: after this (seq, id). Raises InvalidFields."""
    text = req.get_param("cursor")
    if text is None:
        return None
    try:
        decoded = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
        match = re.fullmatch(rb"([0-9]{1,18})\.([0-9]{1,18})", decoded)
    except (binascii.Error, ValueError):
        match = None
    if match is None:
        raise InvalidFields({"cursor": "is not one that this service gave out"})
    return int(match[1]), int(match[2])


def cursor_text(seq: int, reservation_id: int) -> str:
    """The cursor that continues after this reservation."""
    return base64.urlsafe_b64encode(f"{seq}.{reservation_id}".encode()).decode().rstrip("=")
