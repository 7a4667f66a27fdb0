"""The HTTP floor: an empty 202 on the very server that Aforo's API runs on (gunicorn, its worker class, its protocol).

`bare` is an ASGI application that does nothing else; `with_falcon` shows what the framework adds.
"""

from __future__ import annotations

from typing import Any

import falcon.asgi

_START = {"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"0")]}
_BODY = {"type": "http.response.body", "body": b""}


async def bare(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer 202 to anything."""
    if scope["type"] == "http":
        await send(_START)
        await send(_BODY)
        return
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


class Nothing:
    """POST /api/sessions/{session}/reserve/"""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """Accept and forget."""
        resp.status = 202


def with_falcon() -> falcon.asgi.App:
    """The same with Falcon."""
    app = falcon.asgi.App()
    app.req_options.strip_url_path_trailing_slash = True
    app.add_route("/api/sessions/{session}/reserve", Nothing())
    return app
