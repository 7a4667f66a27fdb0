"""Commands that are taken in ahead of Falcon: a plain reserve or cancel that is there as a whole, of a caller who is known.

They are what an overloaded API is asked, and a task for each, Falcon's request and response and its middleware cost several times
what is done to a command. Here the server's protocol hands a request over with its body, and the group at the door, which all
commands pass, tells what becomes of it: nobody waits in between. What is not plain, here or in the request, goes the usual way,
before anything was done; so does what fails, with what it was counted and what it met, so that nothing is done twice. Who prefers
to wait for the outcome is told it here too: see api/awaited.py.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api.access import NEEDED
from api.awaited import Wait, decided_answer
from api.bodies import BODY_BYTES, CancelBody, ReserveBody, cancel_arguments, parse, reserve_arguments
from api.limits import VERDICT
from api.messages import SOURCE, preferred
from api.middleware import REQUEST_ID, STARTED, Observe, request_id
from api.requests import ACCEPTED, FAILED, INTAKE, KEY, TAKEN_IN, wait_of
from api.resources.commands import RETRY_AFTER_SECONDS, queued_answer
from core import telemetry
from core.bootstrap import ApiServices
from core.door import MaybeForgotten, Receipt
from core.errors import AforoError, UnknownSession
from core.keys import ANYBODY, MANAGE, Caller
from core.limits import Verdict
from core.model import CANCEL, RESERVE, Arguments, Job
from core.projections import counts_as_it_is
from core.submit import of_the_same_request

log = logging.getLogger(__name__)

Headers = dict[bytes, bytes]

_PATH: Final = re.compile(rb"(/api/sessions/([1-9][0-9]{0,17})/(reserve|cancel))/?", re.ASCII)  # longer ids may be none
_JSON: Final = b"application/json"
TAKERS: Final = {kind: NEEDED[f"/api/sessions/{{session}}/{kind}"]["POST"] for kind in (RESERVE, CANCEL)}

# What is looked at, each once at most, and what makes a request one for Falcon: it asks for more, or may come from a page.
LOOKED_AT: Final = frozenset(
    (b"content-type", b"authorization", b"idempotency-key", b"x-request-id", b"accept-language", b"x-forwarded-for", b"prefer")
)
UNUSUAL: Final = frozenset((b"origin", b"expect", b"upgrade", b"transfer-encoding", b"content-encoding"))


class Line(Protocol):
    """A connection: see api.protocol.GuardedProtocol. `cycle` is uvicorn's name for a request with its answer."""

    url: bytes
    client: tuple[str, int] | None
    is_closing: bool
    left: Callable[[], None] | None

    def answer(self, cycle: Any, status: int, fields: bytes, body: bytes) -> None: ...
    def pass_on(self, cycle: Any) -> None: ...


