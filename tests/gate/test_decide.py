"""The decision: one test a numbered check, their order, what is recorded, and every code that a host can reach."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from attestd.appraisal.logs import LogAppraisal
from attestd.appraisal.result import AttestationResult
from attestd.authorization.artifact import parse_artifact
from attestd.authorization.issue import resource
from attestd.authorization.statement import parse_statement
from attestd.codes import Code, Denial
from attestd.gate import checks
from attestd.gate.decide import decide
from attestd.gate.execution import File, require_binding
from attestd.gate.explain import explain
from attestd.gate.model import CHECKS, Decision, Outcome
from attestd.governance.policy_schema import DEFAULT_POLICY
from attestd.lineage.entry import Entry, EntryType, format_entry, parse_entry
from attestd.lineage.receipt import parse_receipt, verify_receipt
from attestd.strict import canonical, format_time, format_time_us
from tests.governance.make_vectors import BOOT_RULES, IMA_POLICY
from tests.results import LIFETIME, result, verifiers
from tests.world import (
    BOOT,
    CLOCK,
    NOW,
    World,
    digest,
    ed25519_key,
    key_id,
    mesh_file,
    p256,
    witness,
)

HASH = "ab" * 32


@pytest.fixture
def world() -> World:
    return World()


class Once(dict[str, Any]):
    """Gives what it has once: as where a record cannot be read any more."""

    def get(self, key: str, default: Any = None) -> Any:
        return self.pop(key, default)


def test_the_hosts_record_is_looked_at_once(world: World) -> None:
    """What check 5 found is what those after it go by."""
    context = world.context()
    assert not isinstance(context.trust, Denial)
    once = replace(context.trust, hosts=Once({world.host.id: context.trust.hosts[world.host.id]}))
    decision = decide(world.request(), replace(context, trust=once))
    assert outcome(decision) == (None, None)
    assert world.host.id not in once.hosts


def outcome(decision: Decision) -> tuple[Code | None, int | None]:
    """The denial's code and the number of the check that rejected."""
    code = decision.denial.code if decision.denial else None
    rejected = [check.number for check in decision.checks if check.outcome is Outcome.REJECTED]
    assert len(rejected) == (0 if code is None else 1)
    return code, rejected[0] if rejected else None


def edit(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets one member of a statement's predicate."""

    def change(statement: dict[str, Any]) -> None:
        target = statement["predicate"]
        *parents, last = path.split(".")
        for parent in parents:
            target = target[parent]
        target[last] = value

    return change


def test_allows_what_was_authorized(world: World) -> None:
    decision = world.decide()
    assert decision.denial is None
    assert decision.entry_type is EntryType.DECISION_ALLOW
    assert decision.artifact is not None
    assert decision.platform is not None
    assert [(check.number, check.name) for check in decision.checks] == list(enumerate(CHECKS, 1))
    assert {check.outcome for check in decision.checks} == {Outcome.VERIFIED}


def test_the_specification_names_every_check() -> None:
    """Docstring, body and table must not drift apart: the docstring is what an auditor reads."""
    words = [line.split() for line in (decide.__doc__ or "").splitlines()]
    named = [line[1].rstrip(":") for line in words if len(line) > 1 and line[0].rstrip(".").isdigit()]
    assert tuple(named) == CHECKS


# 1


def test_01_authorization_present(world: World) -> None:
    decision = decide(replace(world.request(), artifact=None), world.context())
    assert outcome(decision) == (Code.MISSING_AUTHORIZATION, 1)
    assert decision.body["artifact"] is None
    assert decision.body["attribution"] is None
    assert decision.entry_type is EntryType.DECISION_DENY


# 2


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"payload":""}', b"[" * 5000, b" " * 300_000])
def test_02_authorization_form(world: World, data: bytes) -> None:
    decision = world.decide(data)
    assert outcome(decision) == (Code.MALFORMED_AUTHORIZATION, 2)
    assert decision.body["artifact"] == {"id": None, "sha256": digest(data)}


def test_02_unknown_member(world: World) -> None:
    decision = world.decide(world.artifact(edit=edit("scope.shell", value=True)))
    assert outcome(decision) == (Code.MALFORMED_AUTHORIZATION, 2)


# 3


def test_03_signature_by_a_stranger(world: World) -> None:
    decision = world.decide(world.artifact(signers=[ed25519_key("stranger")]))
    assert outcome(decision) == (Code.INVALID_SIGNATURE, 3)
    assert decision.body["authority"] is None


def test_03_signature_fails(world: World) -> None:
    artifact = world.artifact()
    other = world.artifact(reason="another")
    spliced = artifact.replace(
        artifact[: artifact.index(b'"payloadType')], other[: other.index(b'"payloadType')]
    )
    assert outcome(world.decide(spliced)) == (Code.INVALID_SIGNATURE, 3)


