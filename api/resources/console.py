"""The console: its page and what that loads, and signing in with a key, for which browsers get a cookie that no script reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import falcon.asgi
import msgspec

from api.bodies import SignInBody, read_body
from api.browsers import STRICT_PAGE
from api.requests import COOKIE, cookie
from api.resources.docs import STATIC, Assets, Served, read
from core.bootstrap import ApiServices
from core.errors import ScopeMissing, UnknownKey
from core.keys import OPERATE, SCOPES, Caller
from core.signins import SIGNED_IN_SECONDS

FOLDER = STATIC / "console"
FOLDERS = (FOLDER, STATIC / "uplot")
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
NEEDS_OPERATE = "The console needs a key with the scope operate."


class SignIn:
    """/console/session"""

    def __init__(self, services: ApiServices) -> None:
        self._services = services
        self._open = services.settings.auth == "open"

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Who is signed in, if anybody is, what they may do, and what each change has to say."""
        if self._open:
            resp.data = msgspec.json.encode(_shown(req.context.caller, None))
            return
        held = cookie(req)
        caller = None if held is None else await self._services.signins.caller(held)
        if held is None or caller is None:
            resp.data = msgspec.json.encode({"client": None, "scopes": [], "csrf_token": None, "open": False})
            return
        resp.data = msgspec.json.encode(_shown(caller, self._services.signins.csrf_token(held)))

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Sign in with a key of scope operate. Raises UnknownKey, ScopeMissing."""
        body = await read_body(req, SignInBody)
        services = self._services
        caller = await services.keyring.caller(body.key.strip())
        if caller is None or caller.key_id is None:
            raise UnknownKey
        if not caller.may(OPERATE):
            raise ScopeMissing(NEEDS_OPERATE)
        held = await services.signins.begin(caller.key_id)
        resp.set_cookie(
            COOKIE,
            held,
            max_age=SIGNED_IN_SECONDS,
            path="/",
            secure=req.scheme == "https",
            http_only=True,
            same_site="Strict",
        )
        resp.data = msgspec.json.encode(_shown(caller, services.signins.csrf_token(held)))

    async def on_delete(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Sign out."""
        held = cookie(req)
        if held is not None:
            await self._services.signins.end(held)
        resp.unset_cookie(COOKIE, path="/", same_site="Strict")
        resp.status = 204


def _shown(caller: Caller, csrf_token: str | None) -> dict[str, Any]:
    scopes = [scope for scope in SCOPES if scope in caller.scopes]
    return {"client": caller.client, "scopes": scopes, "csrf_token": csrf_token, "open": csrf_token is None}


def files() -> dict[str, tuple[Path, str]]:
    """What the page loads, by name. The folders are looked at once, at the start."""
    found = [path for folder in FOLDERS for path in sorted(folder.iterdir()) if path.suffix in TYPES]
    return {path.name: (path.parent, TYPES[path.suffix]) for path in found}


def routes(services: ApiServices) -> list[tuple[str, Any]]:
    """Paths and their resources."""
    page = Served(read(FOLDER / "index.html", "text/html; charset=utf-8"), STRICT_PAGE)
    return [("/console", page), ("/console/session", SignIn(services)), ("/console/{name}", Assets(files()))]
