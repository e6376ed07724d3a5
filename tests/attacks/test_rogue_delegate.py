"""A delegate that wants more than was delegated to it; with an agent that helps it.

It signs whatever it likes with tools of its own. Each chain is decided, and, as if the agent had allowed it, sealed and
handed to the runner's verification: both must refuse it by themselves.
"""

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from attestd.authorization import artifact as artifact_module
from attestd.authorization.artifact import parse_artifact
from attestd.codes import Code, Denied
from attestd.gate.body import decided_body
from attestd.gate.execution import Execution, File
from attestd.gate.policy import artifact_terms
from attestd.gate.release import VerifiedRelease, verify_release
from attestd.strict import canonical, format_time
from tests.chains import chain_file, delegable, delegate_key, envelopes_of, statement_of, under
from tests.world import NOTHING_CONCEALED, NOW, SALT, World, digest, dsse, key_id

TEAM, MEMBER, STRANGER = (delegate_key(name) for name in ("team", "member", "stranger"))
Edit = Callable[[dict[str, Any]], None]


def release(
    world: World, artifact: bytes, execution: Execution, body: Mapping[str, Any] | None = None
) -> VerifiedRelease:
    """What the runner makes of a leaf: unless one is given, one that says exactly what it wants to hear."""
    return released(world, world.receipt(body or lie(world, artifact, execution)), artifact, execution)


def lie(world: World, artifact: bytes, execution: Execution) -> dict[str, Any]:
    """The leaf of an agent that allowed it."""
    untrusted = parse_artifact(artifact)
    return {
        **world.grant().body,
        **decided_body(
            execution, artifact=artifact, untrusted=untrusted, authority="local", witness_quorum=0, code=None,
            terms=artifact_terms(
                untrusted.statement, origin=untrusted.links[0].statement, signers=signers(artifact)
            ),
            isolation=world.isolation,
            concealment=NOTHING_CONCEALED,
        ),
    }  # fmt: skip


def released(world: World, receipt: bytes, artifact: bytes, execution: Execution) -> VerifiedRelease:
    """What the runner makes of a receipt."""
    return verify_release(
        receipt=receipt, artifact=artifact, execution=execution, here=world.here(), salt=SALT
    )


def signers(artifact: bytes) -> tuple[str, ...]:
    links = parse_artifact(artifact).links
    return tuple(sorted({line.key_id for link in links for line in link.envelope.signatures}))


def both(world: World, artifact: bytes, execution: Execution | None = None) -> tuple[Code, Code]:
    """How the agent decides, and how the runner does where the agent says that it allowed."""
    run = execution or world.execution()
    decision = world.decide(artifact, execution=run)
    assert decision.denial is not None
    with pytest.raises(Denied) as denied:
        release(world, artifact, run)
    return decision.denial.code, denied.value.denial.code


def edit(path: str, value: Any) -> Edit:
    def change(statement: dict[str, Any]) -> None:
        *groups, last = path.split(".")
        at = statement if path == "subject" else statement["predicate"]
        for group in groups:
            at = at[group]
        at[last] = value

    return change


# -- what it may ------------------------------------------------------------------------------------------------------


def test_within_its_scope() -> None:
    world = World()
    parent = delegable(world, TEAM, MEMBER, argv=["deploy", "--env", {"one_of": ["prod", "stage"]}])
    child = under(parent, TEAM, edit=edit("scope.argv", ["deploy", "--env", "prod"]))
    grandchild = under(child, MEMBER)
    for artifact, links in ((child, 2), (grandchild, 3)):
        decision = world.decide(artifact)
        assert decision.denial is None, decision.denial
        chain = [link.id for link in parse_artifact(artifact).links]
        assert decision.body["artifact"]["chain"] == chain
        assert len(chain) == links
        assert canonical(decision.body["origin"]) == canonical(
            statement_of(parent)["predicate"]["attribution"]
        )
        assert decision.checks[2].detail.endswith(
            f"delegated by key {', then '.join(map(key_id, (TEAM, MEMBER)[: links - 1]))}"
        )
        assert decision.checks[10].detail == f"delegated {links - 1} deep, from {chain[0]}, no parent"
        released = release(world, artifact, world.execution())
        assert released.artifact_id == chain[-1]
        assert released.above == tuple((link, 1) for link in chain[:-1])
    outside = world.execution(argv=("deploy", "--env", "stage"))
    assert world.decide(parent, execution=outside).denial is None
    assert both(world, child, outside) == (Code.SCOPE_VIOLATION,) * 2


