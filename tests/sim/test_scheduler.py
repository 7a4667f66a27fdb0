"""The seeded scheduler: thousands of interleavings hold; and with any one guard taken away, some soon do not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from core import numbering, service
from core.applied import Share
from core.decide import Decision, State, decide
from core.service import Drain
from tests.sim import world
from tests.sim.postgres_in_memory import MemoryStore, Transaction
from tests.sim.redis_in_memory import MemoryRedis
from tests.sim.scheduler import Run, try_seeds
from tests.support.processes import ROOT

SEEDS = 2000
SEEDS_TO_FAIL = 600  # by then a guard that is away has shown


@pytest.mark.timeout(400)
def test_thousands_of_interleavings_hold() -> None:
    totals = try_seeds(range(SEEDS))
    assert not totals.stories, totals.stories[0]
    assert totals.seeds == SEEDS


def test_a_seed_tells_the_same_story_everywhere() -> None:
    stories = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-m", "tests.sim.scheduler", "--seed", "7"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
        stories.add(done.stdout)
    (story,) = stories
    assert "seed 7 holds" in story
    assert re.search(r"^ +\d+  (worker|sweeper) \d+ goes on from commit$", story, re.MULTILINE)


# -- guards ---------------------------------------------------------------------------------------------------------------


class ForgetsJobs(MemoryRedis):
    """accept.lua does not look whether the job is known."""

    def accept(self, prefix: str, mailbox: str, *more: Any) -> list[Any]:
        for job in more[6::4]:
            self._delete(job)
        return super().accept(prefix, mailbox, *more)


class TrimsTooMuch(MemoryRedis):
    """publish.lua takes out all that there is, and not only what was committed."""

    def publish(self, prefix: str, mailbox: str, *arguments: Any) -> int:
        super().publish(prefix, mailbox, *arguments)
        self._delete(mailbox)
        return 0


class PublishesLateCounts(MemoryRedis):
    """publish.lua does not compare versions."""

    def _put_counts(self, key: str, removed: bool, empty: bool, idle: int, text: str, lift: int, lifted: int) -> bool | None:
        head = self.get(key)
        if head is not None:
            head["v"] = min(head["v"], int(text.partition(" ")[0]))
        return super()._put_counts(key, removed, empty, idle, text, lift, lifted)


class PutsOldHeads(MemoryRedis):
    """head.lua does not compare versions."""

    def head(self, prefix: str, mailbox: str, session: int, text: str, version: int, *others: Any) -> int:
        found = self.get(f"{prefix}s:{session}")
        if found is not None:
            found["v"] = min(found["v"], version - 1)
        return super().head(prefix, mailbox, session, text, version, *others)


class LeavesEntries(MemoryRedis):
    """publish.lua tells outcomes and leaves the entries where they are."""

    def publish(self, prefix: str, mailbox: str, *arguments: Any) -> int:
        before = dict(self.get(mailbox) or {})
        left = super().publish(prefix, mailbox, *arguments)
        if before:
            self._hash(mailbox).update(before)
        return left


class NeverMarks(MemoryRedis):
    """take.lua leaves no mark over a batch."""

    def take(self, prefix: str, mailbox: str, *arguments: Any) -> list[Any]:
        self._delete(f"{prefix}trial")
        return super().take(prefix, mailbox, *arguments)


class RaisesNothing(MemoryRedis):
    """publish.lua does not bring up numbering after a loss."""

    def _put_counts(self, key: str, removed: bool, *more: Any) -> bool:
        return super()._put_counts(key, False, *more)


class Unlocked(MemoryStore):
    """No lock on the partition."""

    def may_lock(self, partition: int) -> bool:
        return True


class Keyless(Unlocked):
    """And no keys of the ledger."""

    def has(self, row: Any) -> bool:
        return False


class PublishesEarly(Drain):
    """The publication comes before the commit."""

    def _decided(self, batch: Any, shares: Any, loaded: Any) -> Any:
        applied = super()._decided(batch, shares, loaded)
        self._mailbox.publish(applied.publications({share.partition: 1.0 for share in shares}))
        return applied


def knows_nothing(_transaction: Transaction, _job_ids: Any) -> dict[str, Any]:
    return {}


def gives_a_place_too_many(state: State, commands: Any) -> Decision:
    roomier = {s.id: msgspec.structs.replace(s, capacity=s.capacity + 1) for s in state.sessions.values()}
    return decide(State(roomier, state.live, state.waitlists, state.newest), commands)


def tells_nothing_again(*given: Any) -> Any:
    numbered = numbering.number(*given)
    numbered.redelivered.clear()
    return numbered


def sweeps_nothing(_services: Any) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Guard:
    """What is taken away: by stand-ins or a drain without it, or by a patch; and what is then seen to be wrong."""

    name: str
    wrong: str
    types: dict[str, Any] = field(default_factory=dict)
    away: tuple[Any, str, Any] | None = None


GUARDS = [
    Guard("known jobs are looked up at the door", "accepted twice", {"redis_type": ForgetsJobs}),
    Guard("only what was committed leaves the mailbox", "was accepted, and is lost", {"redis_type": TrimsTooMuch}),
    Guard("entries leave with their statuses", "never comes to rest", {"redis_type": LeavesEntries}),
    Guard("publications have versions", "counts went back", {"redis_type": PublishesLateCounts}),
    Guard("heads have versions", "counts went back", {"redis_type": PutsOldHeads}),
    Guard("a batch under way is marked", "never comes to rest", {"redis_type": NeverMarks}),
    Guard("numbering is brought up", "numbering does not recover", {"redis_type": RaisesNothing}),
    Guard("one drain a partition", "a worker failed: Broken", {"store_type": Unlocked}),
    Guard("the ledger's keys", "is not what was committed", {"store_type": Keyless}),
    Guard("the ledger is looked up", "a worker failed: Broken", away=(Transaction, "known", knows_nothing)),
    Guard("the commit comes before the publication", "not committed", {"drain_type": PublishesEarly}),
    Guard("capacity is what it is", "and not sold_out", away=(service, "decide", gives_a_place_too_many)),
    Guard("what was applied is told again", " is not Job", away=(service, "number", tells_nothing_again)),
    Guard("one goes on only behind what is whole", "was accepted before", away=(Share, "is_whole", True)),
    Guard("the sweeper", "never comes to rest", away=(world, "sweep", sweeps_nothing)),
]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_without_a_guard_a_seed_soon_fails(guard: Guard) -> None:
    with patch.object(*guard.away) if guard.away else nullcontext():
        assert any(guard.wrong in (Run(seed, **guard.types).wrong() or "") for seed in range(SEEDS_TO_FAIL))
