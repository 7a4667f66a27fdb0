"""What is noticed outside of a batch, and only lost data can cause: it is said everywhere, in the log, the metrics and Postgres.

What a batch notices is written down in its own transaction (core/service.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from core import telemetry
from core.numbering import Incident

log = logging.getLogger(__name__)


def say(incident: Incident, partition: int) -> None:
    """In the log and the metrics."""
    log.error(incident.kind, extra={"partition": partition, "session_id": incident.session_id, **incident.detail})
    telemetry.INCIDENTS.labels(incident.kind).inc()


class Incidents:
    """Says those of an API process, and knows those that are still being written down."""

    def __init__(self, write: Callable[[Incident, int], Awaitable[None]]) -> None:
        """`write(incident, partition)` keeps it in Postgres."""
        self._write = write
        self._recording: set[asyncio.Task[None]] = set()

    async def record(self, incident: Incident, partition: int) -> None:
        """Say it everywhere: log, metrics, Postgres."""
        say(incident, partition)
        await self._write(incident, partition)

    def redis_went_back(self, partition: int, accepted: int, found: int) -> None:
        """Redis counts fewer commands of a partition than this process saw accepted. Nobody waits for it to be written down."""
        incident = Incident("redis_went_back", None, {"accepted": accepted, "found": found})
        task = asyncio.create_task(self.record(incident, partition))
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)
