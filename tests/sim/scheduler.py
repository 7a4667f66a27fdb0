"""The seeded scheduler: from a seed follow a plan, every turn, fault and loss; a seed that fails is shown step by step.

    python -m tests.sim.scheduler 100000             that many seeds, from 0 on, by two processes
    python -m tests.sim.scheduler --seed 4711        one seed again, with its interleaving
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis

from core.errors import Unavailable
from core.mailbox import key
from core.model import CLOSE, Arguments, NoArguments
from tests.sim.invariants import Observer, check, check_noticed
from tests.sim.plan import FAULTS, TURNS, USUAL, plan_of, wish_of
from tests.sim.world import LOSSY_PLACES, POSTGRES_PLACES, REDIS_PLACES, Actor, Call, Crash, World, simulated

SETTLED_STEPS = 4000  # by then everything is applied, or something never will be
STALLED_STEPS = 80
SAVES = 3
IDLE_MS = 301_000  # after which an idle head has expired
CHUNK = 50  # seeds that a process is given at a time


class Run:
    """One seed at work."""

    def __init__(self, seed: int, **types: Any) -> None:
        """`types`: stand-ins and a drain to use in the place of the sound ones."""
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.plan = plan = plan_of(rng)
        self.log: list[tuple[Any, ...]] = []
        self.calls: list[Call] = []
        self.actors: list[Actor] = []
        self.faults = self.losses = 0
        self.lost: set[str] = set()  # jobs whose entries a loss took, and that have not come back
        self.ever_lost: set[str] = set()
        self.lost_entries = 0  # by themselves, so that their numbers are missing
        self.deaths = 0
        self.forgot = False  # jobs or heads expired
        self._saves = [({}, {})] * SAVES  # what Redis may be put back to: at first nothing
        self._names = 0
        self.world = World(plan.sessions, plan.partitions, plan.batch_size, plan.max_queued, plan.job_ttl_seconds, **types)
        self.observer = Observer(self)
        chosen = {**USUAL, **plan.faults}
        self._choices = ["turn", *chosen]
        self._weights = [TURNS - sum(chosen.values()), *chosen.values()]

    def __call__(self) -> None:
        """Everything, and then the check. Raises AssertionError."""
        with simulated(self.world, self.plan.publish_limit, self.plan.portion_limit, self._poison):
            for action in self.rng.choices(self._choices, self._weights, k=self.plan.steps):
                self.faults += action in FAULTS
                getattr(self, f"_{action}")()
                self.observer.look()
            self.settle()
            check(self)
            if self.losses:
                self._recover()

    def wrong(self) -> str | None:
        """Run it: what is wrong, if anything."""
        try:
            self()
        except Exception as exc:  # whatever it is, the seed has found it
            return str(exc) if isinstance(exc, AssertionError) else repr(exc)
        return None

    # -- what happens -----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = len(self.log)
        able = [actor for actor in self.actors if actor.stalled_until <= now and actor.can_go_on]
        if able:
            actor = self.rng.choice(able)
            self._note(actor.name, "goes on from", actor.place)
            self._keep(actor, actor.go_on())
        elif self.world.gate.waiting:
            self._start(self.world.door())
        else:
            self._bell()

    def _send(self) -> None:
        if len(self.calls) >= self.plan.calls:
            return self._turn()
        rng = self.rng
        if self.calls and rng.random() < (0.4 if self.losses else 0.1):  # a client that repeats itself
            before = rng.choice(self.calls)
            job, arguments = before.job, before.arguments
        else:
            wish = wish_of(rng, self.plan, dict(self.world.store.live), self.world.now)
            key_, arguments = f"key-{self.seed}-{len(self.calls)}", wish.arguments
            job = self.world.submit.draft(wish.kind, wish.session, arguments, wish.client, key_)
        self.send(job, arguments)
        return None

    def send(self, job: Any, arguments: Arguments) -> Call:
        """A client's request begins."""
        call = Call(len(self.calls), job, arguments, len(self.log))
        self.calls.append(call)
        self._start(self.world.client(call, lambda: len(self.log)), job.kind, job.session_id, job.id, arguments)
        return call

    def _bell(self) -> None:
        if self.world.bells:
            partition = self.world.bells.pop(self.rng.randrange(len(self.world.bells)))
            self._names += 1
            self._start(self.world.worker(f"worker {self._names}", partition), "for partition", partition)

    def _sweep(self) -> None:
        self._names += 1
        self._start(self.world.sweeper(f"sweeper {self._names}"))

    def _time(self) -> None:
        self._pass(self.rng.choice((1, 20, 200, 600, 1100)))

    # -- faults -----------------------------------------------------------------------------------------------------------

    def _crash(self) -> None:
        api = self.rng.random() < 0.2  # else a worker
        self._fault("is killed at", Crash(), lambda actor: actor.place != "at the door" and actor.is_api == api)

    def _refuse(self) -> None:
        places = self.rng.choice((REDIS_PLACES, POSTGRES_PLACES))
        error = redis.ConnectionError() if places is REDIS_PLACES else Unavailable()
        self._fault("is refused at", error, lambda actor: actor.place in places)

    def _lose_reply(self) -> None:
        able = [actor for actor in self.actors if actor.place in LOSSY_PLACES]
        if not able:
            return self._turn()
        actor = self.rng.choice(able)
        error = Unavailable() if actor.place in POSTGRES_PLACES else redis.ConnectionError()
        self._note(actor.name, "loses the reply of", actor.place)
        return self._keep(actor, actor.go_on(error))

    def _hang(self) -> None:
        """Postgres ends a transaction that stands still, and whoever is in it does not know yet."""
        held = self.world.store.locked
        if not held:
            return self._turn()
        partition = self.rng.choice(list(held))
        self._note("postgres ends the transaction that holds", partition)
        self.deaths += 1  # whoever takes the batch meanwhile cannot know that nobody died
        return held[partition].end()

    def _lose_bell(self) -> None:
        if not self.world.bells:
            return self._turn()
        self._note("a bell is lost for partition", self.world.bells.pop())
        return None

    def _double_bell(self) -> None:
        if not self.world.bells:
            return self._turn()
        self._note("a bell is doubled for partition", self.world.bells[-1])
        return self.world.bells.append(self.world.bells[-1])

    def _wait_long(self) -> None:
        if any(actor.is_api for actor in self.actors):
            return self._turn()  # nobody waits so long with an answer in hand
        return self._pass(self.rng.choice((3100, 10_000, IDLE_MS)))

    def _stall(self) -> None:
        """Somebody is slow: the others overtake."""
        now = len(self.log)
        able = [a for a in self.actors if a.stalled_until <= now and (not a.is_api or a.place == "head")]
        if not able:
            return self._turn()
        actor = self.rng.choice(able)
        self._note(actor.name, "stalls at", actor.place)
        actor.stalled_until = len(self.log) + self.rng.randint(5, STALLED_STEPS)
        return None

    def _lose_data(self) -> None:
        """Redis is put back to an earlier state, or to nothing; or this is the state that it will be put back to."""
        index = self.rng.randrange(SAVES)
        if self.rng.random() < 0.6:
            self._note("redis is saved as", index)
            self._saves[index] = self.world.redis.saved()
        else:
            self._lose(f"redis is put back to save {index}", self._saves[index])

    def _lose_entry(self) -> None:
        """Redis lost what was accepted, and not that it was numbered."""
        waiting = self.observer.waiting()
        if not waiting:
            return self._turn()
        job_id = self.rng.choice(sorted(waiting))
        entry = waiting[job_id]
        self.lost_entries += 1
        partition = self.world.partition(entry.command.session_id)
        values, expiries = self.world.redis.saved()
        del values[key(partition, "mailbox")][entry.stream_id], values[key(partition, f"job:{job_id}")]
        return self._lose(f"redis loses job {job_id}", (values, expiries))

    def _lose(self, what: str, saved: Any) -> None:
        self.world.now += 1  # no entry id comes twice
        before = self.observer.waiting()
        self.world.redis.put_back(saved)
        self.lost |= before.keys() - self.observer.waiting().keys()
        self.ever_lost |= self.lost
        self.losses += 1
        self._note(what)
        self.observer.forget()

    def _poison(self) -> None:
        self._note("... and meets the poison")
        self.deaths += 1
        assert self.plan.poison is not None
        raise self.plan.poison

    # -- the end ----------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """No more faults: everybody finishes, and the sweeper drains what is left."""
        for actor in self.actors:
            actor.stalled_until = 0
        for _ in range(SETTLED_STEPS):
            if any(actor.can_go_on for actor in self.actors) or self.world.gate.waiting or self.world.bells:
                self._turn()
            elif self.actors or self.observer.is_anything_waiting():
                self._pass(600)
                self._sweep()
            else:
                return
            self.observer.look()
        raise AssertionError("it never comes to rest")

    def _recover(self) -> None:
        """After a loss: the first commands may be numbered anew; from then on all is as it was."""
        for round_ in range(2):
            incidents = len(self.world.store.incidents)
            for session in self.plan.sessions:
                job = self.world.submit.draft(CLOSE, session.id, NoArguments(), "open", f"recovery-{self.seed}-{round_}")
                self.send(job, NoArguments())
            self.settle()
            check(self)
            check_noticed(self)
        assert len(self.world.store.incidents) == incidents, "numbering does not recover"

    # -- helpers ----------------------------------------------------------------------------------------------------------

    def _start(self, actor: Actor, *what: Any) -> None:
        self._note(actor.name, "begins", *what)
        self._keep(actor, actor.go_on(), new=True)

    def _keep(self, actor: Actor, goes_on: bool, new: bool = False) -> None:
        if goes_on and new:
            self.actors.append(actor)
        elif not goes_on and not new:
            self.actors.remove(actor)
            if actor.name == "door":
                self._answer()

    def _answer(self) -> None:
        """The door answers: the clients read it at once."""
        for client in [actor for actor in self.actors if actor.place == "at the door" and actor.can_go_on]:
            self._keep(client, client.go_on())

    def _fault(self, what: str, error: BaseException, where: Callable[[Actor], bool]) -> None:
        able = [actor for actor in self.actors if where(actor)]
        if not able:
            return self._turn()
        actor = self.rng.choice(able)
        self._note(actor.name, what, actor.place)
        self.deaths += isinstance(error, Crash) or actor.place == "forgive"
        return self._keep(actor, actor.fails_with(error))

    def _pass(self, ms: int) -> None:
        self._note("time passes, in ms:", ms)
        self.forgot = self.forgot or ms == IDLE_MS or self.plan.job_ttl_seconds < 10
        self.world.pass_time(ms)

    def _note(self, *words: Any) -> None:
        self.log.append(words)

    def story(self) -> str:
        """The interleaving, in numbered steps, and how to see it again."""
        steps = [f"{number:5}  {' '.join(map(str, words))}" for number, words in enumerate(self.log, 1)]
        return "\n".join([f"seed {self.seed}: {self.plan}", *steps, f"again: python -m tests.sim.scheduler --seed {self.seed}"])


