"""A worker's rounds over real mailboxes: one wake-up serves all partitions, keeps their bells, and lets them ring again."""

from __future__ import annotations

from core.lookout import Lookout, Sight
from core.mailbox import key
from core.model import partition_of_session
from tests.support.driving import Driver


def sessions_apart(driver: Driver, count: int) -> list[int]:
    """New sessions in as many partitions."""
    found: dict[int, int] = {}
    while len(found) < count:
        session = driver.new_session(capacity=100)
        found.setdefault(driver.partition(session), session)
    return list(found.values())


def names(count: int) -> list[str]:
    return [f"guest{number}" for number in range(count)]


def test_one_wake_up_serves_all_partitions_and_the_next_command_rings_again(driver: Driver) -> None:
    sessions = sessions_apart(driver, 3)
    receipts = [receipt for session in sessions for receipt in driver.reserve(session, *names(20))]
    assert driver.worker.rounds(driver.partition(sessions[0])) == 60
    assert driver.outcomes(receipts) == ["confirmed"] * 60
    assert not any(driver.redis.exists(key(driver.partition(session), "bell")) for session in sessions)
    rung = len(driver.rung.partitions)
    driver.reserve(sessions[1], "late")
    assert driver.rung.partitions[rung:] == [driver.partition(sessions[1])]


def test_a_batch_keeps_its_bell_if_it_was_large_enough(driver: Driver) -> None:
    session = driver.new_session(capacity=100)
    partition = driver.partition(session)
    for count, keep_from, kept in ((5, 6, False), (5, 5, True)):
        driver.reserve(session, *(f"{name}-{keep_from}" for name in names(count)))
        assert driver.drain.batch(partition, keep_from) == (count, 0)
        assert driver.redis.exists(key(partition, "bell")) == kept
    lookout = Lookout(driver.redis)
    assert lookout.release(partition) == 0
    assert not driver.redis.exists(key(partition, "bell"))


def test_a_lookout_sees_what_waits_and_what_is_taken(driver: Driver) -> None:
    session = driver.new_session(capacity=100)
    partition = partition_of_session(session, driver.settings.partitions)
    lookout = Lookout(driver.redis)
    everywhere = range(driver.settings.partitions)
    assert lookout.look(everywhere) == []
    driver.reserve(session, *names(3))
    (seen,) = lookout.look(everywhere)
    assert seen == Sight(partition, 3, seen.age_ms, False)
    assert 0 <= seen.age_ms < 60_000
    driver.worker.mailbox.take(partition, 10)
    assert [sight.is_taken for sight in lookout.look(everywhere)] == [True]
    driver.redis.script_flush()
    assert [len(lookout.look(everywhere)) for _ in range(2)] == [0, 1]  # the second time it is told the script again
    assert lookout.release(partition) == 3
    assert driver.redis.exists(key(partition, "bell"))
