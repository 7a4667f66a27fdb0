"""Commands that are taken in ahead of Falcon: a plain reserve or cancel that is there as a whole, of a caller who is known.

They are what an overloaded API is asked, and a task for each, Falcon's request and response and its middleware cost several times
what is done to a command. Here the server's protocol hands a request over with its body, and the group at the door, which all
commands pass, tells what becomes of it: nobody waits in between. What is not plain, here or in the request, goes the usual way,
before anything was done; so does what fails, with what it was counted and what it met, so that nothing is done twice.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any, Final, Protocol

import msgspec
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api.access import NEEDED
from api.limits import VERDICT
from api.messages import SOURCE, preferred
from api.middleware import REQUEST_ID, Observe, request_id
from api.requests import FAILED, INTAKE, KEY
from api.resources.commands import RETRY_AFTER_SECONDS, queued_answer
from api.schemas import BODY_BYTES, CancelBody, ReserveBody, cancel_arguments, parse, reserve_arguments
from core import telemetry
from core.bootstrap import ApiServices
from core.door import MaybeForgotten, Receipt
from core.errors import AforoError, UnknownSession
from core.keys import ANYBODY, MANAGE, Caller
from core.limits import Verdict
from core.model import CANCEL, RESERVE, Arguments, Job
from core.service import of_the_same_request

log = logging.getLogger(__name__)

Headers = dict[bytes, bytes]

_PATH: Final = re.compile(rb"(/api/sessions/([1-9][0-9]{0,17})/(reserve|cancel))/?", re.ASCII)  # longer ids may be none
_JSON: Final = b"application/json"
TAKERS: Final = {kind: NEEDED[f"/api/sessions/{{session}}/{kind}"]["POST"] for kind in (RESERVE, CANCEL)}

# What is looked at, each once at most, and what makes a request one for Falcon: it asks for more, or may come from a page.
LOOKED_AT: Final = frozenset(
    (b"content-type", b"authorization", b"idempotency-key", b"x-request-id", b"accept-language", b"x-forwarded-for")
)
UNUSUAL: Final = frozenset((b"prefer", b"origin", b"expect", b"upgrade", b"transfer-encoding"))


class Line(Protocol):
    """A connection: see api.protocol.GuardedProtocol. `cycle` is uvicorn's name for a request with its answer."""

    url: bytes

    def answer(self, cycle: Any, status: int, fields: bytes, body: bytes) -> None: ...
    def pass_on(self, cycle: Any) -> None: ...


class Intake:
    """Takes a request in, or leaves it to Falcon."""

    def __init__(self, services: ApiServices, observe: Observe) -> None:
        self.services = services
        self.observe = observe
        settings = services.settings
        self._ready: list[tuple[Line, Any, bytes, bytes]] = []
        self._is_open = settings.auth == "open"
        self._is_limited = bool(settings.rate_per_key or settings.rate_per_address)
        proxies = settings.trusted_proxies  # as the server believes them: see api/server.py
        self._proxies: Any = ProxyHeadersMiddleware(_nothing, proxies).trusted_hosts if proxies else ()
        vary = "Prefer, Origin" if settings.cors_origins else "Prefer"
        self.vary = f"vary: {vary}\r\n".encode()

    async def process_startup(self, scope: Any, _event: Any) -> None:
        """The server begins: its protocol finds us in its state."""
        scope.get("state", {})[INTAKE] = self

    def __call__(self, line: Line, cycle: Any) -> bool:
        """Whether this request, a POST, was taken in: then it will be answered."""
        path = _PATH.fullmatch(line.url)
        if path is None or self.services.door.is_full or len(cycle.body) > BODY_BYTES:
            return False
        found = _plain(cycle.scope["headers"])
        if found is None or not _is_json(found.get(b"content-type", b"")):
            return False
        kind = path[3].decode()
        caller = ANYBODY if self._is_open else self._caller(found.get(b"authorization"), kind)
        key = found[b"idempotency-key"].decode("latin-1") if b"idempotency-key" in found else None
        if caller is None or (key is not None and not KEY.fullmatch(key)):
            return False
        try:
            arguments = _arguments(kind, bytes(cycle.body), caller)
        except (AforoError, ValueError):
            return False
        draft = self.services.submit.draft(kind, int(path[2]), arguments, caller.client, key)
        taken = _Taken(self, line, cycle, path[1], found, draft, arguments, key is not None)
        buckets = self.services.limiter.buckets(self._address(cycle.scope, found), caller.key_id) if self._is_limited else ()
        if buckets:
            self.services.limiter.post(buckets, _Counted(taken))
        else:
            taken.knock(None)
        return True

    def reply(self, line: Line, cycle: Any, fields: bytes, body: bytes) -> None:
        """Send a 202 in the loop's next turn, after all of its group are rendered: where client and server share a machine, each
        answer by itself would wake the client anew."""
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._send)
        self._ready.append((line, cycle, fields, body))

    def _send(self) -> None:
        ready, self._ready = self._ready, []
        for line, cycle, fields, body in ready:
            try:
                line.answer(cycle, 202, fields, body)
            except Exception:  # one connection's trouble is not the next one's
                log.exception("answer_not_sent")

    def _caller(self, header: bytes | None, kind: str) -> Caller | None:
        """Who may do this and is known; all others are for `Access`."""
        scheme, _, token = (header or b"").decode("latin-1").partition(" ")
        caller = self.services.keyring.known(token.strip()) if scheme.lower() == "bearer" else None
        return caller if caller is not None and caller.may(*TAKERS[kind]) else None

    def _address(self, scope: dict[str, Any], found: Headers) -> str:
        """Where it comes from: the peer's address, or what a trusted proxy says."""
        host = scope["client"][0] if scope["client"] else ""
        if b"x-forwarded-for" in found and host in self._proxies:
            forwarded: str = self._proxies.get_trusted_client_address(found[b"x-forwarded-for"].decode("latin-1"))[0]
            return forwarded or host
        return host


