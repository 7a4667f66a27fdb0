"""What Postgres takes for granted of reservations: that a session has many, and that a person may have some.

A count taken while every session had one made the index by session alone look as good as the one by session and person; a
session that then sold out was read whole for every command.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE reservations ALTER session_id SET (n_distinct = 100), ALTER email_key SET (n_distinct = 1000)")
    op.execute("ANALYZE reservations (session_id, email_key)")


def downgrade() -> None:
    op.execute("ALTER TABLE reservations ALTER session_id RESET (n_distinct), ALTER email_key RESET (n_distinct)")
