"""Many commands at once: `SubmitBatch` writes the batch down in Postgres, then passes each command through the door."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from core.door import Receipt
from core.errors import IdempotencyKeyReused, InvalidFields
from core.model import Arguments, Job, batch_hash, batch_id, body_hash
from core.service import Submit


@dataclass(frozen=True, slots=True)
class Wanted:
    """One command of a batch."""

    kind: str
    session_id: int
    arguments: Arguments


@dataclass(frozen=True, slots=True)
class BatchReceipt:
    """A batch with every one of its commands accepted, in their order."""

    id: str
    atomic: bool
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
        write_down: Callable[[str, str, str, bool, Sequence[str]], Awaitable[str]],
        load_head: Callable[[int], Awaitable[bool]],
        secret: bytes,
    ) -> None:
        """`write_down(id, client, fingerprint, atomic, job ids)` keeps the batch; it answers the fingerprint that is kept."""
        self._submit = submit
        self._write_down = write_down
        self._load_head = load_head
        self._secret = secret

    async def __call__(self, wanted: Sequence[Wanted], client: str, key: str, atomic: bool) -> BatchReceipt:
        """Accept them all. Raises InvalidFields (unknown sessions, by index), IdempotencyKeyReused, QueueFull, Unavailable."""
        await self._check_sessions(wanted)
        drafts = [
            self._submit.draft(one.kind, one.session_id, one.arguments, client, f"{key}#{index}")
            for index, one in enumerate(wanted)
        ]
        asked = body_hash([(one.kind, one.session_id, draft.body_hash) for one, draft in zip(wanted, drafts, strict=True)])
        fingerprint = batch_hash(self._secret, asked)
        name = self.id_of(client, key)
        kept = await self._write_down(name, client, fingerprint, atomic, [draft.id for draft in drafts])
        if kept not in (fingerprint, ""):  # of earlier releases' batches none is kept
            raise IdempotencyKeyReused
        calls = (self._submit(draft, one.arguments, keyed=True) for draft, one in zip(drafts, wanted, strict=True))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        receipts: list[Receipt] = answers  # type: ignore[assignment]
        return BatchReceipt(name, atomic, all(r.known for r in receipts), [r.job for r in receipts])

    def id_of(self, client: str, key: str) -> str:
        """The batch that this key names."""
        return batch_id(self._secret, client, key)

    async def _check_sessions(self, wanted: Sequence[Wanted]) -> None:
        """Before anything is accepted: a batch with an unknown session is refused whole."""
        sessions = sorted({one.session_id for one in wanted})
        found = dict(zip(sessions, await asyncio.gather(*map(self._load_head, sessions)), strict=True))
        wrong = {
            f"commands[{index}].session": "there is no session with this id"
            for index, one in enumerate(wanted)
            if not found[one.session_id]
        }
        if wrong:
            raise InvalidFields(wrong)
