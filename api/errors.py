"""The one table from errors to HTTP answers. All of them are problem+json (RFC 9457) with a stable `code`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import falcon
import falcon.asgi
import msgspec

from api import messages
from api.pages import errors as pages
from core import errors, telemetry
from core.model import NOT_FOUND, Job

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"


class InvalidJson(errors.AforoError):
    """The body is not valid JSON."""


class BodyTooLarge(errors.AforoError):
    """The body is larger than is accepted."""


class UnsupportedMediaType(errors.AforoError):
    """The body must be sent as application/json."""


class InvalidIdempotencyKey(errors.AforoError):
    """Idempotency-Key must be 8 to 128 characters of A-Z, a-z, 0-9, - and _."""


class MissingIdempotencyKey(errors.AforoError):
    """A batch needs an Idempotency-Key, so that sending it again is safe."""


class Forged(errors.AforoError):
    """The change does not say that it comes from the console's own page. Load the page again."""


class MissingToken(errors.AforoError):
    """The manage token of the reservation is needed, as Authorization: Bearer."""


class BadRequest(errors.AforoError):
    """This is not a request as HTTP/1.1 has them."""


class HeadTooLarge(errors.AforoError):
    """The request's headers are too many or too long."""


class AddressTooLong(errors.AforoError):
    """The request's path and query are too long."""


class RequestTimeout(errors.AforoError):
    """The request did not arrive in time."""


class TooManyStreams(errors.AforoError):
    """There are too many streams open already. Close some, or try again later."""

    retry_after_seconds = 10


class NotAcceptable(errors.AforoError):
    """This is a stream of events, which the request's Accept header does not allow."""


class TooManyConnections(errors.AforoError):
    """There are too many connections. Try again shortly."""

    retry_after_seconds = 2


TABLE: dict[type[errors.AforoError], tuple[int, str, str]] = {
    InvalidJson: (400, "invalid_json", "The body is not valid JSON"),
    errors.UnknownSession: (404, "session_not_found", "No such session"),
    errors.UnknownJob: (404, "job_not_found", "No such job"),
    errors.UnknownBatch: (404, "batch_not_found", "No such batch"),
    errors.UnknownReservation: (404, "reservation_not_found", "No such reservation"),
    errors.NotAuthenticated: (401, "key_required", "A key is needed"),
    errors.UnknownKey: (401, "key_invalid", "Not a valid key"),
    errors.ScopeMissing: (403, "scope_missing", "The key does not allow that"),
    Forged: (403, "csrf_token_required", "Not from the console"),
    MissingToken: (401, "token_required", "A token is needed"),
    MissingIdempotencyKey: (422, "idempotency_key_required", "Idempotency-Key is missing"),
    errors.NotYetApplied: (503, "not_yet_applied", "Not applied yet"),
    RequestTimeout: (408, "request_timeout", "The request took too long"),
    AddressTooLong: (414, "address_too_long", "The address is too long"),
    HeadTooLarge: (431, "head_too_large", "The headers are too large"),
    BadRequest: (400, "bad_request", "Bad Request"),
    TooManyStreams: (429, "too_many_streams", "Too many streams"),
    NotAcceptable: (406, "not_acceptable", "Not acceptable"),
    TooManyConnections: (503, "too_many_connections", "Too many connections"),
    BodyTooLarge: (413, "body_too_large", "The body is too large"),
    UnsupportedMediaType: (415, "unsupported_media_type", "Unsupported media type"),
    errors.InvalidFields: (422, "invalid_fields", "Some fields are missing or wrong"),
    errors.IdempotencyKeyReused: (422, "idempotency_key_reused", "Idempotency-Key used with another body"),
    InvalidIdempotencyKey: (422, "invalid_idempotency_key", "Malformed Idempotency-Key"),
    errors.RateLimited: (429, "rate_limited", "Too many requests"),
    errors.QueueFull: (503, "queue_full", "Too many requests are waiting"),
    errors.Unconfirmed: (503, "unconfirmed", "Not confirmed in time"),
    errors.Unavailable: (503, "unavailable", "Temporarily unavailable"),
    errors.NotMigrated: (503, "unavailable", "Temporarily unavailable"),
    errors.AforoError: (500, "internal_error", "Internal error"),
}

# What WWW-Authenticate says (RFC 6750); without a token in the request no more than the scheme.
CHALLENGES: dict[int, dict[str, str]] = {
    401: {"key_invalid": 'Bearer error="invalid_token"'},
    403: {"scope_missing": 'Bearer error="insufficient_scope"'},
}

# Falcon's own: unknown paths, methods a path does not have, requests it cannot parse.
OF_STATUS = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}


