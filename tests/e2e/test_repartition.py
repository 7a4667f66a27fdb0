"""`aforo repartition` under load: for a moment 503 and when to come again, then as before; nobody is restarted."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from ops import verify
from tests.support.crowd import crowd
from tests.support.http import Api
from tests.support.processes import ROOT, python_program
from tests.support.stack import Stack

SESSIONS = 20


def aforo(stack: Stack, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, as who owns the tables."""
    program = python_program("aforo", {**stack.deployment.operator_environment, **environment}, "-m", "ops.cli", *words)
    return subprocess.run(
        program.command, env=program.environment, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )


def test_from_sixteen_to_more_to_few_under_load_nothing_is_lost_and_nobody_restarts(stacks: Callable[..., Stack]) -> None:
    stack = stacks()
    with Api(stack.url) as api:
        sessions = [api.new_session(capacity=100_000) for _ in range(SESSIONS)]
        with crowd(stack, sessions) as people:
            people.more(200)
            early = dict(people.accepted)
            for partitions in (24, 7):
                done = aforo(stack, "repartition", str(partitions))
                assert (done.returncode, done.stderr) == (0, ""), done.stderr
                assert done.stdout.startswith(f"There are {partitions} partitions. Nothing was accepted for ")
                people.more(200)
            broken = aforo(stack, "repartition", "4", AFORO_CRASH_AT="shut")
            assert broken.returncode < 0
            answer = api.get("/readyz")
            assert answer.status_code == 503
            assert "`aforo repartition 4` ends it" in answer.json()["checks"]["partitions"]["detail"]
            assert "a change to 4 is half done" in aforo(stack, "repartition").stderr
            assert api.reserve(sessions[0], wait=None).json()["code"] == "unavailable"
            assert aforo(stack, "repartition", "4").returncode == 0
            people.more(200)
        assert {code for code in people.refused if code[0] >= 500} == {(503, "unavailable")}
        assert people.retry_after
        people.check()
        assert api.get("/readyz").status_code == 200
        assert {api.reserve(session).status_code for session in sessions} == {201}
        for job, (_, seq, _) in list(early.items())[:50]:
            assert (api.job(job)["outcome"], api.job(job)["seq"]) == ("confirmed", seq)
        depths = [line for line in api.get("/metrics").text.splitlines() if line.startswith("aforo_mailbox_depth{")]
        assert len(depths) == 4
    assert verify.run(stack.database_url, stack.redis_url).differences == []
    assert (stack.api.process.poll(), stack.worker.process.poll(), stack.sweeper.process.poll()) == (None, None, None)