@pytest.mark.parametrize("member", ["requested_by", "reason", "approved_by", "on_behalf_of"])
def test_what_a_delegate_says_of_itself_opens_no_policy(member: str) -> None:
    """Who asked for it and why is the child's own story; what policies see is the authorities'."""
    world = World()
    parent = delegable(world, TEAM, MEMBER, argv=["deploy", "--env", {"one_of": ["prod", "stage"]}])
    child = under(
        parent,
        TEAM,
        edit=edit(f"attribution.{member}", ["the board"] if member == "approved_by" else "the board"),
    )
    assert world.decide(child).denial is None
    body = lie(world, child, world.execution())
    condition = {
        "approved_by": 'context.artifact.approved_by.contains("the board")',
        "on_behalf_of": 'context.artifact has on_behalf_of && context.artifact.on_behalf_of == "the board"',
    }.get(member, f'context.artifact.{member} == "the board"')
    world.policies["policy/exec.cedar"] = (
        f"permit (principal, action, resource) when {{ {condition} }};".encode()
    )
    denial = world.decide(child).denial
    assert denial is not None
    assert denial.code is Code.POLICY_DENIED
    with pytest.raises(Denied) as denied:
        release(world, child, world.execution(), body)
    assert denied.value.denial.code is Code.POLICY_DENIED


# -- wider in anything --------------------------------------------------------------------------------------------------

OTHER = {"name": "/usr/bin/other", "digest": {"sha256": digest(b"other")}}
# Each lets something happen that the parent does not; the execution is what happens then, where it is not the usual one.
WIDER: dict[str, tuple[Any, dict[str, Any]]] = {
    "subject": ([OTHER], {"executable": File("/usr/bin/other", digest(b"other"))}),
    "scope.argv": (["deploy", "--env", "test"], {"argv": ("deploy", "--env", "test")}),
    "scope.cwd": ("/", {"cwd": "/"}),
    "scope.uid": (0, {"uid": 0}),
    "scope.env.pass": (["LANG", "TERM"], {}),
    "scope.env.set": ({"PATH": "/tmp"}, {"env": {"PATH": "/tmp"}}),
    "scope.inputs": ([], {"inputs": ()}),
    "bindings.hosts": ([], {}),
    "bindings.host_labels": ({}, {}),
    "bindings.requesters": ([{"uid": 1001}, {"uid": 1002}], {"requester_uid": 1002}),
    "environment.platform": ("other", {}),
    "environment.max_evidence_age_s": (61, {}),
    "governance.policy_digest": (None, {}),
    "governance.min_version": (0, {}),
    "governance.metadata": ({"emergency": "yes"}, {}),
    "attribution.on_behalf_of": ("me", {}),
    "validity.not_before": (format_time(NOW - timedelta(days=1)), {}),
    "validity.not_after": (format_time(NOW + timedelta(days=1)), {}),
    "validity.max_uses": (None, {}),
    "lineage.max_depth": (2, {}),
    "lineage.delegate_to": ([key_id(STRANGER)], {}),
    "enforcement.on_trust_loss": ("report", {}),
    "enforcement.recheck_interval_s": (31, {}),
    "enforcement.mesh_grace_s": (1, {}),
}


