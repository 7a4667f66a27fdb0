"""The worker's use case: `Drain` applies what waits in a partition's mailbox, decided batch by batch, each in one transaction.

It speaks to ports (`Protocol`s), not to drivers, so that a test can place a fault exactly; bootstrap wires the real ones. The
API's use case is core/submit.py.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from core import telemetry
from core.applied import Applied, Share
from core.crashpoints import is_armed, reach
from core.decide import FREEING, Decision, PersonKey, State, decide, may_demote
from core.entries import Entry, Unreadable
from core.errors import Unavailable
from core.mailbox import BATCH, NO_MARKS, PORTION, PORTION_LIMIT, Publication, Sending, Sight, Taken
from core.model import (
    CANCEL,
    CONFIGURE,
    MOVES_MAX,
    SEATS_MAX,
    UNSET,
    Arguments,
    Command,
    ConfigureArguments,
    GroupArguments,
    Job,
    Reservation,
    ReserveArguments,
    Session,
    people_of,
    replay_id,
)
from core.numbering import NOTHING_LOADED, Incident, Known, Loaded, Numbered, number
from core.waitlist import WaitlistNeed, Window

log = logging.getLogger(__name__)

DEATHS_TO_QUARANTINE = 3
DRAIN_SECONDS = 0.1  # then the next partition gets its turn
AHEAD_SECONDS = 1.0  # so old may be what was taken before the lock: it must not outlive the ledger's rows of it (`aforo prune`)
NEVER = sys.maxsize
Counts = dict[int, tuple[int, int]]  # by partition: commands dealt with, and left


class BatchPort(Protocol):
    """One transaction under a partition's lock: see core.store.Batch."""

    applied_at: int
    partitions: tuple[int, ...]  # whose locks it has
    ahead: Loaded | None  # what was asked for with the locks, if it has all of them

    def load(self, commands: Sequence[Command]) -> Loaded: ...
    def known(self, job_ids: Sequence[str]) -> dict[str, tuple[Job, Known]]: ...
    def waitlists(self, needs: Iterable[WaitlistNeed]) -> dict[int, Window]: ...
    def newest_confirmed(self, session_id: int, limit: int) -> list[Reservation]: ...
    def write(self, decision: Decision) -> None: ...
    def jobs_of(self, reservations: Sequence[Reservation]) -> list[Job]: ...
    def jobs_touched_by(self, job_ids: Sequence[str]) -> list[Job]: ...
    def record_incidents(self, partition: int, incidents: Sequence[Incident]) -> None: ...
    def set_aside(self, partition: int, unreadable: Sequence[Unreadable]) -> None: ...


class StorePort(Protocol):
    """See core.store.Store."""

    def batch(self, *partitions: int, ahead: Sequence[Command] = ()) -> AbstractContextManager[BatchPort | None]: ...


class MailboxPort(Protocol):
    """See core.mailbox.Mailbox."""

    def take(
        self, partitions: Sequence[int], limit: int, only_free: bool = False, behind: Mapping[int, str] = NO_MARKS
    ) -> dict[int, Taken]: ...
    def send(self, news: Mapping[int, Publication]) -> Sending: ...
    def name(self, partition: int, stream_id: str) -> int: ...
    def narrow(self, partition: int, stream_id: str) -> None: ...
    def forgive(self, partition: int, way: str) -> None: ...
    def publish(self, news: Mapping[int, Publication], around: Sequence[int] = ()) -> tuple[dict[int, int], list[Sight]]: ...


