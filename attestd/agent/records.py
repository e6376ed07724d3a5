"""One entry of the log with its receipt: from the running agent, from the log's file, or from a receipt's file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from attestd.account import acting_as, agent_account
from attestd.agent.ask import AgentSocket
from attestd.audit.look_up import find_denied, find_void
from attestd.audit.shards import find_in_shards, predecessors
from attestd.audit.store import LogStore
from attestd.errors import AgentError, ForbiddenError, MalformedError, StoreError, UsageError
from attestd.lineage.entry import Entry, parse_entry, parse_entry_name
from attestd.lineage.receipt import parse_receipt
from attestd.paths import Layout
from attestd.tlog.tree import leaf_hash

__all__ = ["Record", "find_record", "open_own_log", "record_of_receipt"]


@dataclass(frozen=True)
class Record:
    """An entry as someone handed it over: `verify_receipt` says whether it was sealed.

    Attributes:
        leaf: The leaf hash, hex: the entry's id.
        receipt: Its receipt.
        source: Where it came from, in words.
        void: Why a decision that allowed came to nothing; None: it did not, or the source does not tell.
    """

    entry: Entry
    leaf: str
    receipt: bytes
    source: str
    void: str | None = None


@contextmanager
def open_own_log(layout: Layout) -> Iterator[LogStore]:
    """The log of this installation, to read; opened as the agent's user, whose directory is no place for root.

    Raises:
        StoreError: It cannot be read.
    """
    with acting_as(agent_account(layout)):
        store = LogStore.open(str(layout.log), readonly=True)
    try:
        yield store
    finally:
        store.close()


def find_record(wanted: str | None, *, agent: AgentSocket, layout: Layout) -> Record:
    """Finds an entry, from the agent or, if that is not there or does not tell this user, in the log's file.

    An id that is in neither may be that of an entry in a log that was closed: then the source says so.

    Args:
        wanted: An entry's id (64 hex digits) or its number; None: the last decision that denied who asks something.
        agent: The agent.
        layout: Where its log is.

    Raises:
        UsageError: There is no such entry.
        AgentError, ForbiddenError: Neither way leads to it.
        StoreError: The log cannot be read.
    """
    try:
        return _find_in_present(wanted, agent=agent, layout=layout)
    except UsageError as error:
        if wanted is None:
            raise
        return _find_in_closed(wanted, layout, error)


def _find_in_present(wanted: str | None, *, agent: AgentSocket, layout: Layout) -> Record:
    try:
        answer = agent.ask("decision", **({} if wanted is None else {"id": wanted}))
    except (AgentError, ForbiddenError) as error:
        try:
            return _find_in_log(wanted, layout)
        except StoreError as unreadable:
            raise type(error)(f"{error}; nor can the log be read: {unreadable}") from error
    data = str(answer["entry"]).encode()
    void = answer.get("void")
    return Record(
        parse_entry(data),
        leaf_hash(data).hex(),
        str(answer["receipt"]).encode(),
        "the agent",
        void and str(void),
    )


def _find_in_log(wanted: str | None, layout: Layout) -> Record:
    with open_own_log(layout) as store:
        try:
            seq = _seq(wanted, store)
            data = store.entry(seq)
            entry = parse_entry(data)
        except MalformedError as error:
            raise StoreError(f"{layout.log}: it has what is no entry: {error}") from error
        found = leaf_hash(data).hex(), store.receipt(seq), f"the log {layout.log}"
        return Record(entry, *found, find_void(store, seq))


def _find_in_closed(wanted: str, layout: Layout, error: UsageError) -> Record:
    with acting_as(agent_account(layout)):
        try:
            closed = [before.path for before in predecessors(layout.log) if before.path is not None]
        except StoreError:
            raise error from None  # Not for this user to look at.
        if not closed:
            raise error
        name = parse_entry_name(wanted)
        found = None if isinstance(name, int) else find_in_shards(layout.log, name)
        if found is None:
            names = ", ".join(str(path) for path in closed)
            raise UsageError(
                f"{error}; in logs that were closed ({names}) entries are found by their id"
            ) from error
        path, seq = found
        store = LogStore.open(str(path), readonly=True)
        try:
            data = store.entry(seq)
            source = f"the closed log {path}, where it is entry {seq}"
            found_at = leaf_hash(data).hex(), store.receipt(seq), source
            return Record(parse_entry(data), *found_at, find_void(store, seq))
        finally:
            store.close()


def record_of_receipt(data: bytes, *, source: str) -> Record:
    """The entry that a receipt carries.

    Raises:
        MalformedError, VerificationError: Not a receipt.
    """
    receipt = parse_receipt(data)
    return Record(receipt.entry, leaf_hash(receipt.entry_bytes).hex(), data, source)


def _seq(wanted: str | None, store: LogStore) -> int:
    if wanted is None:
        return find_denied(store, os.getuid())  # not the effective one, which is the agent's here
    name = parse_entry_name(wanted)
    found = name if isinstance(name, int) else store.find(name)
    if found is None:
        raise UsageError(f"the log has no entry with the id {wanted}")
    return found
