"""Which sessions a list shows, and how many there are: its statements, which core/queries.py runs.

How many there are at all, and how many can be booked, is not counted, for that would take the longer the more there are: totals
are kept in the transactions that change them (core/migrations/versions/0012), so a list's snapshot has the ones that go with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, cast, extract, func, null, select, text, tuple_
from sqlalchemy.sql import ColumnElement

from core.tables import SEARCH_LANGUAGE, SEARCH_TEXT
from core.tables import session_totals as t
from core.tables import sessions as s

# What is being removed is not there any more: neither the session nor anything that belongs to it.
PRESENT = s.c.pruning.is_(False)

# Hours whose totals are not what is counted, as `aforo verify` names them.
DIFFERING_TOTALS = """
SELECT hour::text, sum(kept)::bigint, sum(counted)::bigint FROM (
  SELECT hour, sessions, 0 FROM session_totals
  UNION ALL SELECT '-infinity', 0, 1 FROM sessions WHERE NOT pruning
  UNION ALL SELECT date_trunc('hour', bookable_until, 'UTC'), 0, 1 FROM sessions WHERE bookable_until IS NOT NULL
) AS w(hour, kept, counted) GROUP BY hour HAVING sum(kept) <> sum(counted) ORDER BY w.hour"""

_HOUR = timedelta(hours=1)
_THIS_HOUR = func.date_trunc("hour", func.now(), "UTC")
_OF_ALL = t.c.hour == text("timestamptz '-infinity'")


@dataclass(frozen=True, slots=True)
class SessionSearch:
    """Which sessions are wanted, and in which order. `after`: the (start_time or None, id) of the last one seen."""

    open_only: bool = True
    words: tuple[str, ...] = ()
    starts_after: datetime | None = None
    starts_before: datetime | None = None
    ordering: str = "start_time"
    after: tuple[datetime | None, int] | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """What a session must meet."""
        found = [s.c.bookable_until > func.now()] if self.open_only else [PRESENT]
        if self.words:
            query = func.to_tsquery(SEARCH_LANGUAGE, " & ".join(f"'{word}':*" for word in self.words))
            # Apart, so that the words are looked up in their index: Postgres takes reading every session's text for cheap.
            matching = select(s.c.id).where(SEARCH_TEXT.op("@@")(query)).cte("matching").prefix_with("MATERIALIZED")
            found.append(s.c.id.in_(select(matching.c.id)))
        if self.starts_after is not None:
            found.append(s.c.start_time >= self.starts_after)
        if self.starts_before is not None:
            found.append(s.c.start_time < self.starts_before)
        return found

    @property
    def is_of_all(self) -> bool:
        """Whether there are no words and no times to choose by."""
        return not self.words and self.starts_after is None and self.starts_before is None

    def order(self) -> list[ColumnElement[Any]]:
        """The columns to order by."""
        columns = [s.c.start_time, s.c.id] if self.ordering.endswith("start_time") else [s.c.id]
        return [column.desc() for column in columns] if self.ordering.startswith("-") else columns

    def beyond(self, last: tuple[datetime | None, int]) -> ColumnElement[bool]:
        """After the last one seen, in this order."""
        by_time = self.ordering.endswith("start_time")
        columns = tuple_(s.c.start_time, s.c.id) if by_time else tuple_(s.c.id)
        values = last if by_time else last[1:]
        return columns < values if self.ordering.startswith("-") else columns > values


def page_of(wanted: SessionSearch, columns: Sequence[ColumnElement[Any]], limit: int, offset: int) -> Any:
    """`limit` of the sessions wanted, in their order, from an offset or after the last one seen."""
    rows = select(*columns).where(*wanted.conditions()).order_by(*wanted.order()).limit(limit).offset(offset)
    return rows if wanted.after is None else rows.where(wanted.beyond(wanted.after))


def count_of(wanted: SessionSearch) -> Any:
    """How many there are of those wanted, and the seconds until time by itself changes that."""
    if wanted.is_of_all:
        return select(_bookable(), _seconds_until(_soonest())) if wanted.open_only else select(_total(_OF_ALL), null())
    columns = [func.count(), _seconds_until(func.min(s.c.bookable_until)) if wanted.open_only else null()]
    return select(*columns).select_from(s).where(*wanted.conditions())


def _bookable() -> ColumnElement[int]:
    """Of this hour what is left of it, by the index; of all later ones the totals."""
    left = select(func.count()).where(s.c.bookable_until > func.now(), s.c.bookable_until < _THIS_HOUR + _HOUR)
    return left.scalar_subquery() + _total(t.c.hour > _THIS_HOUR)


def _total(which: ColumnElement[bool]) -> ColumnElement[int]:
    return select(cast(func.coalesce(func.sum(t.c.sessions), 0), BigInteger)).where(which).scalar_subquery()


def _soonest() -> ColumnElement[datetime]:
    return select(func.min(s.c.bookable_until)).where(s.c.bookable_until > func.now()).scalar_subquery()


def _seconds_until(moment: ColumnElement[Any]) -> ColumnElement[Any]:
    return extract("epoch", moment - func.clock_timestamp())
