"""The rows of a batch as Postgres reads them: lines for COPY, arrays for `unnest`, both written here as text.

That is quicker than a driver's literals. What a row holds in which order stands beside the statements in core/transaction.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from core.model import Reservation, Verdict
from core.numbering import Incident

_json = msgspec.json.Encoder().encode


def reservation_line(r: Reservation) -> str:
    """A line of COPY_RESERVATIONS."""
    name, email, email_key, client = r.name, r.email, r.email_key, r.client
    if not _is_plain(f"{name}{email}{email_key}{client}"):
        name, email, email_key, client = map(_text, (name, email, email_key, client))
    cancelled_at, checked_in_at = time_text(r.cancelled_at), time_text(r.checked_in_at)
    return (
        f"{r.id}\t{r.session_id}\t{name}\t{email}\t{email_key}\t{r.seats}\t{r.status}\t{r.seq}\t{client}"
        f"\t{time_text(r.created_at)}\t{cancelled_at}\t{_or_null(r.rank)}\t{checked_in_at}\n"
    )


def job_line(v: Verdict, batch: int, applied_at: str) -> str:
    """A line of COPY_JOBS."""
    c = v.command
    arguments = _text(_json(c.arguments).decode()) if c.arguments is not None else "{}"
    effects = _text(_json(v.effects).decode())
    reservation, accepted_seq = _or_null(v.reservation_id), _or_null(c.accepted_seq)
    return (
        f"{c.job_id}\t{c.session_id}\t{c.seq}\t{c.kind}\t{arguments}\t{_text(c.client)}\t{c.body_hash}\t{batch}\t{v.outcome}"
        f"\t{effects}\t{reservation}\t{c.position}\t{accepted_seq}\t{_or_null(c.replay_of)}\t{time_text(c.accepted_at)}\t{applied_at}\n"
    )


def reservation_arrays(rows: Sequence[Reservation]) -> tuple[str, ...]:
    """The columns of new reservations, as `write_batch` takes them."""
    return (
        array([r.id for r in rows]),
        array([r.session_id for r in rows]),
        texts([r.name for r in rows]),
        texts([r.email for r in rows]),
        texts([r.email_key for r in rows]),
        array([r.seats for r in rows]),
        array([r.status for r in rows]),
        array([r.seq for r in rows]),
        texts([r.client for r in rows]),
        array([time_text(r.created_at) for r in rows]),
        _scarce([r.cancelled_at and time_text(r.cancelled_at) for r in rows]),
        _scarce([r.rank for r in rows]),
        _scarce([r.checked_in_at and time_text(r.checked_in_at) for r in rows]),
    )


def job_arrays(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """The columns of ledger rows, as `write_batch` takes them; all but what is the same in a whole batch."""
    commands = [v.command for v in verdicts]
    return (
        array([c.job_id for c in commands]),
        array([c.session_id for c in commands]),
        array([c.seq for c in commands]),
        array([c.kind for c in commands]),
        texts([_json(c.arguments).decode() if c.arguments is not None else "{}" for c in commands]),
        texts([c.client for c in commands]),
        texts([c.body_hash for c in commands]),
        array([v.outcome for v in verdicts]),
        texts([_json(v.effects).decode() for v in verdicts]),
        _scarce([v.reservation_id for v in verdicts]),
        array([c.position for c in commands]),
        _scarce([c.accepted_seq for c in commands]),
        _scarce([c.replay_of for c in commands]),
        array([time_text(c.accepted_at) for c in commands]),
    )


def incident_columns(incidents: Sequence[Incident], partition: int) -> tuple[list[Any], ...]:
    """What INSERT_INCIDENTS takes."""
    rows = [(i.kind, partition, i.session_id, msgspec.json.encode(i.detail).decode()) for i in incidents]
    return tuple(map(list, zip(*rows, strict=True)))


def array(values: Sequence[object]) -> str:
    """Numbers or ids as Postgres reads an array from text, which is quicker than a list of literals."""
    return f"{{{','.join(map(str, values))}}}"


def texts(values: Sequence[str]) -> str:
    """The same of any texts."""
    joined = '","'.join(values)
    if "\\" in joined or joined.count('"') != 2 * len(values) - 2:
        joined = '","'.join([value.replace("\\", "\\\\").replace('"', '\\"') for value in values])
    return f'{{"{joined}"}}' if values else "{}"


def _scarce(values: Sequence[object]) -> str:
    """The same of numbers, ids or times, of which most are missing as a rule; `unnest` takes what is not there for NULL."""
    if not any(values):
        return "{}"
    return array(["NULL" if value is None else value for value in values])


def columns(rows: Sequence[Any], *names: str) -> tuple[list[Any], ...]:
    """These columns of the rows."""
    return tuple([getattr(row, name) for row in rows] for name in names)


def _is_plain(value: str) -> bool:
    """Whether there is nothing in it that COPY would read as something else."""
    return value.isprintable() and "\\" not in value


def _text(value: str) -> str:
    if _is_plain(value):
        return value
    if "\\" in value or "\t" in value or "\n" in value or "\r" in value:
        value = value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    return value


def _or_null(value: object) -> str:
    return "\\N" if value is None else str(value)


@lru_cache(maxsize=4096)  # commands come many in a millisecond, and each is written with its time twice
def time_text(ms: int | None) -> str:
    """A moment as Postgres reads it, or what stands for none."""
    return "\\N" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
