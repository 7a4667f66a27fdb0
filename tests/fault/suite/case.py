"""What a case is, what it may use while it runs, and what comes out of it: one row of the table.

A case is a function of a `Run`, registered with `@case`. It puts up a stage, lets clients loose, injects its fault, says what
it `require`s, and has all of it checked at the end. An error in it is a failure of the case like any other.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ops import verify
from tests.fault.suite import books, checker
from tests.fault.suite.books import Books
from tests.fault.suite.checker import Findings
from tests.fault.suite.clients import Traffic, Venue
from tests.fault.suite.history import History
from tests.fault.suite.stage import Stage
from tests.support.http import Api
from tests.support.stack import Deployment, Servers

DRAIN_SECONDS = 60.0
BUSY = 3.0
Thing = TypeVar("Thing")
UNHANDLED = '"unhandled_exception"'  # in the API's log


@dataclass(frozen=True, slots=True)
class Case:
    """One row of docs/faults.md. `in_tests`: the scale at which it runs in `make test`; None: it does not."""

    name: str
    fault: str
    injected: str
    passes: str
    run: Callable[[Run], None]
    in_tests: float | None
    apart: bool  # only when it is asked for by name


@dataclass(slots=True)
class Result:
    """What came of a case."""

    case: Case
    injections: int = 0
    requests: int = 0
    accepted: int = 0
    lost: int = 0
    double: int = 0
    overbooked: int = 0
    out_of_order: int = 0
    recoveries: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    skipped: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it passed, or could not be run here."""
        return not self.failures


class Skipped(Exception):
    """The case cannot be run here; the message says why."""


CASES: dict[str, Case] = {}


