"""Reading what is not the body: path ids, query parameters, Prefer, Idempotency-Key, cursors."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

import falcon.asgi

from api.errors import InvalidIdempotencyKey
from core.errors import InvalidFields, UnknownJob, UnknownSession

LONGEST_WAIT_SECONDS: Final = 30
LARGEST_ID: Final = 2**63 - 1
_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9_-]{8,128}", re.ASCII)
_WAIT = re.compile(r'\s*wait\s*=\s*(?:"([0-9]{1,9})"|([0-9]{1,9}))\s*(?:;.*)?', re.ASCII | re.IGNORECASE)


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


def idempotency_key(req: falcon.asgi.Request) -> str | None:
    """The Idempotency-Key header, if there is one. Raises InvalidIdempotencyKey."""
    key = req.get_header("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidIdempotencyKey
    return key


def preferred_wait(req: falcon.asgi.Request) -> int:
    """Seconds of `Prefer: wait=N`, at most 30; 0 without one, and for a malformed one, as RFC 7240 wants."""
    header = req.get_header("Prefer")
    if header is None:
        return 0
    for preference in header.split(","):
        match = _WAIT.fullmatch(preference)
        if match:
            return min(int(match[1] or match[2]), LONGEST_WAIT_SECONDS)
    return 0


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
