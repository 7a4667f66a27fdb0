"""Named points at which a test can end the process, or break a call, exactly there. In production every one is a no-op.

A point is armed by `AFORO_CRASH_AT=name`, `name=subject` (only for that subject) or `name#3` (the third time), or in a
test by `arm` with an action of its own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

POINTS = (
    "accepted",  # api: the script has run, nobody has rung and nobody has answered
    "after_read",  # worker: a batch was taken from the mailbox
    "deciding",  # worker: one command is about to be decided; its subject is the e-mail key
    "mid_transaction",  # worker: reservations are written, the ledger is not
    "before_commit",
    "after_commit",  # worker: applied, not yet published; also "before publish"
    "between_publishes",  # worker: the first part of a batch is published
    "after_publish",
    "after_giving_back",  # forget: a cancel is queued for each live reservation
    "mid_erasure",  # forget: in one session's transaction, reservations are rewritten, the ledger is not
    "after_erasure",  # forget: one session is committed
    "before_cleaning",  # forget, prune: only the files of Redis and Postgres are left to do
    "after_mark",  # prune: some sessions are marked, all their rows are there
    "intended",  # repartition: the new number is written down, the door is open
    "shut",  # repartition: the door is shut, commands wait
    "emptied",  # repartition: nothing waits, the heads are there
    "without_heads",  # repartition: nothing is left that knows the old number
    "switched",  # repartition: Postgres has the new number
    "opening",  # repartition: what was shown before is in doubt, the door is shut
    "opened",  # repartition: the door is open, the intention is still written down
    "mid_prune",  # prune: after each step of deleting
)


@dataclass(slots=True)
class _Armed:
    subject: str | None
    countdown: int
    action: Callable[[], None]


_armed: dict[str, _Armed] = {}


def kill_this_process() -> None:
    """End this process as a power cut would: no handler, no flush, no goodbye."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(spec: str, action: Callable[[], None] = kill_this_process) -> None:
    """Arm one point. `spec` is `name`, `name=subject` or `name#n`. Raises ValueError for an unknown name."""
    name, _, subject = spec.partition("=")
    name, _, count = name.partition("#")
    if name not in POINTS:
        raise ValueError(f"no crash point is called {name!r}; there are: {', '.join(POINTS)}")
    _armed[name] = _Armed(subject or None, int(count or 1), action)


def disarm() -> None:
    """Make every point a no-op again."""
    _armed.clear()


def is_armed(name: str) -> bool:
    """Whether `reach(name)` could do anything: spares a loop over subjects in production."""
    return name in _armed


def reach(name: str, subject: str | None = None) -> None:
    """Pass a point. Does nothing unless a test armed it."""
    point = _armed.get(name)
    if point is None or (point.subject is not None and point.subject != subject):
        return
    point.countdown -= 1
    if point.countdown == 0:
        if point.subject is not None:
            point.countdown = 1  # before the action, which may raise
        point.action()
