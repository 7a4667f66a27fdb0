"""uvicorn's HTTP protocol with bounds: on the size of a request's head, on what is read beyond a body, on every wait.

httptools takes heads of any length and uvicorn waits for any part of a request for ever. Here a connection is always in one
of four phases, each but the answering with a deadline (api/connections.py); whoever breaks a bound is told so as
problem+json, after the answers to what was sent before, and the connection ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.connections import LINGER_SECONDS, LINGERING_MAX, NEVER, Flow, Guard, is_peer_gone
from api.cycle import ANSWERED, Answer, Cycle, Exit, OldCycle, resumed
from api.errors import AddressTooLong, BadRequest, HeadTooLarge, RequestTimeout, TooManyConnections, plain_problem
from api.gate import GATE, STATUS, TAKING_IN_AS_SENT, Gate, refusal
from api.requests import END, ENDED, INTAKE, TRUNCATED
from core import telemetry
from core.errors import AforoError

HEAD_BYTES = 16 * 1024  # request line and headers
TARGET_BYTES = 4 * 1024  # path and query
HEADERS_MAX = 100
VERSIONS = ("1.1", "1.0")  # the parser lets others pass, and calls every one of them HTTP/1
WIRE_BYTES = 1024 * 1024  # a whole message as it is sent: chunks, trailers, what nobody reads; the largest body is 512 KiB
LINGER_BYTES = 8 * WIRE_BYTES
LOOK_SECONDS = 1.0  # while a request waits behind another nothing is read, so nobody would say that the client has gone

IDLE, HEAD, BODY, ANSWER = range(4)
_DROPPED: Any = deque(maxlen=0)  # where trailers go


class _Refused(Exception):
    """Raised in the parser's callbacks: stop parsing, answer with this kind."""

    def __init__(self, kind: type[AforoError]) -> None:
        self.kind = kind


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, guard: Guard, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._guard = guard
        self._limits = guard.limits
        self._phase = IDLE
        self.deadline = NEVER
        self.stalled_until = NEVER
        self._fed_bytes = 0  # by the call that is being parsed; none once a message has ended in it: nobody knows where
        self._wire_bytes = 0  # of the message that is being received, at least
        self._may_be_longer = False  # it began behind another, in the same call
        self._is_deaf = False  # what still comes is dropped
        self._is_lingering = False
        self._address: str | None = None  # once it is counted
        self._refusal: type[AforoError] | None = None  # to be told after the answers that are due before it
        self._sent: list[tuple[bytes, bytes]] = []  # header fields of the newest request
        self._intake: Callable[[GuardedProtocol, Cycle], bool] | None = self.app_state.get(INTAKE)
        self._held: Cycle | None = None  # a request whose body may come with its head
        self._due: Cycle | None = None  # the request that is answered now, or was last; others may have come behind it
        self.left: Callable[[], None] | None = None  # called when the client has gone: set by whoever keeps it waiting

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody connects: let in, or sent away."""
        super().connection_made(transport)
        guard, address = self._guard, self.client[0] if self.client else ""
        guard.watch(self.loop, self.connections)  # type: ignore[arg-type]
        self.flow = Flow(transport, self.pipeline)
        self._exit = Exit(transport, self._leave)
        self.whole: Callable[..., bool] | None = self._answer
        self._gate: Gate | None = self.app_state.get(GATE)
        self.deadline = guard.now + self._limits.head_seconds
        if guard.admit(address, len(self.connections)):
            self._address = address
        else:
            self._refuse(TooManyConnections)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._interrupt()
        self._end_stream()
        if self.left is not None:
            self.left()
        super().connection_lost(exc)
        due, self._due = self._due, None
        if due is not None and not due.response_complete:  # uvicorn tells the newest only
            due.disconnected = True
            due.tell()
        self.pipeline.clear()
        self._exit.forget()
        self.whole = None
        if self.cycle is not None:
            self.cycle = ANSWERED
        self.deadline = self.stalled_until = NEVER
        if self._address is not None:
            self._guard.leave(self._address)
        if self._is_lingering:
            self._guard.lingering -= 1

    def shutdown(self) -> None:
        """The server stops: answers that are under way come to their end, and those that have none are ended."""
        super().shutdown()
        self._end_stream()

    def _end_stream(self) -> None:
        """An answer that goes on until somebody ends it (api/streams.py) does so now."""
        for cycle in (self._due, *[behind for behind, _ in self.pipeline]):
            if cycle is not None and not cycle.response_complete:
                cycle.scope[ENDED] = True
                if END in cycle.scope:
                    cycle.scope[END]()

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless nobody listens any more."""
        size = self._fed_bytes = len(data)
        self._wire_bytes += size
        if self._is_deaf:
            if self._wire_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as exc:
                self._stay(data[exc.args[0] :])
        except httptools.HttpParserError as exc:
            cause = exc.__context__
            self._refuse(cause.kind if isinstance(cause, _Refused) else BadRequest)
        else:
            if self._wire_bytes > HEAD_BYTES and self._phase != ANSWER:
                self._check_unfinished()
        if self._held is not None:
            self._go_on()
        if self.pipeline:
            self.deadline = self._guard.now + LOOK_SECONDS

    def _stay(self, rest: bytes) -> None:
        """Another protocol is offered, which nobody speaks here: the request is one of HTTP/1.1 all the same. Its parser takes
        the end of its head for that of all HTTP, so another one goes on from there."""
        while True:
            self.parser, head = resumed(self, self._sent)
            try:
                self.parser.feed_data(head)
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as exc:
                rest = rest[exc.args[0] :]

    def _check_unfinished(self) -> None:
        """Much came, and the message is not whole yet."""
        if self._phase == HEAD:
            self._refuse(AddressTooLong if len(self.url) > TARGET_BYTES else HeadTooLarge)
        elif self._phase == BODY and self._wire_bytes > WIRE_BYTES:
            self._refuse(BadRequest)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = self._sent = []
        self._phase = HEAD
        self.deadline = self._guard.now + self._limits.head_seconds
        self._wire_bytes = self._fed_bytes
        self._may_be_longer = not self._fed_bytes

    def on_headers_complete(self) -> None:
        """The head is there: the application begins."""
        headers, parser = self.headers, self.parser
        version = parser.get_http_version()
        if version not in VERSIONS:
            raise _Refused(BadRequest)
        if len(self.url) > TARGET_BYTES:
            raise _Refused(AddressTooLong)
        may_be_long = self._may_be_longer or self._wire_bytes > HEAD_BYTES
        if len(headers) > HEADERS_MAX or (may_be_long and self._head_bytes() > HEAD_BYTES):
            raise _Refused(HeadTooLarge)
        method, before = parser.get_method(), self.cycle
        is_taking_in = method == b"POST" and TAKING_IN_AS_SENT.fullmatch(self.url) is not None
        is_next = before is None or before.response_complete
        if is_taking_in and is_next and self._gate is not None and self._gate.is_shut() and self._turn_away():
            return
        cycle = (Cycle if version == "1.1" else OldCycle)(self, self._exit, method, version)
        if not is_taking_in:
            cycle.look()
        self.cycle: Any = cycle
        self.headers = _DROPPED
        self._phase = BODY
        self.deadline = self._guard.now + self._limits.body_seconds
        if is_next:
            self._due = cycle
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _turn_away(self) -> bool:
        """Answer 503 before anything is begun: it costs a tenth of an application's answer. False if that must tell it."""
        if self.expect_100_continue or self.flow.write_paused or not self.parser.should_keep_alive():
            return False
        found = refusal(self.headers)
        if found is None:
            return False
        _, lines, body = found
        always = self._guard.lines_of(self.server_state.default_headers)
        self.transport.write(b"".join((STATUS_LINE[STATUS], always, lines, b"\r\n", body)))
        self.server_state.total_requests += 1
        if self.cycle is None:
            self.cycle = ANSWERED
        self.headers = _DROPPED
        self._phase = BODY
        self.deadline = self._guard.now + self._limits.body_seconds
        return True

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """A request whose head is there; what puts something in is held until its body is, if that comes at once."""
        if self._intake is not None and cycle.method == b"POST" and not self.expect_100_continue:
            self._held = cycle
        else:
            super()._start_asgi_task(cycle, app)

    def _go_on(self) -> None:
        """What is held goes the usual way."""
        cycle, self._held = self._held, None
        self.pass_on(cycle)  # type: ignore[arg-type]

    def pass_on(self, cycle: Cycle) -> None:
        """Let the application answer."""
        super()._start_asgi_task(cycle, self.app)

    @property
    def is_closing(self) -> bool:
        """Whether nobody is there to be answered."""
        return self.transport.is_closing()

    def answer(self, cycle: Cycle, status: int, fields: bytes, body: bytes) -> None:
        """Answer a request that was taken in (api/intake.py), unless its client is gone; `fields` are header lines."""
        if not (cycle.disconnected or self.transport.is_closing() or self._send(cycle, status, fields, body)):
            super()._start_asgi_task(cycle, Answer(status, fields, body))

    def _answer(self, status: int, fields: bytes, body: bytes) -> bool:
        """Send a whole answer at once. False if that cannot be done now, and the usual way must do."""
        return not self.pipeline and self._send(self.cycle, status, fields, body)

    def _send(self, cycle: Cycle, status: int, fields: bytes, body: bytes) -> bool:
        if cycle.disconnected or cycle.response_started or self.flow.write_paused:
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        head = b"".join((STATUS_LINE[status], self._guard.lines_of(self.server_state.default_headers), fields, end))
        self.transport.writelines((head, body) if body else (head,))
        cycle.tell()
        if not cycle.keep_alive:
            self._exit.close()
        self.on_response_complete()
        return True

    def _head_bytes(self) -> int:
        return len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])

    def on_body(self, body: bytes) -> None:
        """Some of it."""
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.tell()

    def on_message_complete(self) -> None:
        """The request is there as a whole."""
        if self.parser.should_upgrade():
            return  # but for what the parser leaves out: see _stay
        self._fed_bytes = 0
        cycle = self.cycle
        if cycle.response_complete:
            self._rest()
            return
        cycle.more_body = False
        cycle.tell()
        self._phase = ANSWER
        self.deadline = NEVER
        if self._held is None:
            return
        if self._intake(self, self._held):  # type: ignore[misc]
            self._held = None
        else:
            self._go_on()  # at once: the next head may be in what is being parsed

    def on_response_complete(self) -> None:
        """A request is answered: on to the next that came meanwhile, or rest."""
        self.server_state.total_requests += 1
        self._exit.flush()
        if self._is_lingering or self.transport.is_closing():
            return
        if self.pipeline:
            self._due, app = self.pipeline.pop()
            if not self.pipeline:
                self._listen()
            super()._start_asgi_task(self._due, app)
            return
        self.flow.resume_reading()
        if self._refusal is not None:
            self._tell(self._refusal)
        elif self._phase == ANSWER:
            self._rest()

    def _listen(self) -> None:
        """None waits behind another any more: what comes next is read again, and has all its time for that."""
        self.flow.resume_reading()
        seconds = NEVER
        if self._refusal is None and self._phase in (HEAD, BODY):
            seconds = self._limits.head_seconds if self._phase == HEAD else self._limits.body_seconds
        self.deadline = self._guard.now + seconds

    def _rest(self) -> None:
        """Nothing is under way; what was answered may still be on its way out."""
        self._phase = IDLE
        waiting = self.transport.get_write_buffer_size()
        self.deadline = self._guard.now + (self._limits.send_seconds if waiting else self._limits.idle_seconds)

    def pause_writing(self) -> None:
        """The other side does not take what it asked for."""
        super().pause_writing()
        self.stalled_until = self._guard.now + self._limits.send_seconds

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        self.stalled_until = NEVER

    def overdue(self) -> None:
        """Its time is over, whatever it was about."""
        transport = self.transport
        if self._is_lingering or transport.is_closing() or self.stalled_until < self._guard.now:
            telemetry.CONNECTIONS_ENDED.labels("slow_reader" if self.stalled_until < self._guard.now else "closing").inc()
            transport.abort()
        elif self.pipeline:
            if is_peer_gone(transport.get_extra_info("socket")):
                self._close()
            else:
                self.deadline = self._guard.now + LOOK_SECONDS
        elif self._phase == IDLE:
            telemetry.CONNECTIONS_ENDED.labels("idle").inc()
            if transport.get_write_buffer_size():
                transport.abort()
            else:
                self._close()
        else:
            self._refuse(RequestTimeout)

    def _refuse(self, kind: type[AforoError]) -> None:
        """Answer what is being received with an error and listen no more; answers to what came before it go first."""
        telemetry.CONNECTIONS_ENDED.labels(kind.__name__).inc()
        self._is_deaf = True
        self.deadline = NEVER
        cycle = self.cycle
        if self._phase == BODY:
            if self.pipeline:  # it has not begun
                self.pipeline.popleft()
                self.flow.resume_reading()
            elif cycle.response_complete:
                self._leave()
                return
            elif cycle.response_started:
                self.transport.abort()
                return
            else:
                self._interrupt()
                cycle.disconnected = True
                cycle.waiting_for_100_continue = False  # nothing can be said after the refusal
                cycle.tell()
                self._tell(kind)
                return
        if cycle is not None and (self.pipeline or not cycle.response_complete):
            self._refusal = kind
        else:
            self._tell(kind)

    def _interrupt(self) -> None:
        """Nobody may take a body that broke off for a whole one."""
        if self._phase == BODY and not self.cycle.response_complete:
            self.cycle.scope[TRUNCATED] = True

    def _tell(self, kind: type[AforoError]) -> None:
        if not self.transport.is_closing():
            self._exit.flush()
            spoken = next((value for name, value in self._sent if name == b"accept-language"), b"")
            self.transport.write(plain_problem(kind, spoken.decode("latin-1"), self.server_state.default_headers))
            self._linger()

    def _leave(self) -> None:
        """The last answer is written."""
        if self.transport.is_closing():
            return
        if self._phase == BODY or self._is_deaf:
            self._linger()
        else:
            self._close()

    def _linger(self) -> None:
        """Close our side, and drop for a moment what still comes: closing at once would tear the answer out of its hands."""
        if self._is_lingering:
            return
        guard = self._guard
        if guard.lingering >= LINGERING_MAX:
            self._close()
            return
        self._is_deaf = self._is_lingering = True
        self.pipeline.clear()  # what came behind the last answer is not read any more than what comes now
        guard.lingering += 1
        self._exit.flush()
        self._wire_bytes = 0
        self.deadline = guard.now + LINGER_SECONDS
        self.flow.resume_reading()
        self.transport.write_eof()

    def _close(self) -> None:
        self._exit.flush()
        self.deadline = self._guard.now + self._limits.send_seconds
        self.transport.close()
