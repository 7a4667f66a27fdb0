"""Gunicorn's configuration (`gunicorn --config python:api.server`) and the worker class it runs.

Processes are forked before any connection exists; each builds its own application, from modules that are loaded once for all.
"""

import gc
import logging
import resource
from functools import partial
from typing import ClassVar

from uvicorn_worker import UvicornWorker

import api.app  # noqa: F401  loaded before the fork, so once
from api.browsers import EVERYWHERE
from api.connections import Guard, Limits
from api.protocol import GuardedProtocol
from core import telemetry
from core.settings import load

GRACEFUL_SECONDS = 35  # longer than the longest `Prefer: wait`
OTHER_FILES = 200  # that a process may have open beside its connections

log = logging.getLogger(__name__)
_settings = load()
_guard = Guard(Limits.of(_settings))


class Worker(UvicornWorker):
    """uvicorn on uvloop and httptools, without its own access log, banner or WebSockets."""

    CONFIG_KWARGS: ClassVar[dict[str, object]] = {
        "loop": "uvloop",
        "http": partial(GuardedProtocol, _guard),
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "headers": list(EVERYWHERE),
        "proxy_headers": bool(_settings.trusted_proxies),
        "forwarded_allow_ips": _settings.trusted_proxies,
        "log_config": None,
        "timeout_graceful_shutdown": GRACEFUL_SECONDS,
    }


def post_worker_init(worker: object) -> None:
    """After gunicorn has set its own log handlers up, put everything into one JSON stream."""
    telemetry.configure_logging(_settings.log_level, "api")
    rarely_collect_garbage()
    _guard.allow(open_files(_settings.max_connections + OTHER_FILES) - OTHER_FILES)


def rarely_collect_garbage() -> None:
    """What is there at the start stays, and needs no look; a request leaves hardly any cycles, so seldom is often enough. Worth
    a tenth of what a reserve costs."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


def open_files(wanted: int) -> int:
    """Let this process have so many files open, or as many as the system lets it: how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < possible:
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if possible < wanted:
        log.warning("few_open_files", extra={"allowed": possible, "wanted": wanted})
    return possible


def child_exit(server: object, worker: UvicornWorker) -> None:
    """A process is gone: its gauges with it."""
    telemetry.forget_process(worker.pid)


bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
workers = _settings.api_processes
worker_class = "api.server.Worker"
backlog = 2048
timeout = 60
graceful_timeout = GRACEFUL_SECONDS
keepalive = int(_settings.idle_seconds)
preload_app = False
control_socket_disable = True
accesslog = None
errorlog = "-"
loglevel = "warning"
proc_name = "aforo-api"
