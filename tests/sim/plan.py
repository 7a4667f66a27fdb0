"""What a seed stands for: a deployment, how often which fault comes, and what clients wish. Nothing here happens yet."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from core.model import (
    AMEND,
    CANCEL,
    CANCEL_SESSION,
    CLOSE,
    CONFIGURE,
    DEMOTE,
    FILL,
    GROUP,
    REFUSE,
    REOPEN,
    RESERVE,
    STRICT,
    AmendArguments,
    Arguments,
    CancelArguments,
    ConfigureArguments,
    GroupArguments,
    NoArguments,
    ReserveArguments,
    Session,
)
from tests.sim.world import BEGIN_MS, POISON, Crash, Poisoned

PEOPLE = ("ana", "bo", "cy", "dee", "eve", "fay")
KINDS = (RESERVE, CANCEL, GROUP, AMEND, CONFIGURE, CLOSE, REOPEN, CANCEL_SESSION)
KIND_WEIGHTS = (50, 28, 7, 8, 8, 2, 4, 1)

# By name: what they do is `Run._<name>`.
FAULTS = {
    "crash": 20,
    "refuse": 20,
    "lose_reply": 20,
    "stall": 40,
    "hang": 15,
    "lose_bell": 50,
    "double_bell": 30,
    "wait_long": 8,
    "lose_data": 20,
    "lose_entry": 8,
}
USUAL = {"send": 120, "bell": 100, "sweep": 40, "time": 90}
TURNS = 1000  # of which these are; all others are turns of whoever can go on


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed stands for: the deployment, and how often which fault comes, in turns of a thousand."""

    sessions: tuple[Session, ...]
    partitions: int
    batch_size: int
    publish_limit: int
    portion_limit: int
    max_queued: int
    job_ttl_seconds: int
    steps: int
    calls: int
    faults: dict[str, int]
    poison: BaseException | None


def plan_of(rng: random.Random) -> Plan:
    """Every seed has some of the faults only, so that each is also seen without the others."""
    faults = {name: weight for name, weight in FAULTS.items() if rng.random() < 0.4}
    if "lose_data" in faults:  # else what was lost could be found again, behind what was accepted after it
        faults.pop("lose_entry", None)
    return Plan(
        sessions=tuple(_session(rng, number) for number in range(1, rng.choice((1, 1, 2, 3)) + 1)),
        partitions=rng.choice((1, 1, 2)),
        batch_size=rng.choice((1, 2, 3, 50)),
        portion_limit=rng.choice((1, 2, 32)),
        publish_limit=rng.choice((1, 2, 256)),
        max_queued=rng.choice((3, 1000, 1000)),
        job_ttl_seconds=rng.choice((2, 86_400, 86_400)),
        steps=rng.randint(40, 360),
        calls=rng.randint(3, 30),
        faults=faults,
        poison=rng.choice((None, None, None, Crash(), Poisoned())),
    )


def _session(rng: random.Random, number: int) -> Session:
    opens = starts = None
    if rng.random() < 0.12:
        opens = BEGIN_MS + rng.randint(0, 900)
        starts = opens + rng.randint(0, 9000)
    return Session(
        id=number,
        capacity=rng.choice((0, 1, 1, 2, 3, 5)),
        version=1,
        waitlist_capacity=rng.choice((0, 2, 4)),
        waitlist_policy=rng.choice((STRICT, FILL)),
        opens_at=opens,
        start_time=starts,
        end_time=starts and starts + 9,
    )


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client wants."""

    kind: str
    session: int
    client: str
    arguments: Arguments


def wish_of(rng: random.Random, plan: Plan, live: Mapping[tuple[int, str], int], now_ms: int) -> Wish:
    """Something that a client may want now, where these people (session, e-mail key) have reservations, by their ids."""
    session = rng.choice(plan.sessions).id
    kind = rng.choices(KINDS, KIND_WEIGHTS)[0]
    client = "open" if kind == GROUP or rng.random() < 0.8 else "another"
    held = {email_key: reservation for (where, email_key), reservation in live.items() if where == session}
    return Wish(kind, session, client, _arguments(rng, plan, kind, held, now_ms))


def _arguments(rng: random.Random, plan: Plan, kind: str, held: dict[str, int], now_ms: int) -> Arguments:
    if kind == RESERVE:
        return _person(rng, plan)
    if kind == CANCEL:
        who = rng.choice(list(held)) if held and rng.random() < 0.8 else _person(rng, plan).email_key
        return CancelArguments(who, who, rng.choice((None, None, 1, 2)), any_client=rng.random() < 0.5)
    if kind == AMEND:
        who = rng.choice(list(held)) if held else _person(rng, plan).email_key
        wishes = {"name": rng.choice(PEOPLE).upper(), "checked_in": rng.random() < 0.7}
        chosen = {name: value for name, value in wishes.items() if rng.random() < 0.7}
        return AmendArguments(who, who, held.get(who, rng.randint(1, 500)), **chosen)
    if kind == GROUP:
        return GroupArguments(tuple(_person(rng, plan) for _ in range(rng.randint(1, 3))))
    if kind == CONFIGURE:
        wishes = {
            "capacity": rng.randint(0, 6),
            "waitlist_capacity": rng.randint(0, 4),
            "waitlist_policy": rng.choice((STRICT, FILL)),
            "max_seats_per_reservation": rng.randint(1, 3),
            "closes_at": rng.choice((None, None, now_ms + rng.randint(0, 2000))),
        }
        chosen = {name: value for name, value in wishes.items() if rng.random() < 0.4}
        return ConfigureArguments(**chosen, on_shrink=rng.choice((REFUSE, DEMOTE)))
    return NoArguments()


def _person(rng: random.Random, plan: Plan) -> ReserveArguments:
    if plan.poison is not None and rng.random() < 0.1:
        return ReserveArguments("Poison", POISON, POISON)
    name = rng.choice(PEOPLE)
    return ReserveArguments(name.title(), f"{name}@example.org", f"{name}@example.org", rng.choice((1, 1, 1, 2, 3)))
