"""A worker's rounds over real mailboxes: one wake-up serves all partitions, keeps their bells, and lets them ring again."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core import crashpoints, service
from core import lookout as lookouts
from core.errors import Unavailable
from core.exchange import Exchange
from core.lookout import Lookout, Sight
from core.mailbox import key
from core.model import CONFIGURE, Command, ConfigureArguments, partition_of_session
from tests.support.driving import Driver
from tests.support.processes import ROOT, Running, python_program, worker_program
from tests.support.stack import Deployment
from tests.support.waiting import until

LEAVES = """
import os, sys
from celery import signals
from core import mailbox
from worker import app
mailbox.BELL_MS = 60_000  # it lasts until somebody looks
read, write = os.pipe()
child = os.fork()
if child == 0:
    os.read(read, 1)  # until the first process was told
    print(app.services().rounds(int(sys.argv[1])), flush=True)
    os._exit(0)
signals.worker_shutting_down.send(sender="test", sig="SIGTERM", how="Warm", exitcode=0)
os.write(write, b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


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


@pytest.mark.usefixtures("lasting_bells")
def test_a_batch_keeps_its_bell_if_it_was_large_enough(driver: Driver) -> None:
    session = driver.new_session(capacity=100)
    partition = driver.partition(session)
    for count, keep_from, kept in ((5, 6, False), (5, 5, True)):
        driver.reserve(session, *(f"{name}-{keep_from}" for name in names(count)))
        assert driver.drain.batch(partition, keep_from) == (count, 0)
        assert driver.redis.exists(key(partition, "bell")) == kept
    lookout = Lookout(driver.redis)
    assert lookout.release([partition]) == []
    assert not driver.redis.exists(key(partition, "bell"))


@pytest.mark.usefixtures("lasting_bells")
def test_a_lookout_sees_what_waits_and_what_is_taken(driver: Driver) -> None:
    session = driver.new_session(capacity=100)
    partition = partition_of_session(session, driver.settings.partitions)
    lookout = Lookout(driver.redis)
    everywhere = range(driver.settings.partitions)
    assert lookout.look(everywhere) == []
    assert lookout.wait(everywhere, 0.001) == []
    driver.reserve(session, *names(3))
    (seen,) = lookout.look(everywhere)
    assert seen == Sight(partition, 3, seen.age_ms, False)
    assert 0 <= seen.age_ms < 60_000
    assert lookout.wait(everywhere, 10) == [partition]
    driver.worker.mailbox.take([partition], 10)
    assert [sight.is_taken for sight in lookout.look(everywhere)] == [True]
    driver.redis.script_flush()
    assert len(lookout.look(everywhere)) == 1  # it is told the script again
    assert lookout.release([partition]) == [partition]
    assert driver.redis.exists(key(partition, "bell"))


def log_bytes(driver: Driver) -> int:
    return driver.redis.info("persistence")["aof_current_size"]


@pytest.mark.usefixtures("lasting_bells")
def test_who_looks_keeps_the_bells_and_no_log_hears_of_it(driver: Driver) -> None:
    lookout = Lookout(driver.redis)
    everywhere = range(driver.settings.partitions)
    before = log_bytes(driver)
    looks = []
    for partition in everywhere:
        lookout.look([partition], keep_bells=True)
        looks.append(log_bytes(driver))
    # The log is the server's, and other stacks on it may write in between, but not during every look.
    assert any(earlier == later for earlier, later in itertools.pairwise([before, *looks]))
    assert all(0 < driver.redis.pttl(key(partition, "bell")) <= lookouts.BELL_MS for partition in everywhere)
    driver.reserve(driver.new_session(), "ana")
    assert driver.rung.partitions == []


def test_partitions_with_little_in_them_share_a_transaction(driver: Driver) -> None:
    sessions = sessions_apart(driver, 3)
    receipts = [receipt for session in sessions for receipt in driver.reserve(session, *names(2))]
    partitions = [driver.partition(session) for session in sessions]
    assert driver.drain.together(partitions) == dict.fromkeys(partitions, (2, 0))
    assert driver.deployment.sql("SELECT count(DISTINCT batch), count(*) FROM jobs WHERE seq > 0") == [(1, 6)]
    assert driver.outcomes(receipts) == ["confirmed"] * 6
    driver.check(receipts)


def test_a_resize_has_a_transaction_to_itself_also_among_partitions(driver: Driver) -> None:
    first, second = sessions_apart(driver, 2)
    driver.reserve(first, "ana")
    driver.accept([(CONFIGURE, second, ConfigureArguments(capacity=3))])
    partitions = [driver.partition(first), driver.partition(second)]
    assert driver.drain.together(partitions) == {partitions[1]: (1, 0)}
    assert not driver.redis.exists(key(partitions[0], "trial"))  # nobody died over it
    assert driver.drain.together(partitions) == {partitions[0]: (1, 0)}


def test_a_batch_over_which_a_worker_died_is_tried_without_the_other_partitions(driver: Driver) -> None:
    sessions = sessions_apart(driver, 2)
    receipts = [receipt for session in sessions for receipt in driver.reserve(session, *names(2))]
    partitions = [driver.partition(session) for session in sessions]
    driver.worker.mailbox.take(partitions[1:], 10)  # and then it died
    assert driver.drain.together(partitions) == {partitions[1]: (1, 1)}
    assert driver.drain.in_doubt == {partitions[1]}
    while sum(left for _, left in driver.drain.together(partitions).values()):
        pass
    assert driver.drain.together(partitions) in ({}, {partitions[0]: (2, 0)})
    assert driver.drain.in_doubt == set()
    assert driver.outcomes(receipts) == ["confirmed"] * 4
    driver.check(receipts)


def test_what_one_worker_has_locked_another_goes_without(driver: Driver) -> None:
    sessions = sessions_apart(driver, 2)
    for session in sessions:
        driver.reserve(session, "ana")
    partitions = [driver.partition(session) for session in sessions]
    with driver.worker.store.batch(partitions[0]), Driver(driver.deployment) as other:
        assert other.drain.together(partitions) == {partitions[1]: (1, 0)}


def test_who_publishes_late_leaves_the_mark_of_the_batch_that_came_after(driver: Driver) -> None:
    session = driver.new_session(capacity=100)
    partition = driver.partition(session)
    receipts = driver.reserve(session, "ana")
    with Driver(driver.deployment) as other:

        def meanwhile() -> None:
            other.drain.batch(partition)  # tells what was committed, since the first one has not yet
            receipts.extend(driver.reserve(session, "bo"))
            other.worker.mailbox.take([partition], 10)  # and has the next in hand

        crashpoints.arm("after_commit", meanwhile)
        driver.drain.batch(partition)
        assert driver.redis.exists(key(partition, "trial"))
        driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"] * 2
    driver.check(receipts)


def test_a_worker_that_is_to_end_tells_the_processes_of_its_pool(driver: Driver) -> None:
    session = driver.new_session(capacity=100)
    driver.reserve(session, *names(35))
    environment = {**driver.deployment.environment, "AFORO_BATCH_SIZE": "10"}
    program = python_program("leaves", environment, "-c", LEAVES, str(driver.partition(session)))
    done = subprocess.run(program.command, env=program.environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("10\n", 0), done.stderr  # the batch under way, and then it goes
    assert driver.redis.exists(key(driver.partition(session), "bell"))


def test_a_worker_is_connected_before_its_first_command_comes(deployment: Deployment, tmp_path: Path) -> None:
    others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    worker = Running(worker_program(deployment.environment), tmp_path)
    try:
        until(lambda: deployment.sql(others), 30, "it is connected")
    finally:
        worker.kill()


def test_what_is_taken_before_the_lock_is_free_and_each_command_is_dealt_with_once(driver: Driver) -> None:
    sessions = sessions_apart(driver, 3)
    receipts = [receipt for session in sessions for receipt in driver.reserve(session, *names(2))]
    partitions = [driver.partition(session) for session in sessions]
    driver.worker.mailbox.take(partitions[:1], 10)  # somebody has it in hand, or died
    found, seen = driver.drain.round([partitions], partitions)
    assert found == dict.fromkeys(partitions[1:], (2, 0))
    assert [(sight.partition, sight.waiting, sight.is_taken) for sight in seen or ()] == [(partitions[0], 2, True)]
    assert driver.drain.round([partitions]) == ({}, None)
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"] * 6
    driver.check(receipts)


def test_what_others_applied_between_taking_and_locking_is_not_applied_again(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = driver.new_session(capacity=100)
    partition = driver.partition(session)
    receipts = driver.reserve(session, *names(3))
    locked = driver.worker.store.batch

    def late(*partitions: int, ahead: Sequence[Command]) -> Any:
        monkeypatch.setattr(driver.worker.store, "batch", locked)
        assert len(ahead) == 3
        with Driver(driver.deployment) as other:
            other.drain_all()  # takes it for the batch of somebody who died
            receipts.extend(driver.reserve(session, *names(5)))  # three of them are there already
            other.drain_all()
        return locked(*partitions, ahead=ahead)

    monkeypatch.setattr(driver.worker.store, "batch", late)
    assert driver.drain.round([[partition]])[0] == {partition: (3, 0)}
    assert driver.outcomes(receipts) == ["confirmed"] * 3 + ["duplicate"] * 3 + ["confirmed"] * 2
    assert driver.deployment.sql("SELECT count(*) FROM jobs WHERE seq > 0") == [(8,)]
    driver.check(receipts)


@pytest.mark.parametrize("both", [True, False])
def test_who_took_and_gets_no_lock_gives_it_back(driver: Driver, both: bool) -> None:
    first, second = sessions_apart(driver, 2)
    receipts = [receipt for session in (first, second) for receipt in driver.reserve(session, *names(2))]
    partitions = [driver.partition(first), driver.partition(second)]
    with Driver(driver.deployment) as other, other.worker.store.batch(*partitions[: 1 + both]):
        assert driver.drain.round([partitions])[0] == ({} if both else {partitions[1]: (2, 0)})
    assert not any(driver.redis.exists(key(partition, "trial")) for partition in partitions)
    driver.drain_all()
    driver.check(receipts)


def test_what_was_taken_long_before_the_lock_is_read_again(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "AHEAD_SECONDS", 0.0)
    session = driver.new_session(capacity=100)
    partition = driver.partition(session)
    receipts = driver.reserve(session, *names(3))
    taken = []
    take = driver.worker.mailbox.take
    monkeypatch.setattr(driver.worker.mailbox, "take", lambda *asked, **how: taken.append(how) or take(*asked, **how))
    assert driver.drain.round([[partition]])[0] == {partition: (3, 0)}
    assert taken == [{"only_free": True, "behind": {}}, {}]
    driver.check(receipts)


def test_a_backlog_is_applied_while_what_came_before_is_published(driver: Driver) -> None:
    session = driver.new_session(capacity=100)
    partition = driver.partition(session)
    receipts = driver.reserve(session, *names(5))
    with Driver(driver.deployment, batch_size=2) as worker:
        assert worker.drain.round([[partition]] * 4, [partition]) == ({partition: (5, 0)}, None)
    assert driver.deployment.sql("SELECT count(DISTINCT batch), count(*) FROM jobs WHERE seq > 0") == [(3, 5)]
    assert not driver.redis.exists(key(partition, "trial"))
    assert driver.outcomes(receipts) == ["confirmed"] * 5
    driver.check(receipts)


def test_a_batch_in_parts_leaves_the_next_one_where_it_is(driver: Driver) -> None:
    session = driver.new_session(capacity=100)
    partition = driver.partition(session)
    receipts = driver.reserve(session, "ana", "bo")
    receipts += driver.accept([(CONFIGURE, session, ConfigureArguments(capacity=2))])
    receipts += driver.reserve(session, "cy")
    # Behind what was taken and not dealt with there is nothing to take yet.
    assert driver.drain.round([[partition], [partition]])[0] == {partition: (2, 2)}
    assert driver.drain.round([[partition]])[0] == {partition: (1, 1)}
    assert driver.drain.round([[partition]])[0] == {partition: (1, 0)}
    assert driver.outcomes(receipts) == ["confirmed", "confirmed", "resized", "sold_out"]
    driver.check(receipts)


def test_what_is_committed_and_cannot_be_published_is_told_again(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    session = driver.new_session(capacity=100)
    partition = driver.partition(session)
    receipts = driver.reserve(session, *names(5))
    with Driver(driver.deployment, batch_size=2) as worker:
        monkeypatch.setattr(worker.worker.mailbox, "send", fails)
        with pytest.raises(Unavailable):
            worker.drain.round([[partition]] * 3)
    assert driver.deployment.sql("SELECT count(*) FROM jobs WHERE seq > 0") == [(2,)]
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"] * 5
    driver.check(receipts)


def test_a_connection_that_another_thread_takes_first_is_not_missed(driver: Driver) -> None:
    exchange = Exchange(driver.redis)
    exchange._idle = TakenMeanwhile()
    assert exchange([("PING",)]) == [b"PONG"]


class TakenMeanwhile(list[Any]):
    """There seems to be something in it, and then there is not."""

    def __bool__(self) -> bool:
        return True


def fails(_news: Any) -> Any:
    raise Unavailable
