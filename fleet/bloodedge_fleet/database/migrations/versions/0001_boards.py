"""Boards, their reports, and roll-outs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = depends_on = None


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "boards",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("first_seen", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_report", sa.DateTime(timezone=True), nullable=True),
        sa.Column("online", sa.Boolean(), nullable=True),
        sa.Column("online_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("report", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_boards")),
        sa.UniqueConstraint("name", name=op.f("uq_boards_name")),
    )
    op.create_table(
        "bundles",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("signer", sa.String(length=200), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_bundles")),
    )
    op.create_table(
        "refused",
        sa.Column("board", sa.String(length=200), nullable=False),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("board", name=op.f("pk_refused")),
    )
    op.create_table(
        "boots",
        sa.Column("board", sa.Integer(), nullable=False),
        sa.Column("boot", sa.String(length=32), nullable=False),
        sa.Column("began", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("highest", sa.BigInteger(), nullable=False),
        sa.Column("reports", sa.BigInteger(), nullable=False),
        sa.Column("frames", sa.BigInteger(), nullable=False),
        sa.Column("blasts", sa.BigInteger(), nullable=False),
        sa.Column("normals", sa.BigInteger(), nullable=False),
        sa.Column("uncertain", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["board"], ["boards.id"], name=op.f("fk_boots_board"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("board", "boot", name=op.f("pk_boots")),
    )
    op.create_table(
        "hours",
        sa.Column("board", sa.Integer(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("bundle", sa.String(length=140), nullable=False),
        sa.Column("reports", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("frames", sa.BigInteger(), nullable=False),
        sa.Column("blasts", sa.BigInteger(), nullable=False),
        sa.Column("normals", sa.BigInteger(), nullable=False),
        sa.Column("uncertain", sa.BigInteger(), nullable=False),
        sa.Column("cells_timed", sa.BigInteger(), nullable=False),
        sa.Column("inference_p50_sum_ms", sa.Float(), nullable=False),
        sa.Column("inference_p95_max_ms", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["board"], ["boards.id"], name=op.f("fk_hours_board"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("board", "hour", "bundle", name=op.f("pk_hours")),
    )
    op.create_table(
        "reports",
        sa.Column("board", sa.Integer(), nullable=False),
        sa.Column("boot", sa.String(length=32), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("bundle", sa.String(length=140), nullable=False),
        sa.Column("level", sa.String(length=10), nullable=False),
        sa.Column("temperature_c", sa.Float(), nullable=True),
        sa.Column("frames", sa.BigInteger(), nullable=False),
        sa.Column("blasts", sa.BigInteger(), nullable=False),
        sa.Column("normals", sa.BigInteger(), nullable=False),
        sa.Column("uncertain", sa.BigInteger(), nullable=False),
        sa.Column("cells_timed", sa.BigInteger(), nullable=False),
        sa.Column("inference_p50_ms", sa.Float(), nullable=True),
        sa.Column("inference_p95_ms", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["board"], ["boards.id"], name=op.f("fk_reports_board"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("board", "boot", "sequence", name=op.f("pk_reports")),
    )
    op.create_index("ix_reports_stored_at", "reports", ["stored_at"], unique=False)
    op.create_table(
        "rollouts",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("began", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stages", sa.Text(), nullable=False),
        sa.Column("soak_s", sa.Float(), nullable=False),
        sa.Column("halt_on", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("ended", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["sha256"], ["bundles.sha256"], name=op.f("fk_rollouts_sha256")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_rollouts")),
    )
    op.create_table(
        "rollout_boards",
        sa.Column("rollout", sa.String(length=40), nullable=False),
        sa.Column("board", sa.Integer(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["board"], ["boards.id"], name=op.f("fk_rollout_boards_board"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollouts.name"], name=op.f("fk_rollout_boards_rollout"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rollout", "board", name=op.f("pk_rollout_boards")),
    )


def downgrade() -> None:
    """Back from this version."""
    op.drop_table("rollout_boards")
    op.drop_table("rollouts")
    op.drop_index("ix_reports_stored_at", table_name="reports")
    op.drop_table("reports")
    op.drop_table("hours")
    op.drop_table("boots")
    op.drop_table("refused")
    op.drop_table("bundles")
    op.drop_table("boards")