class Drain:
    """Applies what waits in a partition's mailbox, batch by batch, each in one transaction."""

    def __init__(self, store: StorePort, mailbox: MailboxPort, batch_size: int, ring: Callable[[int], None]) -> None:
        self._store = store
        self._mailbox = mailbox
        self.batch_size = batch_size
        self._ring = ring
        self._pace: dict[int, float] = {}
        self.in_doubt: set[int] = set()  # partitions over which somebody died, and which this one is trying in parts

    def __call__(self, partition: int) -> int:
        """Drain one partition until it is empty, somebody else has it, or its turn is over. How many commands were dealt with.

        Raises Unavailable when Postgres or Redis cannot serve; the commands stay in the mailbox.
        """
        until = time.monotonic() + DRAIN_SECONDS
        dealt_with = 0
        while True:
            count, left = self.batch(partition)
            dealt_with += count
            if not left:
                return dealt_with
            if time.monotonic() > until:
                self._ring(partition)
                return dealt_with

    def batch(self, partition: int, keep_from: int = NEVER) -> tuple[int, int]:
        """Apply one batch. How many commands were dealt with, and how many are left; none of either if somebody else is at it.

        From `keep_from` commands on the bell is kept also when nothing is left: whoever asked for that will look again.
        """
        return self.together((partition,), keep_from).get(partition, (0, 0))

    def together(self, partitions: Sequence[int], keep_from: int = NEVER) -> Counts:
        """The same of several partitions in one transaction, by partition: with little in each, what a batch costs is shared.

        Those that somebody else is at, or in which nothing waits, are not in the answer. What has to be tried by itself, after a
        death or because it may move many reservations, is: then the other partitions are left as they are.
        """
        started = time.monotonic()
        held = _Held()
        try:
            with self._store.batch(*partitions) as batch:
                applied = self._under_lock(batch, held) if batch is not None else None
        except Unavailable:
            self._give_back(held)
            raise
        if applied is None:
            return {}
        counts: Counts = {}
        news = self._news(applied, started, keep_from)
        self._note(counts, news, self._mailbox.publish(news.publications)[0])
        return counts

    def round(self, turns: Sequence[Sequence[int]], around: Sequence[int] = ()) -> tuple[Counts, list[Sight] | None]:
        """The same, for who comes again soon, in fewer round trips, for one batch after another, each of the partitions in its
        turn. Beside it what is seen `around` afterwards, whose bells are kept; None where nothing was dealt with.

        What nobody has in hand is taken first, and its mark keeps others away until the locks and all that the batch needs come
        together. It is a mailbox's start, or what lies behind that which this worker has just committed. Should others have
        applied some of it meanwhile, the ledger knows, and nothing behind it can have been applied without it. While Redis
        publishes a batch, the next one is applied; it is published after that.
        """
        counts: Counts = {}
        earlier: _News | None = None
        try:
            for partitions in turns:
                started = time.monotonic()
                applied = self._batch_ahead(partitions, earlier)
                if earlier is not None and earlier.sending is not None:
                    self._note(counts, earlier, earlier.sending.left())
                earlier = None if applied is None else self._news(applied, started, 1)
            if earlier is None:
                return counts, None
            left, seen = self._mailbox.publish(earlier.publications, around)
            self._note(counts, earlier, left)
            return counts, seen
        finally:
            if earlier is not None and earlier.sending is not None:
                earlier.sending.drop()

    def _batch_ahead(self, partitions: Sequence[int], earlier: _News | None) -> Applied | None:
        """A batch of what can be taken before the lock; what was committed `earlier` is sent on its way as soon as that is."""
        started = time.monotonic()
        held = _Held()
        try:
            shares = self._taken_ahead(partitions, held, NO_MARKS if earlier is None else earlier.marks)
            if earlier is not None:
                earlier.sending = self._mailbox.send(earlier.publications)
            if not shares:
                return None
            with self._store.batch(*held.ways, ahead=_commands(shares)) as batch:
                if batch is None:
                    applied = None
                elif batch.ahead is None and len(batch.partitions) == len(shares):  # it is nothing but unreadable
                    applied = self._decided(batch, shares, NOTHING_LOADED)
                elif batch.ahead is None or time.monotonic() - started > AHEAD_SECONDS:
                    self._give_back(held)
                    applied = self._under_lock(batch, held)
                else:
                    reach("after_read")
                    applied = self._decided(batch, shares, batch.ahead)
        except Unavailable:
            self._give_back(held)
            raise
        if applied is None:
            self._give_back(held)
        return applied

    def _under_lock(self, batch: BatchPort, held: _Held) -> Applied | None:
        found = self._mailbox.take(batch.partitions, max(1, self.batch_size // len(batch.partitions)))
        found = held.note(found)
        if not found:
            return None
        reach("after_read")
        found = self._compatible(found, held)
        shares = [Share(partition, taken, self._selected(batch, partition, taken)) for partition, taken in found.items()]
        entries = _commands(shares)
        return self._decided(batch, shares, batch.load(entries) if entries else NOTHING_LOADED)

    def _taken_ahead(self, partitions: Sequence[int], held: _Held, behind: Mapping[int, str]) -> list[Share]:
        found = self._mailbox.take(partitions, max(1, self.batch_size // len(partitions)), only_free=True, behind=behind)
        found = self._compatible(held.note(found), held)
        return [Share(partition, taken, _up_to_a_resize(taken.entries)) for partition, taken in found.items()]

    def _news(self, applied: Applied, started: float, keep_from: int) -> _News:
        reach("after_commit")
        paces = {share.partition: self._measure(share.partition, share.count, started) for share in applied.shares}
        return _News(applied, applied.publications(paces, keep_bell=applied.count >= keep_from))

    def _note(self, counts: Counts, news: _News, left: Mapping[int, int]) -> None:
        """It is published."""
        told = news.publications
        self.in_doubt -= told.keys()
        self.in_doubt |= {partition for partition, publication in told.items() if not publication.mark_over}
        reach("after_publish")
        telemetry.applied(news.applied.verdicts, news.applied.incidents)
        for share in news.applied.shares:
            counts[share.partition] = (counts.get(share.partition, (0, 0))[0] + share.count, left[share.partition])

    def _give_back(self, held: _Held) -> None:
        for partition, way in held.ways.items():
            self._mailbox.forgive(partition, way)
        held.ways = {}

    def _compatible(self, found: dict[int, Taken], held: _Held) -> dict[int, Taken]:
        """All of it; or of one partition what has to be tried by itself. The others' marks are taken back."""
        alone = next((partition for partition, taken in found.items() if taken.is_alone), None)
        if alone is None or len(found) == 1:
            return found
        for partition in found.keys() - {alone}:
            self._mailbox.forgive(partition, held.ways.pop(partition))
        return {alone: found[alone]}

    def _decided(self, batch: BatchPort, shares: list[Share], loaded: Loaded) -> Applied:
        for share in shares:
            share.part(loaded.sessions)
            if aside := [*share.taken.unreadable, *(_set_aside(e) for e in share.strays if e.command.job_id not in loaded.known)]:
                batch.set_aside(share.partition, aside)
        numbered = self._number(batch, _commands(shares), loaded)
        commands = [_at(command, position) for command, position in zip(numbered.commands, loaded.positions, strict=False)]
        decision = decide(self._state(batch, loaded, commands), commands)
        batch.write(decision)
        for share in shares:
            if incidents := [i for i in numbered.incidents if i.session_id in share.sessions]:
                batch.record_incidents(share.partition, incidents)
        earlier = batch.jobs_of(decision.updated) if decision.updated else []
        if numbered.redelivered:  # whoever applied them may have died before saying what they changed
            earlier = [*batch.jobs_touched_by(numbered.redelivered), *earlier]
        known_jobs = {job_id: job for job_id, (job, _) in loaded.known.items()}
        reach("before_commit")
        return Applied(batch.applied_at, shares, loaded.sessions, known_jobs, numbered, decision, earlier)

    def _selected(self, batch: BatchPort, partition: int, taken: Taken) -> list[Entry]:
        """All entries; or, after a death, those the ledger knows at the start, or else the first few, or the first by itself."""
        if taken.way == BATCH:
            return _up_to_a_resize(taken.entries)
        known = batch.known([e.command.job_id for e in taken.entries]) if taken.entries else {}
        safe = 0
        while safe < len(taken.entries) and taken.entries[safe].command.job_id in known:
            safe += 1
        if safe or not taken.entries:
            return taken.entries[:safe]  # none of them is decided again, so a resize among them does not matter
        if taken.way == PORTION:
            portion = _up_to_a_resize(taken.entries[:PORTION_LIMIT])
            self._mailbox.narrow(partition, portion[-1].stream_id)
            return portion
        first = taken.entries[0]
        deaths = self._mailbox.name(partition, first.stream_id)
        if deaths >= DEATHS_TO_QUARANTINE:
            log.error("quarantined", extra={"job_id": first.command.job_id, "partition": partition, "deaths": deaths})
            return [Entry(first.stream_id, msgspec.structs.replace(first.command, quarantined=True))]
        return [first]

    def _number(self, batch: BatchPort, commands: list[Command], loaded: Loaded) -> Numbered:
        firsts = {job_id: seen for job_id, (_, seen) in loaded.known.items()}
        suspects = [replay_id(c) for c in commands if c.job_id in firsts and not firsts[c.job_id].is_of(c)]
        replays = {job_id: seen for job_id, (_, seen) in batch.known(suspects).items()} if suspects else {}
        numbered = number(commands, firsts, replays, {s.id: s.last_seq for s in loaded.sessions.values()})
        for incident in numbered.incidents:
            log.error(incident.kind, extra={"session_id": incident.session_id, **incident.detail})
        return numbered

    def _state(self, batch: BatchPort, loaded: Loaded, commands: Sequence[Command]) -> State:
        """What these commands may need, with what few batches do: who may be let in, who may have to go."""
        if is_armed("deciding"):
            for command in commands:
                for email_key in () if command.quarantined else people_of(command.arguments):
                    reach("deciding", email_key)
        sessions, live = loaded.sessions, loaded.live
        needs = _waitlist_needs(sessions, live, commands)
        state = State(sessions, live, batch.waitlists(needs) if needs else {})
        if commands and may_demote(commands[0]):  # by itself in its batch
            session = sessions[commands[0].session_id]
            leaving = session.reserved - commands[0].arguments.capacity  # type: ignore[union-attr, operator]
            state.newest = {session.id: batch.newest_confirmed(session.id, min(leaving, MOVES_MAX))} if leaving > 0 else {}
        return state

    def _measure(self, partition: int, count: int, started: float) -> float:
        rate = count / max(time.monotonic() - started, 1e-4)
        self._pace[partition] = 0.8 * self._pace.get(partition, rate) + 0.2 * rate
        return self._pace[partition]


class _Held:
    """What was taken, by partition, and how: it has to be taken back if nothing comes of it."""

    def __init__(self) -> None:
        self.ways: dict[int, str] = {}

    def note(self, found: dict[int, Taken]) -> dict[int, Taken]:
        """Of what was taken, that which is something."""
        found = {partition: taken for partition, taken in found.items() if not taken.is_empty}
        self.ways = {partition: taken.way for partition, taken in found.items()}
        return found


class _News:
    """A committed batch that is to be published, and its publication while that is on its way."""

    def __init__(self, applied: Applied, publications: dict[int, Publication]) -> None:
        self.applied = applied
        self.publications = publications
        # Where all that was taken is dealt with, one may go on behind it.
        self.marks = {share.partition: share.taken.last for share in applied.shares if share.is_whole}
        self.sending: Sending | None = None


def _commands(shares: Sequence[Share]) -> list[Command]:
    return [entry.command for share in shares for entry in share.entries]


def _up_to_a_resize(entries: list[Entry]) -> list[Entry]:
    """A command that may move many reservations has its batch to itself, so that a batch's work stays bounded."""
    for index, entry in enumerate(entries):
        if entry.command.kind == CONFIGURE:
            return entries[: max(index, 1)]
    return entries


def _waitlist_needs(
    sessions: dict[int, Session], live: dict[PersonKey, Reservation], commands: Sequence[Command]
) -> list[WaitlistNeed]:
    """How far into which waitlists the batch may reach: places that are free or may come free, and entries that may leave."""
    needs: dict[int, list[int]] = {}
    largest = max((_most_seats(command.arguments) for command in commands), default=0)
    for command in commands:
        session = sessions[command.session_id]
        if command.kind not in FREEING or not session.waiting:
            continue
        need = needs.setdefault(session.id, [session.capacity - session.reserved, 0])
        if command.kind == CANCEL:
            held = live.get((session.id, command.arguments.email_key))
            need[0] += max(largest, held.seats if held is not None else 0)
            need[1] += 1
        else:
            need[0] += _places_added(session, command.arguments)
    return [WaitlistNeed(session_id, places, leaving) for session_id, (places, leaving) in needs.items()]


def _most_seats(arguments: Arguments) -> int:
    """The most seats that a reservation made by this command may have, and so give back within the same batch."""
    if isinstance(arguments, GroupArguments):
        return max((person.seats for person in arguments.people), default=0)
    return arguments.seats if isinstance(arguments, ReserveArguments) else 0


def _places_added(session: Session, asked: ConfigureArguments) -> int:
    """At most so many come free by a resize; making room for those who stay may free some of a larger party's."""
    added = 0 if asked.capacity is UNSET else asked.capacity - session.capacity
    return max(added, SEATS_MAX)


def _at(command: Command, position: int) -> Command:
    return msgspec.structs.replace(command, position=position)


def _set_aside(entry: Entry) -> Unreadable:
    content = msgspec.json.encode(entry.command)
    return Unreadable(entry.stream_id, f"there is no session {entry.command.session_id}", content)
