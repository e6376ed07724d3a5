"""Attestation results in a log: those that verify, what of them is a lie, and what cannot be told or counts no more."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from attestd.agent.mesh import result_body
from attestd.audit.export import export_log
from attestd.audit.offline import VerifiedLog, verify_stored
from attestd.audit.reader import parse_stored
from attestd.audit.results import ResultCheck
from attestd.audit.store import LogStore
from attestd.errors import VerificationError
from attestd.governance.trust import Trust
from attestd.lineage.entry import Entry, EntryType
from attestd.strict import format_time_us
from tests.results import LIFETIME, result, sealed, token, verifiers
from tests.world import BOOT, World, key_id, p256

ENDED = "not counted: issued when its version of mesh.json had ended"
OVER = "not counted: over when they were sealed"
REVOKED = "not counted: the verifier's key was revoked since"
NO_MESH = "not checked: the version of mesh.json that they name is not in this governance"
NO_RECORD = "not checked: sealed under a host record that is not in this governance"


@pytest.fixture
def world() -> World:
    found = World()
    found.extra["mesh.json"] = verifiers("one", "two")
    return found


def verify(path: Path, trust: Trust) -> ResultCheck:
    """A log, and an export of it, which say the same."""
    with closing(LogStore.open(str(path), readonly=True)) as store:
        export = path.with_suffix(".export")
        if not export.exists():
            export_log(store, str(export))
    found: list[VerifiedLog] = [
        verify_stored(where, trust=trust, processes=1, progress=lambda _done, _total: None)
        for where in (path, export)
    ]
    results = [(log.results.verified, log.results.others) for log in found]
    assert results[0] == results[1]
    return found[0].results


def test_what_verifiers_said(world: World, tmp_path: Path) -> None:
    bodies = [result_body(result(world, name, findings=["x"])) for name in ("one", "two")]
    log = sealed(tmp_path / "log.db", world, *bodies, {"what": "clock accepted", "by_uid": 0})
    found = verify(log, world.trust())
    assert (found.verified, found.others) == (2, {})


def test_after_the_keys_were_replaced(world: World, tmp_path: Path) -> None:
    """By the version of mesh.json and the record of the host that they were made under; what is not kept is said."""
    log = sealed(tmp_path / "log.db", world, *(result_body(result(world, name)) for name in ("one", "two")))
    before, host = world.trust(), world.host
    world.replace_mesh(verifiers("three"), handover=world.now + timedelta(seconds=1))
    assert verify(log, world.trust()).verified == 2
    world.replace_mesh(verifiers("four"), handover=world.now)
    assert verify(log, world.trust()).others == {ENDED: 2}
    del world.extra["mesh/history/1.json"]
    assert verify(log, world.trust()).others == {NO_MESH: 2}
    # The host has other keys now, and governance keeps the record of these; or does not.
    check = ResultCheck(before, host.id)
    again = ResultCheck(replace(before, hosts={}, host_history={host.id: before.records(host.id)}), host.id)
    gone = ResultCheck(replace(before, hosts={}, host_history={}), host.id)
    with closing(LogStore.open(str(log), readonly=True)) as store:
        for found in (check, again, gone):
            found.take(parse_stored(1, store.entry(1)))
    assert (check.verified, again.verified, gone.others) == (1, 1, {NO_RECORD: 1})


def test_a_key_that_is_revoked_counts_no_more(world: World, tmp_path: Path) -> None:
    log = sealed(tmp_path / "log.db", world, *(result_body(result(world, name)) for name in ("one", "two")))
    world.revocations["keys"] = [key_id(p256("verifier one"))]
    found = verify(log, world.trust())
    assert (found.verified, found.others) == (1, {REVOKED: 1})


def test_one_that_was_over_counts_for_nothing(world: World, tmp_path: Path) -> None:
    body = result_body(result(world, "one"))
    for late, others in ((LIFETIME - timedelta(seconds=1), {}), (LIFETIME, {OVER: 1})):
        log = sealed(tmp_path / f"{late}.db", world, body, late=late)
        assert verify(log, world.trust()).others == others
    early = sealed(tmp_path / "early.db", world, body, late=timedelta(seconds=-6))
    with pytest.raises(VerificationError, match=r"entry 1: .*it holds from"):
        verify(early, world.trust())


LIES: dict[str, tuple[Callable[[World], dict[str, Any]], str]] = {
    "signed by another": (lambda world: {"token": token(world, "one", key="two")}, "issuer"),
    "signed by nobody": (lambda world: {"token": token(world, "one", key="x")}, "names no verifier with key"),
    "cut off": (lambda world: {"token": token(world, "one")[:-8]}, ""),
    "no token": (lambda _: {"token": None}, "not a signed JWT"),
    "of another host": (
        lambda world: {"token": token(World("elsewhere", now=world.now), "one")},
        "host: the result says",
    ),
    "another verifier's": (lambda _: {"verifier": "two"}, "verifier: the result says 'one'"),
    "another status": (lambda _: {"status": "contraindicated"}, "status: the result says 'affirming'"),
    "another platform": (lambda _: {"platform": "x"}, "platform: the result says 'local'"),
    "other findings": (lambda _: {"findings": 1}, "findings: the result says 0"),
    "no version": (lambda _: {"mesh": None}, "by which version"),
    "a strange version": (lambda _: {"mesh": {"version": True, "digest": ""}}, "by which version"),
    "another mesh.json": (lambda _: {"mesh": {"version": 1, "digest": "0" * 64}}, "names another one"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_named(world: World, lie: str) -> None:
    """Who sealed it has the host's keys, and no verifier's."""
    change, words = LIES[lie]
    body = {**result_body(result(world, "one")), **change(world)}
    entry = Entry(1, EntryType.ATTESTATION, format_time_us(world.now), 7, BOOT, body)
    with pytest.raises(
        VerificationError, match=r"entry 7: its attestation result does not verify: "
    ) as raised:
        ResultCheck(world.trust(), world.host.id).take(entry)
    assert words in str(raised.value)


def test_a_result_without_what_was_signed_is_a_lie(world: World) -> None:
    """It would be read as a verifier's word, and be neither verified nor counted."""
    body = result_body(result(world, "one"))
    del body["token"]
    entry = Entry(1, EntryType.ATTESTATION, format_time_us(world.now), 7, BOOT, body)
    with pytest.raises(
        VerificationError, match="entry 7: an attestation result without what the verifier signed"
    ):
        ResultCheck(world.trust(), world.host.id).take(entry)
