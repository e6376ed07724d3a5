import pytest

from attestd.audit.look_up import find_denied, find_void
from attestd.audit.recover import void_body
from attestd.audit.seal import Charge, Pending
from attestd.errors import UsageError
from attestd.lineage.entry import EntryType
from attestd.tlog.tree import leaf_hash
from tests.audit.harness import ARTIFACT, Log, record


def asked_by(uid: int, type_: EntryType) -> Pending:
    body = {"requester": {"uid": uid}}
    if type_ is EntryType.DECISION_DENY:
        return Pending(type_, body)
    return Pending(type_, body, Charge(ARTIFACT, None), lambda _: body)


def test_why_an_allow_was_made_void(started: Log):
    store = started.open()
    assert find_void(store, 3) is None
    started.seal([record(9), Pending(EntryType.DECISION_VOID, void_body(store, 3, reason="no witness"))])
    assert find_void(store, 3) == "no witness"
    assert find_void(store, 1) is None
    # One that only mentions it is not its own.
    said = f"like {leaf_hash(store.entry(1)).hex()}"
    started.seal([Pending(EntryType.DECISION_VOID, void_body(store, 3, reason=said))])
    assert find_void(store, 1) is None


def test_the_last_denial_of_a_user(started: Log):
    store = started.open()
    with pytest.raises(UsageError, match="the log's last 5 entries have no denial of user 1000: name a"):
        find_denied(store, 1000)
    allow, deny = (
        (lambda uid: asked_by(uid, EntryType.DECISION_ALLOW)),
        (lambda uid: asked_by(uid, EntryType.DECISION_DENY)),
    )
    started.seal([deny(1000), deny(1001), allow(1000)])
    assert (find_denied(store, 1000), find_denied(store, 1001)) == (5, 6)
    # What came to nothing denied as well: the decision is named, not the entry that says so.
    started.seal(
        [record(), Pending(EntryType.DECISION_VOID, void_body(store, 7, reason="no witness")), deny(1001)]
    )
    assert (find_denied(store, 1000), find_denied(store, 1001)) == (7, 10)
    # However far back; a void that names what is not before it names nothing.
    started.seal([record(number) for number in range(600)])
    started.seal([Pending(EntryType.DECISION_VOID, {"seq": seq}) for seq in (10**6, -1, "7", True)])
    assert find_denied(store, 1000) == 7