def test_03_no_authority_for_this_scope(world: World) -> None:
    world.authorities["authorizations"][0]["paths"] = ["/opt/"]
    assert outcome(world.decide()) == (Code.INVALID_SIGNATURE, 3)
    world.authorities["authorizations"] = []
    assert outcome(world.decide()) == (Code.INVALID_SIGNATURE, 3)


def test_03_threshold_counts_distinct_keys() -> None:
    world = World(authors=3, threshold=2)
    one, two, three = world.authors
    assert outcome(world.decide(world.artifact(signers=[one]))) == (Code.INSUFFICIENT_APPROVALS, 3)
    assert outcome(world.decide(world.artifact(signers=[one, two]))) == (None, None)
    assert outcome(world.decide(world.artifact(signers=[one, two, three]))) == (None, None)


def test_03_governance_cannot_be_loaded(world: World) -> None:
    broken = Denial(Code.GOVERNANCE_MISMATCH, "the trust directory does not verify", "run attestd doctor")
    decision = decide(world.request(), replace(world.context(), trust=broken))
    assert outcome(decision) == (Code.GOVERNANCE_MISMATCH, 3)
    assert decision.denial == broken
    assert decision.body["governance"] is None


def test_03_fails_closed_without_check_2(world: World) -> None:
    """A caller that changes the order of checks must not get an allow out of it."""
    with pytest.raises(checks.Denied) as denied:
        checks.check_signatures(None, world.request(), world.context())
    assert denied.value.denial.code is Code.INTERNAL_ERROR


# 3 and 4: revoked signers


def test_04_revoked_signer(world: World) -> None:
    world.revocations["keys"] = [key_id(world.authors[0])]
    assert outcome(world.decide()) == (Code.REVOKED, 3)


def test_04_revoked_signer_below_threshold() -> None:
    world = World(authors=3, threshold=2)
    artifact = world.artifact(signers=world.authors[:2])
    world.revocations["keys"] = [key_id(world.authors[0])]
    assert outcome(world.decide(artifact)) == (Code.REVOKED, 3)


def test_04_revoked_signer_that_is_not_needed() -> None:
    world = World(authors=3, threshold=2)
    artifact = world.artifact()
    world.revocations["keys"] = [key_id(world.authors[0])]
    decision = world.decide(artifact)
    assert outcome(decision) == (None, None)
    assert decision.artifact is not None
    assert decision.artifact.key_ids == tuple(sorted(key_id(key) for key in world.authors[1:]))


def test_04_a_claimed_revoked_key_is_not_believed(world: World) -> None:
    """A key id in a file is only a hint: what does not verify is an invalid signature, not a revoked one."""
    world.revocations["keys"] = [key_id(world.authors[0])]
    decision = world.decide(world.artifact(signers=[p256("stranger")]))
    assert outcome(decision) == (Code.INVALID_SIGNATURE, 3)


# 4


@pytest.mark.parametrize("what", ["artifact", "host", "requester", "executable", "interpreter", "input"])
def test_04_revocation(world: World, what: str) -> None:
    execution = world.execution(
        interpreters=(File("/usr/bin/sh", digest(b"sh")),), inputs=(File("/srv/plan", digest(b"plan")),)
    )
    artifact = world.artifact(execution)
    allowed = world.decide(artifact, execution=execution)
    assert allowed.artifact is not None
    member, value = {
        "artifact": ("artifacts", allowed.artifact.id),
        "host": ("hosts", world.host.id),
        "requester": ("requesters", world.uid),
        "executable": ("subjects", execution.executable.sha256),
        "interpreter": ("subjects", digest(b"sh")),
        "input": ("subjects", digest(b"plan")),
    }[what]
    world.revocations[member] = [value]
    decision = world.decide(artifact, execution=execution)
    assert outcome(decision) == (Code.REVOKED, 4)
    assert decision.denial is not None
    assert str(value) in decision.denial.sentence


# 5


def test_05_version_floor(world: World) -> None:
    version = world.trust().version
    assert outcome(world.decide(world.artifact(policy_version=version))) == (None, None)
    assert outcome(world.decide(world.artifact(policy_version=version + 1))) == (Code.GOVERNANCE_MISMATCH, 5)


@pytest.mark.parametrize("changes", [{"policy": "other"}, {"policy_digest": HASH}, {"platform": "other"}])
def test_05_policy_and_platform_in_force(world: World, changes: dict[str, Any]) -> None:
    assert outcome(world.decide(world.artifact(**changes))) == (Code.GOVERNANCE_MISMATCH, 5)


def test_05_pinned_policy_digest(world: World) -> None:
    artifact = world.artifact(policy_digest=sha256(DEFAULT_POLICY).hexdigest())
    assert outcome(world.decide(artifact)) == (None, None)
    world.policies["policy/exec.cedar"] = DEFAULT_POLICY + b"// changed"
    assert outcome(world.decide(artifact)) == (Code.GOVERNANCE_MISMATCH, 5)


