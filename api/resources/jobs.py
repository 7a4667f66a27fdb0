"""Jobs: what became of a command."""

from __future__ import annotations

import hmac

import falcon.asgi
import msgspec

from api.limits import patience
from api.messages import language
from api.requests import bearer, job_id
from api.schemas import job_answer
from core.bootstrap import ApiServices
from core.errors import UnknownJob
from core.model import Job, held_by


class JobItem:
    """GET /api/jobs/{job}"""

    def __init__(self, services: ApiServices) -> None:
        self._services = services

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, job: str) -> None:
        """The job; with `Prefer: wait=N`, its outcome if that comes in time."""
        services = self._services
        name = req.context.job_id = job_id(job)
        with patience(services, req) as wait_seconds, services.followers.waiter(name) as waiter:
            found = await services.job(name)
            if found is None or not self._may_see(req, found):
                raise UnknownJob
            if wait_seconds and found.outcome is None:
                found = await waiter.outcome(wait_seconds) or found
        if wait_seconds and found.outcome is not None:
            resp.set_header("Preference-Applied", f"wait={wait_seconds}")
        resp.set_header("Vary", "Prefer, Accept-Language")
        resp.set_header("Cache-Control", "no-store")
        traffic = None
        if found.outcome is None:
            resp.set_header("Retry-After", "1")
            traffic = await services.projections.traffic(found.session_id)
        found = await services.as_it_counts(found)
        position = await services.waitlist_position(found)
        resp.data = msgspec.json.encode(job_answer(found, services.manage_token, language(req), traffic, position=position))

    def _may_see(self, req: falcon.asgi.Request, job: Job) -> bool:
        """A job is its client's own; that of a manage token's holder is for whoever has the token."""
        if req.context.caller.owns(job.client):
            return True
        reservation, token = held_by(job.client), bearer(req)
        if reservation is None or token is None:
            return False
        return hmac.compare_digest(token.encode(), self._services.manage_token(reservation).encode())
