"""Many commands at once: `SubmitBatch` writes the batch down in Postgres, then passes each command through the door;
`SentBatches` finds it again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from core.errors import IdempotencyKeyReused, InvalidFields
from core.grouping import Grouped
from core.lots import Wanted
from core.model import Job, batch_hash, batch_id, body_hash
from core.queries import BatchView, Queries
from core.store import SentBatch
from core.submit import Submit
from core.threads import Threads
from core.unknown import Unknown

WRITTEN_AT_ONCE: Final = 32  # batches in one transaction
LOOK_UP_LIMIT: Final = 256  # batches looked up in Postgres in one statement


@dataclass(frozen=True, slots=True)
class BatchReceipt:
    """A batch with every one of its commands accepted, in their order."""

    id: str
    atomic: bool
    created_at: datetime
    known: bool
    jobs: list[Job]


class SubmitBatch:
    """Takes many commands in: writes the batch down, then passes each command through the door.

    The batch's key makes its id and the ids of its jobs, so that a batch whose acceptance broke off is completed by
    sending it again, and nothing of it is accepted twice.
    """

    def __init__(
        self,
        submit: Submit,
        write_down: Callable[[str, str, str, bool, Sequence[str]], Awaitable[tuple[str, datetime]]],
        known_sessions: Callable[[Sequence[int]], Awaitable[set[int]]],
        secret: bytes,
    ) -> None:
        """`write_down(id, client, fingerprint, atomic, job ids)` keeps the batch; it answers the fingerprint that is kept, and
        since when. `known_sessions(ids)`: those that there are."""
        self._submit = submit
        self._write_down = write_down
        self._known_sessions = known_sessions
        self._secret = secret

    async def __call__(self, wanted: Sequence[Wanted], client: str, key: str, atomic: bool) -> BatchReceipt:
        """Accept them all. Raises InvalidFields (unknown sessions, by index), IdempotencyKeyReused, QueueFull, Unavailable."""
        await self._check_sessions(wanted)
        lot = self._submit.lot(wanted, client, key)
        asked = body_hash([(one.kind, one.session_id, found) for one, found in zip(wanted, lot.fingerprints, strict=True)])
        fingerprint = batch_hash(self._secret, asked)
        name = self.id_of(client, key)
        kept, created_at = await self._write_down(name, client, fingerprint, atomic, lot.ids)
        if kept not in (fingerprint, ""):  # of earlier releases' batches none is kept
            raise IdempotencyKeyReused
        receipts = await self._submit.all(lot)
        return BatchReceipt(name, atomic, created_at, all(r.known for r in receipts), [r.job for r in receipts])

    def id_of(self, client: str, key: str) -> str:
        """The batch that this key names."""
        return batch_id(self._secret, client, key)

    async def _check_sessions(self, wanted: Sequence[Wanted]) -> None:
        """Before anything is accepted: a batch with an unknown session is refused whole."""
        known = await self._known_sessions(sorted({one.session_id for one in wanted}))
        wrong = {
            f"commands[{index}].session": "there is no session with this id"
            for index, one in enumerate(wanted)
            if one.session_id not in known
        }
        if wrong:
            raise InvalidFields(wrong)


class WrittenDown:
    """Writes batches down: those of a moment in one transaction."""

    def __init__(self, write: Callable[[Sequence[SentBatch]], list[tuple[str, datetime]]], threads: Threads) -> None:
        self._threads = threads
        self._grouped: Grouped[SentBatch, tuple[str, datetime]] = Grouped(partial(threads.write, write), WRITTEN_AT_ONCE)

    async def __call__(
        self, batch_id: str, client: str, fingerprint: str, atomic: bool, job_ids: Sequence[str]
    ) -> tuple[str, datetime]:
        """The fingerprint that is kept, and since when. Raises Unavailable."""
        sent = SentBatch(batch_id, client, fingerprint, atomic, job_ids)
        return await self._threads.in_time(self._grouped(sent))  # it may be behind one that waits


class SentBatches:
    """Batches that were sent, by ids that only whoever sent them can know."""

    def __init__(self, queries: Queries, threads: Threads) -> None:
        self._queries = queries
        self._threads = threads
        self._unknown: Unknown[str] = Unknown()
        self._look_up: Grouped[str, BatchView | None] = Grouped(self._read, LOOK_UP_LIMIT)

    async def find(self, batch_id: str) -> BatchView | None:
        """A batch, or None if there is none."""
        if self._unknown.get(batch_id):
            return None
        view = await self._look_up(batch_id)
        if view is None:
            self._unknown.add(batch_id)
        return view

    async def find_just_sent(self, batch_id: str) -> BatchView | None:
        """A batch that may have been sent just now, through whichever process."""
        self._unknown.discard(batch_id)
        return await self._look_up(batch_id)

    def note_sent(self, batch_id: str) -> None:
        """This batch was sent just now, so it is there."""
        self._unknown.discard(batch_id)

    async def _read(self, batch_ids: Sequence[str]) -> Sequence[BatchView | None]:
        found = await self._threads.read(self._queries.batches, batch_ids)
        return [found.get(batch_id) for batch_id in batch_ids]
