"""What operators were warned of when they decided."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds it. What was approved before, ends keys and is not collected yet waits again."""
    op.add_column("enrolment_decisions", sa.Column("confirmed", sa.Text, nullable=False, server_default="[]"))