def problem(resp: falcon.asgi.Response, status: int, code: str, title: str, detail: str, language: str, **more: Any) -> None:
    """Render one problem; `detail` is in `language`."""
    resp.status = status
    resp.content_type = PROBLEM
    resp.set_header("Content-Language", language)
    resp.append_header("Vary", "Accept-Language")
    resp.data = problem_body(status, code, title, detail, telemetry.request_id.get(), **more)


def problem_body(status: int, code: str, title: str, detail: str, request_id: str | None, **more: Any) -> bytes:
    """What a problem says."""
    body = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail, "request_id": request_id}
    return msgspec.json.encode({**body, **more})


def _answer(req: Any, resp: Any, status: int, code: str, title: str, detail: str, language: str, **more: Any) -> None:
    """Programs get a problem; who asked for a page gets one that says the same."""
    if pages.is_page(req):
        pages.show(req, resp, status, code, detail)
    else:
        problem(resp, status, code, title, detail, language, **more)


def plain_problem(kind: type[errors.AforoError], accept_language: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A whole HTTP/1.1 answer, for what is refused before there is a request that the application could answer."""
    status = TABLE[kind][0]
    exc, spoken = kind(), messages.preferred(accept_language)
    content = told(exc, spoken, None)
    lines = [b"%s: %s" % pair for pair in headers]
    lines += [b"content-type: " + PROBLEM.encode(), b"content-language: " + spoken.encode()]
    lines += [b"vary: accept-language", b"cache-control: no-store"]
    if status == 503:
        lines.append(b"retry-after: %d" % getattr(exc, "retry_after_seconds", 2))
    lines += [b"content-length: %d" % len(content), b"connection: close"]
    first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()
    return b"\r\n".join([first, *lines, b"", content])


def told(exc: errors.AforoError, language: str, request_id: str | None) -> bytes:
    """The body of an answer that the application has no part in."""
    status, code, title = TABLE[type(exc)]
    return problem_body(status, code, title, messages.detail(exc, language), request_id)


def refused(job: Job, language: str) -> tuple[int, str, str, str]:
    """Status, code, title and detail of a refused outcome: 404 for a reservation that is not there, 409 for all else."""
    code = job.outcome or ""
    title, detail = messages.translated(messages.REFUSED, language), messages.sentence(code, language) or ""
    return 404 if code == NOT_FOUND else 409, code, title, detail


def refusal(req: falcon.asgi.Request, resp: falcon.asgi.Response, job: Job, rendered_job: Any) -> None:
    """Render a refused outcome."""
    spoken = messages.language(req)
    problem(resp, *refused(job, spoken), spoken, job=rendered_job)


async def on_aforo_error(req: Any, resp: falcon.asgi.Response, exc: errors.AforoError, _params: Any) -> None:
    """Everything in core/errors.py."""
    kind = next(base for base in type(exc).__mro__ if base in TABLE)
    status, code, title = TABLE[kind]
    more: dict[str, Any] = {}
    if isinstance(exc, errors.InvalidFields):
        more["errors"] = [{"field": field, "message": message} for field, message in exc.fields.items()]
    if status in CHALLENGES:
        resp.set_header("WWW-Authenticate", CHALLENGES[status].get(code, "Bearer"))
    if status in (429, 503):
        resp.set_header("Retry-After", str(getattr(exc, "retry_after_seconds", 2)))
    if status == 413:
        resp.set_header("Connection", "close")  # what is left of the body is not read
    if status == 500:
        log.error("internal_error", exc_info=exc)
    spoken = messages.language(req)
    _answer(req, resp, status, code, title, messages.detail(exc, spoken), spoken, **more)


async def on_http_error(req: Any, resp: falcon.asgi.Response, exc: falcon.HTTPError, _params: Any) -> None:
    """What Falcon refuses by itself."""
    status = falcon.http_status_to_code(exc.status)
    for name, value in (exc.headers or {}).items() if isinstance(exc.headers, dict) else (exc.headers or ()):
        resp.set_header(name, value)
    title = falcon.code_to_http_status(status).partition(" ")[2]
    spoken = messages.language(req)
    detail = messages.translated(exc.description or f"{title}.", spoken)
    _answer(req, resp, status, OF_STATUS.get(status, "bad_request"), title, detail, spoken)


async def on_exception(req: Any, resp: falcon.asgi.Response, exc: Exception, _params: Any) -> None:
    """A bug of ours: logged whole, told to nobody."""
    log.error("unhandled_exception", exc_info=exc)
    spoken = messages.language(req)
    _answer(req, resp, 500, "internal_error", "Internal error", messages.translated(messages.BROKEN, spoken), spoken)


def install(app: falcon.asgi.App) -> None:
    """Make `app` answer every error from this module."""
    app.add_error_handler(Exception, on_exception)
    app.add_error_handler(falcon.HTTPError, on_http_error)
    app.add_error_handler(errors.AforoError, on_aforo_error)
