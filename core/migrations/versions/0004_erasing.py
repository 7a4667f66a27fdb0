"""What erasing needs: sessions that are being removed, and no fingerprint of a body by which a guess could be confirmed."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Without a fingerprint nothing is compared. Batches have keyed ones from now on; a replay never needed one.
FORGET_FINGERPRINTS = ("UPDATE batches SET body_hash = ''", "UPDATE jobs SET body_hash = '' WHERE kind = 'replay'")


def upgrade() -> None:
    op.add_column("sessions", sa.Column("pruning", sa.Boolean, nullable=False, server_default="false"))
    op.create_index("sessions_pruning", "sessions", ["id"], postgresql_where=sa.text("pruning"))
    for statement in FORGET_FINGERPRINTS:
        op.execute(statement)


def downgrade() -> None:
    op.drop_column("sessions", "pruning")
