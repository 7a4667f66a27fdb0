"""The usual design: a Falcon endpoint that sends one Celery task a request, a worker that carries each out under a row lock.

Its broker is the same Valkey with the same durability as Aforo's, since its 202 is a promise as well; acknowledged late, so that
a task survives its worker. Connections are pooled, results ignored.
"""

from __future__ import annotations

import os
from typing import Any

import falcon
import psycopg2
from celery import Celery

from tests.bench.peers.transaction import reserve

app = Celery("queued", broker=os.environ.get("PEER_BROKER_URL"))
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
)
_connection: Any = None


@app.task
def reserve_place(session: int, name: str, email: str) -> None:
    """Carry out one request."""
    global _connection
    if _connection is None:
        _connection = psycopg2.connect(os.environ["PEER_DATABASE_URL"])
    reserve(_connection, session, name, email)


class Reserve:
    """POST /api/sessions/{session}/reserve/"""

    def on_post(self, req: falcon.Request, resp: falcon.Response, session: str) -> None:
        """Queue it."""
        wanted = req.get_media()
        task = reserve_place.delay(int(session), wanted["name"], wanted["email"])
        resp.status = 202
        resp.media = {"id": task.id, "status": "queued"}


def create_app() -> falcon.App:
    """What gunicorn serves."""
    application = falcon.App()
    application.req_options.strip_url_path_trailing_slash = True
    application.add_route("/api/sessions/{session}/reserve", Reserve())
    return application