def test_05_platform_policy_has_ended(world: World) -> None:
    world.platforms["local"]["lifecycle"]["valid_until"] = format_time(NOW + timedelta(seconds=1))
    assert outcome(world.decide()) == (None, None)
    world.platforms["local"]["lifecycle"]["valid_until"] = format_time(NOW)
    assert outcome(world.decide()) == (Code.GOVERNANCE_MISMATCH, 5)


@pytest.mark.parametrize(("member", "ok", "refused"), [("not_before", 0, 1), ("not_after", 1, 0)])
def test_05_host_record_valid_in_time(world: World, member: str, ok: int, refused: int) -> None:
    world.records[world.host.id][member] = format_time(NOW + timedelta(seconds=ok))
    assert outcome(world.decide()) == (None, None)
    world.records[world.host.id][member] = format_time(NOW + timedelta(seconds=refused))
    assert outcome(world.decide()) == (Code.GOVERNANCE_MISMATCH, 5)


def test_05_no_host_record(world: World) -> None:
    decision = decide(world.request(), world.context(host="00" * 32))
    assert outcome(decision) == (Code.GOVERNANCE_MISMATCH, 5)


# 6


def test_06_clock(world: World) -> None:
    bad = Denial(Code.CLOCK_UNTRUSTED, "the wall clock is 90 s behind the log", "see attestd doctor")
    conditions = {**world.context().conditions, "clock": bad}
    decision = decide(world.request(), world.context(conditions=conditions))
    assert outcome(decision) == (Code.CLOCK_UNTRUSTED, 6)
    assert decision.denial == bad


@pytest.mark.parametrize(("missing", "number"), [("clock", 6), ("log", 15), ("tpm", 15), ("runner", 15)])
def test_a_condition_that_nobody_evaluated_denies(world: World, missing: str, number: int) -> None:
    conditions = {name: None for name in world.context().conditions if name != missing}
    decision = decide(world.request(), world.context(conditions=conditions))
    assert outcome(decision) == (Code.INTERNAL_ERROR, number)


# 7


def test_07_validity(world: World) -> None:
    artifact = world.artifact(now=NOW, ttl_s=60)

    def at(seconds: float) -> tuple[Code | None, int | None]:
        now = NOW + timedelta(seconds=seconds)
        appraisal = world.appraisal(at=now)
        return outcome(
            decide(world.request(artifact), world.context(now=now, appraisals={"local": appraisal}))
        )

    assert at(-0.001) == (Code.NOT_YET_VALID, 7)
    assert at(0) == (None, None)
    assert at(59.999) == (None, None)
    assert at(60) == (Code.EXPIRED, 7)


# 8


def test_08_identity_other_host(world: World) -> None:
    decision = world.decide(world.artifact(host_id="00" * 32))
    assert outcome(decision) == (Code.IDENTITY_MISMATCH, 8)


def test_08_identity_one_of_several_hosts(world: World) -> None:
    def hosts(*ids: str) -> bytes:
        def change(statement: dict[str, Any]) -> None:
            statement["predicate"]["bindings"]["hosts"] = list(ids)
            statement["predicate"]["validity"]["max_uses"] = None

        return world.artifact(edit=change)

    assert outcome(world.decide(hosts("00" * 32, world.host.id))) == (None, None)
    assert outcome(world.decide(hosts("00" * 32, "11" * 32))) == (Code.IDENTITY_MISMATCH, 8)


def test_08_identity_host_labels(world: World) -> None:
    def labels(**wanted: str) -> tuple[Code | None, int | None]:
        def change(statement: dict[str, Any]) -> None:
            statement["predicate"]["bindings"] |= {"hosts": [], "host_labels": wanted}
            statement["predicate"]["validity"]["max_uses"] = None

        return outcome(world.decide(world.artifact(edit=change)))

    assert labels(role="ci") == (None, None)
    assert labels(role="prod") == (Code.IDENTITY_MISMATCH, 8)
    assert labels(role="ci", zone="a") == (Code.IDENTITY_MISMATCH, 8)


def test_08_identity_hosts_and_labels_must_both_hold(world: World) -> None:
    decision = world.decide(world.artifact(edit=edit("bindings.host_labels", {"role": "prod"})))
    assert outcome(decision) == (Code.IDENTITY_MISMATCH, 8)


def test_08_identity_bound_to_no_host(world: World) -> None:
    """The parser refuses it; if one came from elsewhere, nothing empty means pass."""
    statement = parse_statement(parse_artifact(world.artifact()).envelope.payload)
    msgspec.structs.force_setattr(statement.predicate.bindings, "hosts", ())
    with pytest.raises(checks.Denied) as denied:
        require_binding(statement, world.execution(), host=world.host.id, labels={})
    assert denied.value.denial.code is Code.IDENTITY_MISMATCH


def test_08_identity_other_requester(world: World) -> None:
    assert outcome(world.decide(execution=world.execution(requester_uid=1002))) == (Code.IDENTITY_MISMATCH, 8)


