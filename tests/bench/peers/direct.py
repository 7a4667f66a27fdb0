"""The usual design without a queue: a synchronous Falcon endpoint that takes the row lock itself, with pooled connections."""

from __future__ import annotations

import os
from contextlib import contextmanager
from queue import LifoQueue
from typing import Any

import falcon
import psycopg2

from tests.bench.peers.transaction import reserve

POOL = int(os.environ.get("PEER_THREADS", "8"))


class Pool:
    """As many connections as there are threads, opened when first needed."""

    def __init__(self) -> None:
        self._free: LifoQueue[Any] = LifoQueue()
        for _ in range(POOL):
            self._free.put(None)

    @contextmanager
    def connection(self) -> Any:
        """One of them, for a while."""
        connection = self._free.get()
        try:
            if connection is None:
                connection = psycopg2.connect(os.environ["PEER_DATABASE_URL"])
            yield connection
        finally:
            self._free.put(connection)


class Reserve:
    """POST /api/sessions/{session}/reserve/"""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def on_post(self, req: falcon.Request, resp: falcon.Response, session: str) -> None:
        """Do it, and answer with the outcome."""
        wanted = req.get_media()
        with self._pool.connection() as connection:
            outcome = reserve(connection, int(session), wanted["name"], wanted["email"])
        resp.status = 201 if outcome == "confirmed" else 409
        resp.media = {"outcome": outcome}


def create_app() -> falcon.App:
    """What gunicorn serves."""
    application = falcon.App()
    application.req_options.strip_url_path_trailing_slash = True
    application.add_route("/api/sessions/{session}/reserve", Reserve(Pool()))
    return application
