"""Group commit: what arrives while a call is under way goes together in the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from core.grouping import Grouped


class Calls:
    """A call that can be held up, and remembers its groups."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail: Exception | None = None

    async def __call__(self, items: Sequence[int]) -> Sequence[Any]:
        self.groups.append(list(items))
        await self.gate.wait()
        if self.fail:
            raise self.fail
        return [ValueError(f"bad {item}") if item < 0 else item * 10 for item in items]


def run(test: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(test, 10)

    return asyncio.run(bounded())


def test_one_caller_waits_for_nobody() -> None:
    async def test() -> None:
        calls = Calls()
        grouped: Grouped[int, int] = Grouped(calls, 10)
        assert [await grouped(n) for n in (1, 2)] == [10, 20]
        assert calls.groups == [[1], [2]]

    run(test())


def test_what_arrives_meanwhile_goes_together_up_to_the_limit() -> None:
    async def test() -> None:
        calls = Calls()
        calls.gate.clear()
        grouped: Grouped[int, int] = Grouped(calls, 3)
        first = asyncio.create_task(grouped(0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        others = [asyncio.create_task(grouped(n)) for n in range(1, 6)]
        await asyncio.sleep(0)
        calls.gate.set()
        assert await asyncio.gather(first, *others) == [0, 10, 20, 30, 40, 50]
        assert calls.groups == [[0], [1, 2, 3], [4, 5]]

    run(test())


def test_an_error_of_one_item_is_its_own() -> None:
    async def test() -> None:
        grouped: Grouped[int, int] = Grouped(Calls(), 10)
        answers = await asyncio.gather(grouped(1), grouped(-1), grouped(2), return_exceptions=True)
        assert (answers[0], str(answers[1]), answers[2]) == (10, "bad -1", 20)

    run(test())


def test_an_error_of_the_call_is_everybodys_and_the_next_call_works() -> None:
    async def test() -> None:
        calls = Calls()
        calls.fail = OSError("gone")
        grouped: Grouped[int, int] = Grouped(calls, 10)
        answers = await asyncio.gather(grouped(1), grouped(2), return_exceptions=True)
        assert [type(answer) for answer in answers] == [OSError, OSError]
        calls.fail = None
        assert await grouped(3) == 30

    run(test())


def test_a_caller_that_goes_away_does_not_disturb_the_others() -> None:
    async def test() -> None:
        calls = Calls()
        calls.gate.clear()
        grouped: Grouped[int, int] = Grouped(calls, 10)
        tasks = [asyncio.create_task(grouped(n)) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        calls.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert (answers[0], type(answers[1]), answers[2]) == (10, asyncio.CancelledError, 30)

    run(test())


@pytest.mark.parametrize("count", [1000])
def test_every_item_gets_its_own_answer(count: int) -> None:
    async def test() -> None:
        calls = Calls()
        grouped: Grouped[int, int] = Grouped(calls, 64)
        assert await asyncio.gather(*(grouped(n) for n in range(count))) == [n * 10 for n in range(count)]
        assert max(map(len, calls.groups)) <= 64

    run(test())


def test_many_items_have_their_answers_together_and_each_its_own() -> None:
    async def test() -> None:
        grouped: Grouped[int, int] = Grouped(Calls(), 2)
        first, bad, *rest = await grouped.all([1, -2, 3, 4, 5])
        assert (first, rest, type(bad)) == (10, [30, 40, 50], ValueError)
        assert await grouped.all([]) == []

    run(test())


class Few(list[int]):
    """A lot."""

    def split(self, count: int) -> tuple[Few, Few]:
        return Few(self[:count]), Few(self[count:])


class Counting:
    """Answers a lot with the list of its answers; a lot with a negative number fails."""

    def __init__(self) -> None:
        self.groups: list[list[int | Few]] = []

    async def __call__(self, items: Sequence[int | Few]) -> list[Any]:
        self.groups.append(list(items))
        await asyncio.sleep(0)
        return [_refused(item) if isinstance(item, Few) else item * 10 for item in items]


def _refused(lot: Few) -> list[int] | Exception:
    return ValueError() if min(lot) < 0 else [n * 10 for n in lot]


def test_lots_fill_groups_with_who_comes_alone_and_go_in_parts_where_they_do_not_fit() -> None:
    async def test() -> None:
        calls = Counting()
        grouped: Grouped[Any, Any] = Grouped(calls, 3)
        first, second = Few([1, 2]), Few([3, 4, 5, 6, 7, 8])
        many, alone = asyncio.ensure_future(grouped.lots([first, second])), asyncio.ensure_future(grouped(9))
        await asyncio.sleep(0)
        assert (grouped.together, len(grouped)) == (8, 1)
        assert await many == [(2, [10, 20]), (1, [30]), (3, [40, 50, 60]), (2, [70, 80])]
        assert await alone == 90
        assert calls.groups == [[[1, 2], [3]], [[4, 5, 6]], [[7, 8], 9]]
        assert (grouped.together, len(grouped), grouped.served) == (0, 0, 1)
        assert await grouped.lots([]) == []

    run(test())


def test_a_part_that_fails_leaves_the_others_of_its_lot() -> None:
    async def test() -> None:
        grouped: Grouped[Any, Any] = Grouped(Counting(), 2)
        (one, good), (two, bad), (three, last) = await grouped.lots([Few([1, 2, 3, -4, 5])])
        assert (one, good, two, type(bad), three, last) == (2, [10, 20], 2, ValueError, 1, [50])

    run(test())


def test_whoever_gives_up_waiting_for_a_lot_disturbs_nobody() -> None:
    async def test() -> None:
        grouped: Grouped[Any, Any] = Grouped(Counting(), 2)
        left = asyncio.ensure_future(grouped.lots([Few([1, 2, 3])]))
        stays = asyncio.ensure_future(grouped.lots([Few([4, 5])]))
        await asyncio.sleep(0)
        left.cancel()
        assert await stays == [(1, [40]), (1, [50])]
        assert grouped.together == 0

    run(test())


class Deaf:
    """A waiter that cannot be told anything."""

    def done(self) -> bool:
        return False

    def set_result(self, answer: int) -> None:
        raise ValueError(answer)

    def set_exception(self, exc: Exception) -> None:
        raise ValueError(exc)

    def cancel(self) -> None:
        """Nothing is under way."""


def test_a_waiter_that_fails_keeps_nobody_else_from_being_told() -> None:
    async def test() -> None:
        grouped: Grouped[int, int] = Grouped(Calls(), 10)
        for item in (1, -1):
            grouped.post(item, Deaf())
        assert await grouped(3) == 30

    run(test())


def test_who_came_alone_and_who_came_with_others_are_counted_apart() -> None:
    async def test() -> None:
        calls = Calls()
        calls.gate.clear()
        grouped: Grouped[int, int] = Grouped(calls, 2)
        alone = [asyncio.ensure_future(grouped(n)) for n in range(3)]
        many = asyncio.ensure_future(grouped.all([7, 8, 9]))
        await asyncio.sleep(0.01)  # the first group is under way
        assert (len(grouped), grouped.together) == (1, 3)
        calls.gate.set()
        await asyncio.gather(*alone, many)
        assert (len(grouped), grouped.together) == (0, 0)

    run(test())


def test_a_group_that_is_waited_with_grows_only_to_its_own_limit() -> None:
    async def test() -> None:
        calls = Calls()
        grouped: Grouped[int, int] = Grouped(calls, 10, lambda: 0.001, 2)
        await asyncio.gather(*(grouped(n) for n in range(5)))
        assert calls.groups == [[0, 1], [2, 3], [4]]

    run(test())
