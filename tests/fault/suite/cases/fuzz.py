"""Whatever comes in: hostile bytes, and long walks along the links of openapi.yaml, at a whole stack."""

from __future__ import annotations

from collections import Counter

from core.keys import new_token
from ops.keys import create
from tests.contract.test_fuzz import walk
from tests.fault.suite.case import Run, case
from tests.fault.suite.stage import Stage
from tests.support.fuzzing import IMPATIENT, alarms_in, fuzz
from tests.support.http import Api

FIRST = new_token()


@case(
    "fuzz",
    fault="hostile requests",
    injected="20,000 requests with something wrong anywhere from the first byte to the framing of the body, half of them where "
    "keys are asked for (none, wrong, one that may only read), and 150 walks along the links of openapi.yaml",
    passes="every answer is as openapi.yaml writes it, no 5xx but a 503 with Retry-After, no traceback; the next is served",
)
def hostile_requests(run: Run) -> None:
    """First without keys, then with."""
    statuses: Counter[int] = Counter()
    for auth in ("open", "keys"):
        deployment = run.servers().deployment(first_key=FIRST)
        with Stage(deployment, run.folder(auth), auth=auth, **IMPATIENT) as stage:
            operator = deployment.settings(owner_url=deployment.owner_url)
            keys = (FIRST, create(operator, "reader", ["read"], None)[0]) if auth == "keys" else ()
            with Api(stage.url) as api:
                if keys:
                    api.headers["Authorization"] = f"Bearer {FIRST}"
                session = api.new_session(capacity=3)
            requests = run.scaled(10_000, least=100)
            statuses += fuzz(stage.url, session, keys, requests, run.random.randrange(10**9))
            run.injected(requests)
            if not keys:
                walked = walk(stage.url, run.scaled(150, least=3), always_the_same=False)
                run.injected(walked.total())
                for (_, status), count in walked.items():
                    statuses[status] += count
            alarms = alarms_in(stage.log("api"))
            run.require(not alarms, f"the log of the API: {alarms}")
        run.servers().drop(deployment)
    run.result.requests += statuses.total()
    run.note(", ".join(f"{count:,} times {status}" for status, count in sorted(statuses.items())))
