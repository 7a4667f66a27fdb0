"""The sweeper: a small process that drains partitions whose oldest command waits too long, without the broker.

It covers lost doorbells, dead workers and a broker that went deaf, and writes what a cancelled session left to be written. When
Postgres was away it looks whether it came back older. Any number may run; each costs one look every 250 ms.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading

from core.bootstrap import WorkerServices, prepare, worker_services
from core.errors import AforoError, Unavailable

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
TOO_OLD_MS = 500
RETRY_SECONDS = 0.25
TIDY_ROWS = 2000  # of a cancelled session at a time: the other sessions' rows are needed too


def sweep(services: WorkerServices) -> int:
    """Drain every partition whose oldest entry is too old. How many commands were dealt with.

    One that fails does not keep the others waiting: the last failure is raised after all had their turn.
    """
    dealt_with, failure = 0, None
    for partition, age_ms in enumerate(services.mailbox.ages_ms(services.settings.partitions)):
        if age_ms is not None and age_ms > TOO_OLD_MS:
            try:
                dealt_with += services.drain(partition)
            except Exception as exc:
                failure = exc
    if failure is not None:
        raise failure
    return dealt_with


def tidy(services: WorkerServices) -> bool:
    """Write a part of what cancelled sessions left to be written. Whether there may be more of it."""
    return services.store.tidy(TIDY_ROWS) > 0


def run(stop: threading.Event) -> int:
    """Sweep until `stop` is set. 1 when the settings cannot be used."""
    settings = prepare("sweeper")
    services: WorkerServices | None = None
    more = False
    while not stop.wait(0 if more else LOOK_SECONDS):
        try:
            if services is None:
                services = worker_services(settings)
                services.recheck.begin()
            count = sweep(services)
            if count:
                log.warning("swept", extra={"commands": count})
            more = tidy(services)
            more = services.recheck.step() or more
        except Unavailable as exc:
            log.warning("sweep_interrupted", extra={"reason": str(exc)})
            if services is not None:
                services.recheck.begin()
            stop.wait(RETRY_SECONDS)
        except AforoError as exc:
            log.error("sweeper_cannot_run", extra={"reason": str(exc)})
            return 1
        except Exception:
            # A batch that fails for its own reasons is tried command by command next time, and set aside if need be.
            log.exception("sweep_failed")
    if services is not None:
        services.close()
    return 0


def main() -> int:
    """The process: SIGTERM and SIGINT end it after the batch under way."""
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    return run(stop)


if __name__ == "__main__":
    sys.exit(main())
