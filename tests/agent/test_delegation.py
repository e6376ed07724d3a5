"""A delegate's artifacts on a whole host: agent, TPM, runner. What pure code says about chains is in tests/attacks."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from attestd.authorization.artifact import parse_artifact
from attestd.authorization.delegation import delegate, draft_delegation
from attestd.authorization.pattern import ArgForm
from attestd.codes import Code
from attestd.lineage.entry import EntryType
from tests.chains import delegate_key, under
from tests.host import Host, Result
from tests.runner.harness import Bench
from tests.world import AnyKey, key_id, signer

TEAM, MEMBER = delegate_key("team"), delegate_key("member")
ELSEWHERE = "ab" * 32


def parent_of(host: Host, **changes: Any) -> bytes:
    """What an authority of this host lets the team hand on: `echo` of one of three words, here and elsewhere."""
    values: dict[str, Any] = {"further_hosts": [ELSEWHERE], **changes}
    if values.get("max_uses") is not None:
        values["further_hosts"] = []
    return host.issue(
        "/bin/echo",
        _words("one", "two", "three"),
        delegate_to=[key_id(TEAM), key_id(MEMBER)],
        max_depth=2,
        **values,
    )


def _words(*words: str) -> Any:
    return ArgForm(one_of=words)


def child_of(parent: bytes, word: str, *, by: AnyKey = TEAM, **changes: Any) -> bytes:
    """What a delegate makes of it, anywhere: it needs nothing of the host."""
    artifact = parse_artifact(parent)
    values: dict[str, Any] = {"max_uses": None, "requested_by": "team", **changes}
    now = datetime.now(UTC) - timedelta(seconds=1)
    statement = draft_delegation(artifact.last, argv=["/bin/echo", word], now=now, **values)
    return delegate(artifact, statement, signers=[signer(by)])


def echo(host: Host, artifact: bytes, word: str) -> Result:
    return host.exec("/bin/echo", word, authorization=artifact, options=["--json"])


def test_inside_its_scope_and_not_outside(shared: Host) -> None:
    parent = parent_of(shared)
    child = child_of(parent, "one", hosts=[shared.id], delegate_to=[key_id(MEMBER)], max_depth=1)
    grandchild = child_of(child, "one", by=MEMBER)
    for artifact in (parent, child, grandchild):
        assert echo(shared, artifact, "one").stdout == b"one\n"
    assert echo(shared, parent, "two").stdout == b"two\n"
    for artifact in (child, grandchild):
        refused = echo(shared, artifact, "two")
        assert (refused.status, refused.stdout) == (77, b"")
        assert refused.json["code"] == "scope_violation"
    elsewhere = child_of(parent, "one", hosts=[ELSEWHERE])
    assert echo(shared, elsewhere, "one").json["code"] == "identity_mismatch"


def test_the_record_names_the_whole_chain(shared: Host) -> None:
    child = child_of(parent_of(shared, reason="CHG-1"), "one", reason="for the team")
    decided = echo(shared, child, "one").json
    chain = [link.id for link in parse_artifact(child).links]
    assert decided["body"]["artifact"]["chain"] == chain
    assert decided["body"]["origin"]["reason"] == "CHG-1"
    assert decided["body"]["attribution"]["reason"] == "for the team"
    verified = shared.verify_receipt(shared.receipt(decided["seq"]))
    assert verified.entry.body["artifact"]["chain"] == chain
    shared.wait_settled()
    shared.require_sound()


def test_two_children_use_up_their_parent(shared: Host) -> None:
    """Also together with the parent itself; a child's own limit counts besides."""
    parent = parent_of(shared, max_uses=3)
    first, second = child_of(parent, "one", max_uses=1), child_of(parent, "two", max_uses=3)
    assert echo(shared, first, "one").status == 0
    assert echo(shared, first, "one").json["code"] == "uses_exhausted"
    assert echo(shared, second, "two").status == 0
    assert echo(shared, parent, "three").status == 0
    for artifact, word in ((second, "two"), (parent, "three")):
        refused = echo(shared, artifact, word).json
        assert refused["code"] == "uses_exhausted"
        assert parse_artifact(parent).id in refused["sentence"] or artifact == parent


def test_children_that_race_for_the_last_use(shared: Host) -> None:
    parent = parent_of(shared, max_uses=1)
    found: list[int] = []
    children = [child_of(parent, word, max_uses=1) for word in ("one", "two", "three")]
    threads = [
        threading.Thread(target=lambda pair=pair: found.append(echo(shared, *pair).status))
        for pair in zip(children, ("one", "two", "three"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 77, 77]


def test_an_installed_chain_is_found(shared: Host) -> None:
    child = child_of(parent_of(shared), "three")
    answer = shared.ask("install", artifact=child.decode(), everyone=False)
    assert answer["ok"]["id"] == parse_artifact(child).id
    assert shared.exec("/bin/echo", "three").stdout == b"three\n"
    assert shared.exec("/bin/echo", "two").status == 77


def test_a_rogue_delegate_is_denied_and_recorded(shared: Host) -> None:
    def anything(statement: dict[str, Any]) -> None:
        statement["predicate"]["scope"]["argv"] = ["/bin/echo", "four"]

    rogue = under(parent_of(shared), TEAM, edit=anything)
    refused = echo(shared, rogue, "four")
    assert (refused.status, refused.stdout) == (77, b"")
    assert refused.json["code"] == Code.LINEAGE_BROKEN
    recorded = shared.entries(EntryType.DECISION_DENY)[-1]
    assert recorded.body["artifact"]["chain"] == [link.id for link in parse_artifact(rogue).links]


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    made = Bench(tmp_path)
    made.world.authorities["authorizations"][0]["max_depth"] = 2
    made.world.write_trust(made.trust)
    yield made.start()
    made.close_clients()
    made.stop()


def test_the_runner_counts_for_itself(bench: Bench) -> None:
    """An agent that charges nobody: the receipts are real, and the runner refuses the third use of the parent."""
    execution = bench.execution("/bin/true")
    names = [key_id(TEAM)]
    parent = bench.world.artifact(execution, delegate_to=names, max_depth=1, max_uses=2)
    children = [under(parent, TEAM, edit=_reason(str(number))) for number in range(3)]
    outcomes = []
    for child in children:
        decision = bench.world.decide(child, execution=execution)
        assert decision.denial is None
        granted = bench.grant(execution, max_uses=None)
        submitted = bench.submit(granted, artifact=child, receipt=bench.world.receipt(decision.body))
        outcomes.append(submitted.answer.kind)
        if len(outcomes) == 3:
            assert submitted.refusal() == "uses_exhausted"
    assert outcomes[0] == outcomes[1] != outcomes[2]


def _reason(text: str) -> Any:
    def change(statement: dict[str, Any]) -> None:
        statement["predicate"]["attribution"]["reason"] = text

    return change
