"""Keeps a worker at it while commands keep coming: one wake-up serves all partitions, and a short wait lets batches grow.

A wake-up through Celery costs as much as applying a dozen commands, and takes longer than a batch. So whoever is woken stays for
a while after the last command: it waits for the next at Redis itself, which tells it at once, and keeps the bells of the
partitions around, so that nobody rings for them. Under load it lets commands gather for about as long as a batch takes, and
while there is little in each partition it takes several together, so that what a batch costs is shared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from core.mailbox import Sight

STINT_SECONDS = 4.0  # then Celery has a say again
IDLE_SECONDS = 0.5  # nothing has come for so long: the flow is over
WATCH_SECONDS = 0.3  # at a time, and then the bells are kept again
AROUND = 32  # partitions looked at together
TOGETHER = 4  # taken from without looking again
TURNS = 4  # batches one after another without a look
ENOUGH = 250  # commands in a batch: waiting for more would make none of them cheaper
LINGER_LEAST_SECONDS = 0.002
LINGER_MOST_SECONDS = 0.02
LINGER_BATCHES = 1.0  # wait for as long as so many batches have taken, lately: the busier the machine, the longer
PAUSE_LEAST_SECONDS = 0.0005


class DrainPort(Protocol):
    """See core.service.Drain."""

    in_doubt: set[int]
    batch_size: int

    def together(self, partitions: Sequence[int], keep_from: int) -> Mapping[int, tuple[int, int]]: ...
    def round(
        self, turns: Sequence[Sequence[int]], around: Sequence[int] = ()
    ) -> tuple[Mapping[int, tuple[int, int]], list[Sight] | None]: ...


class LookoutPort(Protocol):
    """See core.lookout.Lookout."""

    def look(self, partitions: Sequence[int], keep_bells: bool) -> list[Sight]: ...
    def wait(self, partitions: Sequence[int], seconds: float) -> list[int]: ...
    def release(self, partitions: Sequence[int]) -> list[int]: ...


class Rounds:
    """Serves whatever waits, in turn, from one wake-up on."""

    def __init__(
        self,
        drain: DrainPort,
        lookout: LookoutPort,
        partitions: int,
        ring: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        is_leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_leaving()`: whether this process is asked to end, so that nobody should stay."""
        self._drain = drain
        self._lookout = lookout
        self._partitions = partitions
        self._ring = ring
        self._clock = clock
        self._sleep = sleep
        self._is_leaving = is_leaving
        self._batch_seconds = 0.0

    def __call__(self, partition: int) -> int:
        """Serve `partition`, then all that flows, until nothing comes or the stint is over. How many commands were dealt with.

        Raises Unavailable when Postgres or Redis cannot serve; what was not dealt with stays, and bells that were kept run out.
        """
        start = partition - partition % AROUND
        stint = _Stint(range(start, min(start + AROUND, int(self._partitions))), self._clock())
        self._batch(stint, [[partition]], is_free=False)
        if not stint.dealt_with:
            return 0
        try:
            while not self._is_leaving() and self._clock() < stint.begun + STINT_SECONDS and self._turn(stint):
                pass
        finally:
            self._leave(stint)
        return stint.dealt_with

    def _turn(self, stint: _Stint) -> bool:
        """One look, and what follows from it. Whether there is a reason to stay."""
        if stint.is_calm and self._clock() < stint.looked + WATCH_SECONDS:
            self._watch(stint, stint.around)
            return True
        sights = stint.last_seen()
        if sights is None:
            stint.looked = self._clock()
            sights = self._lookout.look(stint.around, True)
        free = [sight for sight in sights if not sight.is_taken or sight.partition in self._drain.in_doubt]
        linger = self._linger()
        oldest = max((sight.age_ms for sight in free), default=0) / 1000
        if oldest >= linger or any(sight.waiting >= ENOUGH for sight in free):
            self._serve(stint, free, linger)
        elif free:
            self._sleep(max(linger - oldest, PAUSE_LEAST_SECONDS))
            self._batch(stint, [_with_others(free, sights, stint.around)], stint.around)
            stint.is_calm = False
        elif self._clock() > stint.came + IDLE_SECONDS:
            return False
        else:
            waiting = {sight.partition for sight in sights}
            self._watch(stint, [partition for partition in stint.around if partition not in waiting])
        return True

    def _watch(self, stint: _Stint, partitions: Sequence[int]) -> None:
        """Wait for the next command, and take it at once: there is little to do."""
        come = self._lookout.wait(partitions, WATCH_SECONDS)
        if come:
            self._batch(stint, [come])
        stint.is_calm = bool(come) and stint.is_done

    def _serve(self, stint: _Stint, free: list[Sight], linger: float) -> None:
        """One batch: of the partition that has waited longest for its turn, and of others as long as all of it is little."""
        ripe = [sight for sight in free if sight.waiting >= ENOUGH or sight.age_ms >= linger * 1000]
        if len(ripe) > 1 and not stint.called and min(sight.waiting for sight in ripe) >= ENOUGH:
            stint.called = True  # more than one can do: if there is another, let it come
            self._ring(ripe[-1].partition)
        in_turn = sorted(ripe, key=stint.turn) + sorted((s for s in free if s not in ripe), key=stint.turn)
        chosen, many = [in_turn[0].partition], in_turn[0].waiting
        for sight in in_turn[1:]:
            if many + sight.waiting <= ENOUGH:
                chosen.append(sight.partition)
                many += sight.waiting
        turns = [chosen]
        if len(chosen) == 1:  # a backlog: while one batch is published, the next is applied
            turns += [[sight.partition] for sight in in_turn[1:] if sight.waiting >= ENOUGH]
            full = in_turn[0].waiting // self._drain.batch_size if len(turns) == 1 else 0
            turns = (turns + [chosen] * full)[:TURNS]
        self._batch(stint, turns, stint.around)
        stint.is_calm = False

    def _batch(self, stint: _Stint, turns: list[list[int]], around: Sequence[int] = (), is_free: bool = True) -> None:
        """Of each turn what nobody has in hand; or, if it is not `is_free`, also what somebody may have died over."""
        begun = self._clock()
        seen: list[Sight] | None = None
        partitions = [partition for turn in turns for partition in turn]
        if is_free and not self._drain.in_doubt.intersection(partitions):
            found, seen = self._drain.round(turns, around)
        else:
            turns, partitions = turns[:1], turns[0]
            found = self._drain.together(partitions, 1)
        stint.note(partitions, found, begun)
        if seen is not None and around:
            stint.see(seen, self._clock())
        if found:
            stint.came = self._clock()
            self._batch_seconds = 0.8 * self._batch_seconds + 0.2 * (stint.came - begun) / len(turns)
        else:  # somebody is at it of whom there is no mark
            self._sleep(LINGER_LEAST_SECONDS)

    def _leave(self, stint: _Stint) -> None:
        """Let bells ring again, and ring at once for what is left: it may have come while this one kept its bell. Where somebody
        else is at it, one wake-up for nothing in a stint costs little."""
        for partition in self._lookout.release(stint.around):
            self._ring(partition)

    def _linger(self) -> float:
        return min(max(LINGER_BATCHES * self._batch_seconds, LINGER_LEAST_SECONDS), LINGER_MOST_SECONDS)


