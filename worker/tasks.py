"""Celery tasks. Each calls one use case; what it needs comes in, nothing is built here."""

from __future__ import annotations

import logging
from collections.abc import Callable

from celery import Celery

from core.bootstrap import WorkerServices
from core.doorbell import TASK
from core.errors import AforoError

log = logging.getLogger(__name__)


def register(app: Celery, services: Callable[[], WorkerServices]) -> None:
    """Define the tasks on `app`."""

    @app.task(name=TASK)
    def drain(partition: int) -> None:
        """Drain a partition and what else flows; what cannot be done now is the sweeper's to try again."""
        try:
            found = services()
            if partition >= found.lanes.now:  # there are more than when this process last looked
                found.look_at_lanes()
            found.rounds(partition)
        except AforoError as exc:
            log.warning("drain_interrupted", extra={"partition": partition, "reason": str(exc)})
