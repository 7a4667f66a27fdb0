"""Rows for COPY are read by Postgres as what they were made of, whatever people type."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from core.model import RESERVE, Command, Reservation, ReserveArguments, Verdict, new_job_id
from core.rows import job_line, reservation_line

ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
TYPED = st.one_of(st.text(max_size=12), st.text("ab \\\t\n\r\u00a0\"'{}N", max_size=12)).filter(lambda text: "\0" not in text)


def read(line: str) -> list[str | None]:
    """As COPY reads a line of text."""
    assert line.endswith("\n")
    fields = line[:-1].split("\t")
    assert not any("\n" in field or "\r" in field for field in fields)
    return [None if field == "\\N" else re.sub(r"\\(.)", lambda found: ESCAPES[found[1]], field) for field in fields]


@given(TYPED, TYPED, TYPED, TYPED, st.none() | st.integers(1, 9))
def test_a_reservations_line_is_read_as_it_is(name: str, email: str, key: str, client: str, rank: int | None) -> None:
    row = read(reservation_line(Reservation(7, 8, name, email, key, 2, "confirmed", 9, client, 1_900_000_000_000, rank=rank)))
    found = ["7", "8", name, email, key, "2", "confirmed", "9", client, "2030-03-17T17:46:40.000+00:00"]
    assert row == [*found, None, None if rank is None else str(rank), None]


@given(TYPED, TYPED)
def test_a_ledger_rows_line_is_read_as_it_is(name: str, client: str) -> None:
    wanted = ReserveArguments(name, "ana@example.org", "ana@example.org")
    verdict = Verdict(Command(new_job_id(8), 8, 9, RESERVE, wanted, client, "ff", 1_900_000_000_000), "confirmed")
    row = read(job_line(verdict, 3, "now"))
    assert row[5] == client
    assert "\n" not in (row[4] or "\n")
