"""The mission, row by row: each thing the product is held to, shown by real code, or named here with what it waits for.

`CHECKLIST` is the whole list. A row is shown by the one test that is named after it (`test_<section>_<row>`), or it
stands in `WAITING`. A row of which a part is shown has its test too, and stands in `PARTIAL` with what is missing.
The last tests of this file hold all this together: no row can be forgotten, and none can wait anywhere else.
"""

import ast
import asyncio
import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from attestd.agent.clock import TrustedClock
from attestd.agent.health import Health
from attestd.appraisal.document import parse_quote, verify_document
from attestd.appraisal.quote import appraise_quote
from attestd.audit.store import LogStore
from attestd.audit.verify import LogReport, verify_log
from attestd.authorization.artifact import parse_artifact
from attestd.authorization.dsse import format_envelope
from attestd.authorization.issue import DEFAULT_PATH
from attestd.codes import Code, Denial, Denied
from attestd.distribution.local import TrustSource, load_trust
from attestd.distribution.repository import Repository
from attestd.distribution.settings import STANDALONE_DAYS
from attestd.distribution.signer import load_authority
from attestd.errors import GovernanceRollbackError, MalformedError, RollbackError, VerificationError
from attestd.gate.decide import decide
from attestd.gate.execution import File
from attestd.gate.model import CHECKS, Context, Decision, Outcome, Request
from attestd.gate.standing import verify_standing
from attestd.governance.metadata import verify_metadata
from attestd.governance.policy_schema import DEFAULT_POLICY
from attestd.governance.trust import Trust
from attestd.lineage.checkpoint import LogKeys
from attestd.lineage.entry import EntryType
from attestd.lineage.receipt import VerifiedReceipt, parse_receipt, verify_receipt
from attestd.strict import canonical, format_time
from attestd.tcg.pcr import composite
from attestd.tlog.checkpoint import BatchMode, parse_checkpoint
from attestd.tlog.note import parse_note
from attestd.tlog.proof import format_proof, parse_proof
from attestd.tlog.tree import consistency_proof, leaf_hash, verify_consistency
from tests.agent.sick import Sick, guess, sick_tpm
from tests.chains import delegable, delegate_key, under
from tests.host import Host, Logged, Result, wait_for
from tests.repository import Repository as TufRepository
from tests.world import (
    NOW,
    SELECTION,
    Granted,
    Log,
    World,
    digest,
    dsse,
    ed25519_key,
    key_id,
    p256,
)
from tests.world import Host as EnrolledHost

CHECKLIST: Final[Mapping[str, tuple[str, ...]]] = {
    "mesh_node": (
        "policy authority",
        "runtime verifier",
        "authorization service",
        "execution gateway",
        "lineage infrastructure",
        "immutable audit system",
        "cryptographic trust validator",
    ),
    "runtime": (
        "authorization integrity",
        "runtime identity",
        "cryptographic signatures",
        "environmental trust",
        "policy consistency",
        "execution lineage continuity",
        "governance metadata",
        "operational trust conditions",
    ),
    "artifact": (
        "execution scope",
        "runtime bindings",
        "policy validation",
        "environmental conditions",
        "cryptographic signatures",
        "governance metadata",
        "operational attribution",
        "temporal validity",
        "verified offline by any node",
    ),
    "denial": (
        "missing authorization",
        "invalid signatures",
        "runtime identity inconsistency",
        "environmental integrity failure",
        "lineage discontinuity",
        "governance state mismatch",
        "policy conflict",
        "revocation",
        "failure in the mesh",
    ),
    "lineage": (
        "authorization origin",
        "governance continuity",
        "distributed execution inheritance",
        "runtime trust relationships",
        "policy authority ancestry",
        "operational attribution",
        "cross-environment execution chains",
    ),
    "audit": (
        "governance decisions",
        "authorization events",
        "runtime verification states",
        "denial events",
        "cryptographic evidence",
        "lineage continuity",
    ),
    "offline": (
        "authorization signatures",
        "trust continuity",
        "verification states",
        "governance ancestry",
        "runtime integrity",
        "evidence persistence",
        "operational attribution",
        "lineage continuity",
    ),
    "continuous": (
        "trust is re-verified while an execution runs",
        "ended on revocation",
        "ended on measured change",
        "ended on lost mesh",
        "ended as the authorization says",
    ),
    "condition": (
        "lease is valid",
        "clock is trusted",
        "log is verified",
        "log has disk reserve",
        "tpm has no lockout",
        "tpm has no failed self test",
        "no maintenance window",
        "no freeze",
    ),
}

HARDENING: Final = "hardening and operation of the host"
MEASURED: Final = "measured state"
MESH: Final = "mesh controller"
LINEAGE: Final = "lineage"
CONTINUOUS: Final = "continuous enforcement"

# Row: the piece that brings it.
WAITING: Final[Mapping[str, str]] = {
    "mesh_node_authorization_service": MESH,
    "mesh_node_lineage_infrastructure": LINEAGE,
    "lineage_distributed_execution_inheritance": LINEAGE,
    "continuous_trust_is_re_verified_while_an_execution_runs": CONTINUOUS,
    "continuous_ended_on_revocation": CONTINUOUS,
    "continuous_ended_on_measured_change": CONTINUOUS,
    "continuous_ended_on_lost_mesh": CONTINUOUS,
    "continuous_ended_as_the_authorization_says": CONTINUOUS,
    "condition_lease_is_valid": MESH,
}

# Row, shown in part: the piece that brings the rest, and what the rest is. The test's docstring says the same.
PARTIAL: Final[Mapping[str, tuple[str, str]]] = {
    "mesh_node_runtime_verifier": (MESH, "a node that appraises hosts and issues results"),
    "mesh_node_immutable_audit_system": (
        MESH,
        "witnesses, without whom a whole older copy of disk and TPM passes",
    ),
    "runtime_environmental_trust": (MEASURED, "event log and IMA list, not PCR composites alone"),
    "runtime_execution_lineage_continuity": (LINEAGE, "chains of receipts"),
    "runtime_operational_trust_conditions": (HARDENING, "every condition that the section `condition` names"),
    "artifact_environmental_conditions": (MESH, "verifiers and witnesses that can be counted"),
    "denial_environmental_integrity_failure": (MEASURED, "changes that only the IMA list shows"),
    "denial_lineage_discontinuity": (LINEAGE, "a gap further up than the parent"),
    "denial_failure_in_the_mesh": (MESH, "nodes that fail, not only nodes that are not there"),
    "lineage_runtime_trust_relationships": (MESH, "verifiers and witnesses that vouch"),
    "lineage_cross_environment_execution_chains": (LINEAGE, "chains longer than parent and child"),
    "audit_authorization_events": (MESH, "that an authorization was issued and approved"),
    "audit_lineage_continuity": (LINEAGE, "a runner that verifies the parent, too"),
    "offline_runtime_integrity": (MEASURED, "event log and IMA list behind the PCRs"),
    "offline_lineage_continuity": (LINEAGE, "chains longer than parent and child"),
}

PLAN = File("/srv/plan", digest(b"plan"))
SH = File("/usr/bin/sh", digest(b"sh"))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def sick(swtpm_tcti: str) -> Iterator[tuple[Sick, Health]]:
    with sick_tpm(swtpm_tcti) as found:
        yield found


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """One running host for the whole file; who changes its state has it approved again."""
    with Host.create() as running:
        yield running.start()


# --- how rows are shown --------------------------------------------------------------------------------------------


