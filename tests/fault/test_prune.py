"""`aforo prune`: sessions that were over long ago go whole, and what remains replays at every moment."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from operator import sub

import pytest

from core import crashpoints
from core import prune as pruning
from core.batches import SubmitBatch, Wanted
from core.bootstrap import owner_services
from core.door import Receipt
from core.errors import NotOwner, UnknownSession
from core.finding import SessionSearch
from core.mailbox import key
from core.model import CANCEL_SESSION, CONFIGURE, RESERVE, ConfigureArguments, NoArguments
from core.queries import SessionView
from core.store import SentBatch
from tests.fault.test_histories import commands
from tests.support.driving import KILLED, Driver, person, together
from tests.support.erasing import AGE, end, in_a_process, owner, prune, working
from tests.support.stack import Deployment

TABLES = ("sessions", "reservations", "jobs")

# Where it dies, one run after the other, and which of its 15 reservations and 17 jobs are left then; ten rows go at a time.
STEPS = {"after_mark": (15, 17), "mid_prune": (5, 17), "mid_prune#2": (0, 7), "before_cleaning": (0, 0)}

pytestmark = pytest.mark.usefixtures("quiet")


def left(driver: Driver) -> list[int]:
    """How many sessions, reservations and jobs there are."""
    return [driver.deployment.sql(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES]


def old_and_new(driver: Driver, people: int = 3) -> tuple[int, int, list[Receipt]]:
    """A session that ended long ago and one to come, with reservations in both; and what was accepted for each."""
    old, new = driver.new_session(capacity=30), driver.new_session(capacity=30)
    names = [f"guest{n}" for n in range(people)]
    receipts = driver.reserve(old, *names) + driver.reserve(new, *names)
    driver.drain_all()
    end(driver, old)
    return old, new, receipts


def test_a_session_that_ended_long_ago_goes_with_all_that_belongs_to_it(driver: Driver) -> None:
    old, new, receipts = old_and_new(driver)
    with owner(driver.deployment) as services:
        expected = services.prune.preview(AGE)
        assert left(driver) == [2, 6, 9]
        found = services.prune(AGE)
    assert found == expected
    assert (found.sessions, found.reservations, found.jobs) == (1, 3, 5)
    assert left(driver) == [1, 3, 4]
    assert (driver.queries.session(old), driver.outcomes(receipts[:3])) == (None, ["lost"] * 3)
    assert driver.redis.exists(key(driver.partition(old), f"s:{old}")) == 0
    with pytest.raises(UnknownSession):
        driver.reserve(old, "late")
    receipts = [*receipts[3:], *driver.reserve(new, "late")]
    driver.drain_all()
    driver.check(receipts)


def test_what_was_over_only_lately_stays(driver: Driver) -> None:
    sessions = [driver.new_session() for _ in range(4)]
    driver.reserve(sessions[0], "ana")
    driver.drain_all()
    for session, days in zip(sessions, (89, 91, 10, 400), strict=True):
        end(driver, session, ago=timedelta(days=days))
    far = ConfigureArguments(end_time=1_935_432_000_000, start_time=1_935_424_800_000)
    driver.accept([(CONFIGURE, sessions[3], far)])  # was over, and is not any more
    driver.drain_all()
    assert prune(driver.deployment).sessions == 1
    assert [driver.queries.session(session) is not None for session in sessions] == [True, False, True, True]
    driver.check()


def test_a_cancelled_session_is_over_from_its_cancellation_on(driver: Driver) -> None:
    sessions = [driver.new_session() for _ in range(2)]
    driver.reserve(sessions[0], "ana")
    driver.accept([(CANCEL_SESSION, session, NoArguments()) for session in sessions])
    driver.drain_all()
    driver.deployment.sql("UPDATE sessions SET cancelled_at = now() - interval '91 days' WHERE id = %s", sessions[0])
    assert prune(driver.deployment).sessions == 1
    assert [driver.queries.session(session) is not None for session in sessions] == [False, True]
    driver.check()


def test_pruning_is_completed_after_crash_upon_crash_and_nobody_sees_half_a_session(driver: Driver) -> None:
    old, new, receipts = old_and_new(driver, people=15)
    for point, rows in STEPS.items():
        assert in_a_process(driver.deployment, "prune", crash_at=point) == KILLED
        assert left(driver) == [2 if rows != (0, 0) else 1, 15 + rows[0], 16 + rows[1]], point
        report = driver.report()
        assert (report.differences, report.sessions) == ([], 1)
        assert (driver.queries.session(old), driver.queries.reservations(old, None, 10, live_only=False)) == (None, None)
        assert driver.queries.jobs([receipt.job.id for receipt in receipts[:15]]) == {}
        assert [view.id for view in driver.queries.sessions(SessionSearch(open_only=False), 10)[1]] == [new]
        assert not driver.worker.store.update_session(old, {"title": "Too late"})
        with pytest.raises(UnknownSession):
            driver.reserve(old, "late")
    assert prune(driver.deployment).sessions == 0
    driver.check(receipts[15:])


def test_rows_go_in_bounded_steps_and_the_ledger_replays_after_each(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "ROWS_AT_ONCE", 10)
    _, _, receipts = old_and_new(driver, people=25)
    seen: list[list[int]] = []

    def look() -> None:
        crashpoints.arm("mid_prune", look)
        seen.append(left(driver))
        assert driver.report().differences == []

    crashpoints.arm("mid_prune", look)
    assert prune(driver.deployment).sessions == 1
    steps = [max(map(sub, before, after)) for before, after in pairwise(seen)]
    assert max(steps) == 10
    driver.check(receipts[25:])


@pytest.mark.parametrize("drained", ["while its rows go", "after them"])
def test_a_command_that_slips_in_while_its_session_goes_has_an_outcome(driver: Driver, drained: str) -> None:
    old, _, _ = old_and_new(driver)
    late = late_reader(driver, old)
    receipts: list[Receipt] = []

    def accept() -> None:
        late()
        receipts.extend(driver.reserve(old, "late"))
        if drained == "while its rows go":
            driver.drain_all()

    crashpoints.arm("after_mark", accept)
    assert prune(driver.deployment).sessions == 1
    receipts += driver.reserve(driver.new_session(), "bo")
    driver.drain_all()
    assert driver.outcomes(receipts) == ["quarantined", "confirmed"]
    assert driver.redis.exists(key(driver.partition(old), f"s:{old}")) == 0
    assert driver.report().differences == []


def test_a_head_that_was_loaded_too_late_goes_with_its_session(driver: Driver) -> None:
    old, _, _ = old_and_new(driver)
    crashpoints.arm("after_mark", late_reader(driver, old))
    assert prune(driver.deployment).sessions == 1
    with pytest.raises(UnknownSession):
        driver.reserve(old, "late")


def late_reader(driver: Driver, session: int) -> Callable[[], None]:
    """Somebody who has read a session from Postgres, and puts its head into Redis only when called."""
    view = view_of(driver, session)

    def put() -> None:
        driver._loop.run_until_complete(driver.projections.put_head(view.decided(), 0))

    return put


def test_a_session_of_which_something_waits_is_not_marked(driver: Driver) -> None:
    old, new, receipts = old_and_new(driver)
    receipts += driver.reserve(old, "late")
    with owner(driver.deployment) as services:
        before = services.prune._erasure.moment(AGE)
        marked = services.prune._erasure.mark(
            driver.partition(old), [old, new], before, lambda ids: services.prune._scrub.retire(driver.partition(old), ids)
        )
        assert marked == 0
        driver.drain_all()
        assert driver.outcomes(receipts[-1:]) == ["started"]
        assert services.prune(AGE).sessions == 1
    driver.check(receipts[3:6])


def test_what_a_worker_left_unpublished_is_published_before_its_session_goes(driver: Driver) -> None:
    old, _, _ = old_and_new(driver)
    receipts = driver.reserve(old, "late")
    assert driver.drain_in_a_process(driver.partition(old), "after_commit") == KILLED
    assert prune(driver.deployment).sessions == 1
    assert driver.waiting(old) == 0
    assert driver.outcomes(receipts) == ["lost"]  # it had its outcome, and went with its session
    assert driver.deployment.sql("SELECT count(*) FROM incidents") == [(0,)]
    assert driver.report().differences == []


def test_old_batches_incidents_and_unreadable_entries_go_and_younger_ones_stay(driver: Driver) -> None:
    old, new, _ = old_and_new(driver)
    both = [Wanted(RESERVE, old, person("late")), Wanted(RESERVE, new, person("late"))]
    driver.redis.xadd(key(0, "mailbox"), {"x": "garbage"})
    driver.redis.xadd(key(0, "mailbox"), {"y": "garbage"})
    for name, wanted in (("batch-of-the-old", both[:1]), ("batch-of-both", both), ("young-batch-of-old", both[:1])):
        batch(driver, wanted, name)
    driver.drain_all()
    driver.deployment.sql("INSERT INTO incidents (kind, partition, detail) VALUES ('seq_gap', 0, '{}'), ('seq_gap', 1, '{}')")
    for change in (
        "UPDATE batches SET created_at = now() - interval '1 year' WHERE created_at < (SELECT max(created_at) FROM batches)",
        "UPDATE incidents SET noticed_at = now() - interval '1 year' WHERE partition = 0",
        "UPDATE unreadable SET noticed_at = now() - interval '1 year' WHERE position('y' IN encode(content, 'escape')) > 0",
    ):
        driver.deployment.sql(change)
    with owner(driver.deployment) as services:
        expected = services.prune.preview(AGE)
        assert services.prune(AGE) == expected
    assert (expected.batches, expected.incidents, expected.unreadable) == (1, 1, 1)
    assert [driver.deployment.sql(f"SELECT count(*) FROM {name}")[0][0] for name in ("batches", "incidents", "unreadable")] == [
        2,
        1,
        1,
    ]
    driver.check()


def batch(driver: Driver, wanted: list[Wanted], name: str) -> None:
    """Send a batch."""

    async def write_down(*values: object) -> tuple[str, datetime]:
        return driver.worker.store.found_batches([SentBatch(*values)])[0]  # type: ignore[arg-type]

    async def known_sessions(ids: Sequence[int]) -> set[int]:
        return {session_id for session_id in ids if await driver._load_head(session_id)}

    submit = SubmitBatch(driver.submit, write_down, known_sessions, driver.worker.store.deployment(16))
    driver._loop.run_until_complete(submit(wanted, "open", name, False))


def test_two_at_once_remove_everything_once(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(pruning, "SESSIONS_AT_ONCE", 2)
    sessions = [driver.new_session(capacity=50) for _ in range(6)]
    for session in sessions:
        driver.reserve(session, *(f"guest{n}" for n in range(30)))
    driver.drain_all()
    end(driver, *sessions[:5])
    found = together(*[lambda: prune(driver.deployment)] * 2)
    assert [sum(getattr(one, name) for one in found) for name in TABLES] == [5, 150, 5 * 32]
    assert left(driver) == [1, 30, 31]
    driver.check()


@pytest.mark.parametrize("seed", range(1))
def test_what_remains_of_a_history_replays(deployment: Deployment, seed: int) -> None:
    chance = random.Random(seed)
    with Driver(deployment) as driver:
        sessions = [driver.new_session(capacity=chance.randint(0, 20), waitlist_capacity=chance.randint(0, 9)) for _ in range(6)]
        for _ in range(6):
            driver.accept(commands(chance, driver, sessions, 60))
            driver.drain_all()
        gone = [session for session in sessions if chance.random() < 0.5 and view_of(driver, session).cancelled_at is None]
        end(driver, *gone)
        driver.accept(commands(chance, driver, sessions, 60))  # waits when it begins
        assert prune(deployment).sessions == len(gone)
        assert driver.report().sessions == 6 - len(gone)
        driver.drain_all()
        driver.check()


def view_of(driver: Driver, session: int) -> SessionView:
    view = driver.queries.session(session)
    assert view is not None
    return view


def test_pruning_beside_drains_that_never_rest_leaves_no_difference(driver: Driver) -> None:
    busy = driver.new_session(capacity=1000)
    old = [driver.new_session() for _ in range(5)]
    for session in old:
        driver.reserve(session, "ana", "bo")
    driver.drain_all()
    end(driver, *old)
    receipts: list[Receipt] = []
    with working(driver) as differences:
        for number in range(5):
            receipts += driver.reserve(busy, *(f"guest{number}-{n}" for n in range(10)))
            prune(driver.deployment)
    driver.drain_all()
    assert differences == []
    assert left(driver) == [1, 50, 51]
    driver.check(receipts)


def test_whoever_may_not_finish_it_does_not_begin(driver: Driver) -> None:
    old, _, _ = old_and_new(driver)
    services = owner_services(driver.settings)  # the app's role: it may change sessions, but delete nothing
    try:
        for call in (lambda: services.prune(AGE), lambda: services.forget("guest0@example.org", True, False)):
            with pytest.raises(NotOwner):
                call()
    finally:
        services.close()
    assert driver.queries.session(old) is not None
    driver.check()