@pytest.mark.parametrize(
    "changes",
    [
        {"executable": File("/usr/bin/deploy", digest(b"changed"))},
        {"executable": File("/usr/local/bin/deploy", digest(b"deploy"))},
        {"interpreters": (File("/usr/bin/sh", digest(b"sh")),)},
    ],
)
def test_08_identity_other_bytes(world: World, changes: dict[str, Any]) -> None:
    assert outcome(world.decide(execution=world.execution(**changes))) == (Code.IDENTITY_MISMATCH, 8)


def test_08_identity_other_interpreter(world: World) -> None:
    env, python = File("/usr/bin/env", digest(b"env")), File("/usr/bin/python3", digest(b"python"))
    script = world.execution(interpreters=(env, python))
    artifact = world.artifact(script)
    assert outcome(world.decide(artifact, execution=script)) == (None, None)
    for interpreters in ((env,), (python, env), (env, File(python.path, digest(b"evil"))), ()):
        decision = world.decide(artifact, execution=replace(script, interpreters=interpreters))
        assert outcome(decision) == (Code.IDENTITY_MISMATCH, 8)


def test_08_identity_writable_files(world: World) -> None:
    execution = world.execution(writable=frozenset({"/usr/bin/deploy"}))
    assert outcome(world.decide(execution=execution)) == (None, None)
    world.platforms["local"]["writable"] = "refuse"
    assert outcome(world.decide(execution=execution)) == (Code.IDENTITY_MISMATCH, 8)
    assert outcome(world.decide()) == (None, None)


def test_08_identity_could_not_be_observed(world: World) -> None:
    unseen = Denial(Code.IDENTITY_MISMATCH, "/srv/x was deleted", "run a file that is there")
    decision = world.decide(observation=unseen)
    assert outcome(decision) == (Code.IDENTITY_MISMATCH, 8)
    assert decision.denial == unseen


# 9


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": ("deploy", "--env", "stage")},
        {"argv": ("deploy", "--env", "prod", "--force")},
        {"argv": ("deploy",)},
        {"argv": ("/usr/bin/deploy", "--env", "prod")},
        {"cwd": "/"},
        {"uid": 0},
        {"env": {}},
        {"env": {"PATH": "/tmp"}},
        {"env": {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LD_PRELOAD": "x"}},
        {"inputs": (File("/srv/plan", digest(b"plan")),)},
    ],
)
def test_09_scope(world: World, changes: dict[str, Any]) -> None:
    assert outcome(world.decide(execution=world.execution(**changes))) == (Code.SCOPE_VIOLATION, 9)


def test_09_scope_inputs(world: World) -> None:
    plan = File("/srv/plan", digest(b"plan"))
    artifact = world.artifact(inputs=[resource(plan.path, plan.sha256)])

    def with_inputs(*inputs: File) -> tuple[Code | None, int | None]:
        return outcome(world.decide(artifact, execution=world.execution(inputs=inputs)))

    assert with_inputs(plan) == (None, None)
    assert with_inputs() == (Code.SCOPE_VIOLATION, 9)
    assert with_inputs(File(plan.path, digest(b"other"))) == (Code.SCOPE_VIOLATION, 9)
    # Of two files of one path only the last would be compared, and the first could be the one that is read.
    assert with_inputs(File(plan.path, digest(b"other")), plan) == (Code.SCOPE_VIOLATION, 9)


def test_09_scope_another_user_without_root(world: World) -> None:
    execution = world.execution(uid=2000)
    request = world.request(world.artifact(execution), execution=execution)
    assert outcome(decide(request, world.context())) == (None, None)
    alone = world.context(isolation="none", runner_uid=world.uid)
    assert outcome(decide(request, alone)) == (Code.SCOPE_VIOLATION, 9)
    assert outcome(decide(world.request(), alone)) == (None, None)


# 10


@pytest.mark.parametrize(
    ("member", "value"), [("secrets", ["token"]), ("tool", {"name": "browser", "arguments": {}})]
)
def test_10_policy(world: World, member: str, value: Any) -> None:
    decision = world.decide(world.artifact(edit=edit(member, value)))
    assert outcome(decision) == (Code.POLICY_DENIED, 10)


# 11


def test_11_lineage_chain_missing(world: World) -> None:
    decision = world.decide(world.artifact(edit=edit("lineage.parent", HASH)))
    assert outcome(decision) == (Code.LINEAGE_BROKEN, 11)


def test_11_lineage_parent_does_not_verify(world: World) -> None:
    parent = Denial(Code.LINEAGE_BROKEN, "the parent's receipt does not verify", "give the right one")
    decision = world.decide(parent=parent)
    assert outcome(decision) == (Code.LINEAGE_BROKEN, 11)
    assert decision.body["parent"] is None