def edit(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets a member of a statement's predicate, before it is signed."""

    def change(statement: dict[str, Any]) -> None:
        target = statement["predicate"]
        *parents, last = path.split(".")
        for parent in parents:
            target = target[parent]
        target[last] = value

    return change


def rejected(decision: Decision) -> str:
    """The check that denied; every check before it held, and none after it was looked at."""
    outcomes = [check.outcome for check in decision.checks]
    place = outcomes.index(Outcome.REJECTED)
    assert outcomes[:place] == [Outcome.VERIFIED] * place
    assert outcomes[place + 1 :] == [Outcome.NOT_EVALUATED] * (len(CHECKS) - place - 1)
    return decision.checks[place].name


def denies(request: Request, context: Context, code: Code, check: str) -> None:
    """The agent's half: denied, for this reason, by this check, and recorded as a denial."""
    decision = decide(request, context)
    assert decision.denial is not None, "allowed"
    assert (decision.denial.code, rejected(decision)) == (code, check)
    assert decision.entry_type is EntryType.DECISION_DENY


def refuses(world: World, granted: Granted, code: Code, **changes: Any) -> None:
    """The runner's half: whatever the agent had sealed, this does not run."""
    with pytest.raises(Denied) as denied:
        world.release(granted, **changes)
    assert denied.value.denial.code is code


def sealed_anyway(world: World, **artifact: Any) -> Granted:
    """An artifact that should be denied, with a leaf as if it had not been: by an agent that wants it run."""
    good = world.grant(max_uses=None)
    data = world.artifact(good.execution, **artifact)
    body = {
        **good.body,
        "artifact": {"id": parse_artifact(data).id, "sha256": digest(data)},
        "witness_quorum": artifact.get("witnesses", 0),
    }
    return Granted(data, good.execution, world.receipt(body), body)


def denied_twice(world: World, code: Code, check: str, **artifact: Any) -> None:
    """Agent and runner both deny what such an artifact asks for."""
    denies(world.request(world.artifact(**artifact)), world.context(), code, check)
    refuses(world, sealed_anyway(world, **artifact), code)


def verified(world: World, receipt: bytes, trust: Trust | None = None) -> VerifiedReceipt:
    return verify_receipt(parse_receipt(receipt), trust=trust or world.trust())


def said(result: Result, code: Code, status: int = 77) -> None:
    """What a person sees of a denial."""
    assert (result.status, result.stdout) == (status, b""), result
    assert result.stderr.startswith(f"attestd: denied: {code}: ")
    assert "attestd: hint: " in result.stderr


def last(host: Host, type_: EntryType) -> Logged:
    return host.entries(type_)[-1]


def require_preserved(host: Host, item: Logged, directory: Path) -> None:
    """An entry is proved by its receipt, the log's file takes no change of it, and who forces one is found out."""
    proved = host.verify_receipt(host.receipt(item.seq))
    assert (proved.leaf, proved.entry) == (item.id, item.entry)
    path = copy_log(host, directory)
    for statement in ("UPDATE leaves SET entry = x'00' WHERE seq = ?", "DELETE FROM leaves WHERE seq = ?"):
        with contextlib.closing(sqlite3.connect(path)) as database, pytest.raises(sqlite3.IntegrityError):
            database.execute(statement, (item.seq,))
    verify_copy(path, host.trust)
    entry = canonical({"body": {}, "boot": item.entry.boot, "seq": item.seq, "time": item.entry.time,
                       "type": item.type.value, "v": 1})  # fmt: skip
    force(path, "UPDATE leaves SET entry = ? WHERE seq = ?", entry, item.seq)
    with pytest.raises(RollbackError):
        verify_copy(path, host.trust)


def copy_log(host: Host, directory: Path) -> Path:
    """A consistent copy of the log of a running host."""
    path = directory / "copy.db"
    with (
        contextlib.closing(sqlite3.connect(host.layout.log)) as source,
        contextlib.closing(sqlite3.connect(path)) as target,
    ):
        source.backup(target)
    return path


def verify_copy(path: Path, trust: Trust) -> LogReport:
    """Verifies a log's file with nothing but a trust directory."""
    with contextlib.closing(LogStore.open(str(path), readonly=True)) as store:
        record = trust.hosts[store.host_id]
        keys = LogKeys(store.origin, record.release_spki, record.ak_spki)
    return verify_log(str(path), keys)


def force(path: Path, statement: str, *parameters: object) -> None:
    """What someone with the disk does: past the triggers, and the schema looks untouched afterwards."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        triggers = database.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            database.execute(f"DROP TRIGGER {name}")
        assert database.execute(statement, parameters).rowcount == 1
        for _, sql in triggers:
            database.execute(sql)


def measure_something(host: Host) -> None:
    """Something unapproved is measured into a PCR of the platform policy."""
    host.extend(host.trust.platforms["local"].selection.pcrs[-1])


# --- mesh nodes ----------------------------------------------------------------------------------------------------


def test_mesh_node_policy_authority(world: World) -> None:
    """What authorities sign is policy; the same words signed by anyone else are nothing."""
    assert world.decide().denial is None
    stranger = ed25519_key("stranger")
    denied_twice(world, Code.INVALID_SIGNATURE, "signatures", signers=[stranger])
    world.platforms["local"] = world.platform_file(platform_key=p256("stranger"))
    assert "no platform authority" in world.trust().unusable["platform/local.json"]
    world.platforms["local"] = world.platform_file()
    world.enrollers = [stranger]
    assert world.trust().unusable.keys() == {f"hosts/{world.host.id}.json"}
    assert world.trust().hosts == {}
    world.repository.signers["targets"] = ["stranger"]
    world.revocations["version"] += 1
    with pytest.raises(VerificationError, match="signed by 0/1 keys"):
        world.trust()


def test_mesh_node_runtime_verifier(host: Host) -> None:
    """Someone else verifies a quote over a challenge of their own, and appraises the state that it shows.

    Waits for the mesh controller: a node that appraises hosts and issues results.
    """
    challenge = os.urandom(16)
    answer = host.ask("quote", challenge=b64encode(challenge).decode())["ok"]
    document = parse_quote(canonical(answer))
    shown = verify_document(document, trust=host.trust, challenge=challenge)
    policy = host.trust.platforms["local"]

    def appraise(epoch: int) -> bool:
        appraisal = appraise_quote(
            shown.quote,
            policy=policy,
            reference=policy.reference(),
            values=shown.values,
            epoch=epoch,
            at=datetime.now(UTC),
        )
        return appraisal.approval is not None

    assert shown.host.host == host.id
    assert appraise(host.trust.revocations.epoch)
    assert not appraise(host.trust.revocations.epoch + 100)
    with pytest.raises(VerificationError):
        verify_document(document, trust=host.trust, challenge=os.urandom(16))


def test_mesh_node_execution_gateway(host: Host) -> None:
    made = host.work / "made"
    said(host.exec("/usr/bin/touch", str(made)), Code.MISSING_AUTHORIZATION)
    assert not made.exists()
    result = host.run("/usr/bin/touch", str(made), options=["--json"])
    assert result.status == 0
    assert made.exists()
    end = host.outcome(result.json["id"])
    assert (end.type, end.body["status"]) == (EntryType.EXECUTION_EXIT, 0)
    host.wait_settled()
    host.require_sound()


def test_mesh_node_immutable_audit_system(host: Host, tmp_path: Path) -> None:
    """The log grows, verifies, takes no change, and shows one that was forced on it.

    Waits for the mesh controller: witnesses, without whom a whole older copy of disk and TPM passes.
    """
    assert host.run("/bin/true").status == 0
    before = host.verify_log()
    require_preserved(host, last(host, EntryType.DECISION_ALLOW), tmp_path)
    assert host.verify_log().size >= before.size


def test_mesh_node_cryptographic_trust_validator(host: Host, tmp_path: Path) -> None:
    """The command line verifies with files alone: no TPM, agent or state directory is named, and none is asked."""
    receipt, artifact = tmp_path / "run.tlog-proof", host.issue("/bin/echo", "1")
    assert (
        host.exec("/bin/echo", "1", authorization=artifact, options=["--receipt", str(receipt)]).status == 0
    )
    shutil.copytree(host.layout.trust, tmp_path / "trust")
    quote = tmp_path / "host.quote.json"
    quote.write_bytes(canonical(host.ask("quote", challenge=b64encode(b"challenge").decode())["ok"]))
    files = {
        "receipt": receipt,
        "artifact": host.write(artifact),
        "quote": quote,
        "log": copy_log(host, tmp_path),
    }

    def start(what: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-I", "-m", "attestd", "verify", what, str(files[what]), "--json"]
        command += ["--trust", str(tmp_path / "trust")]
        return subprocess.Popen(command, env={}, cwd="/", stdout=subprocess.PIPE)

    def finish(process: "subprocess.Popen[bytes]") -> tuple[int, bool]:
        output, _ = process.communicate(timeout=60)
        return process.returncode, json.loads(output)["verified"]

    started = {what: start(what) for what in files}
    assert {what: finish(process) for what, process in started.items()} == dict.fromkeys(files, (0, True))
    forged = replace(parse_proof(receipt.read_bytes()), extra=parse_proof(host.receipt(0)).extra)
    receipt.write_bytes(format_proof(forged))
    assert finish(start("receipt")) == (1, False)


# --- what runtime verification validates, before execution, every time: by the agent and once more by the runner -----


def test_runtime_authorization_integrity(world: World) -> None:
    """Any change of any byte of the artifact: never allowed, never run."""
    granted, context = world.grant(), world.context()
    trust = world.trust()
    for position in range(len(granted.artifact)):
        changed = bytearray(granted.artifact)
        changed[position] ^= 0x01
        decision = decide(world.request(bytes(changed)), context)
        assert decision.denial is not None, position
        assert rejected(decision) in ("authorization_form", "signatures")
        if position % 8 == 0:
            with pytest.raises(Denied):
                world.release(granted, artifact=bytes(changed), trust=trust)


def test_runtime_runtime_identity(world: World) -> None:
    """This host, this boot, this requester, these bytes."""
    denied_twice(world, Code.IDENTITY_MISMATCH, "identity", host_id="00" * 32)
    denied_twice(world, Code.IDENTITY_MISMATCH, "identity", requester_uid=7)
    granted = world.grant(max_uses=None)
    for changes in (
        {"executable": File("/usr/bin/deploy", digest(b"changed"))},
        {"executable": File("/tmp/deploy", digest(b"deploy"))},
        {"interpreters": (SH,)},
        {"requester_uid": 7},
    ):
        other = world.execution(**changes)
        request = world.request(granted.artifact, execution=other)
        denies(request, world.context(), Code.IDENTITY_MISMATCH, "identity")
        refuses(world, granted, Code.IDENTITY_MISMATCH, execution=other)
    refuses(world, granted, Code.IDENTITY_MISMATCH, boot="00000000-0000-4000-8000-000000000000")


def test_runtime_cryptographic_signatures(world: World) -> None:
    """Every signature that a release rests on: artifact, host record, platform policy, checkpoint, quote."""
    granted, stranger = world.grant(), World("stranger")
    assert world.release(granted).seq == 1
    denied_twice(world, Code.INVALID_SIGNATURE, "signatures", signers=stranger.authors)
    for lie in (
        {"enrollers": stranger.enrollers},
        {"platforms": {"local": world.platform_file(platform_key=stranger.platform_key)}},
        {"platforms": {"local": world.platform_file(root=stranger.root)}},
    ):
        forged = World()
        vars(forged).update(lie)
        denied = decide(forged.request(granted.artifact), replace(world.context(), trust=forged.trust()))
        assert denied.denial is not None
        assert denied.denial.code is Code.GOVERNANCE_MISMATCH
    for key in ("release_key", "ak"):
        forged = World()
        setattr(forged.host, key, p256("stranger"))
        refuses(world, granted, Code.EVIDENCE_INVALID, receipt=forged.receipt(granted.body))
    assert world.release(granted, receipt=World().receipt(granted.body)).seq == 1


def test_runtime_environmental_trust(world: World) -> None:
    """The quoted PCRs are an approved state, and the evidence is rooted as the platform policy asks.

    Waits for measured state: event log and IMA list, not PCR composites alone.
    """
    granted = world.grant()
    world.values[7] = sha256(b"another boot").digest()
    denies(world.request(), world.context(), Code.ENVIRONMENT_UNTRUSTED, "environment")
    refuses(world, granted, Code.EVIDENCE_INVALID, receipt=world.receipt(granted.body))

    stronger = World()
    granted = stronger.grant()
    stronger.platforms["local"]["reference"]["min_tier"] = "hardware"
    denies(stronger.request(), stronger.context(), Code.ENVIRONMENT_UNTRUSTED, "environment")
    body = {**granted.body, "platform": stronger.decide().body["platform"]}
    refuses(stronger, granted, Code.ENVIRONMENT_UNTRUSTED, receipt=stronger.receipt(body))


def test_runtime_policy_consistency(world: World) -> None:
    """The policy that the artifact names is the one in force, permits what runs, and no policy forbids it."""
    denied_twice(world, Code.GOVERNANCE_MISMATCH, "governance", policy="other")
    denied_twice(world, Code.GOVERNANCE_MISMATCH, "governance", policy_digest="ab" * 32)
    for member, value in (("secrets", ["token"]), ("tool", {"name": "browser", "arguments": {}})):
        denied_twice(world, Code.POLICY_DENIED, "policy", edit=edit(member, value))
    granted = world.grant()
    for text, code in (
        (b"", Code.POLICY_DENIED),
        (b"forbid (principal, action, resource);", Code.POLICY_CONFLICT),
    ):
        world.policies["policy/exec.cedar"] = text
        denies(world.request(granted.artifact), world.context(), code, "policy")
        refuses(world, granted, code)


def test_runtime_execution_lineage_continuity(world: World) -> None:
    """A parent that is named must verify; of a delegated artifact each link must follow from the one above.

    Waits for lineage: chains of receipts.
    """
    team = delegate_key("team")
    parent_artifact = delegable(world, team)
    assert world.decide(under(parent_artifact, team)).denial is None
    wider = world.decide(under(parent_artifact, team, edit=edit("validity.max_uses", 2)))
    assert (wider.denial.code, rejected(wider)) == (Code.LINEAGE_BROKEN, "lineage")
    parent = verified(world, world.grant().receipt)
    child = world.decide(parent=parent)
    assert (child.denial, child.body["parent"]) == (None, parent.leaf)
    denied_twice(world, Code.LINEAGE_BROKEN, "lineage", edit=edit("lineage.parent", "ab" * 32))
    not_an_execution = verified(world, world.receipt({}, type_=EntryType.AGENT_START))
    request = world.request(parent=not_an_execution)
    denies(request, world.context(), Code.LINEAGE_BROKEN, "lineage")


def test_runtime_governance_metadata(world: World) -> None:
    """Version floor, platform policy and host record are those that the artifact needs, and in force; all of it is fresh,
    and not older than what was seen.
    """
    denied_twice(world, Code.GOVERNANCE_MISMATCH, "governance", policy_version=99)
    denied_twice(world, Code.GOVERNANCE_MISMATCH, "governance", platform="prod")
    end = NOW + timedelta(seconds=5)
    for change in (
        lambda: world.platforms["local"]["lifecycle"].update(valid_until=format_time(end)),
        lambda: world.records[world.host.id].update(not_after=format_time(end)),
    ):
        change()
        granted = world.grant()
        assert world.release(granted).max_uses == 1
        late = world.context(now=end, appraisals={"local": world.appraisal(at=end)})
        denies(world.request(), late, Code.GOVERNANCE_MISMATCH, "governance")
        refuses(world, granted, Code.GOVERNANCE_MISMATCH, now=end)
        world.platforms["local"]["lifecycle"]["valid_until"] = None
        world.records[world.host.id]["not_after"] = format_time(NOW + timedelta(days=365))
    granted = world.grant()
    world.repository.expires["timestamp"] = NOW
    world.repository.publish_timestamp()
    stale = world.trust()
    assert stale.expires_role == "timestamp"
    for past, grace in ((timedelta(0), timedelta(0)), (timedelta(seconds=5), timedelta(seconds=5))):
        assert world.release(granted, trust=stale, now=NOW + past, grace=grace).max_uses == 1
    late = world.context(trust=stale, now=end, appraisals={"local": world.appraisal(at=end)})
    denies(world.request(), late, Code.GOVERNANCE_MISMATCH, "governance")
    refuses(world, granted, Code.GOVERNANCE_MISMATCH, trust=stale, now=end)
    older = dict(world.repository.metadata)
    world.repository.publish_timestamp()
    with pytest.raises(GovernanceRollbackError, match="timestamp"):
        verify_metadata(
            lambda name, _: older.get(name), root=world.repository.root, floor=world.trust().versions
        )


def test_runtime_operational_trust_conditions(world: World) -> None:
    """Clock, log, TPM and runner: each that does not hold, or was not looked at, denies.

    Waits for hardening and operation of the host: every condition that the section `condition` names.
    """
    codes = {
        "clock": (Code.CLOCK_UNTRUSTED, "clock"),
        "log": (Code.AUDIT_UNAVAILABLE, "conditions"),
        "tpm": (Code.TPM_UNAVAILABLE, "conditions"),
        "runner": (Code.AGENT_UNAVAILABLE, "conditions"),
    }
    healthy = world.context().conditions
    assert set(healthy) == set(codes)
    for name, (code, check) in codes.items():
        broken = {**healthy, name: Denial(code, f"{name} is not healthy", "see attestd doctor")}
        denies(world.request(), world.context(conditions=broken), code, check)
        unknown = {key: value for key, value in healthy.items() if key != name}
        denies(world.request(), world.context(conditions=unknown), Code.INTERNAL_ERROR, check)


# --- what an authorization artifact carries ------------------------------------------------------------------------


def test_artifact_execution_scope(world: World) -> None:
    """Arguments, directory, user, environment, inputs: as they are written, and not otherwise."""
    granted = world.grant(world.execution(inputs=(PLAN,)), max_uses=None)
    assert world.release(granted).artifact_id == parse_artifact(granted.artifact).id
    for changes in (
        {"argv": ("deploy", "--env", "stage")},
        {"argv": ("deploy", "--env", "prod", "--force")},
        {"cwd": "/"},
        {"uid": 0},
        {"env": {"PATH": DEFAULT_PATH, "LANG": "C"}},
        {"inputs": ()},
        {"inputs": (File(PLAN.path, digest(b"another plan")),)},
    ):
        other = replace(granted.execution, **changes)
        request = world.request(granted.artifact, execution=other)
        denies(request, world.context(), Code.SCOPE_VIOLATION, "scope")
        refuses(world, granted, Code.SCOPE_VIOLATION, execution=other)


def test_artifact_runtime_bindings(world: World) -> None:
    """Hosts by id or label, requesters, and the bytes of what runs."""
    assert world.decide(world.artifact(edit=labelled(role="ci"))).denial is None
    for changes in (
        {"edit": labelled(role="prod")},
        {"host_id": "00" * 32},
        {"requester_uid": 7},
        {"edit": lambda statement: statement["subject"][0]["digest"].update(sha256="ab" * 32)},
    ):
        denied_twice(world, Code.IDENTITY_MISMATCH, "identity", **changes)
    nowhere = world.artifact(edit=edit("bindings.hosts", []))
    denies(world.request(nowhere), world.context(), Code.MALFORMED_AUTHORIZATION, "authorization_form")


def labelled(**labels: str) -> Callable[[dict[str, Any]], None]:
    def change(statement: dict[str, Any]) -> None:
        statement["predicate"]["bindings"] |= {"hosts": [], "host_labels": labels}
        statement["predicate"]["validity"]["max_uses"] = None

    return change


def test_artifact_policy_validation(world: World) -> None:
    """The policy by name and digest, the lowest governance version, and what the policy's text says."""
    pinned = sha256(DEFAULT_POLICY).hexdigest()
    world.trust()
    world.revocations["version"] = 2  # the second set that is published
    artifact = world.artifact(policy_digest=pinned, policy_version=2)
    named = parse_artifact(artifact).statement.predicate.governance
    assert (named.policy, named.policy_digest, named.min_version) == ("exec", pinned, 2)
    unpinned = world.artifact(policy_version=2)
    forbid = b'@id("freeze") forbid (principal, action, resource);'
    for text, given, denied in (
        (DEFAULT_POLICY, artifact, None),
        (DEFAULT_POLICY + b"// another text", artifact, Code.GOVERNANCE_MISMATCH),
        (b"", unpinned, Code.POLICY_DENIED),
        (DEFAULT_POLICY + forbid, unpinned, Code.POLICY_CONFLICT),
    ):
        world.policies["policy/exec.cedar"] = text
        decision = world.decide(given)
        assert (decision.denial.code if decision.denial else None) is denied


def test_artifact_environmental_conditions(world: World) -> None:
    """The platform policy, the age of evidence, and how many others must vouch.

    Waits for the mesh controller: verifiers and witnesses that can be counted.
    """
    denied_twice(world, Code.GOVERNANCE_MISMATCH, "governance", platform="prod")
    denied_twice(world, Code.MESH_UNAVAILABLE, "mesh", verifiers=1)
    witnessed = world.request(world.artifact(witnesses=1))
    denies(witnessed, world.context(), Code.MESH_UNAVAILABLE, "mesh")
    request = world.request(world.artifact(max_evidence_age_s=10))
    for age_s, denied in ((10, False), (11, True)):
        old = {"local": world.appraisal(at=NOW - timedelta(seconds=age_s))}
        if denied:
            denies(request, world.context(appraisals=old), Code.EVIDENCE_STALE, "evidence")
        else:
            assert decide(request, world.context(appraisals=old)).denial is None


def test_artifact_cryptographic_signatures() -> None:
    """As many distinct keys as governance asks for, over one payload; the same key twice is one key."""
    world = World(authors=3, threshold=2)
    one, two, _ = world.authors
    both = world.artifact(signers=[one, two])
    decision = world.decide(both)
    assert decision.artifact is not None
    assert set(decision.artifact.key_ids) == {key_id(one), key_id(two)}
    denied_twice(world, Code.INSUFFICIENT_APPROVALS, "signatures", signers=[one])
    envelope = parse_artifact(both).envelope
    twice = replace(envelope, signatures=(envelope.signatures[0],) * 2)
    request = world.request(format_envelope(twice))
    denies(request, world.context(), Code.INSUFFICIENT_APPROVALS, "signatures")


def test_artifact_governance_metadata(world: World) -> None:
    """Metadata for people and policies is part of what was signed, and a policy decides by it."""
    artifact = world.artifact(metadata={"change": "CHG-123"})
    assert world.decide(artifact).denial is None
    assert parse_artifact(artifact).statement.predicate.governance.metadata == {"change": "CHG-123"}
    envelope = parse_artifact(artifact).envelope
    other = replace(envelope, payload=envelope.payload.replace(b"CHG-123", b"CHG-124"))
    request = world.request(format_envelope(other))
    denies(request, world.context(), Code.INVALID_SIGNATURE, "signatures")
    world.policies["policy/exec.cedar"] = (
        b'permit (principal, action, resource) when { context.artifact.metadata.contains("change=CHG-123") };'
    )
    assert world.decide(artifact).denial is None
    denies(world.request(world.artifact()), world.context(), Code.POLICY_DENIED, "policy")


def test_artifact_operational_attribution(world: World) -> None:
    """Who asked, who approved, for whom and why: in the artifact, in the log's leaf, and nowhere else differently."""
    words = {"requested_by": "ann", "approved_by": ["bob"], "on_behalf_of": "eve", "reason": "CHG-9"}
    granted = world.grant(**words)
    assert canonical(granted.body["attribution"]) == canonical(words)
    assert world.release(granted).seq == 1
    lie = world.receipt({**granted.body, "attribution": {**words, "approved_by": ["mallory"]}})
    refuses(world, granted, Code.IDENTITY_MISMATCH, receipt=lie)


def test_artifact_temporal_validity(world: World) -> None:
    """From, until, and how often."""
    granted = world.grant(now=NOW, ttl_s=30, max_uses=1)
    assert world.release(granted, now=NOW + timedelta(seconds=29)).max_uses == 1
    refuses(world, granted, Code.EXPIRED, now=NOW + timedelta(seconds=30))
    denied_twice(world, Code.EXPIRED, "validity", now=NOW - timedelta(hours=2))
    denied_twice(world, Code.NOT_YET_VALID, "validity", now=NOW + timedelta(seconds=6))
    used = world.context(uses=lambda _: 1)
    denies(world.request(granted.artifact), used, Code.USES_EXHAUSTED, "uses")


def test_artifact_verified_offline_by_any_node(world: World, tmp_path: Path) -> None:
    """A file and a trust directory: whoever has both comes to the same result."""
    artifact = world.artifact()
    trust = load_trust(TrustSource.at(world.write_trust(tmp_path), owners={os.geteuid()}))
    found, rule = verify_standing(parse_artifact(artifact), trust=trust)
    assert (found.id, rule.name) == (parse_artifact(artifact).id, "local")
    elsewhere = World("another world").trust()
    with pytest.raises(Denied):
        verify_standing(parse_artifact(artifact), trust=elsewhere)


# --- what must lead to denial: on a running host where that shows more ---------------------------------------------


def test_denial_missing_authorization(host: Host) -> None:
    said(host.exec("/bin/echo", "1"), Code.MISSING_AUTHORIZATION)
    entry = last(host, EntryType.DECISION_DENY)
    assert (entry.body["code"], entry.body["argv"]) == ("missing_authorization", ["/bin/echo", "1"])


def test_denial_invalid_signatures(host: Host) -> None:
    by_another_key = host.issue("/bin/echo", "1", signer="epoch")
    said(host.exec("/bin/echo", "1", authorization=by_another_key), Code.INVALID_SIGNATURE)
    envelope = parse_artifact(host.issue("/bin/echo", "1")).envelope
    edited = replace(envelope, payload=envelope.payload.replace(b'"1"', b'"2"'))
    said(host.exec("/bin/echo", "2", authorization=format_envelope(edited)), Code.INVALID_SIGNATURE)


def test_denial_runtime_identity_inconsistency(host: Host) -> None:
    tool = host.work / "tool"
    shutil.copy("/bin/echo", tool)
    artifact = host.issue(str(tool), "1")
    assert host.exec(str(tool), "1", authorization=artifact).stdout == b"1\n"
    with tool.open("ab") as file:
        file.write(b"changed")
    said(host.exec(str(tool), "1", authorization=artifact), Code.IDENTITY_MISMATCH)
    elsewhere = host.issue("/bin/echo", "1", host_id="ab" * 32)
    said(host.exec("/bin/echo", "1", authorization=elsewhere), Code.IDENTITY_MISMATCH)


def test_denial_environmental_integrity_failure(host: Host) -> None:
    """Something is measured that nobody approved: nothing runs, until an authority approves it.

    Waits for measured state: changes that only the IMA list shows.
    """
    assert host.run("/bin/true").status == 0
    measure_something(host)
    try:
        said(host.run("/bin/true"), Code.ENVIRONMENT_UNTRUSTED)
    finally:
        host.approve_present_state()
    assert host.run("/bin/true").status == 0


def test_denial_lineage_discontinuity(host: Host) -> None:
    """A parent's receipt that does not verify.

    Waits for lineage: a gap further up than the parent.
    """
    receipt = host.top / "parent.tlog-proof"
    assert host.run("/bin/true", options=["--receipt", str(receipt)]).status == 0
    child = ["--parent", str(receipt)]
    assert host.run("/bin/true", options=child).status == 0
    forged = replace(parse_proof(receipt.read_bytes()), extra=parse_proof(host.receipt(0)).extra)
    receipt.write_bytes(format_proof(forged))
    said(host.run("/bin/true", options=child), Code.LINEAGE_BROKEN)


def test_denial_governance_state_mismatch(world: World, host: Host) -> None:
    """The artifact needs a governance that is not in force here, or the one here does not verify, expired, or went back."""
    for changes in ({"policy_version": 99}, {"policy": "other"}, {"platform": "prod"}):
        denied_twice(world, Code.GOVERNANCE_MISMATCH, "governance", **changes)
    artifact, timestamp = host.issue("/bin/true"), host.layout.trust / "metadata" / "timestamp.json"
    older = timestamp.read_bytes()
    host.publish({"policy/noted.cedar": b"forbid (principal, action, resource) when { false };"})
    good = timestamp.read_bytes()
    for bad in (good[:-1], older):
        timestamp.write_bytes(bad)
        try:
            said(host.exec("/bin/true", authorization=artifact), Code.GOVERNANCE_MISMATCH)
        finally:
            timestamp.write_bytes(good)
        assert host.exec("/bin/true", authorization=artifact).status == 0
    expired = datetime.now(UTC).replace(microsecond=0) - timedelta(days=STANDALONE_DAYS, hours=1)
    local, online = host.layout.repository, load_authority(str(host.layout.authority / "online.pem"))
    Repository(local, clock=lambda: expired).refresh([online])
    result = host.exec("/bin/true", authorization=artifact)
    said(result, Code.GOVERNANCE_MISMATCH)
    assert "expired: role 'timestamp'" in result.stderr
    Repository(local).refresh([online])
    assert host.run("/bin/true").status == 0


def test_denial_policy_conflict(host: Host) -> None:
    """A published forbid stops what an artifact authorizes and a policy permits; it is named in the denial."""
    artifact = host.issue("/bin/true")
    assert host.exec("/bin/true", authorization=artifact).status == 0
    executable = sha256(Path(os.path.realpath("/bin/true")).read_bytes()).hexdigest()
    text = f'@id("no-true") forbid (principal, action, resource == Executable::"{executable}");'
    host.publish({"policy/stop.cedar": text.encode()})
    result = host.exec("/bin/true", authorization=artifact)
    said(result, Code.POLICY_CONFLICT)
    assert "no-true" in result.stderr
    assert last(host, EntryType.DECISION_DENY).body["code"] == Code.POLICY_CONFLICT
    assert host.run("/bin/echo").status == 0
    host.publish({"policy/stop.cedar": None})
    assert host.exec("/bin/true", authorization=artifact).status == 0


def test_denial_revocation() -> None:
    """Artifact, signing key, host, requester, file: denied by the agent; sealed before that, refused by the runner."""
    for member, value, check, code in (
        ("artifacts", lambda granted: granted.body["artifact"]["id"], "revocation", Code.REVOKED),
        ("keys", lambda _: key_id(World().authors[0]), "signatures", Code.REVOKED),
        ("requesters", lambda granted: granted.execution.requester_uid, "revocation", Code.REVOKED),
        ("subjects", lambda granted: granted.execution.executable.sha256, "revocation", Code.REVOKED),
        ("hosts", lambda _: World().host.id, "revocation", Code.EVIDENCE_INVALID),
    ):
        world = World()
        granted = world.grant()
        assert world.release(granted).seq == 1
        world.revocations[member] = [value(granted)]
        denies(world.request(granted.artifact), world.context(), Code.REVOKED, check)
        refuses(world, granted, code)


def test_denial_failure_in_the_mesh(world: World, host: Host) -> None:
    """Verifiers or witnesses that are asked for and not there; on the host, an agent that is not there.

    Waits for the mesh controller: nodes that fail, not only nodes that are not there.
    """
    denied_twice(world, Code.MESH_UNAVAILABLE, "mesh", verifiers=1)
    for quorum in ("verifiers", "witnesses"):
        asking = World()
        asking.platforms["local"]["reference"]["quorums"][quorum] = 1
        denies(asking.request(), asking.context(), Code.MESH_UNAVAILABLE, "mesh")
    gone = host.run("/bin/true", env={"ATTESTD_SOCKET": str(host.top / "nobody.sock")})
    said(gone, Code.AGENT_UNAVAILABLE, status=69)


# --- what lineage tracks -------------------------------------------------------------------------------------------


def test_lineage_authorization_origin(world: World) -> None:
    """From an execution's receipt to the artifact, the rule and the keys that let it run; of a delegated one to its root."""
    team = delegate_key("team")
    root = delegable(world, team, requested_by="origin")
    delegated = under(root, team)
    decided = world.decide(delegated)
    receipt = world.receipt(decided.body)
    named = verified(world, receipt).entry.body
    assert named["artifact"]["chain"] == [parse_artifact(item).id for item in (root, delegated)]
    assert named["origin"]["requested_by"] == "origin"
    chained = Granted(delegated, world.execution(), receipt, decided.body)
    assert world.release(chained).above == ((parse_artifact(root).id, 1),)
    whose, _ = verify_standing(parse_artifact(delegated), trust=world.trust())
    assert whose.signers == ((key_id(world.authors[0]),), (key_id(team),))
    refuses(world, chained, Code.IDENTITY_MISMATCH, receipt=world.receipt({**decided.body, "origin": None}))
    granted = world.grant()
    body = verified(world, granted.receipt).entry.body
    found, rule = verify_standing(parse_artifact(granted.artifact), trust=world.trust())
    assert (body["artifact"]["id"], body["authority"]) == (found.id, rule.name)
    assert found.key_ids == (key_id(world.authors[0]),)
    for lie in ({"authority": "another"}, {"artifact": {"id": found.id, "sha256": "ab" * 32}}):
        refuses(world, granted, Code.IDENTITY_MISMATCH, receipt=world.receipt({**granted.body, **lie}))


def test_lineage_governance_continuity(host: Host) -> None:
    """Each decision names the governance it was taken under; a change of it stands in the log between them. Who may sign
    the next one, the one before says: down from the root that this host was given.
    """
    before = host.run("/bin/true", options=["--json"]).json
    measure_something(host)
    host.approve_present_state()
    after = host.run("/bin/true", options=["--json"]).json["body"]["governance"]
    trust = host.trust
    named = {name: after[name] for name in ("version", "digest", "timestamp", "expires")}
    assert named == {
        "version": trust.version,
        "digest": trust.digest,
        "timestamp": trust.versions.timestamp,
        "expires": format_time(trust.expires),
    }
    assert 0 <= after["age_s"] < 600
    assert after["version"] > before["body"]["governance"]["version"]
    update = host.wait_entry(
        EntryType.GOVERNANCE_UPDATE, lambda item: item.body["versions"] == trust.versions.to_json()
    )
    assert update.seq > before["seq"]
    versions = [item.body["governance"]["version"] for item in host.entries(EntryType.DECISION_ALLOW)]
    assert versions == sorted(versions)
    world = World()
    world.trust()
    world.repository.rotate("root")
    world.repository.rotate("targets")
    world.revocations["version"] += 1
    assert world.trust().versions.root == 3
    skipped = {name: data for name, data in world.repository.metadata.items() if name != "2.root.json"}
    forged = {**world.repository.metadata, "2.root.json": TufRepository("stranger", now=NOW).root}
    for files in (skipped, forged):
        with pytest.raises(VerificationError):
            verify_metadata(lambda name, _: files.get(name), root=world.repository.root, floor=None)  # noqa: B023


def test_lineage_runtime_trust_relationships(world: World) -> None:
    """A receipt's keys are those of one TPM: certified there, enrolled by who may enrol, and rooted as they say.

    Waits for the mesh controller: verifiers and witnesses that vouch.
    """
    receipt = world.grant().receipt
    record = world.trust().hosts[verified(world, receipt).at.host]
    assert (record.host, record.tier, record.userspace) == (world.host.id, "software", "none")
    assert record.enrollers == (key_id(world.enrollers[0]),)
    mixed = EnrolledHost("another TPM", root=world.root)
    mixed.ek_public, mixed.ak_public, mixed.id = world.host.ek_public, world.host.ak_public, world.host.id
    world.records[world.host.id] = world.host_record(mixed)
    assert world.trust().hosts == {}
    assert world.trust().unusable.keys() == {f"hosts/{world.host.id}.json"}


def test_lineage_policy_authority_ancestry(world: World) -> None:
    """From the state that a receipt shows to the platform key that approved it and the root that approved that key; and
    from the authorities that name both to the keys that signed them, and the root that names those.
    """
    approval = verified(world, world.grant().receipt).approval
    assert approval is not None
    assert approval.platform.key_id == key_id(world.platform_key)
    assert approval.root.key_id == key_id(world.root)
    world.platforms["local"] = world.platform_file(root=p256("another root"))
    assert world.trust().platforms == {}
    assert "does not verify" in world.trust().unusable["platform/local.json"]
    world.repository.signers["targets"] = ["stranger"]
    world.authorities["version"] += 1
    with pytest.raises(VerificationError, match="signed by 0/1 keys"):
        world.trust()
    world.repository.rotate("targets", "stranger")  # by the root
    assert world.trust().authorities.version == 2


def test_lineage_operational_attribution(host: Host) -> None:
    """Whoever asks is who the kernel says; for whom and why is what authorities signed; the outcome names both."""
    artifact = host.issue("/bin/true", requested_by="ann", on_behalf_of="eve", reason="CHG-9")
    decision = host.exec("/bin/true", authorization=artifact, options=["--json"]).json
    allow = next(item for item in host.entries(EntryType.DECISION_ALLOW) if item.id == decision["id"])
    assert allow.body["requester"] == {"uid": os.geteuid()}
    assert allow.body["attribution"] == {
        "approved_by": [],
        "on_behalf_of": "eve",
        "reason": "CHG-9",
        "requested_by": "ann",
    }
    end = host.outcome(allow.id)
    assert (end.body["leaf"], end.body["request"]) == (allow.id, allow.body["id"])


def test_lineage_cross_environment_execution_chains(world: World) -> None:
    """A child here names an execution on another host, in another approved state; both are proved.

    Waits for lineage: chains longer than parent and child.
    """
    receipt, other = execution_elsewhere(world)
    parent = verified(world, receipt)
    assert (parent.at.host, parent.entry.body["platform"]["name"]) == (other.id, "prod")
    decision = world.decide(parent=parent)
    assert decision.denial is None
    child = verified(world, world.receipt(decision.body))
    assert (child.at.host, child.entry.body["parent"]) == (world.host.id, parent.leaf)
    del world.records[other.id]
    with pytest.raises(VerificationError):
        verified(world, receipt)


def execution_elsewhere(world: World) -> tuple[bytes, EnrolledHost]:
    """A receipt of a second enrolled host, whose platform policy is another one."""
    other = EnrolledHost("other", root=world.root)
    world.records[other.id] = world.host_record(other)
    values = {pcr: sha256(f"prod {pcr}".encode()).digest() for pcr in SELECTION.pcrs}
    world.platforms["prod"] = world.platform_file("prod", values=values)
    policy = world.trust().platforms["prod"]
    named = {"name": "prod", "version": policy.version, "digest": policy.digest}
    log = Log(other)
    body = {**world.decide().body, "platform": named}
    seq = log.append(body, type_=EntryType.DECISION_ALLOW, time=world.now, boot=world.boot)
    state = composite(SELECTION, values)
    return log.receipt(seq, log.seal(mode=BatchMode.RELEASE, pcr_digest=state)), other


# --- what audit preserves, immutably -------------------------------------------------------------------------------


def test_audit_governance_decisions(host: Host, tmp_path: Path) -> None:
    """Allowed or denied: every check, under which governance and platform policy."""
    assert host.run("/bin/echo", "1").status == 0
    said(host.exec("/bin/echo", "2", authorization=host.issue("/bin/echo", "1")), Code.SCOPE_VIOLATION)
    for type_ in (EntryType.DECISION_ALLOW, EntryType.DECISION_DENY):
        item = last(host, type_)
        assert [check["name"] for check in item.body["checks"]] == list(CHECKS)
        named = item.body["governance"]
        assert (named["version"], named["digest"]) == (host.trust.version, host.trust.digest)
        assert (named["timestamp"], named["expires"]) == (
            host.trust.versions.timestamp,
            format_time(host.trust.expires),
        )
        assert 0 <= named["age_s"] < 3600
        policy = host.trust.platforms["local"]
        assert item.body["platform"] == {
            "name": "local",
            "version": policy.version,
            "digest": policy.digest,
        }
        directory = tmp_path / type_.value
        directory.mkdir()
        require_preserved(host, item, directory)


def test_audit_authorization_events(host: Host, tmp_path: Path) -> None:
    """Each use of an artifact: who used it, and that it was used up.

    Waits for the mesh controller: that an authorization was issued and approved.
    """
    artifact = host.issue("/bin/echo", "once", max_uses=1)
    assert host.exec("/bin/echo", "once", authorization=artifact).stdout == b"once\n"
    allow = last(host, EntryType.DECISION_ALLOW)
    assert (allow.body["artifact"]["id"], allow.body["requester"]) == (
        parse_artifact(artifact).id,
        {"uid": os.geteuid()},
    )
    said(host.exec("/bin/echo", "once", authorization=artifact), Code.USES_EXHAUSTED)
    assert last(host, EntryType.DECISION_DENY).body["artifact"]["id"] == parse_artifact(artifact).id
    path = copy_log(host, tmp_path)
    with contextlib.closing(LogStore.open(str(path), readonly=True)) as store:
        assert store.uses(parse_artifact(artifact).id) == 1
    force(path, "DELETE FROM charges WHERE artifact = ?", parse_artifact(artifact).id)
    with pytest.raises(RollbackError):
        verify_copy(path, host.trust)


def test_audit_runtime_verification_states(host: Host, tmp_path: Path) -> None:
    """What each check found, and the TPM's own word on the PCRs of the moment: in a bad state as well.

    Twice: where the last evidence was still good, the TPM itself refuses; after that the evidence shows it.
    """
    policy = host.trust.platforms["local"]
    measure_something(host)
    try:
        said(host.run("/bin/true"), Code.ENVIRONMENT_UNTRUSTED)
        said(host.run("/bin/true"), Code.ENVIRONMENT_UNTRUSTED)
    finally:
        host.approve_present_state()
    item = last(host, EntryType.DECISION_DENY)
    outcomes = {check["name"]: check["outcome"] for check in item.body["checks"]}
    assert (outcomes["identity"], outcomes["environment"], outcomes["uses"]) == (
        "verified",
        "rejected",
        "not_evaluated",
    )
    quoted = host.verify_receipt(host.receipt(item.seq)).at
    assert quoted.pcr_digest not in {approval.pcr_digest for approval in policy.approvals}
    require_preserved(host, item, tmp_path)


def test_audit_denial_events(host: Host, tmp_path: Path) -> None:
    receipt = tmp_path / "denied.tlog-proof"
    artifact = host.issue("/bin/echo", "1")
    options = ["--json", "--receipt", str(receipt)]
    denied = host.exec("/bin/echo", "2", authorization=artifact, options=options)
    proved = host.verify_receipt(receipt.read_bytes())
    assert (proved.entry.type, proved.leaf) == (EntryType.DECISION_DENY, denied.json["id"])
    assert proved.entry.body["denial"]["sentence"] == denied.json["sentence"]
    require_preserved(host, last(host, EntryType.DECISION_DENY), tmp_path)


def test_audit_cryptographic_evidence(host: Host, tmp_path: Path) -> None:
    """Every checkpoint keeps the TPM's signatures, and goes on to verify; none can be changed or taken away."""
    assert host.run("/bin/true").status == 0
    path = copy_log(host, tmp_path)
    report = verify_copy(path, host.trust)
    with contextlib.closing(LogStore.open(str(path), readonly=True)) as store:
        notes = [parse_note(stored.note) for stored in store.checkpoints()]
    assert report.checkpoints == len(notes)
    modes = Counter(parse_checkpoint(note.text).batch.mode for note in notes)
    lines = Counter(len(note.signatures) for note in notes)
    assert lines == {2: modes[BatchMode.RELEASE], 1: modes[BatchMode.RECORD]}
    for statement in (
        "UPDATE checkpoints SET note = ? WHERE size = 1",
        "DELETE FROM checkpoints WHERE note = ?",
    ):
        broken = copy_log(host, tmp_path)
        with contextlib.closing(LogStore.open(str(broken), readonly=True)) as store:
            second = store.checkpoint_covering(1)
        assert second is not None
        force(broken, statement, second.note)
        with pytest.raises(RollbackError):
            verify_copy(broken, host.trust)


def test_audit_lineage_continuity(host: Host, tmp_path: Path) -> None:
    """The child's decision names the parent's leaf, and this is as immutable as all of it.

    Waits for lineage: a runner that verifies the parent, too (so far that is the agent's word).
    """
    receipt = tmp_path / "parent.tlog-proof"
    parent = host.run("/bin/true", options=["--json", "--receipt", str(receipt)]).json
    child = host.run("/bin/true", options=["--json", "--parent", str(receipt)]).json
    item = next(item for item in host.entries(EntryType.DECISION_ALLOW) if item.id == child["id"])
    assert item.body["parent"] == parent["id"]
    require_preserved(host, item, tmp_path)


# --- what can be verified cryptographically, offline ---------------------------------------------------------------


def test_offline_authorization_signatures(world: World) -> None:
    """By anyone who has governance: who signed, that enough did, and that they may."""
    trust = world.trust()
    found, _ = verify_standing(parse_artifact(world.artifact()), trust=trust)
    assert found.key_ids == (key_id(world.authors[0]),)
    payload = parse_artifact(world.artifact()).envelope.payload
    for forged in (
        dsse(payload, [ed25519_key("stranger")]),
        dsse(payload.replace(b"CHG-123", b"CHG-124"), [ed25519_key("stranger")]),
    ):
        with pytest.raises(Denied):
            verify_standing(parse_artifact(forged), trust=trust)


def test_offline_trust_continuity(world: World) -> None:
    """What was proved stays proved when policy goes on, and when all keys of governance were replaced; and a later
    checkpoint contains the earlier one.
    """
    granted = world.grant()
    earlier = verified(world, granted.receipt).at.checkpoint
    world.history["local-1"] = world.platforms["local"]
    world.values[7] = sha256(b"new boot").digest()
    world.platforms["local"] = world.platform_file(version=2)
    for role in ("root", "targets", "snapshot", "timestamp"):
        world.repository.rotate(role)
    later = verified(world, world.grant().receipt).at.checkpoint
    assert world.trust().versions.root == 5, "from the first root, which an auditor has"
    assert verified(world, granted.receipt).approval is not None
    proof = consistency_proof(earlier.size, later.size, lambda level, index: world.log.nodes[level, index])
    sizes = {"old_size": earlier.size, "new_size": later.size, "new_root": later.root, "proof": proof}
    verify_consistency(old_root=earlier.root, **sizes)
    with pytest.raises(VerificationError):
        verify_consistency(old_root=bytes(32), **sizes)
    del world.history["local-1"]
    with pytest.raises(VerificationError):
        verified(world, granted.receipt)


def test_offline_verification_states(world: World) -> None:
    """From a receipt alone: what every check found, and the quoted state in which it was sealed."""
    granted = world.grant()
    proved = verified(world, granted.receipt)
    assert [check["outcome"] for check in proved.entry.body["checks"]] == ["verified"] * len(CHECKS)
    assert proved.at.pcr_digest == world.pcr_digest
    proof = parse_proof(granted.receipt)
    assert proof.extra is not None
    changed = proof.extra.replace(b'"outcome":"verified"', b'"outcome":"rejected"', 1)
    with pytest.raises(VerificationError):
        verified(world, format_proof(replace(proof, extra=changed)))


def test_offline_governance_ancestry(world: World) -> None:
    """A receipt names its governance by digest, and its platform policy down to the root that approved its key; all of
    it is signed, down from a root that the auditor has.
    """
    receipt = world.grant().receipt
    proved, trust = verified(world, receipt), world.trust()
    assert proved.entry.body["governance"] == {
        "version": trust.version,
        "digest": trust.digest,
        "timestamp": trust.versions.timestamp,
        "expires": format_time(trust.expires),
        "age_s": 0,
    }
    assert proved.approval is not None
    assert proved.approval.root == trust.authorities.root
    with pytest.raises(VerificationError):
        verify_metadata(world.repository.fetch, root=TufRepository("another", now=NOW).root, floor=None)
    world.platforms["local"]["writable"] = "refuse"  # the same name and version, and other words
    with pytest.raises(VerificationError):
        verified(world, receipt)


def test_offline_runtime_integrity(host: Host) -> None:
    """PCR values that a TPM signed: nobody changes one of them, or shows them as another host's.

    Waits for measured state: event log and IMA list behind the PCRs.
    """
    answer = host.ask("quote", challenge=b64encode(b"challenge").decode())["ok"]
    shown = verify_document(parse_quote(canonical(answer)), trust=host.trust, challenge=b"challenge")
    assert composite(shown.selection, shown.values) == shown.quote.pcr_digest
    [(bank, values)] = answer["pcrs"].items()
    for lie in (
        {"pcrs": {bank: {**values, next(iter(values)): "ab" * 32}}},
        {"host": "ab" * 32},
        {"challenge": b64encode(b"another").decode()},
    ):
        document = parse_quote(canonical({**answer, **lie}))
        with pytest.raises((VerificationError, MalformedError)):
            verify_document(document, trust=host.trust, challenge=None)


def test_offline_evidence_persistence(host: Host, tmp_path: Path) -> None:
    """A copied log is as good as the host: it verifies, and gives receipts that verify, without the host."""
    decision = host.run("/bin/true", options=["--json"]).json
    path = copy_log(host, tmp_path)
    shutil.copytree(host.layout.trust, tmp_path / "trust")
    trust = load_trust(TrustSource.at(tmp_path / "trust", owners={os.geteuid()}))
    report = verify_copy(path, trust)
    with contextlib.closing(LogStore.open(str(path), readonly=True)) as store:
        assert report.size == store.size
        seq = store.find(bytes.fromhex(decision["id"]))
        assert seq is not None
        proved = verify_receipt(parse_receipt(store.receipt(seq)), trust=trust)
    assert (proved.leaf, proved.approval is not None) == (decision["id"], True)


def test_offline_operational_attribution(world: World) -> None:
    """The receipt proves what was recorded about responsibility, the artifact that authorities signed just that."""
    granted = world.grant(requested_by="ann", on_behalf_of="eve")
    recorded = verified(world, granted.receipt).entry.body
    signed, _ = verify_standing(parse_artifact(granted.artifact), trust=world.trust())
    assert recorded["artifact"]["id"] == signed.id
    attribution = signed.statement.predicate.attribution
    assert (attribution.requested_by, attribution.on_behalf_of) == ("ann", "eve")
    assert canonical(recorded["attribution"]) == canonical(attribution)
    assert recorded["requester"] == {"uid": world.uid}


def test_offline_lineage_continuity(world: World) -> None:
    """Two receipts, of two hosts: the child's names the parent's leaf, and each is proved by itself.

    Waits for lineage: chains longer than parent and child.
    """
    parent, _ = execution_elsewhere(world)
    child = world.receipt(world.decide(parent=verified(world, parent)).body)
    trust = world.trust()
    assert verified(world, child, trust).entry.body["parent"] == verified(world, parent, trust).leaf
    proof = parse_proof(parent)
    assert proof.extra is not None
    changed = proof.extra.replace(b'"argv":["deploy"', b'"argv":["delete"')
    assert leaf_hash(changed).hex() != verified(world, child).entry.body["parent"]
    with pytest.raises(VerificationError):
        verified(world, format_proof(replace(proof, extra=changed)))


# --- operational trust conditions ----------------------------------------------------------------------------------


def test_condition_clock_is_trusted(world: World) -> None:
    """Not behind what was sealed last, not a day ahead of it."""
    wall = datetime.now(UTC)
    assert TrustedClock(wall).read().denial is None
    for last_sealed in (wall + timedelta(hours=1), wall - timedelta(days=2)):
        found = TrustedClock(last_sealed).read().denial
        assert found is not None
        conditions = {**world.context().conditions, "clock": found}
        denies(world.request(), world.context(conditions=conditions), Code.CLOCK_UNTRUSTED, "clock")


def test_condition_log_is_verified() -> None:
    """The agent verifies the whole log when it starts, and again while it serves: one changed byte in an old entry,
    and it serves no more.
    """
    with Host.create() as stopped:
        host = stopped.start()
        artifact = host.issue("/bin/true")
        assert host.exec("/bin/true", authorization=artifact).status == 0
        wait_for("the log is verified", lambda: host.status()["log"]["verified"].get("size"))
        assert host.status()["log"]["verified"]["problem"] is None
        host.stop()
        another = "UPDATE leaves SET entry = CAST(replace(entry, ?, ?) AS BLOB) WHERE seq = 1"
        force(host.layout.log, another, host.id, "0" * 64)
        host.start(wait=False).wait_ended()
        assert "the audit log does not verify" in host.agent_log
        said(host.exec("/bin/true", authorization=artifact), Code.AGENT_UNAVAILABLE, status=69)
        force(host.layout.log, another, "0" * 64, host.id)
        host.start(env={"ATTESTD_VERIFY_INTERVAL_S": "1"})
        wait_for("the log is verified", lambda: host.status()["log"]["verified"].get("size"))
        force(host.layout.log, "DELETE FROM charges WHERE n = ?", 1)
        assert host.wait_ended() == 1
        said(host.exec("/bin/true", authorization=artifact), Code.AGENT_UNAVAILABLE, status=69)


def test_condition_log_has_disk_reserve(world: World) -> None:
    """While the log's file system has less than the reserve, everything is denied, and that is still sealed."""
    with Host.create() as stopped:
        host = stopped.start(env={"ATTESTD_DISK_RESERVE_MB": str(1 << 20)})
        artifact = host.issue("/bin/true")
        said(host.exec("/bin/true", authorization=artifact), Code.AUDIT_UNAVAILABLE, status=69)
        assert last(host, EntryType.DECISION_DENY).body["code"] == Code.AUDIT_UNAVAILABLE
    full = Denial(Code.AUDIT_UNAVAILABLE, "the disk is full", "make room")
    conditions = {**world.context().conditions, "log": full}
    denies(world.request(), world.context(conditions=conditions), Code.AUDIT_UNAVAILABLE, "conditions")


def test_condition_tpm_has_no_lockout(world: World, sick: tuple[Sick, Health]) -> None:
    """Somebody guesses auth values: our keys would work on in lockout, but nothing is released until it is over."""
    _, health = sick
    asyncio.run(health.poll())
    assert health.tpm() is None
    health._port.other(lambda tpm: guess(tpm, 4)).result()
    asyncio.run(health.poll())
    conditions = {**world.context().conditions, "tpm": health.tpm()}
    denies(world.request(), world.context(conditions=conditions), Code.TPM_UNAVAILABLE, "conditions")


def test_condition_tpm_has_no_failed_self_test(world: World, sick: tuple[Sick, Health]) -> None:
    """A TPM that failed its self test answers next to nothing, and says so itself."""
    tpm, health = sick
    tpm.self_test = 0x101
    asyncio.run(health.poll())
    conditions = {**world.context().conditions, "tpm": health.tpm()}
    denies(world.request(), world.context(conditions=conditions), Code.TPM_UNAVAILABLE, "conditions")
    tpm.self_test = None
    asyncio.run(health.poll())
    assert health.tpm() is None


def forbidden(world: World, granted: Granted, text: str, *, now: datetime = NOW) -> None:
    """Agent and runner both deny it while that policy is published."""
    world.policies["policy/stop.cedar"] = text.encode()
    context = world.context(now=now, appraisals={"local": world.appraisal(at=now)})
    denies(world.request(granted.artifact), context, Code.POLICY_CONFLICT, "policy")
    refuses(world, granted, Code.POLICY_CONFLICT, now=now)


def test_condition_no_maintenance_window(world: World) -> None:
    """A window is a published forbid with a beginning and an end: in between nothing runs, before and after it does."""
    start, end = NOW + timedelta(seconds=10), NOW + timedelta(seconds=20)
    times = f"context.time >= {start.timestamp():.0f} && context.time < {end.timestamp():.0f}"
    granted = world.grant(max_uses=None)
    forbidden(
        world, granted, f'@id("window") forbid (principal, action, resource) when {{ {times} }};', now=start
    )
    for now in (NOW, end):
        assert world.release(granted, now=now).max_uses is None
        decision = decide(
            world.request(granted.artifact),
            world.context(now=now, appraisals={"local": world.appraisal(at=now)}),
        )
        assert decision.denial is None


def test_condition_no_freeze(world: World) -> None:
    """A freeze is a published forbid: of everything, or of everyone but some. It is over when it is published no more."""
    granted = world.grant(max_uses=None)
    forbidden(world, granted, '@id("freeze") forbid (principal, action, resource);')
    exempt = (
        f'@id("freeze") forbid (principal, action, resource) unless {{ principal == User::"{world.uid}" }};'
    )
    world.policies["policy/stop.cedar"] = exempt.encode()
    assert world.release(granted).max_uses is None
    forbidden(world, granted, exempt.replace(f'"{world.uid}"', '"65534"'))
    del world.policies["policy/stop.cedar"]
    assert world.release(granted).max_uses is None


# --- no row is forgotten, none waits elsewhere ---------------------------------------------------------------------


def row_id(section: str, row: str) -> str:
    return f"{section}_{re.sub('[^a-z]+', '_', row)}"


def test_every_row_is_shown_or_waits() -> None:
    """Each row has one test or one entry in WAITING, never both; each test above shows a row."""
    rows = Counter(row_id(section, row) for section, items in CHECKLIST.items() for row in items)
    module = ast.parse(Path(__file__).read_bytes())
    tests = Counter(
        node.name.removeprefix("test_")
        for node in module.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )
    itself = {"every_row_is_shown_or_waits", "what_is_shown_in_part_says_so", "nothing_waits_elsewhere"}
    shown = {name: count for name, count in tests.items() if name not in itself}
    assert set(rows.values()) == set(shown.values()) == {1}
    assert not shown.keys() & WAITING.keys()
    assert shown.keys() | WAITING.keys() == rows.keys()
    order = [row for row in rows if row in shown]
    assert list(shown) == order, "the tests stand in the order of the mission"


def test_what_is_shown_in_part_says_so() -> None:
    """In the table and in its test's docstring, in the same words."""
    for row, (piece, missing) in PARTIAL.items():
        docstring = " ".join(str(globals()[f"test_{row}"].__doc__).split())
        assert re.search(rf"Waits for (the )?{re.escape(piece)}: {re.escape(missing)}", docstring), row
    told = {name for name, value in globals().items() if "Waits for" in str(getattr(value, "__doc__", ""))}
    assert {name.removeprefix("test_") for name in told if name.startswith("test_")} == PARTIAL.keys()


def test_nothing_waits_elsewhere() -> None:
    """No test is expected to fail, and none is skipped for want of something that is to be built."""
    found = []
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call):
                name, words = ast.unparse(node.func), ast.unparse(node)
            elif isinstance(node, ast.Attribute):
                name = words = ast.unparse(node)
            else:
                continue
            if not re.fullmatch(r"pytest\.(mark\.)?(skip|skipif|xfail|importorskip)", name):
                continue
            late = re.search(r"wait|later|not (yet )?(built|there|implemented)|todo", words, re.IGNORECASE)
            if late or "xfail" in name:
                found.append(f"{path.name}:{node.lineno}: {words}")
    assert found == []
