"""Jobs: what became of a command, asked for or told as it happens."""

from __future__ import annotations

import hmac

import falcon.asgi
import msgspec

from api.answers import job_answer
from api.limits import patience
from api.messages import language
from api.requests import bearer, job_id
from api.streams import Event, digest, last_event_id, open_stream
from core.bootstrap import ApiServices
from core.errors import UnknownJob
from core.model import Job, held_by
from core.projections import JobNow


class Jobs:
    """What the resources here share."""

    def __init__(self, services: ApiServices) -> None:
        self._services = services

    def may_see(self, req: falcon.asgi.Request, job: Job) -> bool:
        """A job is its client's own; that of a manage token's holder is for whoever has the token."""
        if req.context.caller.owns(job.client):
            return True
        reservation, token = held_by(job.client), bearer(req)
        if reservation is None or token is None:
            return False
        return hmac.compare_digest(token.encode(), self._services.manage_token(reservation).encode())

    def body(self, now: JobNow, spoken: str) -> bytes:
        """The body that shows a job, in that language."""
        return msgspec.json.encode(
            job_answer(now.job, self._services.manage_token, spoken, now.traffic, position=now.position)
        )


class JobItem(Jobs):
    """GET /api/jobs/{job}"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, job: str) -> None:
        """The job; with `Prefer: wait=N`, its outcome if that comes in time."""
        services = self._services
        name = req.context.job_id = job_id(job)
        with patience(services, req) as wait_seconds, services.followers.waiter(name) as waiter:
            found = await services.jobs.find(name)
            if found is None or not self.may_see(req, found):
                raise UnknownJob
            if wait_seconds and found.outcome is None:
                found = await waiter.outcome(wait_seconds) or found
        if wait_seconds and found.outcome is not None:
            resp.set_header("Preference-Applied", f"wait={wait_seconds}")
        resp.set_header("Vary", "Prefer, Accept-Language")
        resp.set_header("Cache-Control", "no-store")
        if found.outcome is None:
            resp.set_header("Retry-After", "1")
        resp.data = self.body(await services.jobs.as_it_stands(found), language(req))


class JobEvents(Jobs):
    """GET /api/jobs/{job}/events"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, job: str) -> None:
        """What GET of the job gives, now and whenever it changes, until nothing more is to be expected."""
        services = self._services
        name = req.context.job_id = job_id(job)
        now = await services.jobs.now(name)
        if now is None or not self.may_see(req, now.job):
            raise UnknownJob
        spoken = language(req)
        if now.is_final and self._event(now, spoken).id == last_event_id(req):
            resp.status = 204  # which keeps a browser from asking again
            return
        resp.set_header("Vary", "Accept-Language")
        open_stream(services, req, resp, services.streams.jobs, name, lambda now: self._event(now, spoken))

    def _event(self, now: JobNow, spoken: str) -> Event:
        data = self.body(now, spoken)
        return Event("job", digest(data), data, now.is_final)
