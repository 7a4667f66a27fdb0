"""Sessions may have a public page."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("public", sa.Boolean(), nullable=False, server_default="false"))


def downgrade() -> None:
    op.drop_column("sessions", "public")
