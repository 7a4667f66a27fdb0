"""A door under pressure: some are turned away, at once, and who was not is accepted and applied like anybody."""

from __future__ import annotations

import asyncio

from core.door import GROUP_LIMIT, Receipt
from core.errors import QueueFull
from core.model import RESERVE
from core.pressure import Pressure
from tests.support.driving import Driver, person

GUESTS = 500


def test_who_would_wait_too_long_is_turned_away_and_nobody_else_loses_by_it(driver: Driver) -> None:
    session = driver.new_session(capacity=2 * GUESTS)
    driver.submit._door._pressure = pressure = Pressure(1, GROUP_LIMIT)  # type: ignore[attr-defined]
    receipts = driver.reserve(session, "ana", "bo", "cy")
    driver.drain_all()
    receipts += driver.reserve(session, "dan", "eva", "fay")  # somebody takes out, and more waits than enough
    assert pressure.pause_seconds() > 0

    async def crowd() -> list[Receipt | BaseException]:
        wanted = [person(f"guest{number}") for number in range(GUESTS)]
        drafts = [driver.submit.draft(RESERVE, session, arguments, "open", None) for arguments in wanted]
        calls = [driver.submit(draft, arguments) for draft, arguments in zip(drafts, wanted, strict=True)]
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = driver._loop.run_until_complete(crowd())
    accepted = [answer for answer in answers if isinstance(answer, Receipt)]
    assert 0 < len(accepted) < GUESTS
    assert all(isinstance(answer, (Receipt, QueueFull)) for answer in answers)
    driver.drain_all()
    assert driver.outcomes([*receipts, *accepted]) == ["confirmed"] * (6 + len(accepted))
    assert driver.counts(session)[0] == 6 + len(accepted)
    driver.check([*receipts, *accepted])
