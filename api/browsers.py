"""What browsers are told: how to treat every answer, what a page of ours may do, and whose pages may call the API.

The same for every answer stands in EVERYWHERE, which the server writes by itself; pages have PAGE besides. Other origins are
let in by `Cors`, only those that an operator has named. Falcon's own middleware for that sends no `Vary: Origin`, so that a
cache between could give one origin's answer to another, and allows whatever header a page asks for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import falcon.asgi

EVERYWHERE: Final = (("X-Content-Type-Options", "nosniff"),)

# Swagger UI sets style attributes and draws its icons from data: URLs; everything else comes from here.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
UNUSED: Final = ("camera", "display-capture", "geolocation", "microphone", "midi", "payment", "publickey-credentials-get", "usb")

PAGE: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in UNUSED),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}

# Our own pages set no style in their text and draw nothing from data: URLs.
STRICT_PAGE: Final = {
    **PAGE,
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
}

# What a page of another origin may send beside what it always may, and read of an answer.
SENT: Final = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, X-Request-Id"
SHOWN: Final = (
    "Content-Language, ETag, Idempotency-Replayed, Location, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, "
    "WWW-Authenticate, X-Request-Id"
)
REMEMBERED_SECONDS: Final = "600"


class Cors:
    """Lets pages of these origins call the API with a key of theirs. Never with cookies: those are for pages of our own."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origins)

    async def process_response(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, _resource: Any, well: bool) -> None:
        """Say so on the answer; on that to a preflight also what the page may send."""
        resp.append_header("Vary", "Origin")
        origin = req.get_header("Origin")
        if origin not in self._origins:
            return
        resp.set_header("Access-Control-Allow-Origin", origin)
        if well and req.method == "OPTIONS" and req.get_header("Access-Control-Request-Method"):
            resp.set_header("Access-Control-Allow-Methods", resp.get_header("Allow", default=""))
            resp.set_header("Access-Control-Allow-Headers", SENT)
            resp.set_header("Access-Control-Max-Age", REMEMBERED_SECONDS)
        else:
            resp.set_header("Access-Control-Expose-Headers", SHOWN)
