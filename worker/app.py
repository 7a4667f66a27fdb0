"""Celery's entry point: `celery --app worker.app worker`. Connections are made after fork, one set a process."""

from __future__ import annotations

import gc
import mmap
import threading
from contextlib import suppress
from typing import Any

from celery import signals

from core.bootstrap import WorkerServices, prepare, pulse, worker_services
from core.doorbell import celery_app
from core.errors import AforoError
from core.pulse import WORKER, Pulse
from worker.tasks import register

GC_THRESHOLDS = (20_000, 50, 50)

_settings = prepare("worker")
app = celery_app(_settings.celery_broker)
_leaving = mmap.mmap(-1, 1)  # the pool's processes are forked later, and see what is written here
_wiring = threading.Lock()
_services: WorkerServices | None = None
_pulse: Pulse | None = None


def services() -> WorkerServices:
    """This process's services, wired when they are first asked for."""
    global _services
    with _wiring:
        if _services is None:
            _services = worker_services(_settings, is_leaving=is_leaving)
            gc.collect()
            gc.freeze()  # what was imported stays; looking through it again took a tenth of a worker's time
            gc.set_threshold(*GC_THRESHOLDS)
        return _services


@signals.setup_logging.connect
def _keep_our_logging(**_: Any) -> None:
    """Connected so that Celery leaves the root logger alone."""


def is_leaving() -> bool:
    """Whether this worker, of which we are a process, is asked to end."""
    return _leaving[0] != 0


@signals.worker_shutting_down.connect
def _leave(**_: Any) -> None:
    """Celery waits for tasks to end, and does not tell them: while commands keep coming, one would stay for seconds."""
    _leaving[0] = 1


@signals.worker_process_init.connect
def _begin(**_: Any) -> None:
    global _pulse
    _pulse = pulse(_settings, WORKER)
    _pulse.start()
    threading.Thread(target=_wire_early, name="wiring", daemon=True).start()


def _wire_early() -> None:
    """So that the first command need not wait for it. Beside the start: Celery gives up processes that take long."""
    with suppress(AforoError):  # the first task meets it again, and says so
        services()


@signals.worker_process_shutdown.connect
def _close(**_: Any) -> None:
    if _pulse is not None:
        _pulse.stop()
    if _services is not None:
        _services.close()


register(app, services)
