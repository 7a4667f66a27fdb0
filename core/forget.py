"""Forgetting one person: the use case behind `aforo forget`. Every step may be the last one before a crash: run it again.

What was accepted before it began is applied first, so that nothing of the person comes after it; then each session of theirs
is rewritten in a transaction of its own, then Redis and the files of both servers lose what they still hold.
"""

from __future__ import annotations

import ast
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.crashpoints import reach
from core.erasure import Erasure, Live
from core.errors import StillLive
from core.model import Session, partition_of_session
from core.scrub import Scrub
from core.settle import Settle

CANCEL_ROUNDS = 3  # somebody may reserve again in between
SHOWN_SESSIONS = 20


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was erased. `log_rewritten`: Redis has an append-only file, and it was written anew."""

    sessions: int
    reservations: int
    jobs: int
    unreadable: int
    cancelled: int
    log_rewritten: bool


class Forget:
    """Erases one person's name and address everywhere."""

    def __init__(
        self,
        erasure: Erasure,
        scrub: Scrub,
        settle: Settle,
        session: Callable[[int], Session | None],
        give_back: Callable[[Sequence[Live]], None],
        partitions: int,
    ) -> None:
        """`session(id)` reads one as Postgres has it; `give_back(reservations)` queues a cancel for each."""
        self._erasure = erasure
        self._scrub = scrub
        self._settle = settle
        self._session = session
        self._give_back = give_back
        self._partitions = partitions

    def __call__(self, email_key: str, cancel: bool, rewrite: bool) -> Forgotten:
        """Forget whoever has this address. With `cancel`, give back first what they hold; with `rewrite`, see Erasure.clean.

        Raises NotOwner, StillLive (nothing is erased then, or only in other sessions), StillSeen, Unavailable, and what
        `give_back` raises.
        """
        self._erasure.check_rights()
        self._settle(range(self._partitions))
        sessions = self._erasure.sessions_naming(email_key)
        cancelled = self._give_all_back(email_key, sessions, cancel)
        erased = [self._forget_in(session_id, email_key) for session_id in sessions]
        unreadable = self._erasure.forget_unreadable(lambda content: mentions(content, email_key))
        self._scrub.begin_era()  # also for those of a run that broke off
        reach("before_cleaning")
        self._settle.leave_nothing_behind(range(self._partitions))
        log_rewritten = self._scrub.rewrite_log()
        self._erasure.clean(rewrite)
        reservations, jobs = (sum(counts) for counts in zip(*erased, strict=True)) if erased else (0, 0)
        return Forgotten(len(sessions), reservations, jobs, unreadable, cancelled, log_rewritten)

    def _give_all_back(self, email_key: str, sessions: Sequence[int], cancel: bool) -> int:
        """Cancel what is live, if that is asked for. How many. Raises StillLive where it cannot be, or must not."""
        cancelled = 0
        for _ in range(CANCEL_ROUNDS):
            live = self._erasure.live(email_key, sessions)
            if not live:
                return cancelled
            under_way = [one.session_id for one in live if one.has_started]
            if under_way:
                raise StillLive(f"They have places in sessions that have begun: {_listed(under_way)}. Wait until those are over.")
            if not cancel:
                break
            self._give_back(live)
            reach("after_giving_back")
            self._settle({partition_of_session(one.session_id, self._partitions) for one in live})
            cancelled += len(live)
        raise _still_live([one.session_id for one in live])

    def _forget_in(self, session_id: int, email_key: str) -> tuple[int, int]:
        """Forget them in one session. How many reservations and jobs that changed."""
        partition = partition_of_session(session_id, self._partitions)
        erased = self._erasure.forget(partition, session_id, email_key, self._scrub.renew_jobs)
        reach("after_erasure")
        self._settle.look_again(partition)
        if erased is None:  # reserved again since we looked
            raise _still_live([session_id])
        now = self._session(session_id)
        if now is not None:  # a worker that stalled may still publish what it had read before; then it is old
            self._scrub.raise_head(now)
            self._scrub.renew_jobs(erased.jobs)
        return erased.reservations, len(erased.jobs)


def mentions(content: bytes, email_key: str) -> bool:
    """Whether something that was set aside holds this address, however it is written: rather once too often than too rarely."""
    local, _, domain = email_key.rpartition("@")
    wanted = {email_key, f"{local}@{_unicode(domain)}"}
    return any(address in text for text in _readings(content) for address in wanted)


def _readings(content: bytes) -> list[str]:
    """The texts in it: as it is, and, where it shows a mailbox entry as Python does, what that says."""
    parts = [content]
    if content.startswith(b"{b"):
        try:
            found = ast.literal_eval(content.decode("ascii", "strict"))
            parts += [part for pair in found.items() for part in pair]
        except (ValueError, SyntaxError, AttributeError):
            pass
    return [unicodedata.normalize("NFC", part.decode("utf-8", "replace").casefold()) for part in parts]


def _unicode(domain: str) -> str:
    try:
        return domain.encode("ascii").decode("idna")
    except UnicodeError:
        return domain


def _still_live(sessions: Sequence[int]) -> StillLive:
    return StillLive(f"They have places in sessions that are not over: {_listed(sessions)}. Cancel them first, or use --cancel.")


def _listed(sessions: Sequence[int]) -> str:
    shown = ", ".join(str(session_id) for session_id in sessions[:SHOWN_SESSIONS])
    return shown if len(sessions) <= SHOWN_SESSIONS else f"{shown} and {len(sessions) - SHOWN_SESSIONS} more"
