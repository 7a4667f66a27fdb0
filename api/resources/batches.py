"""Batches: many commands in one request, each a job of its own; or one command for several people, all or none."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import falcon.asgi
import msgspec

from api.answers import job_answer, queued_text, when
from api.batchbody import batch_commands, read_batch
from api.errors import InvalidIdempotencyKey, MissingIdempotencyKey
from api.limits import count_commands, patience
from api.messages import language
from api.requests import batch_id, idempotency_key
from api.resources.commands import RETRY_AFTER_SECONDS
from core import telemetry
from core.batches import BatchReceipt, Wanted
from core.bootstrap import ApiServices
from core.errors import UnknownBatch
from core.keys import MANAGE
from core.model import GROUP, GroupArguments, Job
from core.queries import BatchView


class Batches:
    """What both resources share."""

    def __init__(self, services: ApiServices) -> None:
        self._services = services

    async def answer(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, view: BatchView | BatchReceipt, jobs: list[Job | None]
    ) -> None:
        """Render a batch with its jobs as they are; wait for the last outcome first, if that is preferred."""
        services = self._services
        with patience(services, req) as wait_seconds:
            if wait_seconds:
                jobs = await self._waited(jobs, wait_seconds)
        done = all(job is not None and job.outcome is not None for job in jobs)
        if wait_seconds and done:
            resp.set_header("Preference-Applied", f"wait={wait_seconds}")
        if not done:
            resp.set_header("Retry-After", RETRY_AFTER_SECONDS)
        resp.set_header("Vary", "Prefer, Accept-Language")
        spoken = language(req)
        decided = {job.id: await services.jobs.as_it_counts(job) for job in jobs if job is not None and job.outcome is not None}
        token = services.manage_token
        shown = [
            queued_text(job)
            if job is not None and job.outcome is None
            else msgspec.json.encode(job and job_answer(decided[job.id], token, spoken)).decode()
            for job in jobs
        ]
        head = {
            "id": view.id,
            "atomic": view.atomic,
            "status": "done" if done else "queued",
            "created_at": when(view.created_at),
        }
        resp.data = b'%b,"jobs":[%b]}' % (msgspec.json.encode(head)[:-1], ",".join(shown).encode())

    async def _waited(self, jobs: list[Job | None], wait_seconds: int) -> list[Job | None]:
        until = time.monotonic() + wait_seconds

        async def one(job: Job | None) -> Job | None:
            if job is None or job.outcome is not None:
                return job
            with self._services.followers.waiter(job.id) as waiter:
                again = await self._services.jobs.find(job.id)  # it may have been decided before we waited
                if again is not None and again.outcome is not None:
                    return again
                return await waiter.outcome(max(0.0, until - time.monotonic())) or job

        return list(await asyncio.gather(*map(one, jobs)))


class BatchCollection(Batches):
    """POST /api/batches/"""

    async def is_replay(self, req: falcon.asgi.Request) -> bool:
        """Whether it repeats a batch all of whose jobs are known: see api/limits.py."""
        services = self._services
        try:
            key = idempotency_key(req)
        except InvalidIdempotencyKey:
            return False
        name = key and services.submit_batch.id_of(req.context.caller.client, key)
        view = await services.batches.find_just_sent(name) if name else None
        return view is not None and None not in await services.jobs.all(view.job_ids)

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Accept all commands of a batch, or none of them."""
        services = self._services
        key = idempotency_key(req)
        if key is None:
            raise MissingIdempotencyKey
        body = await read_batch(req)
        caller = req.context.caller
        wanted = batch_commands(body, caller.may(MANAGE))
        await count_commands(services, req, resp, self, len(wanted))
        if body.atomic:
            people = tuple([one.arguments for one in wanted])
            wanted = [Wanted(GROUP, wanted[0].session_id, GroupArguments(people))]  # type: ignore[arg-type]
        receipt = await services.submit_batch(wanted, caller.client, key, body.atomic)
        if not receipt.known:
            for kind, count in Counter(one.kind for one in wanted).items():
                telemetry.ACCEPTED.add(kind, count=count)
        services.batches.note_sent(receipt.id)
        resp.set_header("Location", f"/api/batches/{receipt.id}")
        if receipt.known:
            resp.set_header("Idempotency-Replayed", "true")
        await self.answer(req, resp, receipt, list(receipt.jobs))
        resp.status = 202 if resp.get_header("Preference-Applied") is None else 200


class BatchItem(Batches):
    """GET /api/batches/{batch}"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, batch: str) -> None:
        """The batch with its jobs."""
        services = self._services
        view = await services.batches.find(batch_id(batch))
        if view is None or not req.context.caller.owns(view.client):
            raise UnknownBatch
        resp.set_header("Cache-Control", "no-store")
        await self.answer(req, resp, view, await services.jobs.all(view.job_ids))
