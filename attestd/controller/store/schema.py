"""The tables, as the newest migration leaves them; a test compares the two."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

__all__ = [
    "METADATA",
    "enrolment_decisions",
    "enrolment_keys",
    "enrolments",
    "receipt_hosts",
    "receipts",
    "verifier_hosts",
    "verifier_logs",
    "witness_anchors",
    "witness_logs",
]

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

enrolments = Table(
    "enrolments",
    METADATA,
    Column("host", String(64), primary_key=True),
    # `waiting` for an operator, or `admitted`: at most one of each for a host, so that no host fills the table.
    Column("state", String(8), primary_key=True),
    # SHA-256 of the record.
    Column("digest", String(64), nullable=False),
    Column("record", LargeBinary, nullable=False),
    # A JSON array of what there is to decide.
    Column("reasons", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    CheckConstraint("state IN ('waiting', 'admitted')", name="enrolments_state"),
    Index("enrolments_digest", "digest"),
)
"""Host records that wait, and those that this enroller signed last."""

enrolment_keys = Table(
    "enrolment_keys",
    METADATA,
    Column("name", String(160), primary_key=True),
    Column("host", String(64), nullable=False),
)
"""Whose each key is that stood in a record signed here: a key is of one host, now and ever."""

enrolment_decisions = Table(
    "enrolment_decisions",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("host", String(64), nullable=False),
    # Of the record that it is about; empty: of none yet.
    Column("digest", String(64), nullable=False),
    Column("decision", String(16), nullable=False),
    Column("operator", String(255), nullable=False),
    Column("words", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    # A JSON array of what they were warned of: an approval ends no other keys.
    Column("confirmed", Text, nullable=False, server_default="[]"),
    Index("enrolment_decisions_host", "host"),
)
"""What operators decided; nothing of it is ever changed, but that an expected host's decision gets its record's digest."""

verifier_hosts = Table(
    "verifier_hosts",
    METADATA,
    Column("host", String(64), primary_key=True),
    # The Name of the attestation key whose clock it is: another key's, after an enrolment anew, begins anew.
    Column("ak", String(68), nullable=False),
    # `HostState`, and its SHA-256: a row is replaced only if it is still the one that was read.
    Column("state", LargeBinary, nullable=False),
    Column("digest", String(64), nullable=False),
    # Which logs it names.
    Column("eventlog", String(64), nullable=True),
    # What was said of it last, and when: for people. No answer is made from it.
    Column("at", BigInteger, nullable=False),
    Column("platform", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("findings", BigInteger, nullable=False),
    Column("reset_count", BigInteger, nullable=False),
    Column("restart_count", BigInteger, nullable=False),
    Column("agent", String(64), nullable=False),
    Index("verifier_hosts_eventlog", "eventlog"),
)
"""Of each host that attested: where its clock and its logs had got to."""

verifier_logs = Table(
    "verifier_logs",
    METADATA,
    Column("digest", String(64), primary_key=True),
    # Compressed.
    Column("data", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
)
"""Boots' logs, as long as a host's row names them."""

receipts = Table(
    "receipts",
    METADATA,
    Column("leaf", String(64), primary_key=True),
    Column("type", String(32), nullable=False),
    Column("host", String(64), nullable=False),
    Column("time", String(32), nullable=False),
    # The decision that it belongs to, its own leaf where it is one; empty: none.
    Column("decision", String(64), nullable=False),
    # The leaf that a decision names as its parent; empty: none.
    Column("parent", String(64), nullable=False),
    Column("receipt", LargeBinary, nullable=False),
    Index("receipts_decision", "decision"),
)
"""Receipts of all hosts, each once, with what verified when it was brought."""

receipt_hosts = Table(
    "receipt_hosts",
    METADATA,
    Column("host", String(64), primary_key=True),
    Column("receipts", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    # Its own bounds; null: the configuration's.
    Column("max_receipts", BigInteger, nullable=True),
    Column("max_bytes", BigInteger, nullable=True),
    # Of denials; the others are those above.
    Column("denials", BigInteger, nullable=False, server_default="0"),
    Column("denial_bytes", BigInteger, nullable=False, server_default="0"),
)
"""How much is kept of each host's receipts, and how much may be: a host signs as many leaves as it likes."""
