"""Reserve and cancel: a validated command through the door, answered by 202, or by its outcome with `Prefer: wait`."""

from __future__ import annotations

import time
from typing import Any

import falcon.asgi
import msgspec

from api.errors import refusal
from api.requests import idempotency_key, preferred_wait, session_id
from api.schemas import CancelBody, ReserveBody, cancel_arguments, job_answer, read_body, reserve_arguments
from core import telemetry
from core.bootstrap import ApiServices
from core.errors import AforoError, QueueFull
from core.mailbox import Receipt
from core.model import CANCEL, CANCELLED, CONFIRMED, RESERVE, Arguments, Job
from core.projections import Traffic

OPEN_CLIENT = "open"
SUCCESS_STATUS = {CONFIRMED: 201, CANCELLED: 200}
RETRY_AFTER_SECONDS = "1"


class Commands:
    """What reserve and cancel have in common."""

    def __init__(self, services: ApiServices) -> None:
        self._services = services

    async def submit(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str, kind: str, arguments: Arguments
    ) -> None:
        """Submit one command and answer it."""
        services = self._services
        draft = services.submit.draft(kind, session_id(session), arguments, OPEN_CLIENT, idempotency_key(req))
        wait_seconds = preferred_wait(req)
        if wait_seconds:
            with services.followers.waiter(draft.id) as waiter:
                receipt = await self._accepted(req, draft, arguments)
                job = receipt.job
                if job.outcome is None:
                    job = await waiter.outcome(wait_seconds) or job
        else:
            receipt = await self._accepted(req, draft, arguments)
            job = receipt.job
        req.context.job_id = job.id
        resp.set_header("Location", f"/api/jobs/{job.id}")
        resp.set_header("Vary", "Prefer")
        if receipt.known:
            resp.set_header("Idempotency-Replayed", "true")
        render(resp, job, Traffic(receipt.applied_seq, receipt.depth, receipt.pace), wait_seconds)

    async def _accepted(self, req: falcon.asgi.Request, draft: Job, arguments: Arguments) -> Receipt:
        try:
            receipt = await self._services.submit(draft, arguments)
        except AforoError as exc:
            code = "queue_full" if isinstance(exc, QueueFull) else type(exc).__name__
            telemetry.REFUSED_AT_DOOR.labels(code).inc()
            raise
        telemetry.ACCEPT_SECONDS.observe(time.monotonic() - req.context.started)
        if not receipt.known:
            telemetry.ACCEPTED.labels(draft.kind).inc()
        return receipt


def render(resp: falcon.asgi.Response, job: Job, traffic: Traffic, wait_seconds: int) -> None:
    """Answer a command: by its outcome if it was waited for and is there, else by 202."""
    if not wait_seconds or job.outcome is None:
        resp.status = 202
        resp.set_header("Retry-After", RETRY_AFTER_SECONDS)
        resp.data = msgspec.json.encode(job_answer(job, traffic))
        return
    resp.set_header("Preference-Applied", f"wait={wait_seconds}")
    answer: Any = job_answer(job)
    if job.outcome in SUCCESS_STATUS:
        resp.status = SUCCESS_STATUS[job.outcome]
        resp.data = msgspec.json.encode(answer)
    else:
        refusal(resp, job, answer)


class Reserve(Commands):
    """POST /api/sessions/{session}/reserve/"""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """Reserve a place."""
        await self.submit(req, resp, session, RESERVE, reserve_arguments(await read_body(req, ReserveBody)))


class Cancel(Commands):
    """POST /api/sessions/{session}/cancel/"""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """Give a place back."""
        await self.submit(req, resp, session, CANCEL, cancel_arguments(await read_body(req, CancelBody)))
