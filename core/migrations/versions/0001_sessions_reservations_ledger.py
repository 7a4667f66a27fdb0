"""Sessions, reservations, the ledger of jobs, and what can go wrong with them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _time(name: str, nullable: bool = False, **options: object) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, **options)


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False, server_default=""),
        sa.Column("location", sa.Text, nullable=False, server_default=""),
        _time("start_time"),
        _time("end_time"),
        sa.Column("capacity", sa.Integer, nullable=False),
        sa.Column("reserved", sa.Integer, nullable=False, server_default="0"),
        sa.Column("waiting", sa.Integer, nullable=False, server_default="0"),
        _time("closed_at", nullable=True),
        _time("cancelled_at", nullable=True),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
        sa.Column("last_seq", sa.BigInteger, nullable=False, server_default="0"),
        _time("created_at", server_default=sa.func.now()),
        sa.CheckConstraint("0 <= reserved AND reserved <= capacity", name="sessions_never_overbooked"),
        sa.CheckConstraint("capacity BETWEEN 0 AND 1000000", name="sessions_capacity_in_range"),
        sa.CheckConstraint("waiting >= 0", name="sessions_waiting_not_negative"),
        sa.CheckConstraint("end_time > start_time", name="sessions_end_after_start"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_index("sessions_by_start", "sessions", ["start_time", "id"])
    op.create_table(
        "reservations",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("session_id", sa.BigInteger, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("email_key", sa.Text, nullable=False),
        sa.Column("seats", sa.SmallInteger, nullable=False, server_default="1"),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        _time("created_at"),
        _time("cancelled_at", nullable=True),
        sa.CheckConstraint("status IN ('confirmed', 'waitlisted', 'cancelled')", name="reservations_status_known"),
        sa.CheckConstraint("seats >= 1", name="reservations_seats_positive"),
    )
    op.create_index(
        "reservations_one_live_per_person",
        "reservations",
        ["session_id", "email_key"],
        unique=True,
        postgresql_where=sa.text("status <> 'cancelled'"),
    )
    op.create_index("reservations_by_session", "reservations", ["session_id", "seq", "id"])
    op.execute(sa.schema.CreateSequence(sa.Sequence("positions", data_type=sa.BigInteger)))
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("session_id", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("arguments", JSONB, nullable=False, server_default="{}"),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("body_hash", sa.Text, nullable=False),
        sa.Column("batch", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("effects", JSONB, nullable=False, server_default="[]"),
        sa.Column("reservation_id", sa.BigInteger),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("accepted_seq", sa.BigInteger),
        sa.Column("replay_of", sa.Uuid),
        _time("accepted_at"),
        _time("applied_at"),
        sa.UniqueConstraint("session_id", "seq", name="jobs_one_per_seq"),
    )
    op.create_table(
        "incidents",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("session_id", sa.BigInteger),
        sa.Column("detail", JSONB, nullable=False, server_default="{}"),
        _time("noticed_at", server_default=sa.func.now()),
    )
    op.create_table(
        "unreadable",
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("stream_id", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        _time("noticed_at", server_default=sa.func.now()),
    )
    op.create_table(
        "deployment",
        sa.Column("singleton", sa.Boolean, primary_key=True),
        sa.Column("partitions", sa.Integer, nullable=False),
        sa.Column("idempotency_secret", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("singleton", name="deployment_is_one_row"),
    )


def downgrade() -> None:
    for table in ("deployment", "unreadable", "incidents", "jobs", "reservations", "sessions"):
        op.drop_table(table)
    op.execute(sa.schema.DropSequence(sa.Sequence("positions")))
