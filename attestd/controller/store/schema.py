"""The tables, as the newest migration leaves them; a test compares the two."""

from typing import Final

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, LargeBinary, MetaData, String, Table

__all__ = ["METADATA", "witness_anchors", "witness_logs"]

METADATA: Final = MetaData()

witness_logs = Table(
    "witness_logs",
    METADATA,
    Column("origin", String(255), primary_key=True),
    # By which monitors ask: SHA-256 of the origin, hex.
    Column("origin_sha256", String(64), nullable=False, unique=True),
    # Whose log, where it is a host's; empty: one of the configuration.
    Column("host", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    # The checkpoint with the logs' signatures and ours, as monitors get it.
    Column("note", LargeBinary, nullable=False),
    CheckConstraint("size >= 0", name="witness_logs_size"),
    Index("witness_logs_host", "host"),
)
"""The latest checkpoint cosigned of each log."""

witness_anchors = Table(
    "witness_anchors",
    METADATA,
    Column("anchor", String(32), primary_key=True),
    Column("generation", BigInteger, nullable=False),
    CheckConstraint("generation >= 0", name="witness_anchors_generation"),
)
"""How often each process has written: what stands in its anchor must not be ahead of this."""
