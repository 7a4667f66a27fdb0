"""Forms of pages: read strictly, sent from our own pages only, and counted once however often they are sent.

A form carries a token that a page gave out within the last day. It is an idempotency key as well, so that a second click, a
reload or a retry is the same request. There are no cookies, so another site's page could do no more than anybody without a
browser; where a browser says that it is another site's, it is turned away all the same.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import falcon.asgi

from api.errors import BodyTooLarge, UnsupportedMediaType
from api.requests import TRUNCATED
from core.errors import InvalidFields

FORM: Final = "application/x-www-form-urlencoded"
NO_FORM = "A form must be sent as application/x-www-form-urlencoded."
FORM_BYTES: Final = 16 * 1024
FIELDS_MAX: Final = 20
VALID_SECONDS: Final = 24 * 3600
_TOKEN = re.compile(r"([0-9a-f]{8})-([0-9a-f]{24})-([A-Za-z0-9_-]{22})", re.ASCII)

Sign = Callable[[str, str], str]


def new_token(sign: Sign) -> str:
    """A token for one form."""
    given = f"{int(time.time()):08x}-{secrets.token_hex(12)}"
    return f"{given}-{sign('form', given)}"


def key_of(token: str, sign: Sign) -> str | None:
    """The idempotency key that a token stands for; None when a page of ours did not give it out lately."""
    match = _TOKEN.fullmatch(token)
    if match is None or not 0 <= time.time() - int(match[1], 16) <= VALID_SECONDS:
        return None
    given = f"{match[1]}-{match[2]}"
    return f"form-{given}" if hmac.compare_digest(sign("form", given), match[3]) else None


def is_ours(req: falcon.asgi.Request) -> bool:
    """Whether a form was sent from a page of this origin, as far as the browser tells."""
    site = req.get_header("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = req.get_header("Origin")
    return origin is None or urlsplit(origin).netloc == req.get_header("Host")


async def read_form(req: falcon.asgi.Request) -> dict[str, str]:
    """The fields of a form. Raises UnsupportedMediaType, BodyTooLarge, InvalidFields."""
    if (req.content_type or "").partition(";")[0].strip().lower() != FORM:
        raise UnsupportedMediaType(NO_FORM)
    body = b"" if (req.content_length or 0) > FORM_BYTES else await req.stream.read(FORM_BYTES + 1)
    if (req.content_length or 0) > FORM_BYTES or len(body) > FORM_BYTES:
        raise BodyTooLarge
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
    except ValueError as exc:
        raise InvalidFields({"": "is not a form"}) from exc
    if TRUNCATED in req.scope:
        raise InvalidFields({"": "broke off"})
    return dict(fields)
