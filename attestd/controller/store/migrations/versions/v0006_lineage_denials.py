"""Receipts of denials are counted by themselves."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_DENIALS = "('decision.deny', 'denials.aggregated')"


def upgrade() -> None:
    """Adds their counts, and takes them out of the others."""
    for name in ("denials", "denial_bytes"):
        op.add_column("receipt_hosts", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    for count, size, which in (
        ("receipts", "bytes", f"NOT IN {_DENIALS}"),
        ("denials", "denial_bytes", f"IN {_DENIALS}"),
    ):
        rows = f"FROM receipts WHERE receipts.host = receipt_hosts.host AND receipts.type {which}"
        op.execute(
            f"UPDATE receipt_hosts SET {count} = (SELECT count(*) {rows}),"  # noqa: S608 - constants
            f" {size} = (SELECT coalesce(sum(length(receipt)), 0) {rows})"
        )
