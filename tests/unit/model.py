"""A second model of what commands do, written from README's words and sharing no code with core/decide.py.

It keeps a session as a plain record of who is in, walks through commands one by one, and knows nothing of batches, rows or
counters: free places are counted anew each time.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Guest:
    """Somebody who holds places."""

    key: str
    seats: int
    seq: int


@dataclass
class ModelSession:
    """One session, as a doorkeeper with a list would keep it."""

    capacity: int
    closed: bool = False
    cancelled: bool = False
    guests: list[Guest] = field(default_factory=list)
    last_seq: int = 0

    def taken(self) -> int:
        """Places that are taken."""
        return sum(guest.seats for guest in self.guests)

    def find(self, key: str) -> Guest | None:
        """Who is in under this address."""
        return next((guest for guest in self.guests if guest.key == key), None)

    def reserve(self, seq: int, key: str, seats: int = 1) -> str:
        """Somebody comes to the door. The first thing that speaks against them is what they are told."""
        self.last_seq = seq
        if self.cancelled:
            return "session_cancelled"
        if self.closed:
            return "closed"
        if self.find(key):
            return "duplicate"
        if self.capacity - self.taken() < seats:
            return "sold_out"
        self.guests.append(Guest(key, seats, seq))
        return "confirmed"

    def cancel(self, seq: int, key: str) -> str:
        """Somebody gives their places back."""
        self.last_seq = seq
        if self.cancelled:
            return "session_cancelled"
        guest = self.find(key)
        if guest is None:
            return "not_found"
        self.guests.remove(guest)
        return "cancelled"

    def nothing(self, seq: int, outcome: str) -> str:
        """A command that only takes its place in the order."""
        self.last_seq = seq
        return outcome
