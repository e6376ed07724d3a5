"""Receipts in the database: each once, under its leaf hash, with what joins it to others."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from attestd.controller.configuration import ControllerConfiguration
from attestd.controller.store.engine import Store
from attestd.controller.store.schema import receipt_hosts, receipts
from attestd.governance.mesh import MeshTrust
from attestd.journal import event
from attestd.lineage.entry import EntryType
from attestd.lineage.receipt import VerifiedReceipt, join_receipts, parse_receipt
from attestd.lineage.usage import BoundRequest, HostUsage, UsageList, UsageQuery

__all__ = ["Bounds", "KeptReceipt", "Outcome", "Part", "Receipts", "bounded_event", "bounds_of", "part_of"]

MAX_GENERATIONS: Final = 64
# Of one execution: its decision, that it is void, its start, its end.
_MAX_OF_ONE: Final = 16
_DECISIONS: Final = {EntryType.DECISION_ALLOW, EntryType.DECISION_DENY}
_DENIALS: Final = {EntryType.DECISION_DENY, EntryType.DENIALS_AGGREGATED}
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


class Outcome(StrEnum):
    """What became of a receipt.

    Attributes:
        KEPT: It is kept from now on.
        KNOWN: It was before.
        JOINED: It was before, and what it shows beside is kept from now on.
        FULL: It is not, or what it shows beside is not: of its host no more is.
    """

    KEPT = "kept"
    KNOWN = "known"
    JOINED = "joined"
    FULL = "full"


@dataclass(frozen=True)
class Bounds:
    """How many receipts of one host are kept, and of how many bytes."""

    receipts: int
    bytes: int


@dataclass(frozen=True)
class Part:
    """Those of a host's receipts that one bound is about.

    Attributes:
        what: `receipts`, or `denials`.
    """

    what: str
    receipts: int
    bytes: int
    max_receipts: int
    max_bytes: int

    def has_room(self, size: int) -> bool:
        """Whether one more of that many bytes may be kept."""
        return self.receipts < self.max_receipts and self.can_grow(size)

    def can_grow(self, size: int) -> bool:
        """Whether that many bytes more may be kept."""
        return self.bytes + size <= self.max_bytes

    def more(self, *, receipts: int, size: int) -> dict[str, int]:
        """How much there is with these, as columns of the host's row."""
        names = ("denials", "denial_bytes") if self.what == "denials" else ("receipts", "bytes")
        return dict(zip(names, (self.receipts + receipts, self.bytes + size), strict=True))


def part_of(used: HostUsage, type_: EntryType) -> Part:
    """What a receipt of an entry of this type counts in: denials leave the room of the others alone."""
    if type_ in _DENIALS:
        return Part("denials", used.denials, used.denial_bytes, used.max_denials, used.max_denial_bytes)
    return Part("receipts", used.receipts, used.bytes, used.max_receipts, used.max_bytes)


def bounds_of(configuration: ControllerConfiguration) -> Bounds:
    """What the configuration says."""
    return Bounds(configuration.lineage_receipts_per_host, configuration.lineage_mb_per_host << 20)


def bounded_event(used: HostUsage, *, operator: str | None) -> str:
    """For the journal: an operator gave a host bounds of its own, or took them back."""
    return event(
        "lineage.bounded", host=used.host, receipts=used.max_receipts, bytes=used.max_bytes, operator=operator
    )


class Receipts:
    """What is kept."""

    def __init__(self, store: Store, bounds: Bounds) -> None:
        """Takes the database, and how much of a host is kept that has no bounds of its own."""
        self._store, self._bounds = store, bounds

    def add(self, verified: VerifiedReceipt, receipt: bytes) -> tuple[Outcome, HostUsage]:
        """Keeps a receipt; of one leaf the first that came, and who else vouched for it (`join_receipts`).

        Args:
            verified: What was verified.
            receipt: Its bytes, with nothing in them that did not verify (`strip_receipt`).

        Returns:
            What became of it; and how much there is of its host now.

        Raises:
            StoreError: The database fails.
        """
        kept = _kept(verified)
        with self._store.write() as connection:
            row = _usage_row(connection, kept.host)
            used = self._usage(row)
            part, same = part_of(used, verified.entry.type), receipts.c.leaf == kept.leaf
            known = connection.execute(select(receipts.c.receipt).where(same)).scalar_one_or_none()
            if known is None:
                if not part.has_room(len(receipt)):
                    return Outcome.FULL, used
                connection.execute(insert(receipts), [{**vars(kept), "receipt": receipt}])
                outcome, more = Outcome.KEPT, part.more(receipts=1, size=len(receipt))
            else:
                joined = _joined(bytes(known), receipt, verified.mesh)
                if joined is None:
                    return Outcome.KNOWN, used
                size = len(joined) - len(known)
                if size > 0 and not part.can_grow(size):
                    return Outcome.FULL, used
                connection.execute(update(receipts).where(same).values(receipt=joined))
                outcome, more = Outcome.JOINED, part.more(receipts=0, size=size)
            connection.execute(update(receipt_hosts).where(receipt_hosts.c.host == kept.host).values(**more))
            return outcome, msgspec.structs.replace(used, **more)

    def usage(self, query: UsageQuery) -> UsageList:
        """How much is kept of whom.

        Raises:
            StoreError: The database fails.
        """
        found = select(receipt_hosts).where(receipt_hosts.c.host > query.after)
        with self._store.read() as connection:
            rows = connection.execute(found.order_by(receipt_hosts.c.host).limit(query.limit + 1)).all()
        hosts = tuple(self._usage(row) for row in rows[: query.limit])
        return UsageList(hosts=hosts, next=hosts[-1].host if len(rows) > query.limit else None)

    def bound(self, host: str, request: BoundRequest) -> HostUsage:
        """Gives a host bounds of its own, or takes them back.

        Raises:
            StoreError: The database fails.
        """
        values = {"max_receipts": request.max_receipts, "max_bytes": request.max_bytes}
        with self._store.write() as connection:
            _usage_row(connection, host)
            connection.execute(update(receipt_hosts).where(receipt_hosts.c.host == host).values(**values))
            return self._usage(_usage_row(connection, host))

    def _usage(self, row: Any) -> HostUsage:
        most, most_bytes = row.max_receipts, row.max_bytes
        return HostUsage(
            host=row.host,
            receipts=row.receipts,
            bytes=row.bytes,
            denials=row.denials,
            denial_bytes=row.denial_bytes,
            max_receipts=self._bounds.receipts if most is None else most,
            max_bytes=self._bounds.bytes if most_bytes is None else most_bytes,
            own=(most, most_bytes) != (None, None),
        )

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


def _usage_row(connection: Connection, host: str) -> Any:
    """A host's row, which is there from now on, and whose nobody else changes before this transaction ends."""
    made = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(receipt_hosts)
    connection.execute(made.values(host=host, receipts=0, bytes=0).on_conflict_do_nothing())
    return connection.execute(
        select(receipt_hosts).where(receipt_hosts.c.host == host).with_for_update()
    ).one()


def _joined(known: bytes, receipt: bytes, mesh: MeshTrust) -> bytes | None:
    """What is kept from now on; None: what was."""
    if known == receipt:
        return None
    return join_receipts(parse_receipt(known), parse_receipt(receipt), mesh=mesh)


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
