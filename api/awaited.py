"""Clients that wait for what becomes of a command that was taken in ahead of Falcon (`Prefer: wait`), and what they are told.

Who waits costs a place, an entry among the followers and a timer, not a task; whoever leaves is forgotten at once. An outcome of
which more has to be found out than came with it (a place in the waitlist, a cancelled session) is for Falcon to tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from api.answers import job_answer
from api.errors import PROBLEM, problem_body, refused
from api.resources.commands import CREATED, is_refused
from core.bootstrap import ApiServices
from core.follow import Outcome
from core.model import Job


class Line(Protocol):
    """A connection: see api.protocol.GuardedProtocol."""

    left: Callable[[], None] | None


class Wait:
    """One client's wait: it begins before the command is submitted, so that its caller has a place and no news is missed."""

    __slots__ = ("_caller", "_line", "_services", "_timer", "_waiter", "seconds")

    def __init__(self, services: ApiServices, draft: Job, seconds: int, caller: str) -> None:
        """`seconds` are none if this caller has too many waiting already: see api.limits.patience."""
        self._services = services
        self._caller = caller
        self._line: Line | None = None
        self.seconds = seconds if services.waits.enter(caller) else 0
        if self.seconds:
            self._waiter = services.followers.register(draft.id, draft.session_id)

    def begin(self, line: Line, tell: Outcome, over: Callable[[], None], left: Callable[[], None]) -> None:
        """The command is queued. One of these is called, once: with its outcome, when time is over, when the client has gone."""
        line.left = left
        self._line = line
        self._timer = asyncio.get_running_loop().call_later(self.seconds, over)
        self._waiter.ask(tell)

    def end(self) -> None:
        """Give everything back."""
        if self.seconds:
            self._services.followers.forget(self._waiter)
            self._services.waits.leave(self._caller)
        if self._line is not None:
            self._line.left = None
            self._timer.cancel()


def decided_answer(services: ApiServices, job: Job, language: str, request_id: str) -> tuple[int, bytes, bytes]:
    """Status, the header lines that go with it, and the body that tells an outcome as api/resources/commands.py does."""
    answer = job_answer(job, services.manage_token, language)
    if not is_refused(job):
        return 201 if job.outcome in CREATED else 200, _JSON, msgspec.json.encode(answer)
    status, code, title, detail = refused(job, language)
    body = problem_body(status, code, title, detail, request_id, job=answer)
    return status, _PROBLEM % language.encode(), body


_JSON = b"content-type: application/json\r\n"
_PROBLEM = f"content-type: {PROBLEM}\r\ncontent-language: %b\r\n".encode()