class Intake:
    """Takes a request in, or leaves it to Falcon."""

    def __init__(self, services: ApiServices, observe: Observe) -> None:
        self.services = services
        self.observe = observe
        settings = services.settings
        self._ready: list[tuple[Line, Any, int, bytes, bytes]] = []
        self._is_open = settings.auth == "open"
        self._is_limited = bool(settings.rate_per_key or settings.rate_per_address)
        proxies = settings.trusted_proxies  # as the server believes them: see api/server.py
        self._proxies: Any = ProxyHeadersMiddleware(_nothing, proxies).trusted_hosts if proxies else ()
        origin = ", Origin" if settings.cors_origins else ""
        self.vary, self.vary_decided = (f"vary: {names}{origin}\r\n".encode() for names in ("Prefer", "Prefer, Accept-Language"))

    async def process_startup(self, scope: Any, _event: Any) -> None:
        """The server begins: its protocol finds us in its state."""
        scope.get("state", {})[INTAKE] = self

    def __call__(self, line: Line, cycle: Any) -> bool:
        """Whether this request, a POST, was taken in: then it will be answered."""
        path = _PATH.fullmatch(line.url)
        if path is None or self.services.door.is_full or len(cycle.body) > BODY_BYTES:
            return False
        found = _plain(cycle.headers)
        if found is None or not _is_json(found.get(b"content-type", b"")):
            return False
        kind = path[3].decode()
        caller = ANYBODY if self._is_open else self._caller(found.get(b"authorization"), kind)
        key = found[b"idempotency-key"].decode("latin-1") if b"idempotency-key" in found else None
        wait_seconds = wait_of(found[b"prefer"].decode("latin-1")) if b"prefer" in found else 0
        if caller is None or (key is not None and not KEY.fullmatch(key)) or wait_seconds is None:
            return False
        try:
            arguments = _arguments(kind, bytes(cycle.body), caller)
        except (AforoError, ValueError):
            return False
        draft = self.services.submit.draft(kind, int(path[2]), arguments, caller.client, key)
        taken = _Taken(self, line, cycle, path[1], found, caller, draft, arguments, key is not None)
        if wait_seconds:
            taken.prefers = wait_seconds, caller.key_id or self._address(line, found)
        buckets = self.services.limiter.buckets(self._address(line, found), caller.key_id) if self._is_limited else ()
        if buckets:
            self.services.limiter.post(buckets, _Counted(taken))
        else:
            taken.knock(None)
        return True

    def reply(self, line: Line, cycle: Any, status: int, fields: bytes, body: bytes) -> None:
        """Send it in the loop's next turn, after all of its group are rendered: where client and server share a machine, each
        answer by itself would wake the client anew."""
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._send)
        self._ready.append((line, cycle, status, fields, body))

    def _send(self) -> None:
        ready, self._ready = self._ready, []
        for line, cycle, status, fields, body in ready:
            try:
                line.answer(cycle, status, fields, body)
            except Exception:  # one connection's trouble is not the next one's
                log.exception("answer_not_sent")

    def _caller(self, header: bytes | None, kind: str) -> Caller | None:
        """Who may do this and is known; all others are for `Access`."""
        scheme, _, token = (header or b"").decode("latin-1").partition(" ")
        caller = self.services.keyring.known(token.strip()) if scheme.lower() == "bearer" else None
        return caller if caller is not None and caller.may(*TAKERS[kind]) else None

    def _address(self, line: Line, found: Headers) -> str:
        """Where it comes from: the peer's address, or what a trusted proxy says."""
        host = line.client[0] if line.client else ""
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
        "_arguments", "_caller", "_cycle", "_draft", "_found", "_intake", "_is_keyed", "_line", "_named", "_path", "_receipt",
        "_started", "_verdict", "_wait", "prefers",
    )  # fmt: skip

    def __init__(
        self,
        intake: Intake,
        line: Line,
        cycle: Any,
        path: bytes,
        found: Headers,
        caller: Caller,
        draft: Job,
        arguments: Arguments,
        is_keyed: bool,
    ) -> None:
        self.prefers: tuple[int, str] | None = None  # seconds to wait, and whose waiting is counted
        self._started = time.monotonic()
        self._wait: Wait | None = None
        self._intake = intake
        self._line = line
        self._cycle = cycle
        self._path = path
        self._caller = caller
        self._draft = draft
        self._arguments = arguments
        self._is_keyed = is_keyed
        self._found = found
        own_id = found.get(b"x-request-id")
        self._named = request_id(own_id.decode("latin-1") if own_id else None)

    def knock(self, verdict: Verdict | None) -> None:
        """It may pass its limits, if there are any."""
        self._verdict = verdict
        services = self._intake.services
        if self.prefers is not None:
            self._wait = Wait(services, self._draft, *self.prefers)
        services.submit.post(self._draft, self._arguments, self._is_keyed, self)

    def done(self) -> bool:
        """Never before it was told: it is accepted also when its client has gone."""
        return False

    def cancel(self) -> None:
        """The server is at its end."""

    def set_result(self, receipt: Receipt) -> None:
        """It was accepted, or had been before."""
        self._receipt = receipt
        try:
            of_the_same_request(receipt, self._draft)
        except AforoError as exc:
            self.set_exception(exc)
            return
        telemetry.accepted_within(time.monotonic() - self._started)
        if not receipt.known:
            telemetry.ACCEPTED.add(self._draft.kind)
        if self._wait is None:
            self._answer(self._queued)
        else:
            self._await(self._wait, receipt)

    def set_exception(self, exc: Exception) -> None:
        """It was not; where its session has to be found first, or the ledger to be asked, the usual way begins anew."""
        self._end_wait()
        if not isinstance(exc, (UnknownSession, MaybeForgotten)):
            self._cycle.scope[FAILED] = exc
            self._cycle.scope[TAKEN_IN] = self._caller
        self.pass_on(self._verdict)

    def pass_on(self, verdict: Verdict | None) -> None:
        """The usual way, as far as it has come."""
        scope = self._cycle.scope
        scope[REQUEST_ID] = self._named
        if verdict is not None:
            scope[VERDICT] = verdict
        self._line.pass_on(self._cycle)

    def _await(self, wait: Wait, receipt: Receipt) -> None:
        """Its client would wait for the outcome."""
        if not wait.seconds:
            telemetry.WAITS_NOT_HONOURED.inc()
            self._over()
        elif receipt.job.outcome is not None:
            self._decided(receipt.job, None if receipt.head is None else receipt.head.state)
        elif self._line.is_closing:
            self._left()
        else:
            wait.begin(self._line, self._decided, self._over, self._left)

    def _decided(self, job: Job, state: str | None) -> None:
        """It was decided in time. What takes another look to be told is told the usual way, without being submitted again."""
        waited_seconds = self._end_wait()
        if counts_as_it_is(job, state):
            self._answer(self._outcome, job, waited_seconds)
        else:
            self._cycle.scope[STARTED] = self._started
            self._cycle.scope[ACCEPTED] = self._receipt, job, waited_seconds
            self._cycle.scope[TAKEN_IN] = self._caller
            self.pass_on(self._verdict)

    def _over(self) -> None:
        """The time is over, or there was none."""
        self._end_wait()
        self._answer(self._queued)

    def _left(self) -> None:
        """Nobody is there to be told; what was asked is done all the same."""
        self._end_wait()
        self._note(202)

    def _end_wait(self) -> int:
        """Nobody waits any more; for how many seconds it might have been."""
        wait, self._wait = self._wait, None
        if wait is None:
            return 0
        wait.end()
        return wait.seconds

    def _answer(self, render: Callable[..., tuple[int, bytes, bytes]], *of: Any) -> None:
        try:
            status, fields, body = render(*of)
        except Exception as exc:  # nobody expected that: the usual way says so and writes it down
            self.set_exception(exc)
            return
        self._intake.reply(self._line, self._cycle, status, fields, body)
        self._note(status)

    def _note(self, status: int) -> None:
        self._intake.observe.note("POST", status, self._path.decode(), self._started, self._receipt.job.id, self._named)

    def _queued(self) -> tuple[int, bytes, bytes]:
        """Status, header lines and body of a 202, as api/resources/commands.py gives them."""
        receipt, intake = self._receipt, self._intake
        spoken = SOURCE if receipt.job.outcome is None else self._spoken()
        body = msgspec.json.encode(queued_answer(receipt, self._arguments, intake.services.manage_token, spoken))
        return 202, self._fields(intake.vary, _RETRY_AFTER, _IS_JSON, body), body

    def _outcome(self, job: Job, waited_seconds: int) -> tuple[int, bytes, bytes]:
        """The same of a decided job's answer."""
        intake = self._intake
        status, kind, body = decided_answer(intake.services, job, self._spoken(), self._named)
        applied = b"preference-applied: wait=%d\r\n" % waited_seconds
        return status, self._fields(intake.vary_decided, applied, kind, body), body

    def _spoken(self) -> str:
        found = self._found.get(b"accept-language")
        return SOURCE if found is None else preferred(found.decode("latin-1"))

    def _fields(self, vary: bytes, own: bytes, kind: bytes, body: bytes) -> bytes:
        verdict, receipt = self._verdict, self._receipt
        return b"x-request-id: %b\r\ncache-control: no-store\r\n%blocation: /api/jobs/%b\r\n%b%b%bcontent-length: %d\r\n%b" % (
            self._named.encode(),
            _standing(verdict) if verdict is not None else b"",
            receipt.job.id.encode(),
            vary,
            b"idempotency-replayed: true\r\n" if receipt.known else b"",
            own,
            len(body),
            kind,
        )


_RETRY_AFTER: Final = f"retry-after: {RETRY_AFTER_SECONDS}\r\n".encode()
_IS_JSON: Final = b"content-type: application/json\r\n"


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
