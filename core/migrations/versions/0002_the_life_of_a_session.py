"""The whole life of a session: waitlist, seats, windows, closing and cancelling, groups."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

WAITLISTED = sa.text("status = 'waitlisted'")

# The decision reads start and end from now on, so the ledger has to begin with them.
LEDGER_BEGINS_WITH_TIMES = """
UPDATE jobs j SET arguments = j.arguments || jsonb_build_object(
  'start_time', (extract(epoch FROM s.start_time) * 1000)::bigint, 'end_time', (extract(epoch FROM s.end_time) * 1000)::bigint)
FROM sessions s WHERE s.id = j.session_id AND j.seq = 0 AND j.kind = 'create'"""


SEARCH_TEXT = "to_tsvector('simple'::regconfig, title || ' ' || description || ' ' || location)"


def _time(name: str) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True))


def upgrade() -> None:
    for column in (
        sa.Column("waitlist_capacity", sa.Integer, nullable=False, server_default="0"),
        sa.Column("waitlist_policy", sa.Text, nullable=False, server_default="strict"),
        sa.Column("max_seats_per_reservation", sa.SmallInteger, nullable=False, server_default="20"),
        _time("opens_at"),
        _time("closes_at"),
        sa.Column("untidy", sa.Boolean, nullable=False, server_default="false"),
    ):
        op.add_column("sessions", column)
    for name, condition in (
        ("waitlist_capacity_in_range", "waitlist_capacity BETWEEN 0 AND 1000000"),
        ("waitlist_policy_known", "waitlist_policy IN ('strict', 'fill')"),
        ("max_seats_in_range", "max_seats_per_reservation BETWEEN 1 AND 20"),
        ("closes_after_opens", "closes_at > opens_at"),
    ):
        op.create_check_constraint(f"sessions_{name}", "sessions", condition)
    op.create_index("sessions_untidy", "sessions", ["id"], postgresql_where=sa.text("untidy"))
    op.add_column("reservations", sa.Column("rank", sa.BigInteger))
    op.create_check_constraint(
        "reservations_rank_while_waiting", "reservations", "(status = 'waitlisted') = (rank IS NOT NULL)"
    )
    op.create_index("reservations_waitlist", "reservations", ["session_id", "rank"], postgresql_where=WAITLISTED)
    op.create_index(
        "reservations_waitlist_by_seats", "reservations", ["session_id", "seats", "rank"], postgresql_where=WAITLISTED
    )
    op.create_index("sessions_by_words", "sessions", [sa.text(SEARCH_TEXT)], postgresql_using="gin")
    op.create_index("sessions_by_end", "sessions", ["end_time"])
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("body_hash", sa.Text, nullable=False),
        sa.Column("atomic", sa.Boolean, nullable=False),
        sa.Column("job_ids", ARRAY(sa.Uuid), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.execute("ALTER SEQUENCE positions INCREMENT BY 32")
    op.execute(LEDGER_BEGINS_WITH_TIMES)


def downgrade() -> None:
    op.execute("ALTER SEQUENCE positions INCREMENT BY 1")
    op.drop_table("batches")
    for name in ("sessions_by_end", "sessions_by_words"):
        op.drop_index(name)
    for name in ("reservations_waitlist_by_seats", "reservations_waitlist"):
        op.drop_index(name)
    op.drop_column("reservations", "rank")
    for name in ("untidy", "closes_at", "opens_at", "max_seats_per_reservation", "waitlist_policy", "waitlist_capacity"):
        op.drop_column("sessions", name)