@pytest.mark.parametrize("path", WIDER)
def test_wider_in_one_member(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.platforms["other"] = world.platform_file("other")
    plan = File("/srv/plan", digest(b"plan"))
    run = world.execution(inputs=(plan,))
    policy_digest = world.trust().policies.digest("exec") if path == "governance.policy_digest" else None
    parent = delegable(
        world, TEAM, MEMBER, execution=run, env_pass=["LANG"], host_labels={"role": "ci"}, policy_digest=policy_digest,
        on_behalf_of="release team", max_uses=3 if path == "validity.max_uses" else None, now=NOW - timedelta(minutes=1),
    )  # fmt: skip
    value, changes = WIDER[path]
    child = under(parent, TEAM, edit=edit(path, value))
    seen = world.execution(**{"inputs": (plan,), **changes})
    # Against agents and runners that do not compare the links the attack works.
    with monkeypatch.context() as weakened:
        weakened.setattr(artifact_module, "widenings", lambda *_: [])
        if path != "environment.platform":  # of that policy there is no evidence in this world
            assert world.decide(child, execution=seen).denial is None
            release(world, child, seen)
        parse_artifact.cache_clear()
    expected = Code.LINEAGE_BROKEN
    assert both(world, child, seen) == (expected, expected)
    assert (
        world.decide(child, execution=seen).checks[10].detail.count("link 2 is wider than the one above it")
    )


def test_quorums_are_kept() -> None:
    world = World()
    for quorum in ("verifiers", "witnesses"):
        parent = delegable(world, TEAM, **{quorum: 1})
        child = under(parent, TEAM, edit=edit(f"environment.{quorum}", {"quorum": 0}))
        assert both(world, child) == (Code.LINEAGE_BROKEN,) * 2


# -- another chain than the one that was delegated -------------------------------------------------------------------------


def test_a_key_that_is_not_named() -> None:
    world = World()
    parent = delegable(world, TEAM)
    for signer in (STRANGER, world.authors[0]):
        child = chain_file([parent, dsse(canonical(statement_of(under(parent, TEAM))), [signer])], [TEAM])
        assert both(world, child) == (Code.INVALID_SIGNATURE,) * 2
    # Nor does it help to claim the delegate's id, or to carry the own key under it.
    child = json.loads(under(parent, TEAM))
    stranger = json.loads(dsse(canonical(statement_of(under(parent, TEAM))), [STRANGER]))
    stranger["signatures"][0]["keyid"] = key_id(TEAM)
    child["chain"][1] = stranger
    assert both(world, canonical(child)) == (Code.INVALID_SIGNATURE,) * 2
    own = json.loads(chain_file([parent, parent], [STRANGER]))["keys"][key_id(STRANGER)]
    child["keys"] = {key_id(TEAM): own}
    assert world.decide(canonical(child)).denial.code is Code.MALFORMED_AUTHORIZATION


def test_a_forged_parent() -> None:
    """A laxer parent of its own making, under the honest one's name or its own, signed by the delegate itself."""
    world = World()
    parent = delegable(world, TEAM)
    laxer = statement_of(parent)
    laxer["predicate"]["scope"]["cwd"] = "/"
    forged = dsse(canonical(laxer), [TEAM])
    child = under(parent, TEAM, edit=edit("scope.cwd", "/"))
    run = world.execution(cwd="/")
    swapped = chain_file([forged, envelopes_of(child)[1]], [TEAM])
    assert both(world, swapped, run) == (Code.INVALID_SIGNATURE,) * 2
    # With the honest signature, which is for other bytes.
    value = json.loads(swapped)
    value["chain"][0]["signatures"] = json.loads(parent)["signatures"]
    assert both(world, canonical(value), run) == (Code.INVALID_SIGNATURE,) * 2


def test_a_parent_swapped_for_a_laxer_one_of_the_same_authority() -> None:
    """Both parents are honest, and both name the delegate: the child says under which it was issued."""
    world = World()
    strict, lax = delegable(world, TEAM), delegable(world, TEAM, env_pass=["LANG"])
    child = under(strict, TEAM, edit=edit("scope.env.pass", ["LANG"]))
    assert both(world, child) == (Code.LINEAGE_BROKEN,) * 2
    swapped = chain_file([lax, envelopes_of(child)[1]], [TEAM])
    assert both(world, swapped) == (Code.LINEAGE_BROKEN,) * 2
    assert "the link above it is" in world.decide(swapped).denial.sentence


def test_reordered_dropped_and_repeated_links() -> None:
    world = World()
    root = delegable(world, TEAM, MEMBER, depth=3)
    child = under(root, TEAM)
    grandchild = under(child, MEMBER)
    first, second, third = envelopes_of(grandchild)
    keys = [TEAM, MEMBER]
    assert world.decide(grandchild).denial is None
    expected = {
        "dropped in the middle": ([first, third], Code.LINEAGE_BROKEN),
        "dropped at the top": ([second, third], Code.INVALID_SIGNATURE),
        "reordered": ([first, third, second], Code.LINEAGE_BROKEN),
        "upside down": ([third, second, first], Code.INVALID_SIGNATURE),
        "the root in the middle": ([second, first, third], Code.INVALID_SIGNATURE),
        "repeated": ([first, second, second], Code.LINEAGE_BROKEN),
        "the root repeated": ([first, first], Code.INVALID_SIGNATURE),
    }
    for what, (links, code) in expected.items():
        named = {
            key for link in links[:-1] for key in statement_of(link)["predicate"]["lineage"]["delegate_to"]
        }
        artifact = chain_file(links, [key for key in keys if key_id(key) in named])
        assert both(world, artifact) == (code, code), what
    # The last link alone is signed by nobody whom governance knows; by an authority too, its chain is still missing.
    assert both(world, third) == (Code.INVALID_SIGNATURE,) * 2
    resigned = dsse(canonical(statement_of(grandchild)), world.authors)
    assert both(world, resigned) == (Code.LINEAGE_BROKEN,) * 2


def test_deeper_than_it_may() -> None:
    world = World()
    root = delegable(world, TEAM, depth=1)
    child = under(root, TEAM)
    grandchild = under(child, TEAM)
    assert both(world, grandchild) == (Code.INVALID_SIGNATURE,) * 2, "the child names no delegate"
    # A child that names itself again, and as deep as before: round and round.
    again = edit(
        "lineage", {"parent": parse_artifact(root).id, "delegate_to": [key_id(TEAM)], "max_depth": 1}
    )
    loop = under(root, TEAM, edit=again)
    for _ in range(7):
        assert both(world, loop) == (Code.LINEAGE_BROKEN,) * 2
        above = parse_artifact(loop).id
        loop = under(
            loop, TEAM, edit=edit("lineage", {"parent": above, "delegate_to": [key_id(TEAM)], "max_depth": 1})
        )
    assert world.decide(under(loop, TEAM)).denial.code is Code.MALFORMED_AUTHORIZATION


def test_deeper_than_governance_lets_it() -> None:
    """Whatever depth an authority wrote into its artifact."""
    world = World()
    root = delegable(world, TEAM, depth=3, rule_depth=1)
    child = under(root, TEAM)
    assert world.decide(child).denial is None
    assert both(world, under(child, TEAM)) == (Code.LINEAGE_BROKEN,) * 2
    world.authorities["authorizations"][0]["max_depth"] = 0
    assert both(world, child) == (Code.LINEAGE_BROKEN,) * 2


def test_an_expired_parent() -> None:
    world = World()
    root = delegable(world, TEAM, now=NOW - timedelta(hours=2))
    assert both(world, under(root, TEAM)) == (Code.EXPIRED,) * 2
    longer = edit("validity.not_after", format_time(NOW + timedelta(hours=1)))
    assert both(world, under(root, TEAM, edit=longer)) == (Code.LINEAGE_BROKEN,) * 2


@pytest.mark.parametrize("revoked", ["root", "child", "grandchild", "authority", "team", "member", "subject"])
def test_whatever_is_revoked_in_a_chain_revokes_it(revoked: str) -> None:
    world = World()
    grandchild = under(under(delegable(world, TEAM, MEMBER), TEAM), MEMBER)
    assert world.decide(grandchild).denial is None
    ids = [link.id for link in parse_artifact(grandchild).links]
    member, value = {
        "root": ("artifacts", ids[0]), "child": ("artifacts", ids[1]), "grandchild": ("artifacts", ids[2]),
        "authority": ("keys", key_id(world.authors[0])), "team": ("keys", key_id(TEAM)),
        "member": ("keys", key_id(MEMBER)), "subject": ("subjects", digest(b"deploy")),
    }[revoked]  # fmt: skip
    world.revocations[member] = [value]
    expected = world.decide(grandchild).denial
    assert expected is not None
    assert expected.code is Code.REVOKED
    if revoked != "authority":  # whose revocation leaves no artifact to make a first leaf with
        world.revocations[member] = []
        run = world.execution()
        receipt = world.receipt(lie(world, grandchild, run))
        world.revocations[member] = [value]
        with pytest.raises(Denied) as denied:
            released(world, receipt, grandchild, run)
        assert denied.value.denial.code is Code.REVOKED


def test_one_of_two_delegates_is_revoked() -> None:
    """The other's signature on the same link still counts; the revoked one's is nobody's."""
    world = World()
    child = under(delegable(world, TEAM, MEMBER), TEAM, MEMBER)
    world.revocations["keys"] = [key_id(TEAM)]
    assert world.decide(child).denial is None
    run = world.execution()
    assert release(world, child, run, world.decide(child).body).artifact_id == parse_artifact(child).id


def test_two_authorities_for_the_root() -> None:
    """A chain is no way round a threshold: its root needs both, and one of them twice is one."""
    world = World(authors=2, threshold=2)
    alone = delegable(world, TEAM, signers=world.authors[:1])
    assert both(world, under(alone, TEAM)) == (Code.INSUFFICIENT_APPROVALS,) * 2
    twice = delegable(world, TEAM, signers=[world.authors[0], world.authors[0]], edit=lambda _: None)
    assert both(world, under(twice, TEAM)) == (Code.INSUFFICIENT_APPROVALS,) * 2
    assert world.decide(under(delegable(world, TEAM), TEAM)).denial is None


def test_the_leaf_must_name_the_chain() -> None:
    """A broken agent that leaves the origin out, or names another, gets nothing run."""
    world = World()
    child = under(delegable(world, TEAM), TEAM)
    body = dict(world.decide(child).body)
    for change in (
        {"origin": None},
        {"origin": {**body["origin"], "requested_by": "mallory"}},
        {"artifact": {name: value for name, value in body["artifact"].items() if name != "chain"}},
        {"artifact": {**body["artifact"], "chain": body["artifact"]["chain"][::-1]}},
    ):
        with pytest.raises(Denied) as denied:
            release(world, child, world.execution(), {**body, **change})
        assert denied.value.denial.code is Code.IDENTITY_MISMATCH
