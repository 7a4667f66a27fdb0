"""Rate limits and bounds on waiting, as requests meet them: who is counted, what a refusal says, and what is never refused.

An address is counted before its key is looked up, so that guessing keys is limited too; otherwise address and key are asked
together. A request that repeats a job which is known already is let through whatever the count: to refuse it would leave its
client without the answer it was promised.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import falcon.asgi

from api.requests import TAKEN_IN, preferred_wait
from core import telemetry
from core.bootstrap import ApiServices
from core.errors import RateLimited, Unavailable
from core.limits import Buckets, Limiter, Verdict

VERDICT: Final = "aforo.verdict"  # in a request's scope: what all of its buckets said
UNLIMITED: Final = {
    "/api/docs", "/api/docs/{name}", "/api/schema", "/", "/docs", "/static/{name}", "/console", "/console/{name}",
    "/healthz", "/readyz", "/metrics",
}


def address_of(req: falcon.asgi.Request) -> str:
    """The address that a request comes from: the peer's, or what a trusted proxy says."""
    client = req.scope.get("client")
    return client[0] if client else ""


def waits_as(req: falcon.asgi.Request) -> str:
    """Whose waiting is counted: the key's, or without one the address's."""
    return req.context.caller.key_id or address_of(req)


@contextmanager
def patience(services: ApiServices, req: falcon.asgi.Request) -> Iterator[int]:
    """Seconds that this request may wait for an outcome: as it prefers, but none if its caller has too many waiting already.

    It is answered at once then, as if it had not asked: what it wants done is done all the same, and where to look is in the
    answer. A refusal would be worse for both sides.
    """
    seconds = preferred_wait(req)
    if not seconds:
        yield 0
        return
    with services.waits.place(waits_as(req)) as free:
        if not free:
            telemetry.WAITS_NOT_HONOURED.inc()
        yield seconds if free else 0


class Count:
    """What a request was counted as so far: the buckets it has paid, and why it is refused, if it is. `verdict`: of all its
    buckets, if it was counted before it came to Falcon."""

    __slots__ = ("paid", "refused", "verdict")

    def __init__(self, verdict: Verdict | None = None) -> None:
        self.verdict = verdict
        self.paid: Buckets = verdict.buckets if verdict is not None and verdict.passes else ()
        self.refused = RateLimited(verdict.retry_seconds()) if verdict is not None and not verdict.passes else None


def count_of(req: falcon.asgi.Request) -> Count:
    """What this request was counted as so far."""
    count: Count | None = getattr(req.context, "count", None)
    if count is None:
        count = req.context.count = Count(req.scope.get(VERDICT))
    return count


class Limit:
    """Counts every request to the API, after `Access` has told who sends it. Of use only where there is a limit."""

    def __init__(self, services: ApiServices) -> None:
        self._services = services

    async def process_resource(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: Any, params: dict[str, Any]
    ) -> None:
        """Raises RateLimited."""
        limiter = self._services.limiter
        if req.uri_template in UNLIMITED:
            return
        count = count_of(req)
        if count.verdict is not None:
            _show(resp, count.verdict)
        elif count.refused is None and TAKEN_IN not in req.scope:
            buckets = limiter.buckets(None if count.paid else address_of(req), req.context.caller.key_id)
            if buckets:
                await _count(limiter, count, resp, buckets)
        if count.refused is not None and not await is_replay(req, resource, params):
            telemetry.RATE_LIMITED.inc()
            raise count.refused


async def count_address(services: ApiServices, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: Any) -> None:
    """Count the address by itself: a key has to be looked up, or was guessed. Raises RateLimited."""
    count, buckets = count_of(req), services.limiter.buckets(address_of(req), None)
    if not buckets or count.paid or count.refused is not None or req.uri_template in UNLIMITED:
        return
    await _count(services.limiter, count, resp, buckets)
    if count.refused is not None and not may_be_replay(req, resource):
        telemetry.RATE_LIMITED.inc()
        raise count.refused


async def count_commands(
    services: ApiServices, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: Any, commands: int
) -> None:
    """A request turned out to hold so many commands: it costs as many. Raises RateLimited."""
    count = count_of(req)
    if commands < 2 or not count.paid:
        return
    try:
        verdict = await services.limiter(count.paid, commands, 1)
    except Unavailable:
        return
    _show(resp, verdict)
    if not verdict.passes and not await is_replay(req, resource, {}):
        await _give_back(services.limiter, count)
        telemetry.RATE_LIMITED.inc()
        raise RateLimited(verdict.retry_seconds(commands, 1))


def may_be_replay(req: falcon.asgi.Request, resource: Any) -> bool:
    """Whether this request could repeat a known job."""
    return req.get_header("Idempotency-Key") is not None and hasattr(resource, "is_replay")


async def is_replay(req: falcon.asgi.Request, resource: Any, params: dict[str, Any]) -> bool:
    """Whether this request repeats a known job."""
    return may_be_replay(req, resource) and await resource.is_replay(req, **params)


async def _count(limiter: Limiter, count: Count, resp: falcon.asgi.Response, buckets: Buckets) -> None:
    """Without Redis no command can be accepted anyway, and whatever else can be answered may be."""
    try:
        verdict = await limiter(buckets)
    except Unavailable:
        return
    if verdict.passes:
        count.paid += buckets
    else:
        await _give_back(limiter, count)
        count.refused = RateLimited(verdict.retry_seconds())
    _show(resp, verdict)


async def _give_back(limiter: Limiter, count: Count) -> None:
    """Who is refused has asked for nothing."""
    paid, count.paid = count.paid, ()
    if paid:
        with suppress(Unavailable):
            await limiter(paid, 0, 1)


def _show(resp: falcon.asgi.Response, verdict: Verdict) -> None:
    """The header fields of draft-ietf-httpapi-ratelimit-headers, of the limits that were asked last."""
    resp.set_header("RateLimit-Policy", verdict.policies)
    resp.set_header("RateLimit", verdict.standing)