@dataclass(slots=True)
class Totals:
    """What came of many seeds. `stories`: of those that failed, with the interleaving; the last line says what is wrong."""

    seeds: int = 0
    requests: int = 0
    accepted: int = 0
    faults: int = 0
    stories: list[str] = field(default_factory=list)

    def add(self, run: Run, wrong: str | None) -> None:
        """One more seed."""
        self.seeds += 1
        self.requests += len(run.calls)
        self.accepted += sum(call.receipt is not None for call in run.calls)
        self.faults += run.faults
        if wrong:
            self.stories.append(f"{run.story()}\nseed {run.seed} fails: {wrong}")


def try_seeds(seeds: range) -> Totals:
    """Run seeds here, until one fails."""
    totals = Totals()
    for seed in seeds:
        run = Run(seed)
        totals.add(run, run.wrong())
        if totals.stories:
            break
    return totals


def try_all(seeds: range, processes: int) -> Totals:
    """Run seeds in several processes, until one fails."""
    totals = Totals()
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for part in pool.imap_unordered(try_seeds, chunks):
            totals.seeds += part.seeds
            totals.requests += part.requests
            totals.accepted += part.accepted
            totals.faults += part.faults
            totals.stories += part.stories
            if totals.stories:
                break
    return totals


def main() -> int:
    """Run seeds; 1 when one fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.scheduler", description="Run seeds of the scheduler.")
    parser.add_argument("seeds", type=int, nargs="?", default=2000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first one")
    parser.add_argument("--seed", type=int, help="only this one, with its interleaving")
    asked = parser.parse_args()
    if asked.seed is not None:
        run = Run(asked.seed)
        wrong = run.wrong()
        print(run.story(), f"seed {asked.seed} {f'fails: {wrong}' if wrong else 'holds'}", sep="\n")
        return 1 if wrong else 0
    started = time.monotonic()
    totals = try_all(range(asked.first, asked.first + asked.seeds), 2)
    for story in totals.stories:
        print(story)
    print(f"{totals.seeds} seeds, {totals.requests} requests, {totals.faults} faults, {time.monotonic() - started:.0f} s")
    return 1 if totals.stories else 0


if __name__ == "__main__":
    sys.exit(main())
