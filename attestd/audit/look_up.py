"""What the log says of a decision besides its entry: why an allow came to nothing, which was a requester's last denial."""

from typing import Final

from attestd.audit.reader import parse_stored
from attestd.audit.store import LogStore
from attestd.errors import UsageError
from attestd.lineage.entry import Entry, EntryType
from attestd.tlog.tree import leaf_hash

__all__ = ["find_denied", "find_void", "requester_of"]

# How the canonical form of such an entry ends.
_VOID_ENDS: Final = f'"type":"{EntryType.DECISION_VOID}","v":1}}'.encode()
_DENY_ENDS: Final = f'"type":"{EntryType.DECISION_DENY}","v":1}}'.encode()
# A void follows its allow within seconds; so many entries a busy host seals in ten.
_SOON: Final = 16_384
_CHUNK: Final = 256


def requester_of(entry: Entry) -> object:
    """The uid that asked for what an entry decides; None if nobody asked."""
    requester = entry.body.get("requester")
    return requester.get("uid") if isinstance(requester, dict) else None


def find_void(store: LogStore, seq: int) -> str | None:
    """Why the allow at that entry was made void; None: it was not, or not soon after.

    Raises:
        StoreError: The log cannot be read.
        RollbackError: It holds what is no entry.
    """
    named = leaf_hash(store.entry(seq)).hex().encode()
    for number, data in store.entries(seq + 1, min(store.size, seq + 1 + _SOON)):
        if data.endswith(_VOID_ENDS) and named in data:
            body = parse_stored(number, data).body
            if body.get("leaf") == named.decode():
                return str(body.get("reason"))
    return None


def find_denied(store: LogStore, uid: int) -> int:
    """A requester's last decision that was denied, or that was made void.

    Raises:
        UsageError: There is none among the last 16,384 entries.
        StoreError: The log cannot be read.
        RollbackError: It holds what is no entry.
    """
    stop = store.size
    oldest = max(0, stop - _SOON)
    while stop > oldest:
        start = max(oldest, stop - _CHUNK)
        for number, data in reversed(list(store.entries(start, stop))):
            seq = _denied(number, data)
            if seq is not None and requester_of(parse_stored(seq, store.entry(seq))) == uid:
                return seq
        stop = start
    raise UsageError(
        f"the log's last {store.size - oldest} entries have no denial of user {uid}: name a decision by number or id"
    )


def _denied(number: int, data: bytes) -> int | None:
    """The decision that an entry denies, or makes void."""
    if data.endswith(_DENY_ENDS):
        return number
    if not data.endswith(_VOID_ENDS):
        return None
    seq = parse_stored(number, data).body.get("seq")
    return seq if isinstance(seq, int) and 0 <= seq < number else None