@pytest.mark.parametrize("type_", list(EntryType))
def test_11_lineage_parent_must_be_an_execution(world: World, type_: EntryType) -> None:
    body = world.grant().body
    parent = verify_receipt(parse_receipt(world.receipt(body, type_=type_)), trust=world.trust())
    decision = world.decide(parent=parent)
    if type_ in (EntryType.DECISION_ALLOW, EntryType.EXECUTION_START):
        assert outcome(decision) == (None, None)
        assert decision.body["parent"] == parent.leaf
    else:
        assert outcome(decision) == (Code.LINEAGE_BROKEN, 11)


# 12


def test_12_evidence_missing(world: World) -> None:
    assert outcome(decide(world.request(), world.context(appraisals={}))) == (Code.EVIDENCE_INVALID, 12)


@pytest.mark.parametrize("code", [Code.EVIDENCE_INVALID, Code.EVIDENCE_STALE, Code.TPM_UNAVAILABLE])
def test_12_evidence_could_not_be_taken(world: World, code: Code) -> None:
    why = Denial(code, "no quote", "see attestd doctor")
    decision = decide(world.request(), world.context(appraisals={"local": why}))
    assert outcome(decision) == (code, 12)


def test_12_evidence_age(world: World) -> None:
    artifact = world.artifact(max_evidence_age_s=60)

    def aged(seconds: float) -> tuple[Code | None, int | None]:
        appraisal = world.appraisal(at=NOW - timedelta(seconds=seconds))
        return outcome(decide(world.request(artifact), world.context(appraisals={"local": appraisal})))

    assert aged(0) == (None, None)
    assert aged(60) == (None, None)
    assert aged(60.001) == (Code.EVIDENCE_STALE, 12)
    assert aged(-0.001) == (Code.EVIDENCE_STALE, 12)  # evidence from the future proves no freshness either


# 13


def test_13_environment_unapproved_state(world: World) -> None:
    world.values[4] = bytes(32)
    decision = world.decide()
    assert outcome(decision) == (Code.ENVIRONMENT_UNTRUSTED, 13)


def test_13_environment_epoch(world: World) -> None:
    world.revocations["epoch"] = 1
    assert outcome(world.decide()) == (None, None)
    world.revocations["epoch"] = 2
    assert outcome(world.decide()) == (Code.ENVIRONMENT_UNTRUSTED, 13)


def test_13_environment_other_policy_version(world: World) -> None:
    old = world.appraisal()
    world.platforms["local"] = world.platform_file(version=2)
    decision = decide(world.request(), world.context(appraisals={"local": old}))
    assert outcome(decision) == (Code.EVIDENCE_INVALID, 13)


@pytest.mark.parametrize(
    ("tier", "allowed"), [("software", True), ("uncertified", False), ("hardware", False)]
)
def test_13_environment_tier(world: World, tier: str, allowed: bool) -> None:
    world.platforms["local"]["reference"]["min_tier"] = tier
    assert outcome(world.decide()) == ((None, None) if allowed else (Code.ENVIRONMENT_UNTRUSTED, 13))


def test_13_environment_user_space(world: World) -> None:
    world.platforms["local"]["reference"]["userspace"] = ["verity"]
    assert outcome(world.decide()) == (Code.ENVIRONMENT_UNTRUSTED, 13)
    world.records[world.host.id]["userspace"] = "verity"
    assert outcome(world.decide()) == (None, None)


def windowed(world: World, end: datetime) -> None:
    state = world.platforms["local"]["approvals"][0]["pcr_digest"]
    window = {"pcr_digest": state, "not_after": format_time(end)}
    world.platforms["local"]["lifecycle"]["windows"] = [window]


def test_13_environment_window(world: World) -> None:
    windowed(world, NOW + timedelta(seconds=1))
    assert outcome(world.decide()) == (None, None)
    windowed(world, NOW)
    decision = world.decide()
    assert outcome(decision) == (Code.ENVIRONMENT_UNTRUSTED, 13)
    assert decision.denial is not None
    assert f"approved until {format_time(NOW)}" in decision.denial.sentence


def test_13_environment_window_that_closes_after_the_quote(world: World) -> None:
    windowed(world, NOW)
    earlier = world.appraisal(at=NOW - timedelta(seconds=10))
    assert earlier.approval is not None
    decision = decide(world.request(), world.context(appraisals={"local": earlier}))
    assert outcome(decision) == (Code.ENVIRONMENT_UNTRUSTED, 13)
    assert decision.denial is not None
    assert decision.denial.sentence.endswith(f"this one was approved until {format_time(NOW)}")


def measured(world: World) -> None:
    world.extra["ima/fleet.json"] = data = canonical(IMA_POLICY)
    reference = world.platforms["local"]["reference"]
    reference |= {"boot": BOOT_RULES, "ima": {"policy": "fleet", "sha256": digest(data)}}


GOOD = LogAppraisal(12, (), 0)


def by_logs(world: World, **logs: LogAppraisal | None) -> Decision:
    found = replace(world.appraisal(), **{"boot": GOOD, "ima": GOOD, **logs})
    return decide(world.request(), world.context(appraisals={"local": found}))


