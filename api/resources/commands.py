"""Commands: requests that are queued for a session and decided in their order. All of them are answered alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import falcon.asgi
import msgspec

from api.answers import JobAnswer, job_answer
from api.bodies import CancelBody, ReserveBody, cancel_arguments, read_body, read_nothing, reserve_arguments
from api.errors import refusal
from api.limits import patience
from api.messages import language
from api.requests import ACCEPTED, FAILED, idempotency_key, preferred_wait, session_id
from core import telemetry
from core.bootstrap import ApiServices
from core.door import Receipt
from core.errors import AforoError, QueueFull
from core.keys import MANAGE
from core.model import (
    CANCEL,
    CANCEL_SESSION,
    CLOSE,
    CONFIRMED,
    REFUSALS,
    REOPEN,
    RESERVE,
    WAITLISTED,
    Arguments,
    Job,
    NoArguments,
    ReserveArguments,
)
from core.projections import Forecast, Traffic, forecast

CREATED = (CONFIRMED, WAITLISTED)
RETRY_AFTER_SECONDS = "1"


class Commands:
    """What all commands have in common."""

    def __init__(self, services: ApiServices) -> None:
        self._services = services

    async def submit(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        session: int,
        kind: str,
        arguments: Arguments,
        client: str | None = None,
    ) -> None:
        """Submit one command, for the caller unless another `client` is named, and answer it: by its outcome if it was waited
        for and is there, else by 202."""
        services = self._services
        draft = services.submit.draft(kind, session, arguments, client or req.context.caller.client, idempotency_key(req))
        wait_seconds = preferred_wait(req)
        if ACCEPTED in req.scope:  # and decided before it came here: see api/intake.py
            receipt, job, wait_seconds = req.scope[ACCEPTED]
        elif wait_seconds:
            with patience(services, req) as wait_seconds, services.followers.waiter(draft.id) as waiter:
                receipt = await self._accepted(req, draft, arguments)
                job = receipt.job
                if wait_seconds and job.outcome is None:
                    job = await waiter.outcome(wait_seconds) or job
        else:
            receipt = await self._accepted(req, draft, arguments)
            job = receipt.job
        req.context.job_id = job.id
        resp.set_header("Location", f"/api/jobs/{job.id}")
        resp.set_header("Vary", "Prefer")
        if receipt.known:
            resp.set_header("Idempotency-Replayed", "true")
        if wait_seconds and job.outcome is not None:
            resp.set_header("Preference-Applied", f"wait={wait_seconds}")
            await self._decided(req, resp, job)
        else:
            resp.status = 202
            resp.set_header("Retry-After", RETRY_AFTER_SECONDS)
            resp.data = msgspec.json.encode(queued_answer(receipt, arguments, services.manage_token, language(req)))

    async def knows(self, req: falcon.asgi.Request, kind: str, session: str, client: str | None = None) -> bool:
        """Whether this request repeats a job that is known: Redis knows it, or else the ledger."""
        services = self._services
        try:
            wanted, key = session_id(session), idempotency_key(req)
        except AforoError:
            return False
        job = key and services.submit.job_id(kind, wanted, client or req.context.caller.client, key)
        return bool(job) and await services.jobs.find(job) is not None

    async def _accepted(self, req: falcon.asgi.Request, draft: Job, arguments: Arguments, keyed: bool | None = None) -> Receipt:
        keyed = req.get_header("Idempotency-Key") is not None if keyed is None else keyed
        failed: Exception | None = req.scope.get(FAILED)
        try:
            if failed is not None:  # at the door already: see api/intake.py
                raise failed
            receipt = await self._services.submit(draft, arguments, keyed=keyed)
        except AforoError as exc:
            code = "queue_full" if isinstance(exc, QueueFull) else type(exc).__name__
            telemetry.REFUSED_AT_DOOR.add(code)
            raise
        telemetry.accepted_within(time.monotonic() - req.context.started)
        if not receipt.known:
            telemetry.ACCEPTED.add(draft.kind)
        return receipt

    async def _decided(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, job: Job) -> None:
        services = self._services
        job = await services.jobs.as_it_counts(job)
        position = await services.jobs.waitlist_position(job)
        answer: Any = job_answer(job, services.manage_token, language(req), position=position)
        if is_refused(job):
            refusal(req, resp, job, answer)
            return
        resp.append_header("Vary", "Accept-Language")
        resp.status = 201 if job.outcome in CREATED else 200
        resp.data = msgspec.json.encode(answer)


def is_refused(job: Job) -> bool:
    """Whether a decided job is answered by a problem."""
    return job.status == "failed" or job.outcome in REFUSALS


def queued_answer(receipt: Receipt, arguments: Arguments, token: Callable[[int], str], spoken: str) -> JobAnswer:
    """What a 202 says of a job."""
    traffic: Traffic | None = None
    expected: Forecast | None = None
    if receipt.head is not None:
        traffic = Traffic(receipt.head.last_seq, receipt.depth, receipt.pace)
        if isinstance(arguments, ReserveArguments):
            expected = forecast(receipt.head, receipt.job.seq, arguments.seats)
    return job_answer(receipt.job, token, spoken, traffic, expected)


class Reserve(Commands):
    """POST /api/sessions/{session}/reserve/"""

    async def is_replay(self, req: falcon.asgi.Request, session: str) -> bool:
        """Whether it repeats a known job: see api/limits.py."""
        return await self.knows(req, RESERVE, session)

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """Reserve places."""
        arguments = reserve_arguments(await read_body(req, ReserveBody))
        await self.submit(req, resp, session_id(session), RESERVE, arguments)


class Cancel(Commands):
    """POST /api/sessions/{session}/cancel/"""

    async def is_replay(self, req: falcon.asgi.Request, session: str) -> bool:
        """Whether it repeats a known job."""
        return await self.knows(req, CANCEL, session)

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """Give places back."""
        arguments = cancel_arguments(await read_body(req, CancelBody), req.context.caller.may(MANAGE))
        await self.submit(req, resp, session_id(session), CANCEL, arguments)


class Turn(Commands):
    """POST /api/sessions/{session}/close/, /reopen/ and /cancel-session/: commands that say it all by their kind."""

    def __init__(self, services: ApiServices, kind: str) -> None:
        super().__init__(services)
        self._kind = kind

    async def is_replay(self, req: falcon.asgi.Request, session: str) -> bool:
        """Whether it repeats a known job."""
        return await self.knows(req, self._kind, session)

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """Close, reopen or cancel a session."""
        await read_nothing(req)
        await self.submit(req, resp, session_id(session), self._kind, NoArguments())


def routes(services: ApiServices) -> list[tuple[str, Any]]:
    """Paths and their resources."""
    base = "/api/sessions/{session}"
    return [
        (f"{base}/reserve", Reserve(services)),
        (f"{base}/cancel", Cancel(services)),
        (f"{base}/close", Turn(services, CLOSE)),
        (f"{base}/reopen", Turn(services, REOPEN)),
        (f"{base}/cancel-session", Turn(services, CANCEL_SESSION)),
    ]
