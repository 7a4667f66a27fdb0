"""API processes without their servers, inside the test's own process: whole applications on one deployment, asked directly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from falcon.testing import ASGIConductor
from sqlalchemy import event

from api.app import create_app
from core.bootstrap import ApiServices
from tests.support.http import SESSION
from tests.support.stack import Deployment


class Process:
    """What an API process has, without its server; counts the statements it sends to Postgres."""

    def __init__(self, deployment: Deployment, **settings: Any) -> None:
        self.services = ApiServices(deployment.settings(log_level="warning", **settings))
        self.app = create_app(self.services)
        self.http = ASGIConductor(self.app)
        self.statements: list[str] = []
        event.listen(self.services.queries._engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        self.statements.append(statement)

    async def status(self, path: str, **more: Any) -> int:
        answer = await (self.http.simulate_post if more else self.http.simulate_get)(path, **more)
        return answer.status_code

    async def new_session(self, **fields: Any) -> int:
        answer = await self.http.simulate_post("/api/sessions/", json={**SESSION, "capacity": 10, **fields})
        return answer.json["id"]

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[bytes, bytes], Any]:
        """Status, headers and body of an answer, at less cost than Falcon's own client has."""
        sent: list[dict[str, Any]] = []
        content = b"" if body is None else msgspec.json.encode(body)
        given = {"host": "test", "content-type": "application/json", "content-length": str(len(content)), **headers}
        place, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method, "path": place,
            "raw_path": place.encode(), "query_string": query.encode(), "root_path": "", "client": ("127.0.0.1", 5),
            "server": ("127.0.0.1", 8000),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()],
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(event: dict[str, Any]) -> None:
            sent.append(event)

        await self.app(scope, receive, send)
        text = b"".join([event.get("body", b"") for event in sent[1:]])
        return sent[0]["status"], dict(sent[0]["headers"]), msgspec.json.decode(text) if text else None

    async def get(self, path: str, **headers: str) -> Any:
        """The body of what must be a 200."""
        status, _, body = await self.ask("GET", path, **headers)
        assert status == 200, (status, body)
        return body


Run = Callable[[Process, Process], Awaitable[None]]


def with_two(deployment: Deployment, what: Run, **settings: Any) -> None:
    """Run something with two processes of one deployment."""

    async def whole() -> None:
        async with AsyncExitStack() as running:
            both = [Process(deployment, **settings) for _ in range(2)]
            for one in both:
                await running.enter_async_context(one.http)
            await what(*both)

    asyncio.run(whole())