def _plain(headers: list[tuple[bytes, bytes]]) -> Headers | None:
    """Those of the header fields that are looked at; None if there is an unusual one."""
    found: Headers = {}
    for name, value in headers:
        if name in LOOKED_AT:
            if name in found:
                return None
            found[name] = value
        elif name in UNUSUAL:
            return None
    return found


def _is_json(content_type: bytes) -> bool:
    return content_type == _JSON or content_type.partition(b";")[0].strip().lower() == _JSON


def _arguments(kind: str, body: bytes, caller: Caller) -> Arguments:
    if kind == RESERVE:
        return reserve_arguments(parse(body, ReserveBody))
    return cancel_arguments(parse(body, CancelBody), caller.may(MANAGE))


async def _nothing(*_asgi: Any) -> None:
    """An application."""


class _Taken:
    """A command on its way through the door; it is told its receipt as a future would be."""

    __slots__ = (
        "_arguments", "_cycle", "_draft", "_found", "_intake", "_is_keyed", "_line", "_named", "_path", "_started", "_verdict",
    )  # fmt: skip

    def __init__(
        self,
        intake: Intake,
        line: Line,
        cycle: Any,
        path: bytes,
        found: Headers,
        draft: Job,
        arguments: Arguments,
        is_keyed: bool,
    ) -> None:
        self._started = time.monotonic()
        self._intake = intake
        self._line = line
        self._cycle = cycle
        self._path = path
        self._draft = draft
        self._arguments = arguments
        self._is_keyed = is_keyed
        self._found = found
        own_id = found.get(b"x-request-id")
        self._named = request_id(own_id.decode("latin-1") if own_id else None)

    def knock(self, verdict: Verdict | None) -> None:
        """It may pass its limits, if there are any."""
        self._verdict = verdict
        self._intake.services.submit.post(self._draft, self._arguments, self._is_keyed, self)

    def done(self) -> bool:
        """Never before it was told: it is accepted also when its client has gone."""
        return False

    def cancel(self) -> None:
        """The server is at its end."""

    def set_result(self, receipt: Receipt) -> None:
        """It was accepted, or had been before."""
        try:
            of_the_same_request(receipt, self._draft)
            fields, body = self._rendered(receipt)
        except Exception as exc:  # also what nobody expected: the usual way says so and writes it down
            self.set_exception(exc)
            return
        telemetry.accepted_within(time.monotonic() - self._started)
        if not receipt.known:
            telemetry.ACCEPTED.add(self._draft.kind)
        self._intake.reply(self._line, self._cycle, fields, body)
        self._intake.observe.note("POST", 202, self._path.decode(), self._started, receipt.job.id, self._named)

    def set_exception(self, exc: Exception) -> None:
        """It was not; where its session has to be found first, or the ledger to be asked, the usual way begins anew."""
        if not isinstance(exc, (UnknownSession, MaybeForgotten)):
            self._cycle.scope[FAILED] = exc
        self.pass_on(self._verdict)

    def pass_on(self, verdict: Verdict | None) -> None:
        """The usual way, as far as it has come."""
        scope = self._cycle.scope
        scope[REQUEST_ID] = self._named
        if verdict is not None:
            scope[VERDICT] = verdict
        self._line.pass_on(self._cycle)

    def _rendered(self, receipt: Receipt) -> tuple[bytes, bytes]:
        """Header lines and body, as api/resources/commands.py gives them."""
        intake, verdict, job = self._intake, self._verdict, receipt.job
        spoken = SOURCE
        if job.outcome is not None and b"accept-language" in self._found:
            spoken = preferred(self._found[b"accept-language"].decode("latin-1"))
        body = msgspec.json.encode(queued_answer(receipt, self._arguments, intake.services.manage_token, spoken))
        fields = b"x-request-id: %b\r\ncache-control: no-store\r\n%blocation: /api/jobs/%b\r\n%b%bretry-after: %b\r\n%b" % (
            self._named.encode(),
            _standing(verdict) if verdict is not None else b"",
            job.id.encode(),
            intake.vary,
            b"idempotency-replayed: true\r\n" if receipt.known else b"",
            _RETRY_AFTER,
            b"content-length: %d\r\ncontent-type: application/json\r\n" % len(body),
        )
        return fields, body


_RETRY_AFTER: Final = RETRY_AFTER_SECONDS.encode()


def _standing(verdict: Verdict) -> bytes:
    return f"ratelimit-policy: {verdict.policies}\r\nratelimit: {verdict.standing}\r\n".encode()


class _Counted:
    """A command whose limits are asked; it is told their verdict as a future would be."""

    __slots__ = ("_taken",)

    def __init__(self, taken: _Taken) -> None:
        self._taken = taken

    def done(self) -> bool:
        """Never before it was told."""
        return False

    def cancel(self) -> None:
        """The server is at its end."""

    def set_result(self, verdict: Verdict) -> None:
        """Who has sent too much is told so by the usual way, but for repeats."""
        if verdict.passes:
            self._taken.knock(verdict)
        else:
            self._taken.pass_on(verdict)

    def set_exception(self, exc: Exception) -> None:
        """Without Redis nothing is counted, as in api/limits.py."""
        self._taken.knock(None)
