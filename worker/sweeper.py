"""The sweeper: a small process that drains partitions whose oldest command waits too long, without the broker.

It covers lost doorbells, dead workers and a broker that went deaf, and writes what a cancelled session left to be written. When
Postgres was away it looks whether it came back older. Any number may run; each costs one look every 250 ms. The work is done in a
child: a command may kill whoever decides it, and a safety net that had to be started anew each time would be away for seconds.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import suppress

from core.bootstrap import WorkerServices, prepare, pulse, worker_services
from core.errors import AforoError, Unavailable
from core.pulse import SWEEPER, Pulse
from core.settings import Settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
TOO_OLD_MS = 500
RETRY_SECONDS = 0.25
AGAIN_SECONDS = 0.1  # between a child's death and the next one
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
TIDY_ROWS = 2000  # of a cancelled session at a time: the other sessions' rows are needed too


def sweep(services: WorkerServices) -> int:
    """Drain every partition whose oldest entry is too old. How many commands were dealt with.

    One that fails does not keep the others waiting: the last failure is raised after all had their turn.
    """
    dealt_with, failure = 0, None
    for partition, age_ms in enumerate(services.mailbox.ages_ms(services.lanes)):
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


def run(stop: threading.Event, parent: int | None = None) -> int:
    """Sweep until `stop` is set, or the process `parent` is gone. 1 when the settings cannot be used."""
    settings = prepare("sweeper")
    beats = pulse(settings, SWEEPER)
    beats.start()
    try:
        return _sweep_on(settings, beats, stop, parent)
    finally:
        beats.stop()


def _sweep_on(settings: Settings, beats: Pulse, stop: threading.Event, parent: int | None) -> int:
    services: WorkerServices | None = None
    more = False
    while not stop.wait(0 if more else LOOK_SECONDS) and parent in (None, os.getppid()):
        try:
            if services is None:
                services = worker_services(settings)
                beats.partitions = services.lanes  # type: ignore[assignment]  counts like the number
                services.recheck.begin()
            services.look_at_lanes()
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
    """The process: SIGTERM and SIGINT end it after the batch under way. A child that is killed has another after it."""
    prepare("sweeper")
    asked = threading.Event()
    child = 0

    def stop(*_: object) -> None:
        asked.set()
        with suppress(ProcessLookupError):
            if child:
                os.kill(child, signal.SIGTERM)

    for name in STOP_SIGNALS:
        signal.signal(name, stop)
    parent = os.getpid()
    while True:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # so that none falls between the fork and its pid
        if asked.is_set():
            return 0
        child = os.fork()
        if child == 0:
            os._exit(_child(parent))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code >= 0:
            return code
        child = 0
        log.error("sweeper_killed", extra={"signal": -code})
        asked.wait(AGAIN_SECONDS)


def _child(parent: int) -> int:
    stop = threading.Event()
    for name in STOP_SIGNALS:
        signal.signal(name, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        return run(stop, parent)
    except BaseException:
        log.exception("sweeper_failed")
        return 1


if __name__ == "__main__":
    sys.exit(main())
