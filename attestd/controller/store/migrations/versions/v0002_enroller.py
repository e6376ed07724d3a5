"""The enroller's records, the keys that it has seen, and what operators decided."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes them."""
    op.create_table(
        "enrolments",
        sa.Column("host", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(8), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.Column("reasons", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("state IN ('waiting', 'admitted')", name="enrolments_state"),
    )
    op.create_index("enrolments_digest", "enrolments", ["digest"])
    op.create_table(
        "enrolment_keys",
        sa.Column("name", sa.String(160), primary_key=True),
        sa.Column("host", sa.String(64), nullable=False),
    )
    op.create_table(
        "enrolment_decisions",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("host", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("operator", sa.String(255), nullable=False),
        sa.Column("words", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_index("enrolment_decisions_host", "enrolment_decisions", ["host"])