def test_13_environment_logs_that_comply(world: World) -> None:
    measured(world)
    decision = by_logs(world)
    assert outcome(decision) == (None, None)
    assert decision.checks[12].detail.endswith(", 12 boot events comply, 12 IMA entries comply")
    assert "findings" not in decision.body


@pytest.mark.parametrize("log", ["boot", "ima"])
def test_13_environment_logs_that_nobody_looked_at(world: World, log: str) -> None:
    """Nothing empty means pass."""
    measured(world)
    assert outcome(by_logs(world, **{log: None})) == (Code.EVIDENCE_INVALID, 13)


@pytest.mark.parametrize("log", ["boot", "ima"])
def test_13_environment_logs_that_do_not_comply(world: World, log: str) -> None:
    measured(world)
    found = LogAppraisal.of(300, [f"finding {n}" for n in range(200)])
    decision = by_logs(world, **{log: found})
    assert outcome(decision) == (Code.ENVIRONMENT_UNTRUSTED, 13)
    assert decision.denial is not None
    assert "finding 0; finding 1; " in decision.denial.sentence
    assert decision.denial.sentence.endswith("finding 7; and 192 more")
    recorded = decision.body["findings"]
    assert (recorded["count"], recorded["first"]) == (200, list(found.findings))
    told = explain(entry_of(decision))
    assert (told.finding_count, told.findings) == (200, found.findings)


def test_13_environment_rules_nobody_asked_for(world: World) -> None:
    """A policy without rules allows what is approved; an appraisal under another version is none."""
    bad = LogAppraisal.of(1, ["bad"])
    assert outcome(by_logs(world, boot=bad, ima=bad)) == (None, None)
    old = replace(world.appraisal(), boot=GOOD, ima=GOOD)
    measured(world)
    decision = decide(world.request(), world.context(appraisals={"local": old}))
    assert outcome(decision) == (Code.EVIDENCE_INVALID, 13)


def test_13_environment_findings_that_would_fill_the_log(world: World) -> None:
    """A leaf has a limit: whoever executes files with long names does not keep a denial out of the log."""
    measured(world)
    found = LogAppraisal.of(1, ["\u00e9" * 5000] * 100)
    recorded = by_logs(world, ima=found).body["findings"]
    assert recorded["count"] == 100
    assert 0 < len(recorded["first"]) < 10
    assert len(canonical(recorded)) < 16_384


def test_13_environment_findings_of_an_unapproved_state(world: World) -> None:
    measured(world)
    unapproved = replace(world.appraisal(), approval=None, findings=("PCR 12: changed",), boot=GOOD, ima=GOOD)
    decision = decide(world.request(), world.context(appraisals={"local": unapproved}))
    assert decision.denial is not None
    assert decision.denial.sentence == "the platform is in no approved state: PCR 12: changed"
    assert decision.body["findings"] == {"count": 1, "first": ["PCR 12: changed"]}
    other = decide(
        world.request(execution=world.execution(cwd="/tmp")), world.context(appraisals={"local": unapproved})
    )
    assert outcome(other) == (Code.SCOPE_VIOLATION, 9)
    assert "findings" not in other.body, "they did not decide"


def entry_of(decision: Decision) -> Entry:
    data = format_entry(
        type_=decision.entry_type, time=format_time_us(NOW), seq=2, boot=BOOT, body=dict(decision.body)
    )
    return parse_entry(data)


# 14


def vouched(world: World, who: str, count: int, *, floor: int = 0, **artifact: int) -> Decision:
    """Decided with so many verifiers that vouch for the host, or so many witnesses in mesh.json."""
    names = [f"v{number}" for number in range(max(count, floor))]
    if who == "verifiers":
        world.extra["mesh.json"] = verifiers(*names, quorum=floor)
        results = [result(world, name) for name in names[:count]]
    else:
        world.extra["mesh.json"] = mesh_file([witness(name) for name in names[:count]], quorum=floor)
        results = []
    return decide(world.request(world.artifact(**artifact)), world.context(results=results))


@pytest.mark.parametrize("who", ["verifiers", "witnesses"])
def test_14_mesh(world: World, who: str) -> None:
    for count in (0, 1):
        assert outcome(vouched(world, who, count, **{who: 2})) == (Code.MESH_UNAVAILABLE, 14)
    decision = vouched(world, who, 2, **{who: 2})
    assert outcome(decision) == (None, None)
    assert decision.body["witness_quorum"] == (2 if who == "witnesses" else 0)
    assert decision.body["mesh"] == {"version": 1, "digest": digest(world.extra["mesh.json"])}
    said = "verifiers: v0, v1" if who == "verifiers" else "2 witnesses, 2 must cosign"
    assert decision.checks[13].detail == said
    affirming = {"status": "affirming", "tier": "software"}
    assert decision.body["verifiers"] == (
        [{"verifier": name, **affirming} for name in ("v0", "v1")] if who == "verifiers" else []
    )


