"""The tables, as SQLAlchemy sees them. Migrations create them; the constraints here are the last guard against overbooking.
At the end stands what the running app may do with each of them.

Every reservation row is written by a ledgered command, and every ledger row stands in the transaction of its effect.
No foreign keys on the two hot tables: the writing transaction holds its sessions' rows locked, which proves them present,
and a trigger per row would cost a good part of the set-wise writing. `aforo verify` looks for orphans instead.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from core.model import IDS_PER_POSITION

metadata = MetaData()


def _time(name: str, nullable: bool = False, **options: object) -> Column:
    return Column(name, DateTime(timezone=True), nullable=nullable, **options)


BOOKABLE_UNTIL = """
CASE WHEN NOT pruning AND closed_at IS NULL AND cancelled_at IS NULL AND reserved < capacity
  THEN least(end_time, closes_at) END"""

sessions = Table(
    "sessions",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("title", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("location", Text, nullable=False, server_default=""),
    Column("public", Boolean, nullable=False, server_default="false"),  # has a page where anybody may reserve
    _time("start_time"),
    _time("end_time"),
    Column("capacity", Integer, nullable=False),
    Column("reserved", Integer, nullable=False, server_default="0"),
    # Nothing reads it any more but an API of an earlier release.
    Column("sold_out", Boolean, Computed("reserved >= capacity", persisted=True), nullable=False),
    Column("waiting", Integer, nullable=False, server_default="0"),
    Column("waitlist_capacity", Integer, nullable=False, server_default="0"),
    Column("waitlist_policy", Text, nullable=False, server_default="strict"),
    Column("max_seats_per_reservation", SmallInteger, nullable=False, server_default="20"),
    _time("opens_at", nullable=True),
    _time("closes_at", nullable=True),
    _time("closed_at", nullable=True),
    _time("cancelled_at", nullable=True),
    # Cancelled, but some of its reservations' rows do not say so yet: the sweeper writes them, some at a time.
    Column("untidy", Boolean, nullable=False, server_default="false"),
    # Being removed with all that belongs to it: for readers, for the drain and for `verify` it is not there any more.
    Column("pruning", Boolean, nullable=False, server_default="false"),
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("last_seq", BigInteger, nullable=False, server_default="0"),
    _time("created_at", server_default=func.now()),
    # None: it cannot be booked. Seldom changes, so that an index may hold it and the counters are still updated in place.
    Column("bookable_until", DateTime(timezone=True), Computed(BOOKABLE_UNTIL, persisted=True)),
    CheckConstraint("0 <= reserved AND reserved <= capacity", name="sessions_never_overbooked"),
    CheckConstraint("capacity BETWEEN 0 AND 1000000", name="sessions_capacity_in_range"),
    CheckConstraint("waiting >= 0", name="sessions_waiting_not_negative"),
    CheckConstraint("end_time > start_time", name="sessions_end_after_start"),
    CheckConstraint("waitlist_capacity BETWEEN 0 AND 1000000", name="sessions_waitlist_capacity_in_range"),
    CheckConstraint("waitlist_policy IN ('strict', 'fill')", name="sessions_waitlist_policy_known"),
    CheckConstraint("max_seats_per_reservation BETWEEN 1 AND 20", name="sessions_max_seats_in_range"),
    CheckConstraint("closes_at > opens_at", name="sessions_closes_after_opens"),
    Index("sessions_by_start", "start_time", "id"),
    Index("sessions_bookable_until", "bookable_until", postgresql_where=text("bookable_until IS NOT NULL")),
    Index("sessions_untidy", "id", postgresql_where=text("untidy")),
    Index("sessions_pruning", "id", postgresql_where=text("pruning")),
    # Room on each page lets the counters of a hot session be updated in place (HOT), without touching an index.
    postgresql_with={"fillfactor": 50},
)

# Words as they are written, not stemmed: titles come in any language.
SEARCH_LANGUAGE = literal_column("'simple'::regconfig")
SEARCH_TEXT = func.to_tsvector(
    SEARCH_LANGUAGE, sessions.c.title + text("' '") + sessions.c.description + text("' '") + sessions.c.location
)
Index("sessions_by_words", SEARCH_TEXT, postgresql_using="gin")
Index("sessions_by_end", sessions.c.end_time)

# How many sessions are bookable until some time in an hour; under -infinity how many there are. A total is the sum of its rows.
# Triggers on sessions add to them, and never wait: a row that another transaction has in hand is left to it.
session_totals = Table(
    "session_totals",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("hour", DateTime(timezone=True), nullable=False),
    Column("sessions", BigInteger, nullable=False),
    Index("session_totals_by_hour", "hour"),
    postgresql_with={"fillfactor": 50},
)

reservations = Table(
    "reservations",
    metadata,
    # The position of the command that made it, not an identity of its own.
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("session_id", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("email_key", Text, nullable=False),
    Column("seats", SmallInteger, nullable=False, server_default="1"),
    Column("status", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("client", Text, nullable=False),
    _time("created_at"),
    _time("cancelled_at", nullable=True),
    # Its place in the order of the waitlist, smaller first; only while it waits.
    Column("rank", BigInteger),
    # When they came, as it was noted at the entrance.
    _time("checked_in_at", nullable=True),
    CheckConstraint("(status = 'waitlisted') = (rank IS NOT NULL)", name="reservations_rank_while_waiting"),
    CheckConstraint("status <> 'waitlisted' OR checked_in_at IS NULL", name="reservations_nobody_waits_inside"),
    CheckConstraint("status IN ('confirmed', 'waitlisted', 'cancelled')", name="reservations_status_known"),
    CheckConstraint("seats >= 1", name="reservations_seats_positive"),
    Index(
        "reservations_one_live_per_person",
        "session_id",
        "email_key",
        unique=True,
        postgresql_where=text("status <> 'cancelled'"),
    ),
    Index("reservations_by_session", "session_id", "seq", "id"),
    Index("reservations_by_person", "email_key", "id"),
    Index("reservations_checked_in", "session_id", postgresql_where=text("checked_in_at IS NOT NULL")),
    Index("reservations_waitlist", "session_id", "rank", postgresql_where=text("status = 'waitlisted'")),
    Index("reservations_waitlist_by_seats", "session_id", "seats", "rank", postgresql_where=text("status = 'waitlisted'")),
)

# Allocated in blocks under the partition lock, so that within a partition positions grow in commit order.
# One stands for as many ids as a group has people: its reservations are numbered from its position on.
positions = Sequence("positions", metadata=metadata, data_type=BigInteger, increment=IDS_PER_POSITION)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("session_id", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("arguments", JSONB, nullable=False, server_default="{}"),
    Column("client", Text, nullable=False),
    Column("body_hash", Text, nullable=False),
    Column("batch", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("effects", JSONB, nullable=False, server_default="[]"),
    Column("reservation_id", BigInteger),
    Column("position", BigInteger, nullable=False),
    Column("accepted_seq", BigInteger),
    Column("replay_of", Uuid),
    _time("accepted_at"),
    _time("applied_at"),
    UniqueConstraint("session_id", "seq", name="jobs_one_per_seq"),
    Index("jobs_quarantined", "position", postgresql_where=text("outcome = 'quarantined'")),
)

# What was sent together: written before any of its commands is accepted, so that the same key finds them all again.
batches = Table(
    "batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("client", Text, nullable=False),
    Column("body_hash", Text, nullable=False),
    Column("atomic", Boolean, nullable=False),
    Column("job_ids", ARRAY(Uuid), nullable=False),
    _time("created_at", server_default=func.now()),
)

incidents = Table(
    "incidents",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("session_id", BigInteger),
    Column("detail", JSONB, nullable=False, server_default="{}"),
    _time("noticed_at", server_default=func.now()),
)

unreadable = Table(
    "unreadable",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("stream_id", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
    _time("noticed_at", server_default=func.now()),
)

# Who may call; the secret itself is nowhere.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("client", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    _time("created_at"),
    _time("expires_at", nullable=True),
    _time("revoked_at", nullable=True),
    CheckConstraint("length(digest) = 32", name="api_keys_digest_is_sha256"),
)

deployment = Table(
    "deployment",
    metadata,
    Column("singleton", Boolean, CheckConstraint("singleton", name="deployment_is_one_row"), primary_key=True),
    Column("partitions", Integer, nullable=False),
    Column("idempotency_secret", LargeBinary, nullable=False),
    # To how many it is being changed, until the door is open again; and how often it was, and once more.
    Column("moving_to", Integer),
    Column("epoch", Integer, nullable=False, server_default="1"),
)

# What the running app may do, where its role is not the owner's; every migration grants exactly this again. The ledger is
# append-only to it, whose a reservation is cannot be rewritten, nothing is deleted, and titles aside a session changes by
# commands.
APP_RIGHTS: dict[str, str] = {
    sessions.name: "SELECT, INSERT, UPDATE",
    reservations.name: "SELECT, INSERT, UPDATE (name, status, seats, cancelled_at, rank, checked_in_at)",
    session_totals.name: "SELECT, INSERT, UPDATE (sessions)",
    jobs.name: "SELECT, INSERT",
    batches.name: "SELECT, INSERT",
    incidents.name: "INSERT",
    unreadable.name: "SELECT, INSERT",
    deployment.name: "SELECT",
    api_keys.name: "SELECT",
    "alembic_version": "SELECT",
}
APP_SEQUENCES: dict[str, str] = {positions.name: "USAGE"}
APP_FUNCTIONS: dict[str, str] = dict.fromkeys(
    ("live_reservations", "load_batch", "begin_batch", "write_batch", "add_to_total"), "EXECUTE"
)