def case(
    name: str, *, fault: str, injected: str, passes: str, in_tests: float | None = None, apart: bool = False
) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Register a case."""

    def register(run: Callable[[Run], None]) -> Callable[[Run], None]:
        assert name not in CASES, name
        CASES[name] = Case(name, fault, injected, passes, run, in_tests, apart)
        return run

    return register


class Run:
    """One run of one case: its chance, its size, its servers, and its result."""

    def __init__(
        self,
        found: Case,
        seed: int,
        scale: float,
        minutes: float,
        shared: Callable[[], Servers],
        own: Callable[[], Servers] | None,
    ) -> None:
        self.case = found
        self.seed = f"{seed}/{found.name}"
        self.random = random.Random(self.seed)
        self.scale = scale
        self.minutes = minutes
        self.result = Result(found)
        self._shared = shared
        self._own = own
        self._open = ExitStack()

    # -- how much --------------------------------------------------------------------------------------------------------

    def scaled(self, full: float, least: int = 1) -> int:
        """So many of something: `full` of them at full scale, fewer in a small run, never less than `least`."""
        return max(least, round(full * self.scale)) if self.scale < 1 else round(full)

    def bound(self, seconds: float) -> float:
        """A limit as the table promises it; a small run, beside others on a busy machine, gets more time."""
        return seconds if self.scale >= 1 else BUSY * seconds

    # -- what with -------------------------------------------------------------------------------------------------------

    def servers(self) -> Servers:
        """A Postgres and a Valkey that others use too: not to be hurt."""
        return self._shared()

    def own_servers(self) -> Servers:
        """A Postgres and a Valkey that may be hurt; the case leaves them whole."""
        if self._own is not None:
            return self._own()
        servers = Servers(self.folder("servers"))
        self._open.callback(servers.close)
        return servers

    def entered(self, context: AbstractContextManager[Thing]) -> Thing:
        """Something that ends with the case."""
        return self._open.enter_context(context)

    def folder(self, name: str) -> Path:
        """A folder that goes with the case, in which the servers' user may enter."""
        path = Path(tempfile.mkdtemp(prefix=f"aforo-faults-{name}-"))
        path.chmod(0o755)
        self._open.callback(shutil.rmtree, path, ignore_errors=True)
        return path

    def stage(self, servers: Servers | None = None, deployment: Deployment | None = None, **options: Any) -> Stage:
        """A running stack with a database and a Redis of its own, or with this deployment; see Stage for the options."""
        if deployment is None:
            on = servers or self.servers()
            deployment = on.deployment()
            if servers is None:
                self._open.callback(on.drop, deployment)
        stage = Stage(deployment, self.folder("stage"), **options)
        self._open.callback(stage.close)
        return stage

    def venues(self, stage: Stage, *extra: dict[str, Any]) -> list[Venue]:
        """Sessions as they come: small and large, with and without a waitlist of either manner."""
        shapes = [
            {"capacity": 1},
            {"capacity": 4, "waitlist_capacity": 3},
            {"capacity": 20, "waitlist_capacity": 10, "waitlist_policy": "fill"},
            {"capacity": 60, "waitlist_capacity": 30},
            {"capacity": 150},
            {"capacity": 150, "waitlist_capacity": 40, "waitlist_policy": "fill"},
            *extra,
        ]
        with Api(stage.url) as api:
            return [Venue(api.new_session(**shape), 2 * shape["capacity"] + 3) for shape in shapes]

    def traffic(self, stage: Stage, venues: list[Venue] | None = None, **options: Any) -> Traffic:
        """Clients for a stage; see Traffic for the options. They begin with `with`."""
        return Traffic(stage.url, venues or self.venues(stage), self.seed, **options)

    # -- what for --------------------------------------------------------------------------------------------------------

    def injected(self, count: int = 1) -> None:
        """So many faults were injected."""
        self.result.injections += count

    def recovered(self, *seconds: float) -> None:
        """So long it took until things went on, each time."""
        self.result.recoveries += seconds

    def recovered_after(self, moments_ms: Iterable[float], found: Books) -> None:
        """The same from the ledger: after each of these moments (wall clock), until all that was waiting then was applied."""
        rows = found.rows()
        for moment in moments_ms:
            waits = books.waits(rows, moment)
            if waits:
                self.recovered(max(waits))

    def require(self, condition: object, otherwise: str) -> None:
        """The case fails, and goes on, unless this holds."""
        if not condition:
            self.result.failures.append(otherwise)

    def note(self, what: str) -> None:
        """Something worth a line below the table."""
        self.result.notes.append(what)

    def inspect(self, stage: Stage, *histories: History, expected_statuses: Collection[int] = ()) -> tuple[Findings, Books]:
        """When nothing waits any more: what the checker finds. It counts in the table, and fails nothing by itself."""
        stage.drained(DRAIN_SECONDS)
        sessions = {call.wish.session for history in histories for call in history.calls}
        found = books.read(stage.deployment, sessions)
        findings = checker.check(_together(histories), found, expected_statuses)
        result, counts = self.result, findings.counts
        result.requests += findings.requests
        result.accepted += findings.accepted
        result.lost += counts[checker.LOST]
        result.double += counts[checker.DOUBLE]
        result.overbooked += counts[checker.OVERBOOKED]
        result.out_of_order += counts[checker.OUT_OF_ORDER]
        for line in stage.log("api").splitlines():
            if counts[checker.UNEXPECTED] and UNHANDLED in line:
                self.note(line)
        return findings, found

    def check(self, stage: Stage, *histories: History, expected_statuses: Collection[int] = ()) -> Books:
        """The same, and the case fails if anything was found, also by `aforo verify`."""
        findings, found = self.inspect(stage, *histories, expected_statuses=expected_statuses)
        self.result.failures += findings.lines()
        self.require(findings.accepted > 0, "nothing was accepted")
        report = verify.run(stage.deployment.database_url, stage.deployment.redis_url)
        self.result.failures += [f"aforo verify: {difference}" for difference in report.differences]
        return found

    def close(self) -> None:
        """End everything that was started."""
        self._open.close()


def _together(histories: Collection[History]) -> History:
    if len(histories) == 1:
        return next(iter(histories))
    together = History()
    for history in histories:
        together.calls += history.calls
        together.sessions += history.sessions
        together.jobs += history.jobs
    return together


def carry_out(
    found: Case,
    seed: int,
    scale: float,
    minutes: float,
    shared: Callable[[], Servers],
    own: Callable[[], Servers] | None = None,
) -> Result:
    """Run a case; whatever goes wrong is in its result. `own`: servers that may be hurt, in place of new ones."""
    run = Run(found, seed, scale, minutes, shared, own)
    started = time.monotonic()
    try:
        found.run(run)
    except Skipped as exc:
        run.result.skipped = str(exc)
    except Exception as exc:
        run.result.failures.append(f"{type(exc).__name__} at {_where(exc)}: {exc}")
    finally:
        try:
            run.close()
        except Exception as exc:
            run.result.failures.append(f"at the end, {type(exc).__name__}: {exc}")
    run.result.seconds = time.monotonic() - started
    return run.result


def _where(exc: Exception) -> str:
    """The line of the case that it came through last, or else where it came from."""
    frames = traceback.extract_tb(exc.__traceback__)
    of_cases = [frame for frame in frames if Path(frame.filename).parent.name == "cases"]
    frame = (of_cases or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def quantile(values: list[float], share: float) -> float:
    """The value that this share of them stays within; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