def _with_others(free: list[Sight], sights: list[Sight], around: Sequence[int]) -> list[int]:
    """Where something waits, and a few more where nothing did: it may have come since."""
    chosen, seen = [sight.partition for sight in free], {sight.partition for sight in sights}
    return chosen + [partition for partition in around if partition not in seen][: max(TOGETHER - len(chosen), 0)]


class _Stint:
    """What a worker remembers from one wake-up to when it goes."""

    def __init__(self, around: Sequence[int], begun: float) -> None:
        self.around = around
        self.begun = self.came = begun
        self.dealt_with = 0
        self.called = False
        self.looked = begun - WATCH_SECONDS
        self.is_done = False  # the last batch left nothing
        self.is_calm = False  # nor had anything waited for it: what comes next can be waited for without another look
        self._asked: dict[int, float] = {}
        self._seen: list[Sight] | None = None

    def see(self, sights: list[Sight], at: float) -> None:
        """The news of a batch came back with a look around."""
        self._seen, self.looked = sights, at

    def last_seen(self) -> list[Sight] | None:
        """That look, once."""
        seen, self._seen = self._seen, None
        return seen

    def note(self, partitions: Sequence[int], found: Mapping[int, tuple[int, int]], at: float) -> None:
        """A batch is done."""
        for partition in partitions:
            self._asked[partition] = at
        self.dealt_with += sum(count for count, _ in found.values())
        self.is_done = bool(found) and not any(left for _, left in found.values())

    def turn(self, sight: Sight) -> tuple[float, int]:
        """Sorts by whose turn it is."""
        return self._asked.get(sight.partition, 0.0), -sight.age_ms
