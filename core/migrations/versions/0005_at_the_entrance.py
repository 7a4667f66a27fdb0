"""Checking people in, finding their reservations by their address, and finding what was set aside without a search."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("reservations", sa.Column("checked_in_at", sa.DateTime(timezone=True)))
    op.create_check_constraint(
        "reservations_nobody_waits_inside", "reservations", "status <> 'waitlisted' OR checked_in_at IS NULL"
    )
    op.create_index("reservations_by_person", "reservations", ["email_key", "id"])
    op.create_index(
        "reservations_checked_in", "reservations", ["session_id"], postgresql_where=sa.text("checked_in_at IS NOT NULL")
    )
    op.create_index("jobs_quarantined", "jobs", ["position"], postgresql_where=sa.text("outcome = 'quarantined'"))


def downgrade() -> None:
    op.drop_index("jobs_quarantined")
    op.drop_index("reservations_by_person")
    op.drop_column("reservations", "checked_in_at")
