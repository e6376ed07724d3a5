"""The witness's logs and anchors."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes them."""
    op.create_table(
        "witness_logs",
        sa.Column("origin", sa.String(255), primary_key=True),
        sa.Column("origin_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("host", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sa.Column("note", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("size >= 0", name="witness_logs_size"),
    )
    op.create_index("witness_logs_host", "witness_logs", ["host"])
    op.create_table(
        "witness_anchors",
        sa.Column("anchor", sa.String(32), primary_key=True),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.CheckConstraint("generation >= 0", name="witness_anchors_generation"),
    )
