"""Which start of a board's daemon runs a bundle well, and boards that were forgotten."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = depends_on = None


def upgrade() -> None:
    """To this version."""
    op.add_column("rollout_boards", sa.Column("boot", sa.String(length=32), server_default="", nullable=False))
    op.add_column("rollout_boards", sa.Column("uptime_s", sa.Float(), server_default="0", nullable=False))
    op.create_table(
        "forgotten",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_forgotten")),
    )


def downgrade() -> None:
    """Back from this version."""
    op.drop_table("forgotten")
    op.drop_column("rollout_boards", "uptime_s")
    op.drop_column("rollout_boards", "boot")
