"""Gunicorn's configuration (`gunicorn --config python:api.server`) and the worker class it runs.

Processes are forked before any connection exists; each builds its own application.
"""

from typing import ClassVar

from uvicorn_worker import UvicornWorker

from core import telemetry
from core.settings import load

GRACEFUL_SECONDS = 35  # longer than the longest `Prefer: wait`

_settings = load()


class Worker(UvicornWorker):
    """uvicorn on uvloop and httptools, without its own access log, banner or WebSockets."""

    CONFIG_KWARGS: ClassVar[dict[str, object]] = {
        "loop": "uvloop",
        "http": "httptools",
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "log_config": None,
        "timeout_graceful_shutdown": GRACEFUL_SECONDS,
    }


def post_worker_init(worker: object) -> None:
    """After gunicorn has set its own log handlers up, put everything into one JSON stream."""
    telemetry.configure_logging(_settings.log_level, "api")


def child_exit(server: object, worker: UvicornWorker) -> None:
    """A process is gone: its gauges with it."""
    telemetry.forget_process(worker.pid)


bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
workers = _settings.api_processes
worker_class = "api.server.Worker"
backlog = 2048
timeout = 60
graceful_timeout = GRACEFUL_SECONDS
keepalive = 75
preload_app = False
control_socket_disable = True
accesslog = None
errorlog = "-"
loglevel = "warning"
proc_name = "aforo-api"
