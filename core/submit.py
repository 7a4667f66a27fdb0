"""The API's use case: `Submit` takes a command in. It gives it a job id, passes it through the door, and puts its session's head
into Redis where that is missing. What a key has named before is told, not done again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from core.door import MaybeForgotten, Receipt, draft_job
from core.errors import IdempotencyKeyReused, Unavailable, UnknownSession
from core.grouping import Waiter
from core.lots import Lot, Wanted, keyed_lot
from core.model import Arguments, Job, body_hash, keyed_job_id, new_job_id

DOOR_ATTEMPTS: Final = 4


class DoorPort(Protocol):
    """See core.door.Door."""

    def accept(self, job: Job, arguments: Arguments, keyed: bool = False) -> Awaitable[Receipt]: ...
    def post(self, job: Job, arguments: Arguments, keyed: bool, waiter: Waiter) -> None: ...
    def accept_all(self, lot: Lot) -> Awaitable[list[Receipt | Exception]]: ...


class Submit:
    """Takes one command in: gives it its job id, passes it through the door, loads the session's head where it is cold."""

    def __init__(
        self,
        door: DoorPort,
        load_head: Callable[[int], Awaitable[bool]],
        recall: Callable[[str], Awaitable[Job | None]],
        secret: bytes,
    ) -> None:
        """`load_head(session_id)` puts the head into Redis; False when there is no such session. `recall(job_id)` looks into the
        ledger."""
        self._door = door
        self._load_head = load_head
        self._recall = recall
        self._secret = secret

    def draft(self, kind: str, session_id: int, arguments: Arguments, client: str, idempotency_key: str | None) -> Job:
        """The job that this request will be. The same key from the same client names the same job."""
        key = idempotency_key
        job_id = new_job_id(session_id) if key is None else self.job_id(kind, session_id, client, key)
        return draft_job(job_id, kind, session_id, client, body_hash(arguments))

    def job_id(self, kind: str, session_id: int, client: str, idempotency_key: str) -> str:
        """The job that this key names."""
        return keyed_job_id(self._secret, client, session_id, kind, idempotency_key)

    async def __call__(self, draft: Job, arguments: Arguments, keyed: bool = False) -> Receipt:
        """Accept the command; when this returns it is durable. `keyed`: its job id follows from a key, so it may be a repeat.

        Raises UnknownSession, QueueFull, Unavailable, IdempotencyKeyReused.
        """
        for _ in range(DOOR_ATTEMPTS):
            try:
                receipt = await self._door.accept(draft, arguments, keyed)
            except UnknownSession:
                if not await self._load_head(draft.session_id):
                    raise
                continue
            except MaybeForgotten:
                job = await self._recall(draft.id)
                if job is None:
                    keyed = False
                    continue
                receipt = Receipt(job, True, 0, 0.0, None)
            return of_the_same_request(receipt, draft)
        raise Unavailable

    def post(self, draft: Job, arguments: Arguments, keyed: bool, waiter: Waiter) -> None:
        """One attempt, without waiting: `waiter` is told what the door says. On UnknownSession and MaybeForgotten nothing is
        accepted, and to call this object is the way to go on; else the receipt is for `of_the_same_request` to judge."""
        self._door.post(draft, arguments, keyed, waiter)

    def lot(self, wanted: Sequence[Wanted], client: str, key: str) -> Lot:
        """The jobs that these commands of a batch will be, which was sent with this key."""
        return keyed_lot(self._secret, client, key, wanted)

    async def all(self, lot: Lot) -> list[Receipt]:
        """The same for many commands together, whose ids follow from keys. If one is refused that is raised, and others may be
        accepted."""
        receipts: list[Any] = await self._door.accept_all(lot)
        for place, receipt in enumerate(receipts):
            if type(receipt) is Receipt:
                if receipt.known:
                    of_the_same_request(receipt, lot.job(place))
            elif isinstance(receipt, (UnknownSession, MaybeForgotten)):
                receipts[place] = await self(lot.job(place), lot.wanted[place].arguments, keyed=True)
            else:
                raise receipt
        return receipts


def of_the_same_request(receipt: Receipt, draft: Job) -> Receipt:
    """Raises IdempotencyKeyReused if the key names a job that asked for something else."""
    if receipt.known and receipt.job.body_hash not in (draft.body_hash, ""):  # none is kept of who was forgotten
        raise IdempotencyKeyReused
    return receipt
