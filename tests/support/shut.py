"""An API that turns away whoever it may: the real gate before an application that takes anything. For gunicorn, as `shut:app`."""

from __future__ import annotations

from typing import Any

from api.gate import Gate
from core.door import Door

_START = {"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"0")]}
_BODY = {"type": "http.response.body", "body": b""}


class _Full:
    is_limited = is_full = True

    def look(self, _late_seconds: float) -> None:
        pass


async def _anything(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send(_START)
        await send(_BODY)
        return
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


door: Door = _Full()  # type: ignore[assignment]
app = Gate(_anything, door)
