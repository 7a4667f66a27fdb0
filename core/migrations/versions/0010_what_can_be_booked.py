"""Sessions that can be booked are counted from an index, not by reading every session.

Whether a session is sold out is a column of its own, kept by Postgres: it changes seldom, so it may stand in an index, and the
counters, which change with every batch, are still updated in place.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE sessions ADD COLUMN sold_out boolean NOT NULL GENERATED ALWAYS AS (reserved >= capacity) STORED")
    op.execute(
        "CREATE INDEX sessions_bookable ON sessions (end_time) INCLUDE (closes_at) "
        "WHERE pruning IS FALSE AND closed_at IS NULL AND cancelled_at IS NULL AND sold_out IS FALSE"
    )
    op.execute("ANALYZE sessions")


def downgrade() -> None:
    op.execute("ALTER TABLE sessions DROP COLUMN sold_out")
