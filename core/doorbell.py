"""The doorbell: wakes a worker for a partition, through Celery, by the task's name alone.

A publish costs several times a whole request, so it happens on a thread of its own that coalesces; its message carries the
partition and nothing else, and may be lost, doubled or late without harm, because the sweeper looks too.
"""

from __future__ import annotations

import logging
import ssl
import threading
from typing import Any, Final
from urllib.parse import parse_qs

from celery import Celery

from core.telemetry import DOORBELL_FAILURES

log = logging.getLogger(__name__)

TASK = "aforo.drain"
QUEUE = "aforo"
RABBITMQ_SCHEMES: Final = ("amqp", "amqps")


def celery_app(broker_url: str) -> Celery:
    """Celery as Aforo uses it, for the API that rings and the worker that answers. Connects to nothing yet."""
    app = Celery("aforo", broker=_verifying(broker_url), set_as_current=False)
    app.conf.update(_of_rabbitmq(broker_url) if is_rabbitmq(broker_url) else _OF_REDIS)
    app.conf.update(
        accept_content=["json"],
        broker_channel_error_retry=True,
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=2,
        task_acks_late=False,
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_serializer="json",
        worker_prefetch_multiplier=1,
        worker_soft_shutdown_timeout=10,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
    )
    return app


_OF_REDIS: Final[dict[str, Any]] = {
    "broker_transport_options": {
        "health_check_interval": 10,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "socket_timeout": 10,
        "visibility_timeout": 120,
    },
}


def is_rabbitmq(broker_url: str) -> bool:
    """Whether this broker is a RabbitMQ."""
    return broker_url.partition("://")[0] in RABBITMQ_SCHEMES


def _of_rabbitmq(broker_url: str) -> dict[str, Any]:
    """A quorum queue, which several nodes keep together. It counts prefetch for each consumer alone, which Celery sees to.

    Celery also declares queues for tasks that are to wait, of which there are none here: classic ones cost less.
    """
    found: dict[str, Any] = {
        "broker_transport_options": {"write_timeout": 10},
        "broker_native_delayed_delivery_queue_type": "classic",
        "task_default_queue_type": "quorum",
    }
    scheme, _, rest = broker_url.partition("://")
    if scheme == "amqps":
        where, _, query = rest.partition("?")
        given = parse_qs(query).get("ssl_ca_certs", [ssl.get_default_verify_paths().cafile])
        host = where.rpartition("@")[2].partition("/")[0].partition(":")[0]
        found["broker_use_ssl"] = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": given[0], "server_hostname": host}
    return found


def _verifying(url: str) -> str:
    """Celery takes rediss:// without a word on certificates for leave to accept any; everybody else asks for a good one.
    The client of RabbitMQ is told apart from the URL (_of_rabbitmq)."""
    if is_rabbitmq(url):
        return url.partition("?")[0]
    if not url.startswith("rediss://") or "ssl_cert_reqs=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required"


class Doorbell:
    """Rings for partitions from a background thread; `ring` never waits and never fails."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        app.conf.broker_heartbeat = 0  # nobody sends any between rings, and RabbitMQ would hang up
        self._due: set[int] = set()
        self._condition = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def ring(self, partition: int) -> None:
        """Ask that a worker drains `partition`. Rings for a partition that is already due are one ring."""
        with self._condition:
            self._due.add(partition)
            if self._thread is None:  # here and not in the constructor: threads do not survive a fork
                self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
                self._thread.start()
            self._condition.notify()

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Publish what is due, then stop; wakes lost here are the sweeper's."""
        with self._condition:
            self._closing = True
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_seconds)
        self._app.close()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._due and not self._closing:
                    self._condition.wait()
                if not self._due:
                    return
                due, self._due = self._due, set()
            for partition in due:
                self._publish(partition)

    def _publish(self, partition: int) -> None:
        try:
            self._app.send_task(TASK, args=(partition,), queue=QUEUE, retry=False, ignore_result=True)
        except Exception as exc:
            # Whatever ails the broker, the command is safe in its mailbox and the sweeper will find it.
            DOORBELL_FAILURES.inc()
            log.warning("doorbell_failed", extra={"partition": partition, "reason": type(exc).__name__})
