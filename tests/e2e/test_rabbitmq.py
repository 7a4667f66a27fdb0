"""RabbitMQ as the broker: doorbells go through a quorum queue, and what is accepted depends on it as little as on any broker.

It comes from Debian. Where it is missing this is skipped; in CI, which installs it, it fails.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import amqp
import pytest

from core.doorbell import QUEUE, celery_app
from ops import verify
from tests.conftest import temporary_folder
from tests.support.http import Api
from tests.support.rabbitmq import RabbitMQ, missing
from tests.support.stack import Stack
from tests.support.waiting import until

CAPACITY = 10_000
SENT_AT_A_TIME = 40


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A node of its own."""
    lacking = missing()
    if lacking:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(lacking)
    with temporary_folder("rabbitmq") as folder, closing(RabbitMQ(folder)) as found:
        yield found


@contextmanager
def asleep(stack: Stack) -> Iterator[None]:
    """Nobody sweeps: what is applied now was rung for."""
    os.killpg(stack.sweeper.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(stack.sweeper.pid, signal.SIGCONT)


def rung_for(api: Api, session: int) -> bool:
    """Whether a reserve has its outcome soon."""
    return api.reserve(session, wait=2).status_code == 201


def test_a_broker_that_is_killed_and_comes_back_costs_no_command_and_no_restart(
    rabbitmq: RabbitMQ, stacks: Callable[..., Stack]
) -> None:
    stack = stacks(broker_url=rabbitmq.url)
    with Api(stack.url) as api:
        session = api.new_session(capacity=CAPACITY)
        with asleep(stack):
            until(lambda: rung_for(api, session), 30, "the worker is rung for through RabbitMQ")
        assert_it_is_a_quorum_queue(rabbitmq)

        jobs = [api.reserve(session, wait=None) for _ in range(SENT_AT_A_TIME)]
        stack.worker.kill()
        jobs += [api.reserve(session, wait=None) for _ in range(SENT_AT_A_TIME)]
        stack.worker.start()
        rabbitmq.node.kill()
        jobs += [api.reserve(session, wait=None) for _ in range(SENT_AT_A_TIME)]
        assert {answer.status_code for answer in jobs} == {202}
        ids = [answer.json()["id"] for answer in jobs]
        until(lambda: all(api.job(job)["outcome"] == "confirmed" for job in ids), 30, "the sweeper takes over")
        seqs = [api.job(job)["seq"] for job in ids]
        assert seqs == sorted(seqs)

        rabbitmq.node.start()
        with asleep(stack):
            until(lambda: rung_for(api, session), 60, "API and worker have found the broker again")
        assert verify_is_clean(stack)


def verify_is_clean(stack: Stack) -> bool:
    """Whether the ledger says the same as every table."""
    until(lambda: stack.deployment.sql("SELECT count(*) = max(last_seq) FROM jobs j, sessions s WHERE j.seq > 0") == [(True,)])
    return verify.run(stack.database_url, stack.redis_url).differences == []


def assert_it_is_a_quorum_queue(rabbitmq: RabbitMQ) -> None:
    with closing(celery_app(rabbitmq.url)) as app, app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_declare(QUEUE, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        with pytest.raises(amqp.PreconditionFailed, match="x-queue-type"):
            channel.queue_declare(QUEUE, durable=True, auto_delete=False, arguments={"x-queue-type": "classic"})
