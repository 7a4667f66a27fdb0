"""Several drains of one partition at once: whoever has the lock works, the others leave, and nothing happens twice."""

from __future__ import annotations

from core import crashpoints
from core.model import partition_of_session
from tests.support.driving import Driver, start_drain, together

NAMES = [f"guest{n}" for n in range(300)]


def test_two_drains_at_once_apply_each_command_once_and_in_order(driver: Driver) -> None:
    session = driver.new_session(capacity=250)
    receipts = driver.reserve(session, *NAMES)
    with Driver(driver.deployment, batch_size=20) as one, Driver(driver.deployment, batch_size=20) as other:
        together(one.drain_all, other.drain_all)
    driver.drain_all()
    report = driver.check(receipts)
    outcomes = driver.outcomes(sorted(receipts, key=lambda receipt: receipt.job.seq))
    assert outcomes == ["confirmed"] * 250 + ["sold_out"] * 50
    assert report.replays == 0
    assert driver.counts(session) == (250, 300)


def test_drains_in_processes_of_their_own_do_the_same(driver: Driver) -> None:
    session = driver.new_session(capacity=100)
    receipts = driver.reserve(session, *NAMES)
    processes = [start_drain(driver.deployment, driver.partition(session)) for _ in range(3)]
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    driver.drain_all()
    driver.check(receipts)
    assert driver.counts(session) == (100, 300)


def test_a_drain_leaves_while_another_holds_the_partition(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana", "bo")
    dealt_with: list[int] = []
    with Driver(driver.deployment) as other:
        crashpoints.arm("before_commit", lambda: dealt_with.append(other.drain(driver.partition(session))))
        assert driver.drain(driver.partition(session)) == 2
    assert dealt_with == [0]
    driver.check()


def test_another_partition_is_not_held_up(driver: Driver) -> None:
    first = driver.new_session()
    second = next(s for _ in range(50) if driver.partition(s := driver.new_session()) != driver.partition(first))
    driver.reserve(first, "ana")
    driver.reserve(second, "bo")
    dealt_with: list[int] = []
    with Driver(driver.deployment) as other:
        crashpoints.arm("before_commit", lambda: dealt_with.append(other.drain(partition_of_session(second, 16))))
        driver.drain(driver.partition(first))
    assert dealt_with == [1]
    driver.check()
