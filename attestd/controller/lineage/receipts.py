"""Receipts in the database: each once, under its leaf hash, with what joins it to others."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from attestd.controller.store.engine import Store
from attestd.controller.store.schema import receipts
from attestd.lineage.entry import EntryType
from attestd.lineage.receipt import VerifiedReceipt

__all__ = ["KeptReceipt", "Receipts"]

MAX_GENERATIONS: Final = 64
# Of one execution: its decision, that it is void, its start, its end.
_MAX_OF_ONE: Final = 16
_DECISIONS: Final = {EntryType.DECISION_ALLOW, EntryType.DECISION_DENY}
# What names the decision that it belongs to.
_OF_ONE: Final = {
    EntryType.DECISION_VOID,
    EntryType.EXECUTION_START,
    EntryType.EXECUTION_EXIT,
    EntryType.EXECUTION_TERMINATED,
}
_COLUMNS: Final = [column for column in receipts.c if column is not receipts.c.receipt]


@dataclass(frozen=True)
class KeptReceipt:
    """What a stored receipt is about.

    Attributes:
        leaf: The leaf hash, hex.
        type: The entry's type.
        host: The host-id.
        time: The entry's time.
        decision: The decision that it belongs to; of a decision itself; empty: of none.
        parent: The leaf that the decision names as its parent; empty: none.
    """

    leaf: str
    type: str
    host: str
    time: str
    decision: str
    parent: str


class Receipts:
    """What is kept."""

    def __init__(self, store: Store) -> None:
        """Takes the database."""
        self._store = store

    def add(self, verified: VerifiedReceipt, receipt: bytes) -> bool:
        """Keeps a receipt; of one leaf the first that came.

        Args:
            verified: What was verified.
            receipt: Its bytes.

        Returns:
            Whether it is new.

        Raises:
            StoreError: The database fails.
        """
        kept = _kept(verified)
        with self._store.write() as connection:
            insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert
            statement = insert(receipts).values(**vars(kept), receipt=receipt)
            added = connection.execute(statement.on_conflict_do_nothing().returning(receipts.c.leaf))
            return added.first() is not None

    def get(self, leaf: str) -> bytes | None:
        """The bytes of a receipt.

        Raises:
            StoreError: The database fails.
        """
        with self._store.read() as connection:
            found = connection.execute(select(receipts.c.receipt).where(receipts.c.leaf == leaf))
            data = found.scalar_one_or_none()
        return None if data is None else bytes(data)

    def lineage(self, leaf: str) -> tuple[list[KeptReceipt], str]:
        """An execution's receipts, and those of all that it descends from.

        Args:
            leaf: The leaf of any receipt of it.

        Returns:
            The execution's receipts, its parent's, and so on; and the leaf that the last of them names as its parent and that
            is not here, or empty.

        Raises:
            StoreError: The database fails.
        """
        found: list[KeptReceipt] = []
        with self._store.read() as connection:
            for _ in range(MAX_GENERATIONS):
                generation = list(_of_execution(connection, leaf))
                if not generation:
                    break
                found += generation
                leaf = next((item.parent for item in generation if item.leaf == item.decision), "")
                if not leaf or any(item.leaf == leaf for item in found):
                    return found, ""
        return found, leaf


def _kept(verified: VerifiedReceipt) -> KeptReceipt:
    entry = verified.entry
    is_decision = entry.type in _DECISIONS
    decision = entry.body.get("leaf") if entry.type in _OF_ONE else None
    return KeptReceipt(
        leaf=verified.leaf,
        type=entry.type.value,
        host=verified.host.host,
        time=entry.time,
        decision=verified.leaf if is_decision else _leaf(decision),
        parent=_leaf(entry.body.get("parent")) if is_decision else "",
    )


def _leaf(value: object) -> str:
    """What a body says is a leaf, where it can be one: its host signed it, and may have signed anything."""
    is_hash = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    return str(value) if is_hash else ""


def _of_execution(connection: Connection, leaf: str) -> Iterator[KeptReceipt]:
    """The receipts of the execution that a leaf belongs to, the decision first."""
    found = connection.execute(select(*_COLUMNS).where(receipts.c.leaf == leaf)).mappings().first()
    if found is None:
        return
    start = KeptReceipt(**found)
    if not start.decision:
        yield start
        return
    same = select(*_COLUMNS).where(receipts.c.decision == start.decision, receipts.c.host == start.host)
    rows = connection.execute(same.order_by(receipts.c.time, receipts.c.leaf).limit(_MAX_OF_ONE)).mappings()
    yield from sorted((KeptReceipt(**row) for row in rows), key=lambda item: item.leaf != item.decision)
