"""Logs and metrics. Logs are JSON lines on stderr with request and job ids, never a name or an e-mail address.

Metrics are Prometheus's, shared by the processes of a host through the folder AFORO_METRICS_DIR.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

# prometheus_client decides at its import whether processes share their values.
if os.environ.get("AFORO_METRICS_DIR"):
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", os.environ["AFORO_METRICS_DIR"])

import prometheus_client
import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, multiprocess, values

from core.countfiles import CountFile

if TYPE_CHECKING:
    from core.model import Verdict
    from core.numbering import Incident

_HOST = socket.gethostname()


@lru_cache(maxsize=16)
def _named(pid: int) -> str:
    return f"{_HOST}-{pid}"


if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    # Hosts may share the folder (containers do): a pid alone would not name a process. Asked for at every count, so kept.
    values.MmapedDict = CountFile
    values.ValueClass = values.MultiProcessValue(lambda: _named(os.getpid()))
    for module in (prometheus_client.metrics,):
        module.values.ValueClass = values.ValueClass

LATENCY_SECONDS = (0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1, 2, 5, 10, 30)


class Tally:
    """A counter for what happens thousands of times a second: added up in memory, and handed on in groups by `flush_tallies`,
    because counting at Prometheus's costs microseconds each time."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str, count: int = 1) -> None:
        """One more, or so many."""
        self._counts[labels] = self._counts.get(labels, 0) + count

    def flush(self) -> None:
        """Hand on what was added up."""
        counts, self._counts = self._counts, {}
        for labels, count in counts.items():
            self._counter.labels(*labels).inc(count)


REQUESTS = Tally(Counter("aforo_http_requests_total", "Requests answered.", ["method", "status"]))
ACCEPTED = Tally(Counter("aforo_accepted_total", "Commands accepted (a 202 was earned).", ["kind"]))
READS = Tally(Counter("aforo_reads_total", "Sessions and lists shown, by what that took: kept, looked_at, read.", ["how"]))
REFUSED_AT_DOOR = Tally(Counter("aforo_not_accepted_total", "Commands not accepted, by why.", ["code"]))
RATE_LIMITED = Counter("aforo_rate_limited_total", "Requests refused because their key or address had sent too many.")
WAITS_NOT_HONOURED = Counter("aforo_waits_not_honoured_total", "Requests answered at once: their caller had too many waiting.")
CONNECTIONS_ENDED = Counter("aforo_connections_ended_total", "Connections ended by a limit, by which.", ["why"])
ACCEPT_SECONDS = Histogram("aforo_accept_seconds", "From a request's start to its durable acceptance.", buckets=LATENCY_SECONDS)
APPLIED = Counter("aforo_applied_total", "Commands applied.", ["kind", "outcome"])
_BATCH_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)
BATCH_SIZE = Histogram("aforo_batch_size", "Commands in one transaction.", buckets=_BATCH_SIZES)
OUTCOME_SECONDS = Histogram(
    "aforo_accept_to_outcome_seconds", "From acceptance to the published outcome.", buckets=LATENCY_SECONDS
)
INCIDENTS = Counter("aforo_incidents_total", "What only lost data can cause: look at it.", ["kind"])
DOORBELL_FAILURES = Counter("aforo_doorbell_failures_total", "Wake-ups that the broker did not take; the sweeper covers them.")


@dataclass(frozen=True, slots=True)
class Applied:
    """What was applied in a while: outcomes by kind and name, and how many took how long, by the buckets of LATENCY_SECONDS."""

    outcomes: dict[tuple[str, str], int]
    buckets: list[int]


class Lately:
    """What this process has applied since it was last asked; see core/pulse.py."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: dict[tuple[str, str], int] = {}
        self._buckets = [0] * (len(LATENCY_SECONDS) + 1)

    def add(self, outcomes: Mapping[tuple[str, str], int], buckets: Sequence[int]) -> None:
        """A batch was published."""
        with self._lock:
            for name, count in outcomes.items():
                self._outcomes[name] = self._outcomes.get(name, 0) + count
            for bucket, count in enumerate(buckets):
                self._buckets[bucket] += count

    def take(self) -> Applied:
        """All of it, which begins anew."""
        with self._lock:
            taken = Applied(self._outcomes, self._buckets)
            self._outcomes, self._buckets = {}, [0] * (len(LATENCY_SECONDS) + 1)
        return taken


LATELY = Lately()
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def applied(verdicts: Sequence[Verdict], incidents: Iterable[Incident]) -> None:
    """Count a published batch."""
    if verdicts:
        BATCH_SIZE.observe(len(verdicts))
    now_ms = time.time() * 1000
    outcomes: dict[tuple[str, str], int] = {}
    seconds: list[float] = []
    for verdict in verdicts:
        name = (verdict.command.kind, verdict.outcome)
        outcomes[name] = outcomes.get(name, 0) + 1
        seconds.append(max(0.0, now_ms - verdict.command.accepted_at) / 1000)
    LATELY.add(outcomes, observe_all(OUTCOME_SECONDS, seconds))
    for (kind, outcome), count in outcomes.items():
        APPLIED.labels(kind, outcome).inc(count)
    for incident in incidents:
        INCIDENTS.labels(incident.kind).inc()


def observe_all(histogram: Histogram, values: Sequence[float]) -> list[int]:
    """What `observe` does for each value, at a cost of the number of buckets; the client library only takes one at a time.
    How many fell into each bucket."""
    if not values:
        return []
    bounds = histogram._upper_bounds
    counts = [0] * len(bounds)
    for value in values:
        counts[bisect_left(bounds, value)] += 1
    histogram._sum.inc(sum(values))
    for bucket, count in zip(histogram._buckets, counts, strict=True):
        if count:
            bucket.inc(count)
    return counts


def flush_tallies() -> None:
    """Hand on what this process has added up."""
    global _accept_seconds
    for tally in (REQUESTS, READS, ACCEPTED, REFUSED_AT_DOOR):
        tally.flush()
    values, _accept_seconds = _accept_seconds, []
    observe_all(ACCEPT_SECONDS, values)


_accept_seconds: list[float] = []


def accepted_within(seconds: float) -> None:
    """Note how long an acceptance took; see `flush_tallies`."""
    _accept_seconds.append(seconds)


def metrics_text() -> bytes:
    """All processes' metrics in Prometheus's text format."""
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return prometheus_client.generate_latest()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return prometheus_client.generate_latest(registry)


def forget_process(pid: int) -> None:
    """A process of this host ended: its live gauges end with it."""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        multiprocess.mark_process_dead(_named(pid))


def _add_request_id(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    current = request_id.get()
    if current is not None:
        event.setdefault("request_id", current)
    return event


def configure_logging(level: str, process: str) -> None:
    """Send every log line of this process, also its libraries', to stderr as JSON."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request_id,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            lambda _logger, _method, event: {"process": process, "pid": os.getpid(), **event},
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("alembic", "celery", "kombu", "amqp", "sqlalchemy", "uvicorn", "gunicorn", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
