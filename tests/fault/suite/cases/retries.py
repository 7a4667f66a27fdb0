"""The same command sent again and again, by clients that did not get their answer or did not believe it."""

from __future__ import annotations

from tests.fault.suite.case import Run, case
from tests.fault.suite.clients import Crowd, wish
from tests.fault.suite.history import Call, History, Wish
from tests.fault.suite.stage import Stage

CONNECTIONS = 64


@case(
    "duplicates",
    fault="duplicates",
    injected="100,000 retries over 1,000 keys through 64 connections, half of them after Redis was emptied",
    passes="1,000 jobs; id, seq and accepted_at identical in every answer",
    in_tests=0.02,
)
def duplicates(run: Run) -> None:
    """Keys are as good as numbers: a repeat is the same job."""
    stage = run.stage()
    keys = run.scaled(1000, least=40)
    sessions = [venue.id for venue in run.venues(stage)]
    wishes = [
        wish(run.random.choice(sessions), "reserve", f"guest-{number}@example.org", f"{run.seed.replace('/', '-')}-{number}")
        for number in range(keys)
    ]
    retries = run.scaled(100_000)
    before = _repeated(run, stage, wishes, retries // 2)
    stage.drained()
    _empty(stage)
    after = _repeated(run, stage, wishes, retries - retries // 2)
    receipts = [{_receipt(call) for call in history.calls} for history in (before, after)]
    run.require(receipts[0] == receipts[1], "after Redis was emptied keys were answered with other receipts")
    run.check(stage, before, after)
    run.require(run.result.accepted == keys, f"{run.result.accepted} jobs for {keys} keys")


def _empty(stage: Stage) -> None:
    """Redis forgets everything; nothing waits in it. What Celery keeps there of its own comes back by itself."""
    stage.redis.flushdb()


def _repeated(run: Run, stage: Stage, wishes: list[Wish], retries: int) -> History:
    """Each once, then again at random; every answer to a key is the same."""
    crowd = Crowd(stage.url)
    crowd.send(wishes, CONNECTIONS)
    crowd.send(run.random.choices(wishes, k=retries), CONNECTIONS)
    run.injected(retries)
    unanswered = sum(call.job is None for call in crowd.history.calls)
    run.require(unanswered == 0, f"{unanswered} retries were not answered with their job")
    shown = {_receipt(call) for call in crowd.history.calls}
    run.require(len(shown) == len(wishes), f"{len(wishes)} keys were answered with {len(shown)} different receipts")
    return crowd.history


def _receipt(call: Call) -> tuple[str, int, str] | None:
    return call.job and (call.job.id, call.job.seq, call.job.accepted_at)