@pytest.mark.parametrize("who", ["verifiers", "witnesses"])
def test_14_mesh_platform_policy_asks_too(world: World, who: str) -> None:
    world.platforms["local"]["reference"]["quorums"][who] = 1
    assert outcome(world.decide()) == (Code.MESH_UNAVAILABLE, 14)
    decision = vouched(world, who, 1)
    assert outcome(decision) == (None, None)
    assert decision.body["witness_quorum"] == (1 if who == "witnesses" else 0)


@pytest.mark.parametrize("who", ["verifiers", "witnesses"])
def test_14_mesh_json_asks_too(world: World, who: str) -> None:
    if who == "verifiers":
        assert outcome(vouched(world, who, 1, floor=2)) == (Code.MESH_UNAVAILABLE, 14)
    decision = vouched(world, who, 2, floor=2)
    assert outcome(decision) == (None, None)
    assert decision.body["witness_quorum"] == (2 if who == "witnesses" else 0)


def decided_by(world: World, *results: AttestationResult, **changes: Any) -> Decision:
    context = world.context(results=results, **changes)
    return decide(world.request(world.artifact(verifiers=2)), context)


def test_14_verifiers_that_find_something(world: World) -> None:
    """Enough answered: then it is the platform, not the mesh; with too few answers nobody knows."""
    world.extra["mesh.json"] = verifiers("one", "two", "three")
    good, bad = result(world, "one"), result(world, "two", findings=("PCR 7: changed", "PCR 11: changed"))
    decision = decided_by(world, good, bad)
    assert outcome(decision) == (Code.ENVIRONMENT_UNTRUSTED, 14)
    assert decision.denial is not None
    assert decision.denial.sentence == (
        "2 verifiers must affirm this host, 1 do; findings of two: PCR 7: changed; PCR 11: changed"
    )
    assert "findings" not in decision.body, "what the agent itself found is no reason"
    assert outcome(decided_by(world, bad)) == (Code.MESH_UNAVAILABLE, 14)
    assert outcome(decided_by(world, good, bad, result(world, "three"))) == (None, None)


def test_14_a_key_counts_once_and_what_speaks_against_the_host_outweighs(world: World) -> None:
    world.extra["mesh.json"] = verifiers("one", "two")
    good, bad = result(world, "one"), result(world, "one", findings=("x",))
    assert outcome(decided_by(world, good, good)) == (Code.MESH_UNAVAILABLE, 14)
    for order in ((good, bad), (bad, good)):
        decision = decided_by(world, *order, result(world, "two"))
        assert outcome(decision) == (Code.ENVIRONMENT_UNTRUSTED, 14)


@pytest.mark.parametrize(
    "changes",
    [
        {"pcr_digest": bytes(32)},
        {"clock": msgspec.structs.replace(CLOCK, reset_count=CLOCK.reset_count + 1)},
        {"clock": msgspec.structs.replace(CLOCK, restart_count=CLOCK.restart_count + 1)},
    ],
)
def test_14_results_of_another_state(world: World, changes: dict[str, Any]) -> None:
    world.extra["mesh.json"] = verifiers("one", "two")
    stale = result(world, "two", **changes)
    assert outcome(decided_by(world, result(world, "one"), stale)) == (Code.MESH_UNAVAILABLE, 14)


def test_14_results_that_are_over_or_of_others(world: World) -> None:
    world.extra["mesh.json"] = verifiers("one", "two")
    both = [result(world, name) for name in ("one", "two")]
    assert outcome(decided_by(world, *both)) == (None, None)
    late = world.now + LIFETIME
    fresh = {"local": replace(world.appraisal(), at=late)}
    assert outcome(decided_by(world, *both, now=late, appraisals=fresh)) == (Code.MESH_UNAVAILABLE, 14)
    foreign = replace(both[1], host="00" * 32)
    assert outcome(decided_by(world, both[0], foreign)) == (Code.MESH_UNAVAILABLE, 14)
    world.revocations["keys"] = [key_id(p256("verifier two"))]
    assert outcome(decided_by(world, *both)) == (Code.MESH_UNAVAILABLE, 14)
    world.revocations["keys"] = []
    world.platforms["local"]["lifecycle"]["valid_until"] = format_time(NOW + timedelta(days=1))
    assert outcome(decided_by(world, *both)) == (Code.MESH_UNAVAILABLE, 14), "by another policy version"


def test_14_mesh_that_is_unusable_denies(world: World) -> None:
    world.extra["mesh.json"] = mesh_file(v=2)
    assert outcome(world.decide()) == (Code.MESH_UNAVAILABLE, 14)


# 15


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("log", Code.AUDIT_UNAVAILABLE),
        ("tpm", Code.TPM_UNAVAILABLE),
        ("runner", Code.AGENT_UNAVAILABLE),
    ],
)
def test_15_conditions(world: World, name: str, code: Code) -> None:
    conditions = {**world.context().conditions, name: Denial(code, "it is down", "see attestd doctor")}
    assert outcome(decide(world.request(), world.context(conditions=conditions))) == (code, 15)


