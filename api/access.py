"""Who may call what: one table of routes and scopes, and the middleware that holds every request to it.

A route that is not in the table is closed. What a scope cannot say (one's own job, one's own reservation) is asked by the
resource, which finds the caller in `req.context.caller`.
"""

from __future__ import annotations

import hmac
from typing import Any, Final

import falcon.asgi

from api.errors import Forged
from api.limits import count_address, count_of
from api.requests import TAKEN_IN, bearer, cookie
from core.bootstrap import ApiServices
from core.errors import NotAuthenticated, ScopeMissing, UnknownKey
from core.keys import ANYBODY, ATTENDEES, MANAGE, NOBODY, OPERATE, READ, RESERVE_AND_CANCEL, Caller, split_token

PUBLIC: Final = ()  # no key is asked for; a reservation's manage token may be
HOLDER: Final = "holder"  # a reservation's manage token does instead of a key; the resource looks whether it is the right one
CSRF_HEADER: Final = "X-CSRF-Token"
READING: Final = ("GET", "HEAD", "OPTIONS")
NEEDS_SCOPE = "This needs a key with one of these scopes: {scopes}."
READERS: Final = (READ, ATTENDEES, MANAGE)
PEOPLE: Final = (ATTENDEES, MANAGE)

# One of these scopes is needed.
NEEDED: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "/api/sessions": {"GET": READERS, "POST": (MANAGE,)},
    "/api/sessions/{session}": {"GET": READERS, "PATCH": (MANAGE,)},
    "/api/sessions/{session}/events": {"GET": READERS},
    "/api/sessions/{session}/reservations": {"GET": READERS},
    "/api/sessions/{session}/reserve": {"POST": (RESERVE_AND_CANCEL,)},
    "/api/sessions/{session}/cancel": {"POST": (RESERVE_AND_CANCEL, MANAGE)},
    "/api/sessions/{session}/close": {"POST": (MANAGE,)},
    "/api/sessions/{session}/reopen": {"POST": (MANAGE,)},
    "/api/sessions/{session}/cancel-session": {"POST": (MANAGE,)},
    "/api/batches": {"POST": (RESERVE_AND_CANCEL,)},
    "/api/batches/{batch}": {"GET": (RESERVE_AND_CANCEL,)},
    "/api/jobs/{job}": {"GET": (RESERVE_AND_CANCEL, ATTENDEES, MANAGE, HOLDER)},
    "/api/jobs/{job}/events": {"GET": (RESERVE_AND_CANCEL, ATTENDEES, MANAGE, HOLDER)},
    "/api/reservations": {"GET": PEOPLE},
    "/api/reservations/{reservation}": {"GET": PUBLIC, "DELETE": PUBLIC, "PATCH": PEOPLE},
    "/api/reservations/{reservation}.ics": {"GET": PUBLIC},
    "/api/docs": {"GET": PUBLIC},
    "/api/docs/{name}": {"GET": PUBLIC},
    "/api/schema": {"GET": PUBLIC},
    "/": {"GET": PUBLIC},
    "/docs": {"GET": PUBLIC},
    "/static/{name}": {"GET": PUBLIC},
    "/s/{session}": {"GET": PUBLIC, "POST": PUBLIC},
    "/s/{session}/events": {"GET": PUBLIC},
    "/s/{session}/jobs/{job}": {"GET": PUBLIC},
    "/s/{session}/jobs/{job}/events": {"GET": PUBLIC},
    "/s/{session}/reservations/{reservation}": {"GET": PUBLIC, "POST": PUBLIC},
    "/s/{session}/reservations/{reservation}.ics": {"GET": PUBLIC},
    "/healthz": {"GET": PUBLIC},
    "/readyz": {"GET": PUBLIC},
    "/metrics": {"GET": (OPERATE,)},
    "/api/operations": {"GET": (OPERATE,)},
    "/api/operations/events": {"GET": (OPERATE,)},
    "/api/quarantine": {"GET": (OPERATE,)},
    "/api/quarantine/{job}/again": {"POST": (OPERATE,)},
    "/console": {"GET": PUBLIC},
    "/console/session": {"GET": PUBLIC, "POST": PUBLIC, "DELETE": PUBLIC},
    "/console/{name}": {"GET": PUBLIC},
}


class Access:
    """Tells who calls, and turns away who may not."""

    def __init__(self, services: ApiServices) -> None:
        self._services = services
        self._open = services.settings.auth == "open"

    async def process_request(self, req: falcon.asgi.Request, _resp: falcon.asgi.Response) -> None:
        """Nobody in particular, until the route says that it matters; or who was known when it was taken in (api/intake.py)."""
        req.context.caller = req.scope.get(TAKEN_IN) or (ANYBODY if self._open else NOBODY)

    async def process_resource(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: Any, _params: dict[str, Any]
    ) -> None:
        """Raises NotAuthenticated, UnknownKey, ScopeMissing, RateLimited; Unavailable when a key cannot be looked up."""
        if self._open or TAKEN_IN in req.scope:
            return
        needed = NEEDED.get(req.uri_template or "", {}).get(req.method)
        if needed is None and hasattr(resource, f"on_{req.method.lower()}"):
            raise LookupError(f"{req.method} {req.uri_template} is missing in the table of api/access.py")
        if not needed:
            return
        token = bearer(req)
        if token is None:
            req.context.caller = await self._signed_in(req, resp, resource)
            self._check_scope(req, needed)
            return
        if HOLDER in needed and split_token(token) is None:
            return
        keyring = self._services.keyring
        if keyring.must_ask(token):
            await count_address(self._services, req, resp, resource)
        caller = await keyring.caller(token)
        if caller is None:
            await count_address(self._services, req, resp, resource)
            raise count_of(req).refused or UnknownKey
        req.context.caller = caller
        self._check_scope(req, needed)

    async def _signed_in(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: Any) -> Caller:
        """Who has the console's cookie, which browsers send by themselves: a change has to say that it comes from the page."""
        held = cookie(req)
        if held is None:
            raise NotAuthenticated
        caller = await self._services.signins.caller(held)
        if caller is None:
            await count_address(self._services, req, resp, resource)
            raise count_of(req).refused or NotAuthenticated
        token = self._services.signins.csrf_token(held)
        if req.method not in READING and not _is_said(req, token):
            raise Forged
        return caller

    def _check_scope(self, req: falcon.asgi.Request, needed: tuple[str, ...]) -> None:
        if not req.context.caller.may(*needed):
            raise ScopeMissing(NEEDS_SCOPE, scopes=", ".join(scope for scope in needed if scope != HOLDER))


def _is_said(req: falcon.asgi.Request, token: str) -> bool:
    return hmac.compare_digest((req.get_header(CSRF_HEADER) or "").encode(), token.encode())
