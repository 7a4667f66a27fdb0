"""A second model of what commands do, written from README's words and sharing no code with core/decide.py.

It keeps a session as a plain record of who is in and who waits, in order, walks through commands one by one, and knows
nothing of batches, rows, ranks, windows or counters: free places are counted anew each time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MOST_MOVES = 50_000


@dataclass
class Guest:
    """Somebody who holds places, or waits for them."""

    key: str
    seats: int
    seq: int
    number: int = 0  # within a group
    owner: str = "open"  # the client that sent them
    name: str | None = None  # what they are called since it was corrected
    is_here: bool = False


@dataclass
class ModelSession:
    """One session, as a doorkeeper with two lists would keep it: `inside`, and `queue`, whose first is next."""

    capacity: int
    queue_limit: int = 0
    passing: bool = False  # whether who fits may pass who does not
    most_seats: int = 20
    opens: int | None = None
    closes: int | None = None
    starts: int | None = None
    ends: int | None = None
    closed: bool = False
    cancelled: bool = False
    inside: list[Guest] = field(default_factory=list)
    queue: list[Guest] = field(default_factory=list)
    last_seq: int = 0

    def free(self) -> int:
        """Places nobody holds."""
        return self.capacity - sum(guest.seats for guest in self.inside)

    def find(self, key: str) -> Guest | None:
        """Who is known here under this address."""
        return next((guest for guest in (*self.inside, *self.queue) if guest.key == key), None)

    def door(self, now: int) -> str | None:
        """What a sign at the door says to whoever wants to reserve now, if anything."""
        if self.cancelled:
            return "session_cancelled"
        if self.closed or (self.closes is not None and self.closes <= now):
            return "closed"
        if self.opens is not None and now < self.opens:
            return "not_open"
        if self.starts is not None and self.starts <= now:
            return "started"
        return None

    def reserve(self, seq: int, now: int, key: str, seats: int = 1, owner: str = "open") -> str:
        """Somebody comes to the door. The first thing that speaks against them is what they are told."""
        self.last_seq = seq
        sign = self.door(now)
        if sign:
            return sign
        if self.find(key):
            return "duplicate"
        if seats > self.most_seats:
            return "too_many_seats"
        somebody_waits = len(self.queue) > 0
        if self.free() >= seats and (self.passing or not somebody_waits):
            self.inside.append(Guest(key, seats, seq, owner=owner))
            return "confirmed"
        if seats > self.capacity or len(self.queue) >= self.queue_limit:
            return "sold_out"
        self.queue.append(Guest(key, seats, seq, owner=owner))
        return "waitlisted"

    def group(self, seq: int, now: int, people: list[tuple[str, int]]) -> str:
        """Several come together, and stay only if all can."""
        self.last_seq = seq
        sign = self.door(now)
        if sign:
            return sign
        names = [key for key, _ in people]
        if len(names) != len(set(names)) or any(self.find(key) for key in names):
            return "duplicate"
        if max(seats for _, seats in people) > self.most_seats:
            return "too_many_seats"
        if self.queue and not self.passing:
            return "sold_out"
        if self.free() < sum(seats for _, seats in people):
            return "sold_out"
        self.inside.extend(Guest(key, seats, seq, number) for number, (key, seats) in enumerate(people))
        return "confirmed"

    def cancel(self, seq: int, now: int, key: str, seats: int | None = None, owner: str | None = None) -> str:
        """Somebody gives all or some of their places back; `owner` can do so only for whom they sent, None for anybody."""
        self.last_seq = seq
        if self.cancelled:
            return "session_cancelled"
        if self.starts is not None and self.starts <= now:
            return "started"
        guest = self.find(key)
        if guest is None or owner not in (None, guest.owner):
            return "not_found"
        if seats is not None and seats > guest.seats:
            return "too_many_seats"
        if seats is None or seats == guest.seats:
            (self.inside if guest in self.inside else self.queue).remove(guest)
            self.let_in()
            return "cancelled"
        guest.seats -= seats
        self.let_in()
        return "reduced"

    def amend(self, seq: int, key: str, came_as: int | None, name: str | None = None, is_here: bool | None = None) -> str:
        """At the entrance: a name is corrected, somebody is ticked off the list or put back on it; it is about whoever came with
        the request `came_as`."""
        self.last_seq = seq
        if self.cancelled:
            return "session_cancelled"
        guest = self.find(key)
        if guest is None or guest.seq != came_as:
            return "not_found"
        if is_here and guest in self.queue:
            return "not_confirmed"
        if name is not None:
            guest.name = name
        if is_here is not None:
            guest.is_here = is_here
        return "amended"

    def let_in(self) -> None:
        """Whoever can come in now does, in the manner of this house."""
        moved = True
        while moved:
            moved = False
            for guest in list(self.queue):
                if guest.seats <= self.free():
                    self.queue.remove(guest)
                    self.inside.append(guest)
                    moved = True
                    break
                if not self.passing:
                    return

    def configure(self, seq: int, changes: dict[str, Any], send_out: bool) -> str:
        """The owner changes the rules, all that they name or none."""
        self.last_seq = seq
        if self.cancelled:
            return "session_cancelled"
        wish = {name: changes.get(name, getattr(self, name)) for name in RULES.values()}
        taken = self.capacity - self.free()
        if not send_out:
            fewer = wish["queue_limit"] < self.queue_limit and wish["queue_limit"] < len(self.queue)
            if wish["capacity"] < taken or fewer:
                return "below_reserved"
        for first, last in (("starts", "ends"), ("opens", "closes")):
            if wish[first] is not None and wish[last] is not None and wish[last] <= wish[first]:
                return "bad_times"
        sized = (wish["capacity"], wish["queue_limit"]) != (self.capacity, self.queue_limit)
        for name, value in wish.items():
            setattr(self, name, value)
        sent: list[Guest] = []
        while self.free() < 0:
            latest = max(self.inside, key=lambda guest: (guest.seq, guest.number))
            self.inside.remove(latest)
            latest.is_here = False
            sent.insert(0, latest)
        self.queue[:0] = sent
        self.let_in()
        return "resized" if sized else "configured"

    def close(self, seq: int) -> str:
        """No more reservations."""
        self.last_seq = seq
        if self.cancelled:
            return "session_cancelled"
        self.closed = True
        return "session_closed"

    def reopen(self, seq: int) -> str:
        """Reservations again."""
        self.last_seq = seq
        if self.cancelled:
            return "session_cancelled"
        self.closed = False
        return "session_reopened"

    def call_off(self, seq: int) -> str:
        """It does not take place; everybody is out."""
        self.last_seq = seq
        if self.cancelled:
            return "session_cancelled"
        self.cancelled = True
        self.inside.clear()
        self.queue.clear()
        return "cancelled"

    def nothing(self, seq: int, outcome: str) -> str:
        """A command that only takes its place in the order."""
        self.last_seq = seq
        return outcome


# What the API calls a setting, and what this model calls it.
RULES = {
    "capacity": "capacity",
    "waitlist_capacity": "queue_limit",
    "waitlist_policy": "passing",
    "max_seats_per_reservation": "most_seats",
    "opens_at": "opens",
    "closes_at": "closes",
    "start_time": "starts",
    "end_time": "ends",
}


def rules_of(settings: dict[str, Any]) -> dict[str, Any]:
    """A session's settings in this model's words; whatever else there is falls away."""
    rules = {RULES[name]: value for name, value in settings.items() if name in RULES}
    return {**rules, "passing": rules["passing"] == "fill"} if "passing" in rules else rules
