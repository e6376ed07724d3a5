"""What the runner believes: every numbered step attacked by an agent that can have anything sealed."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from attestd.authorization.artifact import parse_artifact
from attestd.authorization.issue import resource
from attestd.codes import Code, Denied
from attestd.gate.decide import decide
from attestd.gate.execution import Execution, File, execution_body
from attestd.gate.release import VerifiedRelease, verify_release
from attestd.governance.host import HOST_RECORD_TYPE
from attestd.governance.trust import Trust
from attestd.lineage.entry import EntryType
from attestd.lineage.receipt import parse_receipt, verify_receipt
from attestd.strict import canonical, format_time
from attestd.tcg.pcr import PcrSelection
from attestd.tlog.checkpoint import BatchMode
from attestd.tlog.proof import format_proof, parse_proof
from tests.results import LIFETIME, result, token, verifiers
from tests.world import (
    BOOT,
    CLOCK,
    NOTHING_CONCEALED,
    NOW,
    Granted,
    Host,
    Log,
    World,
    digest,
    dsse,
    ed25519_key,
    key_id,
    mesh_file,
    p256,
    with_cosignatures,
    witness,
)

PLAN = File("/srv/plan", digest(b"plan"))
SH = File("/usr/bin/sh", digest(b"sh"))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def granted(world: World) -> Granted:
    return world.grant()


def refused(world: World, granted: Granted, **changes: Any) -> Code:
    with pytest.raises(Denied) as denied:
        world.release(granted, **changes)
    assert denied.value.denial.sentence
    assert denied.value.denial.hint
    return denied.value.denial.code


def lied(world: World, granted: Granted, changes: Mapping[str, Any], **seal: Any) -> bytes:
    """A receipt for a leaf that says something else: the agent had it sealed like any other."""
    return world.receipt({**granted.body, **changes}, **seal)


def test_releases_what_was_sealed(world: World, granted: Granted) -> None:
    released = world.release(granted)
    assert released == VerifiedRelease(
        log_id="log-1",
        seq=1,
        leaf=released.leaf,
        artifact_id=granted.body["artifact"]["id"],
        max_uses=1,
        above=(),
        request_id=granted.body["id"],
        on_trust_loss="kill",
    )
    assert len(released.leaf) == 64


def test_releases_a_script_with_inputs(world: World) -> None:
    execution = world.execution(interpreters=(SH,), inputs=(PLAN,), writable=frozenset({PLAN.path}))
    released = world.release(world.grant(execution, max_uses=None))
    assert released.max_uses is None


def test_the_specification_numbers_every_step() -> None:
    source = inspect.getsource(verify_release)
    numbered = [
        line.strip()[0] for line in (verify_release.__doc__ or "").splitlines() if line.strip()[:1].isdigit()
    ]
    assert numbered == list("1234567")
    assert all(f"# {number}" in source or f", {number}" in source for number in numbered)


# 1. the receipt verifies


@pytest.mark.parametrize("data", [b"", b"\xff", b"c2sp.org/tlog-proof@v1\n"])
def test_1_no_receipt(world: World, granted: Granted, data: bytes) -> None:
    assert refused(world, granted, receipt=data) is Code.EVIDENCE_INVALID


def test_1_quote_only_batch(world: World, granted: Granted) -> None:
    """What a TPM in an unapproved state can still sign: the quote alone."""
    receipt = lied(world, granted, {}, mode=BatchMode.RECORD)
    assert refused(world, granted, receipt=receipt) is Code.EVIDENCE_INVALID


def test_1_unapproved_state(world: World, granted: Granted) -> None:
    receipt = lied(world, granted, {}, pcr_digest=bytes(32))
    assert refused(world, granted, receipt=receipt) is Code.EVIDENCE_INVALID


def test_1_leaf_of_an_earlier_batch(world: World, granted: Granted) -> None:
    """A leaf that crept in under a quote-only checkpoint is not laundered by a later good boot."""
    seq = world.log.append(granted.body, type_=EntryType.DECISION_ALLOW, time=NOW, boot=BOOT)
    world.log.seal(mode=BatchMode.RECORD, pcr_digest=bytes(32))
    world.log.append({}, type_=EntryType.AGENT_START, time=NOW, boot=BOOT)
    checkpoint = world.log.seal(mode=BatchMode.RELEASE, pcr_digest=world.pcr_digest)
    assert refused(world, granted, receipt=world.log.receipt(seq, checkpoint)) is Code.EVIDENCE_INVALID


def test_1_spliced_proofs(world: World, granted: Granted) -> None:
    """Entry, path and checkpoint of two good receipts, in every mixture."""
    other = parse_proof(lied(world, granted, {"id": "ff" * 16}))
    good = parse_proof(granted.receipt)
    for mixed in (
        replace(good, extra=other.extra),
        replace(good, proof=other.proof),
        replace(good, checkpoint=other.checkpoint),
        replace(good, index=0),
        replace(other, extra=good.extra),
        replace(other, extra=good.extra, index=good.index),
    ):
        assert refused(world, granted, receipt=format_proof(mixed)) is Code.EVIDENCE_INVALID


def test_1_a_software_key_on_another_host(world: World, granted: Granted) -> None:
    stranger = Log(Host("stranger", root=world.root))
    stranger.append(granted.body, type_=EntryType.DECISION_ALLOW, time=NOW, boot=BOOT)
    checkpoint = stranger.seal(mode=BatchMode.RELEASE, pcr_digest=world.pcr_digest)
    assert refused(world, granted, receipt=stranger.receipt(0, checkpoint)) is Code.EVIDENCE_INVALID


def test_1_revoked_host(world: World, granted: Granted) -> None:
    world.revocations["hosts"] = [world.host.id]
    assert refused(world, granted) is Code.EVIDENCE_INVALID


# 2. for an allow of this host, this boot, now


@pytest.mark.parametrize("type_", [type_ for type_ in EntryType if type_ is not EntryType.DECISION_ALLOW])
def test_2_other_leaf_types(world: World, granted: Granted, type_: EntryType) -> None:
    receipt = lied(world, granted, {}, type_=type_)
    assert refused(world, granted, receipt=receipt) is Code.EVIDENCE_INVALID


def test_2_another_enrolled_host(world: World, granted: Granted) -> None:
    other = Host("other", root=world.root)
    world.records[other.id] = world.host_record(other)
    log = Log(other)
    log.append(granted.body, type_=EntryType.DECISION_ALLOW, time=NOW, boot=BOOT)
    receipt = log.receipt(0, log.seal(mode=BatchMode.RELEASE, pcr_digest=world.pcr_digest))
    assert refused(world, granted, receipt=receipt) is Code.IDENTITY_MISMATCH


def test_2_keys_that_the_host_had_before(world: World, granted: Granted) -> None:
    """Their receipts verify, but they release nothing."""
    old = dsse(canonical(world.records[world.host.id]), world.enrollers, payload_type=HOST_RECORD_TYPE)
    world.records[world.host.id] = world.host_record(world.host.reinstalled("fresh", root=world.root))
    assert refused(world, granted) is Code.EVIDENCE_INVALID, "nobody knows those keys"
    world.extra[f"hosts/history/{world.host.id}-1.json"] = old
    assert verify_receipt(parse_receipt(granted.receipt), trust=world.trust()).approval is not None
    assert refused(world, granted) is Code.IDENTITY_MISMATCH
    del world.records[world.host.id]
    assert refused(world, granted) is Code.IDENTITY_MISMATCH, "nor those of a host that has no others"


def test_2_another_boot(world: World, granted: Granted) -> None:
    assert refused(world, granted, boot=BOOT.replace("3", "4")) is Code.IDENTITY_MISMATCH
    receipt = lied(world, granted, {}, boot="\x1b[2J")
    assert refused(world, granted, receipt=receipt) is Code.IDENTITY_MISMATCH


def test_governance_until_the_end_of_time(world: World, granted: Granted) -> None:
    """An expiry that nothing can be added to, and a host that allows more than that."""
    last = datetime.max.replace(microsecond=0, tzinfo=UTC)
    trust = replace(world.trust(), expires=last)
    assert world.release(granted, trust=trust, grace=timedelta(days=365))


@pytest.mark.parametrize(
    ("seconds", "stale"), [(-6, True), (-5, False), (0, False), (60, False), (60.001, True), (10**6, True)]
)
def test_2_age(world: World, seconds: float, stale: bool) -> None:
    granted = world.grant(now=NOW - timedelta(days=1), ttl_s=10**7)
    now = NOW + timedelta(seconds=seconds)
    if stale:
        assert refused(world, granted, now=now) is Code.EVIDENCE_STALE
    else:
        assert world.release(granted, now=now).seq == 1


# 3. the artifact is the leaf's, and signed


def test_3_another_artifact(world: World, granted: Granted) -> None:
    """Told before anything else that would differ too: its bindings, its scope."""
    for other in (world.artifact(reason="another"), world.artifact(host_id="00" * 32, argv=["x"], ttl_s=1)):
        with pytest.raises(Denied, match="for another artifact") as denied:
            world.release(granted, artifact=other, now=NOW + timedelta(seconds=2))
        assert denied.value.denial.code is Code.IDENTITY_MISMATCH


@pytest.mark.parametrize("named", [None, "x", {}, {"id": 1}, {"id": "00" * 32}])
def test_3_leaf_without_artifact(world: World, granted: Granted, named: Any) -> None:
    receipt = lied(world, granted, {"artifact": named})
    assert refused(world, granted, receipt=receipt) is Code.IDENTITY_MISMATCH


def test_3_malformed_artifact(world: World, granted: Granted) -> None:
    assert refused(world, granted, artifact=b"{}") is Code.MALFORMED_AUTHORIZATION


def test_3_artifact_that_no_authority_signed(world: World, granted: Granted) -> None:
    forged = world.artifact(signers=[ed25519_key("agent")])
    receipt = lied(
        world, granted, {"artifact": {"id": granted.body["artifact"]["id"], "sha256": digest(forged)}}
    )
    assert refused(world, granted, artifact=forged, receipt=receipt) is Code.INVALID_SIGNATURE


def test_3_fewer_than_the_threshold() -> None:
    world = World(authors=2, threshold=2)
    granted = world.grant()
    one = world.artifact(signers=world.authors[:1])
    body = {"artifact": {"id": granted.body["artifact"]["id"], "sha256": digest(one)}}
    receipt = lied(world, granted, body)
    assert refused(world, granted, artifact=one, receipt=receipt) is Code.INSUFFICIENT_APPROVALS


def test_3_signer_revoked_meanwhile(world: World, granted: Granted) -> None:
    world.revocations["keys"] = [key_id(world.authors[0])]
    assert refused(world, granted) is Code.REVOKED


# 4. in force


def test_4_revoked_meanwhile(world: World) -> None:
    granted = world.grant(world.execution(interpreters=(SH,), inputs=(PLAN,)))
    for member, value in (
        ("artifacts", granted.body["artifact"]["id"]),
        ("requesters", world.uid),
        ("subjects", granted.execution.executable.sha256),
        ("subjects", SH.sha256),
        ("subjects", PLAN.sha256),
    ):
        world.revocations[member] = [value]
        assert refused(world, granted) is Code.REVOKED
        world.revocations[member] = []
    assert world.release(granted).seq == 1


def test_4_platform_policy_ended(world: World) -> None:
    world.platforms["local"]["lifecycle"]["valid_until"] = format_time(NOW + timedelta(seconds=30))
    granted = world.grant()
    assert world.release(granted, now=NOW + timedelta(seconds=29)).seq == 1
    assert refused(world, granted, now=NOW + timedelta(seconds=30)) is Code.GOVERNANCE_MISMATCH


def test_4_platform_policy_withdrawn(world: World) -> None:
    """The receipt still verifies: the policy stands in the history."""
    granted = world.grant()
    world.history["local-1"] = world.platforms.pop("local")
    world.platforms["other"] = world.platform_file("other")
    assert refused(world, granted) is Code.GOVERNANCE_MISMATCH


def sealed_against_the_rules(world: World, **changes: Any) -> Granted:
    """An artifact that decide refuses, and a leaf, as if it had not, by an agent that wants it run."""
    good = world.grant()
    artifact = world.artifact(**changes)
    untrusted = parse_artifact(artifact)
    quorum = changes.get("witnesses", 0)
    body = {
        **good.body,
        "artifact": {"id": untrusted.id, "sha256": digest(artifact)},
        "witness_quorum": quorum,
    }
    return Granted(artifact, good.execution, world.receipt(body), body)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"policy_version": 99}, Code.GOVERNANCE_MISMATCH),
        ({"policy": "other"}, Code.GOVERNANCE_MISMATCH),
        ({"policy_digest": "ab" * 32}, Code.GOVERNANCE_MISMATCH),
        ({"platform": "prod"}, Code.GOVERNANCE_MISMATCH),
        ({"now": NOW - timedelta(hours=2)}, Code.EXPIRED),
        ({"now": NOW + timedelta(seconds=6)}, Code.NOT_YET_VALID),
        ({"host_id": "00" * 32}, Code.IDENTITY_MISMATCH),
        ({"requester_uid": 7}, Code.IDENTITY_MISMATCH),
        ({"argv": ["deploy"]}, Code.SCOPE_VIOLATION),
        ({"verifiers": 1}, Code.MESH_UNAVAILABLE),
    ],
)
def test_4_to_6_an_agent_that_skips_a_check(world: World, changes: dict[str, Any], code: Code) -> None:
    assert refused(world, sealed_against_the_rules(world, **changes)) is code


def test_4_skipped_policy_and_lineage(world: World) -> None:
    def secrets(statement: dict[str, Any]) -> None:
        statement["predicate"]["secrets"] = ["token"]

    def parent(statement: dict[str, Any]) -> None:
        statement["predicate"]["lineage"]["parent"] = "ab" * 32

    assert refused(world, sealed_against_the_rules(world, edit=secrets)) is Code.POLICY_DENIED
    assert refused(world, sealed_against_the_rules(world, edit=parent)) is Code.LINEAGE_BROKEN


def test_4_wall_clock_a_little_behind_trusted_time(world: World) -> None:
    granted = world.grant(now=NOW)
    assert world.release(granted, now=NOW - timedelta(seconds=5)).seq == 1


# 5. the state is approved, by the policy that the artifact names


def test_5_state_no_longer_approved(world: World, granted: Granted) -> None:
    world.history["local-1"] = world.platforms["local"]
    world.platforms["local"] = world.platform_file(version=2, values={pcr: bytes(32) for pcr in world.values})
    assert refused(world, granted) is Code.ENVIRONMENT_UNTRUSTED


def test_5_policy_updated_and_state_still_approved(world: World, granted: Granted) -> None:
    world.history["local-1"] = world.platforms["local"]
    world.platforms["local"] = world.platform_file(version=2)
    assert world.release(granted).seq == 1


def test_5_window_that_closes_after_the_decision(world: World) -> None:
    end = NOW + timedelta(seconds=10)
    state = world.platforms["local"]["approvals"][0]["pcr_digest"]
    world.platforms["local"]["lifecycle"]["windows"] = [{"pcr_digest": state, "not_after": format_time(end)}]
    granted = world.grant()
    assert world.release(granted, now=end - timedelta(seconds=1)).seq == 1
    with pytest.raises(Denied, match=rf"no longer approved .*: it was until {format_time(end)}") as raised:
        world.release(granted, now=end)
    assert raised.value.denial.code is Code.ENVIRONMENT_UNTRUSTED


def test_5_window_in_a_later_version(world: World, granted: Granted) -> None:
    """What holds is what holds now; the receipt was good in its time."""
    world.history["local-1"] = world.platforms["local"]
    later = world.platform_file(version=2)
    state = later["approvals"][0]["pcr_digest"]
    later["lifecycle"]["windows"] = [{"pcr_digest": state, "not_after": format_time(NOW)}]
    world.platforms["local"] = later
    assert refused(world, granted) is Code.ENVIRONMENT_UNTRUSTED
    assert verify_receipt(parse_receipt(granted.receipt), trust=world.trust()).approval is not None


def test_5_epoch_moved_on(world: World, granted: Granted) -> None:
    world.revocations["epoch"] = 2
    assert refused(world, granted) is Code.ENVIRONMENT_UNTRUSTED


def test_5_platform_key_revoked(world: World, granted: Granted) -> None:
    world.revocations["keys"] = [key_id(world.platform_key)]
    assert refused(world, granted) is Code.EVIDENCE_INVALID


def test_5_leaf_names_a_laxer_policy(world: World) -> None:
    """Two policies on a host: the artifact asks for the strict one, the agent seals in a state of the lax one."""
    world.platforms["strict"] = world.platform_file("strict")
    world.values[4] = bytes(32)
    world.platforms["local"] = world.platform_file("local")
    artifact = world.artifact(platform="strict")
    lax = world.grant()
    body = {
        **lax.body,
        "artifact": {"id": _artifact_id(artifact), "sha256": digest(artifact)},
    }
    receipt = world.receipt(body)
    assert refused(world, lax, artifact=artifact, receipt=receipt) is Code.GOVERNANCE_MISMATCH


def test_5_same_composite_over_other_pcrs(world: World) -> None:
    """A composite is of values only: 7 and 11 swapped in the selection are another state with the same digest."""
    world.values[11] = world.values[7]
    narrow = PcrSelection("sha256", (0, 2, 4, 7))
    wide = PcrSelection("sha256", (0, 2, 4, 11))
    world.platforms["local"] = world.platform_file(selection=narrow)
    trust_then = world.trust()
    artifact = world.artifact()
    body = {**World().grant().body, "platform": _platform(trust_then)}
    body["artifact"] = {"id": _artifact_id(artifact), "sha256": digest(artifact)}
    receipt = world.receipt(
        body, selection=narrow, pcr_digest=trust_then.platforms["local"].approvals[0].pcr_digest
    )
    sealed = Granted(artifact, world.execution(), receipt, body)
    assert world.release(sealed).seq == 1
    world.history["local-1"] = world.platforms["local"]
    world.platforms["local"] = world.platform_file(version=2, selection=wide)
    assert refused(world, sealed) is Code.ENVIRONMENT_UNTRUSTED


def _platform(trust: Trust) -> dict[str, Any]:
    policy = trust.platforms["local"]
    return {"name": policy.name, "version": policy.version, "digest": policy.digest}


def _artifact_id(artifact: bytes) -> str:
    return parse_artifact(artifact).id


@pytest.mark.parametrize(("member", "value"), [("min_tier", "hardware"), ("userspace", ["verity"])])
def test_5_host_not_strong_enough(world: World, member: str, value: Any) -> None:
    granted = world.grant()
    world.history["local-1"] = world.platforms["local"]
    reference = {**world.platforms["local"]["reference"], member: value}
    world.platforms["local"] = world.platform_file(version=2, reference=reference)
    assert refused(world, granted) is Code.ENVIRONMENT_UNTRUSTED


def test_5_witness_quorum_is_not_the_agents_to_choose(world: World) -> None:
    """The artifact asks for two witnesses, the leaf says none: no receipt would ever show them."""
    artifact = world.artifact(witnesses=2)
    good = world.grant()
    body = {**good.body, "artifact": {"id": _artifact_id(artifact), "sha256": digest(artifact)}}
    for quorum, code in ((0, Code.MESH_UNAVAILABLE), (2, Code.EVIDENCE_INVALID)):
        receipt = world.receipt({**body, "witness_quorum": quorum})
        assert refused(world, good, artifact=artifact, receipt=receipt) is code


W1, W2 = witness("one"), witness("two")


@pytest.mark.parametrize("asked_by", ["artifact", "platform", "mesh"])
def test_5_cosigned(world: World, asked_by: str) -> None:
    """Whoever asks for two: an agent that releases without, or with fewer, is refused."""
    world.extra["mesh.json"] = mesh_file([W1, W2], quorum=2 if asked_by == "mesh" else 0)
    if asked_by == "platform":
        world.platforms["local"]["reference"]["quorums"]["witnesses"] = 2
    granted = world.grant(witnesses=2 if asked_by == "artifact" else 0)
    assert granted.body["witness_quorum"] == 2
    assert refused(world, granted) is Code.EVIDENCE_INVALID
    assert refused(world, granted, receipt=with_cosignatures(granted.receipt, W1)) is Code.EVIDENCE_INVALID
    cosigned = with_cosignatures(granted.receipt, W1, W2)
    assert world.release(granted, receipt=cosigned).seq == 1
    # The leaf asks for less than the three together; than governance alone: no receipt is one.
    fewer = Code.MESH_UNAVAILABLE if asked_by == "artifact" else Code.EVIDENCE_INVALID
    lax = world.receipt({**granted.body, "witness_quorum": 0})
    assert refused(world, granted, receipt=lax) is fewer
    lax = with_cosignatures(lax, W1, W2)
    other = Code.IDENTITY_MISMATCH if asked_by == "artifact" else Code.EVIDENCE_INVALID
    assert refused(world, granted, receipt=lax) is other


def test_5_cosigned_in_the_future(world: World) -> None:
    world.extra["mesh.json"] = mesh_file([W1])
    granted = world.grant(witnesses=1)
    near = with_cosignatures(granted.receipt, W1, time=world.now + timedelta(minutes=9))
    assert world.release(granted, receipt=near)
    far = with_cosignatures(granted.receipt, W1, time=world.now + timedelta(minutes=11))
    assert refused(world, granted, receipt=far) is Code.MESH_UNAVAILABLE


def test_2_decided_by_an_earlier_mesh_json(world: World) -> None:
    """It verifies for an auditor; but the witness's key of then may be anybody's by now, and nothing runs by it."""
    world.extra["mesh.json"] = mesh_file([W1], quorum=1)
    granted = world.grant()
    cosigned = with_cosignatures(granted.receipt, W1, W2)
    assert world.release(granted, receipt=cosigned)
    world.replace_mesh(mesh_file([W2], quorum=1))
    assert verify_receipt(parse_receipt(cosigned), trust=world.trust()).mesh.version == 1
    with pytest.raises(Denied, match=r"by version 1 of mesh\.json, version 2 is in force") as denied:
        world.release(granted, receipt=cosigned)
    assert denied.value.denial.code is Code.GOVERNANCE_MISMATCH
    # As if there had been none, which asks nobody.
    lax = world.receipt({**granted.body, "mesh": None, "witness_quorum": 0})
    assert verify_receipt(parse_receipt(lax), trust=world.trust()).mesh.version == 0
    assert refused(world, granted, receipt=lax) is Code.GOVERNANCE_MISMATCH


def affirmed(
    world: World, *, asked_by: str = "artifact", counted: tuple[str, ...] = ("one", "two")
) -> Granted:
    """What needs two of three verifiers."""
    world.extra["mesh.json"] = verifiers("one", "two", "three", quorum=2 if asked_by == "mesh" else 0)
    if asked_by == "platform":
        world.platforms["local"]["reference"]["quorums"]["verifiers"] = 2
    artifact = world.artifact(verifiers=2 if asked_by == "artifact" else 0)
    results = [result(world, name) for name in counted]
    decision = decide(world.request(artifact), world.context(results=results))
    assert decision.denial is None
    return Granted(artifact, world.execution(), world.receipt(decision.body), decision.body)


@pytest.mark.parametrize("asked_by", ["artifact", "platform", "mesh"])
def test_5_verifiers(world: World, asked_by: str) -> None:
    """Whoever asks for two: an agent that releases without, or with fewer, is refused."""
    granted = affirmed(world, asked_by=asked_by)
    one, two, three = (token(world, name) for name in ("one", "two", "three"))
    assert refused(world, granted) is Code.MESH_UNAVAILABLE
    assert refused(world, granted, tokens=[one]) is Code.MESH_UNAVAILABLE
    for enough in ([one, two], [two, three, one]):
        assert world.release(granted, tokens=enough)
    # Enough, but not those that the leaf says.
    assert refused(world, granted, tokens=[three, one]) is Code.IDENTITY_MISMATCH


TWO_LIES: dict[str, Callable[[World], str]] = {
    "the same again": lambda world: token(world, "one"),
    "the same key, signed anew": lambda world: token(world, "one", at=world.now + timedelta(seconds=1)),
    "a key that claims another's name": lambda world: token(world, "two", key="one"),
    "a key that nobody knows": lambda world: token(world, "two", key="stranger"),
    "another host's": lambda world: token(_other_host(world), "two"),
    "another state's": lambda world: token(world, "two", pcr_digest=bytes(32)),
    "of before a reset": lambda world: token(
        world, "two", clock=msgspec.structs.replace(CLOCK, reset_count=CLOCK.reset_count - 1)
    ),
    "of before a restart": lambda world: token(
        world, "two", clock=msgspec.structs.replace(CLOCK, restart_count=CLOCK.restart_count + 1)
    ),
    "edited": lambda world: token(world, "two").replace(".", ".A", 1),
    "an empty one": lambda _: "",
    "of another policy version": lambda world: token(
        world, "two", policy=replace(world.trust().platforms["local"], digest="00" * 32)
    ),
}


def _other_host(world: World) -> World:
    """A twin in the same state, with its own TPM."""
    twin = World("twin", now=world.now)
    twin.extra, twin.values = world.extra, world.values
    return twin


@pytest.mark.parametrize("lie", TWO_LIES)
def test_5_verifiers_an_agent_that_lies(world: World, lie: str) -> None:
    granted = affirmed(world, counted=("one", "three"))
    tokens = [token(world, "one"), TWO_LIES[lie](world)]
    assert refused(world, granted, tokens=tokens) is Code.MESH_UNAVAILABLE
    assert world.release(granted, tokens=[*tokens, token(world, "three")]), "what is wrong counts for nothing"


def test_5_verifiers_one_that_finds_something(world: World) -> None:
    granted = affirmed(world)
    tokens = [token(world, "one"), token(world, "two", findings=("PCR 7: changed",))]
    with pytest.raises(Denied) as denied:
        world.release(granted, tokens=tokens)
    assert denied.value.denial.code is Code.ENVIRONMENT_UNTRUSTED
    assert "findings of two: PCR 7: changed" in denied.value.denial.sentence
    # What one key says against the host is not outvoted by what it said before.
    again = [*tokens, token(world, "two")]
    assert refused(world, granted, tokens=again) is Code.ENVIRONMENT_UNTRUSTED


def test_5_verifiers_results_that_are_over(world: World) -> None:
    granted = affirmed(world)
    both = [token(world, name) for name in ("one", "two")]
    assert world.release(granted, tokens=both, now=world.now + timedelta(seconds=59))
    world.now -= LIFETIME
    old = token(world, "two")
    world.now += LIFETIME
    assert refused(world, granted, tokens=[both[0], old]) is Code.MESH_UNAVAILABLE
    world.now += timedelta(seconds=6)
    early = token(world, "two")
    world.now -= timedelta(seconds=6)
    assert refused(world, granted, tokens=[both[0], early]) is Code.MESH_UNAVAILABLE


def test_5_verifiers_a_key_revoked_meanwhile(world: World) -> None:
    granted = affirmed(world)
    both = [token(world, name) for name in ("one", "two")]
    assert world.release(granted, tokens=both)
    world.revocations["keys"] = [key_id(p256("verifier two"))]
    with pytest.raises(Denied) as denied:
        world.release(granted, tokens=both)
    assert denied.value.denial.code is Code.MESH_UNAVAILABLE
    assert "mesh.json names no verifier with key" in denied.value.denial.sentence


# 6. within the artifact

OTHERS: dict[str, Any] = {
    "executable": File("/usr/bin/deploy", digest(b"evil")),
    "interpreters": (SH,),
    "argv": ("deploy", "--env", "prod", "--force"),
    "cwd": "/",
    "uid": 0,
    "env": {"PATH": "/tmp"},
    "inputs": (PLAN,),
    "requester_uid": 1002,
}
CODES = {
    "executable": Code.IDENTITY_MISMATCH,
    "interpreters": Code.IDENTITY_MISMATCH,
    "requester_uid": Code.IDENTITY_MISMATCH,
}


@pytest.mark.parametrize("member", OTHERS)
def test_6_execution_outside_the_artifact(world: World, granted: Granted, member: str) -> None:
    """Leaf and execution agree, the artifact does not: no lie helps, for the runner reads the artifact itself."""
    execution = replace(granted.execution, **{member: OTHERS[member]})
    receipt = lied(world, granted, _seen(execution))
    code = CODES.get(member, Code.SCOPE_VIOLATION)
    assert refused(world, granted, execution=execution, receipt=receipt) is code


def _seen(execution: Execution) -> dict[str, Any]:
    return {
        **execution_body(execution, concealment=NOTHING_CONCEALED),
        "requester": {"uid": execution.requester_uid},
    }


def test_6_writable_files(world: World) -> None:
    world.platforms["local"]["writable"] = "refuse"
    granted = world.grant()
    execution = replace(granted.execution, writable=frozenset({"/usr/bin/deploy"}))
    assert refused(world, granted, execution=execution) is Code.IDENTITY_MISMATCH


# 7. member by member what the leaf says


@pytest.fixture
def lenient(world: World) -> Granted:
    """A grant by an artifact that lets the requester choose an argument."""

    def choose(statement: dict[str, Any]) -> None:
        statement["predicate"]["scope"]["argv"][2] = {"one_of": ["prod", "stage"]}

    return world.grant(edit=choose)


def test_7_another_execution_within_the_artifact(world: World, lenient: Granted) -> None:
    other = replace(lenient.execution, argv=("deploy", "--env", "stage"))
    assert refused(world, lenient, execution=other) is Code.IDENTITY_MISMATCH


LIES: dict[str, list[Any]] = {
    "argv": [[], ["deploy", "--env", "stage"], "deploy --env prod", {"0": "deploy"}],
    "artifact": [{"sha256": "00" * 32}, {"extra": 1}],
    "attribution": [None, {}, {"requested_by": "another"}],
    "authority": [None, "another"],
    "code": ["expired", False, 0],
    "cwd": ["/", None],
    "env": [{}, {"PATH": "/tmp"}, []],
    "executable": [{"path": "/usr/bin/deploy"}, {"sha256": "00" * 32}, None],
    "inputs": [[{"path": "/srv/plan", "sha256": "00" * 32}], None, {}],
    "interpreters": [[{"path": "/bin/sh", "sha256": "00" * 32}], None],
    "isolation": ["none", None],
    "mesh": [{"version": 1, "digest": "00" * 32}, {"version": 0, "digest": ""}, {}, [], "1", 1],
    "policy": [None, "other"],
    "requester": [{"uid": 0}, {"uid": 1001, "name": "root"}, {"uid": "1001"}, None],
    "terms": [None, {}, {"ttl_s": 1}],
    "uid": [0, "1001", None],
    "witness_quorum": [None, True, False, -1, "0", 1],
}


@pytest.mark.parametrize(("member", "lie"), [(member, lie) for member, lies in LIES.items() for lie in lies])
def test_7_agent_lies_about(world: World, granted: Granted, member: str, lie: Any) -> None:
    if member == "artifact":
        lie = {**granted.body["artifact"], **lie}
    receipt = lied(world, granted, {member: lie})
    code = Code.EVIDENCE_INVALID if member in ("mesh", "witness_quorum") else Code.IDENTITY_MISMATCH
    assert refused(world, granted, receipt=receipt) is code


@pytest.mark.parametrize("member", [*LIES, "id", "platform", "verifiers"])
def test_7_agent_leaves_out(world: World, granted: Granted, member: str) -> None:
    body = {name: value for name, value in granted.body.items() if name != member}
    codes = {Code.IDENTITY_MISMATCH, Code.EVIDENCE_INVALID}
    assert refused(world, granted, receipt=world.receipt(body)) in codes


@pytest.mark.parametrize(
    "lie",
    [
        [{"verifier": "three"}],
        [{"verifier": "one", "status": "affirming", "tier": "hardware"}],
        [{"verifier": "three", "status": "affirming", "tier": "software"}],
        [[]],
        {},
        None,
    ],
)
def test_7_agent_lies_about_who_vouched(world: World, lie: Any) -> None:
    granted = affirmed(world)
    both = [token(world, name) for name in ("one", "two")]
    honest = granted.body["verifiers"]
    assert world.release(granted, tokens=both)
    assert world.release(granted, tokens=both, receipt=lied(world, granted, {"verifiers": honest[:1]}))
    named = [*honest, *lie] if isinstance(lie, list) else lie
    receipt = lied(world, granted, {"verifiers": named})
    assert refused(world, granted, tokens=both, receipt=receipt) is Code.IDENTITY_MISMATCH


def test_7_nobody_vouched_where_nobody_had_to(world: World, granted: Granted) -> None:
    one = [{"verifier": "one", "status": "affirming", "tier": "software"}]
    receipt = lied(world, granted, {"verifiers": one})
    assert refused(world, granted, receipt=receipt, tokens=["x"]) is Code.IDENTITY_MISMATCH


def test_7_every_member_is_lied_about(granted: Granted) -> None:
    """Whoever adds a member to the body must say here whether the runner checks it."""
    agents_word = {"checks", "governance", "parent"}
    assert set(granted.body) == {*LIES, "id", "platform", "verifiers"} | agents_word


@pytest.mark.parametrize("lie", [None, "x", {}, {"name": "local", "version": True, "digest": "00" * 32}])
def test_1_leaf_names_no_platform_policy(world: World, granted: Granted, lie: Any) -> None:
    assert refused(world, granted, receipt=lied(world, granted, {"platform": lie})) is Code.EVIDENCE_INVALID


@pytest.mark.parametrize(
    "lie", [None, 1, "", "../../etc", "0" * 31, "0" * 33, "0" * 31 + "\n", "0" * 31 + "G"]
)
def test_7_request_id(world: World, granted: Granted, lie: Any) -> None:
    assert refused(world, granted, receipt=lied(world, granted, {"id": lie})) is Code.EVIDENCE_INVALID


def test_7_python_equality_is_not_enough() -> None:
    """To Python 1 and True are the same; a leaf that says True is not what was decided."""
    world = World(uid=1)
    granted = world.grant()
    assert refused(world, granted, receipt=lied(world, granted, {"uid": True})) is Code.IDENTITY_MISMATCH


def test_7_isolation(world: World, granted: Granted) -> None:
    assert refused(world, granted, isolation="none") is Code.IDENTITY_MISMATCH


def test_7_huge_lies_make_no_huge_message(world: World, granted: Granted) -> None:
    receipt = lied(world, granted, {"cwd": "/" + "\x1b" * 5000})
    with pytest.raises(Denied) as denied:
        world.release(granted, receipt=receipt)
    assert len(denied.value.denial.sentence) < 400
    assert denied.value.denial.sentence.isprintable()


def test_large_arguments_are_released_by_their_digest(world: World) -> None:
    """A leaf has 64 KiB, a command line a megabyte: the leaf has its digest, and the runner compares that."""
    execution = world.execution(argv=("deploy", "x" * 100_000))
    granted = world.grant(execution)
    assert set(granted.body["argv"]) == {"bytes", "sha256"}
    assert world.release(granted).seq == 1
    other = replace(execution, argv=("deploy", "x" * 99_999 + "y"))
    assert refused(world, granted, execution=other) is Code.SCOPE_VIOLATION


def test_every_member_of_an_execution_counts(world: World) -> None:
    """`writable` aside, which only a policy looks at, no member of an execution can be changed unnoticed."""
    granted = world.grant(
        inputs=[resource(PLAN.path, PLAN.sha256)], execution=world.execution(inputs=(PLAN,))
    )
    for member, value in OTHERS.items():
        changed = () if member == "inputs" else value
        execution = replace(granted.execution, **{member: changed})
        assert refused(world, granted, execution=execution) in set(CODES.values()) | {Code.SCOPE_VIOLATION}


def test_the_wall_clock_is_taken_as_given(world: World, granted: Granted) -> None:
    later: datetime = NOW + timedelta(days=400)
    assert refused(world, granted, now=later) is Code.EVIDENCE_STALE