# 16


def test_16_uses(world: World) -> None:
    artifact = world.artifact(max_uses=2)

    def used(count: int) -> tuple[Code | None, int | None]:
        return outcome(decide(world.request(artifact), world.context(uses=lambda _: count)))

    assert used(0) == (None, None)
    assert used(1) == (None, None)
    assert used(2) == (Code.USES_EXHAUSTED, 16)
    assert used(3) == (Code.USES_EXHAUSTED, 16)


def test_16_uses_are_those_of_this_artifact(world: World) -> None:
    asked: list[str] = []

    def uses(artifact: str) -> int:
        asked.append(artifact)
        return 0

    decision = decide(world.request(), world.context(uses=uses))
    assert decision.artifact is not None
    assert asked == [decision.artifact.id]


def test_16_uses_unlimited(world: World) -> None:
    decision = decide(world.request(world.artifact(max_uses=None)), world.context(uses=lambda _: 10**6))
    assert outcome(decision) == (None, None)


# order and record


def test_the_first_failure_decides(world: World) -> None:
    """Failures are repaired from the first on: each repair must bring the next number, in order."""
    bad = {
        "clock": Denial(Code.CLOCK_UNTRUSTED, "clock", ""),
        "log": Denial(Code.AUDIT_UNAVAILABLE, "log", ""),
        "tpm": None,
        "runner": None,
    }
    execution = world.execution(argv=("deploy", "--force"), requester_uid=4)

    def artifact(**repaired: Any) -> bytes:
        def change(statement: dict[str, Any]) -> None:
            predicate = statement["predicate"]
            predicate["validity"] = repaired.get("validity") or {
                "not_before": format_time(NOW + timedelta(days=1)),
                "not_after": format_time(NOW + timedelta(days=2)),
                "max_uses": 1,
            }
            predicate["governance"]["min_version"] = repaired.get("version", 999)
            predicate["secrets"] = repaired.get("secrets", ["token"])
            predicate["lineage"]["parent"] = repaired.get("parent", HASH)
            predicate["environment"]["verifiers"]["quorum"] = repaired.get("quorum", 3)

        return world.artifact(edit=change, signers=repaired.get("signers", [ed25519_key("stranger")]))

    valid = {
        "not_before": format_time(NOW),
        "not_after": format_time(NOW + timedelta(days=2)),
        "max_uses": 1,
    }
    untrusted = World()
    untrusted.values[0] = bytes(32)
    stale = replace(untrusted.appraisal(), at=NOW - timedelta(days=1))
    fixed: dict[str, Any] = {}
    context = world.context(conditions=bad, appraisals={"local": stale}, uses=lambda _: 1)
    revoked = replace(context.trust, revocations=_revocations(world, requesters=frozenset({4})))
    context = replace(context, trust=revoked)
    seen: list[int | None] = []

    def step(**repaired: Any) -> None:
        fixed.update(repaired)
        seen.append(outcome(decide(world.request(artifact(**fixed), execution=execution), context))[1])

    seen.append(outcome(decide(replace(world.request(), artifact=None, execution=execution), context))[1])
    seen.append(outcome(decide(world.request(b"{}", execution=execution), context))[1])
    step()
    step(signers=world.authors)
    context = replace(context, trust=world.trust())
    step()
    step(version=1)
    context = replace(context, conditions={**bad, "clock": None})
    step()
    step(validity=valid)
    execution = replace(execution, requester_uid=world.uid)
    step()
    execution = world.execution()
    step()
    step(secrets=[])
    step(parent=None)
    context = replace(context, appraisals={"local": replace(stale, at=NOW)})
    step()
    context = replace(context, appraisals={"local": world.appraisal()})
    step()
    step(quorum=0)
    context = replace(context, conditions=world.context().conditions)
    step()
    context = replace(context, uses=lambda _: 0)
    step()
    assert seen == [*range(1, 17), None]


def _revocations(world: World, **changes: Any) -> Any:
    return msgspec.structs.replace(world.trust().revocations, **changes)


def test_checks_after_the_first_failure_are_not_evaluated(world: World) -> None:
    decision = world.decide(execution=world.execution(cwd="/"))
    outcomes = [check.outcome for check in decision.checks]
    assert outcomes == [Outcome.VERIFIED] * 8 + [Outcome.REJECTED] + [Outcome.NOT_EVALUATED] * 7
    assert [entry["n"] for entry in decision.body["checks"]] == list(range(1, 17))
    assert decision.body["checks"][8]["detail"] == decision.denial.sentence  # type: ignore[union-attr]
    assert decision.artifact is None
    assert decision.body["code"] == "scope_violation"


def test_clock_of_evidence_is_recorded(world: World) -> None:
    detail = world.decide().checks[11].detail
    assert f"reset count {CLOCK.reset_count}" in detail
