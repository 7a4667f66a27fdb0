"""The number of partitions may change: to how many, while it does, and how often it has."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deployment", sa.Column("moving_to", sa.Integer))
    op.add_column("deployment", sa.Column("epoch", sa.Integer, nullable=False, server_default="1"))


def downgrade() -> None:
    op.drop_column("deployment", "epoch")
    op.drop_column("deployment", "moving_to")
