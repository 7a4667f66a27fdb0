"""Changing the number of partitions: whatever it is broken off by, nothing is lost, and what was shown stays true."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from core import repartition as module
from core.bootstrap import RepartitionServices, repartition_services, worker_services
from core.errors import AforoError, Rearranging, SettingsConflict, Unavailable
from core.model import partition_of_session
from core.settings import Settings
from core.store import create_engine
from core.transaction import LOCK_NAMESPACE
from tests.support.driving import KILLED, Driver
from tests.support.processes import ROOT, python_program
from tests.support.stack import Deployment

SESSIONS = 12
POINTS = ("intended", "shut", "emptied", "without_heads", "switched", "opening", "opened")
BEFORE_THE_SWITCH = POINTS[:4]
SHUT = POINTS[1:6]


@pytest.fixture
def services(deployment: Deployment) -> Iterator[RepartitionServices]:
    """What `aforo repartition` uses."""
    with closing(repartition_services(deployment.settings(owner_url=deployment.owner_url))) as found:
        yield found


def broken_off(deployment: Deployment, partitions: int, point: str) -> int:
    """`aforo repartition`, killed at this point. Its exit status."""
    environment = {**deployment.operator_environment, "AFORO_CRASH_AT": point}
    program = python_program("repartition", environment, "-m", "ops.cli", "repartition", str(partitions))
    done = subprocess.run(program.command, env=program.environment, cwd=ROOT, capture_output=True, timeout=60, check=False)
    return done.returncode


def reserved(driver: Driver, sessions: list[int], name: str) -> list:
    """A reserve in each session, under a key of its own."""
    return [driver.reserve(session, name, key=f"key-{name}-{session}")[0] for session in sessions]


def is_as_it_should_be(driver: Driver, receipts: list) -> None:
    """After everything is drained: nothing is lost, doubled or renumbered, and nobody took it for lost data."""
    driver.drain_all()
    driver.check(receipts)
    assert driver.went_back == []
    assert driver.deployment.sql("SELECT kind, detail FROM incidents") == []
    assert driver.deployment.sql("SELECT count(*) FROM jobs WHERE accepted_seq IS NOT NULL OR kind = 'replay'") == [(0,)]


def test_who_says_no_number_goes_by_the_database_s_own_and_another_is_refused(deployment: Deployment) -> None:
    silent = Settings(database_url=deployment.database_url, redis_url=deployment.redis_url)
    assert silent.partitions != deployment.partitions
    with closing(worker_services(silent)) as found:
        assert found.lanes.now == deployment.partitions
    with pytest.raises(SettingsConflict, match=f"set up with {deployment.partitions}"):
        worker_services(deployment.settings(partitions=silent.partitions))


@pytest.mark.parametrize("point", POINTS)
def test_a_change_that_was_broken_off_is_ended_by_running_it_again(
    driver: Driver, services: RepartitionServices, point: str
) -> None:
    sessions = [driver.new_session(capacity=100) for _ in range(SESSIONS)]
    receipts = reserved(driver, sessions, "ana")
    driver.drain_all()
    receipts += reserved(driver, sessions, "bo")  # which wait
    assert broken_off(driver.deployment, 5, point) == KILLED
    if point in SHUT:
        for session in sessions:
            with pytest.raises(Rearranging):
                driver.reserve(session, "early")
    assert services.arrangements.read().is_moving
    with pytest.raises(SettingsConflict, match="half done"):
        services.repartition(7)
    services.repartition(5)
    assert (services.arrangements.read().partitions, services.arrangements.read().is_moving) == (5, False)
    receipts += reserved(driver, sessions, "cy")
    assert driver.lanes.now == 5
    assert [receipt.job.seq for receipt in receipts] == [1] * SESSIONS + [2] * SESSIONS + [3] * SESSIONS
    is_as_it_should_be(driver, receipts)


@pytest.mark.parametrize("point", ["shut", "without_heads", "switched"])
def test_a_change_that_was_broken_off_can_be_given_up_and_after_the_switch_is_ended(
    driver: Driver, services: RepartitionServices, point: str
) -> None:
    sessions = [driver.new_session(capacity=100) for _ in range(SESSIONS)]
    receipts = reserved(driver, sessions, "ana")
    assert broken_off(driver.deployment, 5, point) == KILLED
    assert services.repartition.abort() == (16 if point in BEFORE_THE_SWITCH else 5)
    assert not services.arrangements.read().is_moving
    receipts += reserved(driver, sessions, "bo")
    assert [receipt.job.seq for receipt in receipts] == [1] * SESSIONS + [2] * SESSIONS
    is_as_it_should_be(driver, receipts)


def test_a_key_names_the_same_job_and_old_jobs_are_shown_as_they_are_now_wherever_their_session_went(
    driver: Driver, services: RepartitionServices
) -> None:
    sessions = [driver.new_session(capacity=100) for _ in range(SESSIONS)]
    first = reserved(driver, sessions, "ana")
    driver.drain_all()
    services.repartition(5)
    driver.worker.look_at_lanes()
    assert [receipt.job.id for receipt in reserved(driver, sessions, "ana")] == [receipt.job.id for receipt in first]
    cancels = [driver.cancel(session, "ana")[0] for session in sessions]
    driver.drain_all()
    services.repartition(16)  # where records of before the cancels lie
    driver.worker.look_at_lanes()
    assert sum(partition_of_session(session, 5) != partition_of_session(session, 16) for session in sessions) > 2
    repeated = reserved(driver, sessions, "ana")
    assert [(r.job.id, r.known) for r in repeated] == [(receipt.job.id, True) for receipt in first]
    for job in driver.jobs([receipt.job.id for receipt in first]):
        assert job is not None
        assert job.reservation is not None
        assert (job.outcome, job.reservation.status) == ("confirmed", "cancelled")
    is_as_it_should_be(driver, [*first, *cancels])


def test_who_has_not_heard_of_a_change_cannot_accept_under_the_old_number(
    driver: Driver, services: RepartitionServices, deployment: Deployment
) -> None:
    sessions = [driver.new_session(capacity=100) for _ in range(SESSIONS)]
    with Driver(deployment) as other:
        receipts = reserved(other, sessions, "ana")
        driver.drain_all()
        services.repartition(3)
        assert other.lanes.now == 16
        for session in sessions:  # even between its look at Postgres and its call
            view = other.queries.session(session)
            assert view is not None
            with pytest.raises(Rearranging):
                other._loop.run_until_complete(other.projections.put_head(view.decided(), 0))
        receipts += [other.reserve(session, "bo")[0] for session in sessions]
        assert other.lanes.now == 3
        driver.worker.look_at_lanes()
        is_as_it_should_be(driver, receipts)


def test_a_restarted_process_goes_by_what_postgres_has_and_not_by_its_setting(
    driver: Driver, services: RepartitionServices, deployment: Deployment
) -> None:
    services.repartition(5)
    with Driver(deployment) as other:  # its setting says 16
        assert other.lanes.now == 5


def test_where_a_partition_does_not_empty_the_door_opens_again_and_nothing_was_changed(
    driver: Driver, services: RepartitionServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EMPTY_SECONDS", 0.2)
    session = driver.new_session()
    receipts = driver.reserve(session, "ana")
    engine = create_engine(driver.settings.database_url, 1)
    with engine.begin() as holder:
        holder.exec_driver_sql("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_NAMESPACE, driver.partition(session)))
        with pytest.raises(Unavailable, match="does not empty"):
            services.repartition(5)
    assert (services.arrangements.read().partitions, services.arrangements.read().is_moving) == (16, False)
    receipts += driver.reserve(session, "bo")
    is_as_it_should_be(driver, receipts)
    engine.dispose()


def test_one_changes_it_at_a_time_and_only_the_owner(services: RepartitionServices, deployment: Deployment) -> None:
    others = repartition_services(deployment.settings(owner_url=deployment.owner_url))
    refused = pytest.raises(SettingsConflict, match="Somebody else")
    with closing(others), services.arrangements.alone(), refused, others.arrangements.alone():
        pass
    with closing(repartition_services(deployment.settings())) as apps, pytest.raises(AforoError, match="AFORO_OWNER_URL"):
        apps.repartition(5)
