"""How much is kept of whose receipts."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table, and counts what there is."""
    op.create_table(
        "receipt_hosts",
        sa.Column("host", sa.String(64), primary_key=True),
        sa.Column("receipts", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("max_receipts", sa.BigInteger, nullable=True),
        sa.Column("max_bytes", sa.BigInteger, nullable=True),
    )
    op.execute(
        "INSERT INTO receipt_hosts (host, receipts, bytes)"
        " SELECT host, count(*), sum(length(receipt)) FROM receipts GROUP BY host"
    )
