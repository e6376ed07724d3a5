"""What a signer reads: every change of every kind of file, and what makes more possible than before marked as that."""

import contextlib
import json
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from attestd.errors import MalformedError
from attestd.governance.changes import Change, compare_facts, describe_changes
from attestd.governance.policy_file import parse_policy_file
from attestd.strict import canonical
from tests.governance.make_vectors import BOOT_RULES, IMA_POLICY
from tests.governance.test_ek_trust import index, pem
from tests.tcg.ek_build import Authority
from tests.world import World, key_id, p256


@pytest.fixture
def world() -> World:
    return World()


def told(world: World, edit: Callable[[], object]) -> list[Change]:
    before = world.files()
    edit()
    return describe_changes(before, world.files())


def words(changes: list[Change]) -> str:
    return "\n".join(
        f"{'!' if change.is_weaker else ' '} {change.target}: {change.words}" for change in changes
    )


def test_nothing(world: World) -> None:
    assert describe_changes(world.files(), world.files()) == []


def test_everything_is_new(world: World) -> None:
    said = words(describe_changes({}, world.files()))
    for expected in (
        "authority ",
        "enrollers: added",
        "platform policy local: added",
        f"host {world.host.id}: added",
        "TPM: added",
    ):
        assert expected in said
    gone = words(describe_changes(world.files(), {}))
    assert "! authorities.json: authority " in gone
    assert "removed" in gone


def test_thresholds(world: World) -> None:
    rule = world.authorities["authorizations"][0]
    rule["keys"] = [key_id(p256(name)) for name in ("a", "b")]
    rule["threshold"] = 1
    world.authorities["keys"] |= world.authorities["keys"]
    changes = told(world, lambda: rule.update(threshold=2))
    assert words(changes) == f"  authorities.json: authority {rule['name']}: threshold 1 -> 2"
    changes = told(world, lambda: rule.update(threshold=1))
    assert words(changes).startswith("! ")


def test_keys_paths_users(world: World) -> None:
    rule = world.authorities["authorizations"][0]
    old, new = rule["keys"][0], key_id(p256("new"))
    changes = told(
        world, lambda: rule.update(keys=[new, *rule["keys"][1:]], paths=["/usr/bin/"], uids=[7], max_depth=2)
    )
    name = rule["name"]
    assert set(words(changes).splitlines()) == {
        f"! authorities.json: authority {name}: +key {new}",
        f"  authorities.json: authority {name}: -key {old}",
        f"  authorities.json: keys: added: key that signs for nothing {old}",
        f"! authorities.json: authority {name}: +path /usr/bin/",
        f"  authorities.json: authority {name}: -path /",
        f"! authorities.json: authority {name}: +uid 7",
        f"  authorities.json: authority {name}: -uid any",
        f"! authorities.json: authority {name}: max depth 0 -> 2",
    }


def test_order_of_rules(world: World) -> None:
    first = world.authorities["authorizations"][0]
    world.authorities["authorizations"] = [first, {**first, "name": "second"}]
    changes = told(world, world.authorities["authorizations"].reverse)
    assert "order of authorities" in words(changes)
    assert f"{first['name']}, second -> second, {first['name']}" in words(changes)


def test_tpm_root(world: World) -> None:
    changes = told(world, lambda: world.authorities["tpm"].update(root=key_id(p256("other"))))
    assert "every host needs new keys" in words(changes)


def test_teams(world: World) -> None:
    scope = {"paths": ["/usr/bin/deploy"], "uids": None, "max_depth": 1}
    changes = told(world, lambda: world.authorities["teams"].update(web=scope))
    assert words(changes) == "! authorities.json: team web: added: max depth 1; path /usr/bin/deploy; uid any"
    file = {"v": 1, "version": 1, "keys": {}, "authorizations": world.authorities["authorizations"]}
    said = words(describe_changes({}, {"teams/web/authorities.json": canonical(file)}))
    assert "authority web/" in said


def test_revocations(world: World) -> None:
    digest = "ab" * 32

    def revoke() -> None:
        world.revocations |= {"version": 2, "artifacts": [digest], "requesters": [7], "epoch": 3}

    said = words(told(world, revoke))
    assert f"  revocations.json: revoked: artifact {digest}" in said
    assert "  revocations.json: revoked: requester 7" in said
    assert "approvals of earlier epochs end: epoch 0 -> 3" in said
    assert "file: version 1 -> 2" in said
    said = words(told(world, lambda: world.revocations.update(artifacts=[])))
    assert said == f"! revocations.json: NO LONGER revoked: artifact {digest}"


def test_a_platform_policy(world: World) -> None:
    file = world.platforms["local"]
    approval = {**file["approvals"][0], "pcr_digest": "cd" * 32}

    def amend() -> None:
        file["approvals"] = [*file["approvals"], approval]
        file["reference"]["min_tier"] = "vtpm"
        file["reference"]["pcrs"] = {"sha256": {"4": ["ef" * 32]}}
        file["reference"]["quorums"] = {"verifiers": 1, "witnesses": 0}
        file["lifecycle"]["valid_until"] = "2030-01-01T00:00:00Z"
        file["writable"] = "refuse"

    said = words(told(world, amend))
    pcrs = ",".join(map(str, approval["pcrs"]))
    subject = "platform/local.json: platform policy local:"
    for expected in (
        f"! {subject} one more approved state, sha256 PCRs {pcrs} composite {'cd' * 32}, until epoch",
        f"  {subject} minimum tier software -> vtpm",
        f"  {subject} +PCR 4 (sha256) value {'ef' * 32}",
        f"  {subject} verifiers 0 -> 1",
        f"  {subject} valid until none -> 2030-01-01T00:00:00Z",
        f"  {subject} writable copy -> refuse",
    ):
        assert expected in said
    said = words(told(world, lambda: file["approvals"].pop(0)))
    assert f"  {subject} one less approved state" in said


def test_rules_and_windows_of_a_platform_policy(world: World) -> None:
    file = world.platforms["local"]
    state = file["approvals"][0]["pcr_digest"]
    reference, lifecycle = file["reference"], file["lifecycle"]
    window = {"pcr_digest": state, "not_after": "2030-01-01T00:00:00Z"}

    def strict() -> None:
        reference["boot"] = {**BOOT_RULES, "sections": {".linux": ["ab" * 32]}}
        reference["ima"] = {"policy": "fleet", "sha256": "cd" * 32}
        lifecycle["windows"] = [window]

    said = words(told(world, strict))
    subject = "platform/local.json: platform policy local:"
    for expected in (
        f"  {subject} +boot rule secure_boot required",
        f"  {subject} +boot rule command_lines root=/dev/vda2 ro quiet",
        f"  {subject} +boot rule sections .linux {'ab' * 32}",
        f"  {subject} +boot rule digests 2 nothing",
        f"  {subject} +IMA policy fleet, SHA-256 {'cd' * 32}",
        f"  {subject} +approved only until 2030-01-01T00:00:00Z: {state}",
    ):
        assert expected in said
    assert "!" not in said
    said = words(told(world, lambda: reference["boot"]["command_lines"].append("quiet init=/bin/sh")))
    assert said == f"! {subject} +boot rule command_lines quiet init=/bin/sh"

    def lax() -> None:
        reference["boot"] |= {"images": None, "secure_boot": "unchecked"}
        reference["ima"], lifecycle["windows"] = None, []

    said = words(told(world, lax))
    for expected in (
        f"! {subject} +boot rule secure_boot (anything)",
        f"  {subject} -boot rule secure_boot required",
        f"! {subject} +boot rule images (anything)",
        f"! {subject} +IMA policy (anything)",
        f"! {subject} -approved only until 2030-01-01T00:00:00Z: {state}",
    ):
        assert expected in said


def test_an_ima_policy(world: World) -> None:
    """Whole ones by their number of lines, changes line by line."""
    policy = {**IMA_POLICY, "digests": {f"/usr/bin/{n}": ["sha256:" + "ab" * 32] for n in range(5)}}
    said = words(told(world, lambda: world.extra.update({"ima/fleet.json": canonical(policy)})))
    assert said.startswith(
        "  ima/fleet.json: IMA policy fleet: added: paths 5; patterns 0; excluded 1; keys 0;"
    )
    assert said.endswith(f"violations exclude; SHA-256 {sha256(canonical(policy)).hexdigest()}")

    def change() -> None:
        del policy["digests"]["/usr/bin/0"]
        policy["digests"]["/usr/bin/new"] = ["sha256:" + "cd" * 32]
        policy["violations"], policy["exclude"] = "refuse", ["/var/log/*", "/tmp/*"]
        world.extra["ima/fleet.json"] = canonical(policy)

    said = words(told(world, change))
    for expected in (
        f"! ima/fleet.json: IMA policy fleet: +IMA path /usr/bin/new sha256:{'cd' * 32}",
        f"  ima/fleet.json: IMA policy fleet: -IMA path /usr/bin/0 sha256:{'ab' * 32}",
        "! ima/fleet.json: IMA policy fleet: +IMA excluded /tmp/*",
        "  ima/fleet.json: IMA policy fleet: +IMA violations refuse",
    ):
        assert expected in said
    assert words(told(world, world.extra.clear)) == "  ima/fleet.json: IMA policy fleet: removed"
    with pytest.raises(MalformedError, match=r"ima/fleet\.json: not of the form"):
        describe_changes({}, {"ima/fleet.json": b"[]"})


def test_endorsement_keys(world: World) -> None:
    one, two = Authority.root("one").certificate, Authority.root("two").certificate
    host = "ab" * 32
    files = {
        "ek-roots/index.json": index({"maker": "vtpm"}, "cas"),
        "ek-roots/maker.pem": pem(one),
        "ek-allow.json": canonical({"v": 1, "hosts": {host: "software"}}),
    }
    said = words(told(world, lambda: world.extra.update(files)))
    assert said.splitlines() == [
        f"! ek-allow.json: EK of host {host}: added: tier software",
        "! ek-roots/index.json: EK root maker: added: tier vtpm",
        "! ek-roots/index.json: EK intermediates: added: file cas",
        f"! ek-roots/maker.pem: EK certificates maker: added: certificate SHA-256 {sha256(one).hexdigest()}",
    ]

    def change() -> None:
        world.extra |= {
            "ek-roots/index.json": index({"maker": "hardware"}),
            "ek-roots/maker.pem": pem(two) + b"and more",
            "ek-allow.json": canonical({"v": 1, "hosts": {}}),
        }

    assert words(told(world, change)).splitlines() == [
        f"  ek-allow.json: EK of host {host}: removed",
        "! ek-roots/index.json: EK root maker: +tier hardware",
        "  ek-roots/index.json: EK root maker: -tier vtpm",
        "  ek-roots/index.json: EK intermediates: -file cas",
        f"! ek-roots/maker.pem: EK certificates maker: +certificate SHA-256 {sha256(two).hexdigest()}",
        f"  ek-roots/maker.pem: EK certificates maker: -certificate SHA-256 {sha256(one).hexdigest()}",
        "  ek-roots/maker.pem: EK certificates maker: and besides none -> andmore",
    ]


def test_history_is_kept(world: World) -> None:
    data = world.files()["platform/local.json"]
    name = "platform/history/local-1.json"
    assert words(describe_changes({}, {name: data})) == f"  {name}: kept, for old receipts name it"
    assert words(describe_changes({name: data}, {name: data + b" "})) == f"! {name}: changed"
    assert words(describe_changes({name: data}, {})) == f"! {name}: removed"


def test_hosts(world: World) -> None:
    record = world.records[world.host.id]
    said = words(
        told(world, lambda: record.update(labels={"role": "prod"}, not_after="2031-01-01T00:00:00Z"))
    )
    assert f"host {world.host.id}: +label role=prod" in said
    assert "-> 2031-01-01T00:00:00Z" in said
    said = words(told(world, lambda: record["ak"].update(public="AAAA")))
    assert f"host {world.host.id}: ak SHA-256 " in said


CEDAR = """
// a comment; with a semicolon
@id("all") permit(principal, action, resource);
forbid(principal == User::"7", action, resource) when { context.cwd == "/a;b//c" };
"""


def test_policies() -> None:
    name = "policy/exec.cedar"
    night = (
        '@id("deny-nights")\n@reason("sleep") forbid(principal, action, resource) when { context.time > 5 };'
    )
    before, after = CEDAR.encode(), (CEDAR + night).encode()
    said = words(describe_changes({name: before}, {name: after}))
    assert said.startswith(f"  {name}: forbid deny-nights: added: ")
    assert "forbid(principal, action, resource) when { context.time > 5 };" in said
    assert words(describe_changes({name: after}, {name: before})) == f"! {name}: forbid deny-nights: removed"
    changed = after.replace(b"> 5", b"> 6")
    assert "context.time > 5 }; -> " in words(describe_changes({name: after}, {name: changed}))
    said = words(describe_changes({}, {name: before}))
    assert f"! {name}: permit all: added" in said
    assert '"/a;b//c"' in said
    comment = before.replace(b"// a comment;", b"// another;")
    assert (
        words(describe_changes({name: before}, {name: comment}))
        == f"  {name}: changes in form, not in what it says"
    )
    assert "statement " in words(describe_changes({}, {name: b"nonsense"}))


@pytest.mark.parametrize(
    "unit", [b'@id("a")', b'"\\', b'"\\"', b"/", b"//", b'"', b"@a ", b"\\", b"; ", b"permit"]
)
def test_policies_that_are_none_take_no_time(unit: bytes) -> None:
    began = time.process_time()
    describe_changes({}, {"policy/x.cedar": unit * (60_000 // len(unit))})
    assert time.process_time() - began < 3


def test_a_policy_that_hides_behind_the_name_of_another() -> None:
    """A policy without an id is called by its digest: another one that has just that as its id must not cover it."""
    hidden = next(
        statement
        for number in range(100)
        if (statement := f'@reason("{number}") permit(principal, action, resource);')
        and sha256(statement.encode()).hexdigest()[0] in "abcdef"
    )
    digest = sha256(hidden.encode()).hexdigest()[:12]
    shown = f'@id("{digest}") permit(principal, action, resource) when {{ context.uid == 1 }};'
    for order in ((hidden, shown), (shown, hidden)):
        data = "\n".join(order).encode()
        assert len(parse_policy_file(data, name="exec", what="exec")) == 2
        said = words(describe_changes({}, {"policy/exec.cedar": data}))
        assert hidden in said
        assert shown in said
        (change,) = describe_changes({"policy/exec.cedar": shown.encode()}, {"policy/exec.cedar": data})
        assert hidden in change.words
        assert change.is_weaker


def test_a_permit_that_is_not_told_as_one() -> None:
    """What the words do not recognise may make more possible: it is marked, whether it comes or goes."""
    data = b'@reason("\\"") permit(principal, action, resource);'
    assert not parse_policy_file(data, name="exec", what="exec")[0].forbid
    (added,) = describe_changes({}, {"policy/exec.cedar": data})
    (removed,) = describe_changes({"policy/exec.cedar": data}, {})
    assert added.is_weaker
    assert removed.is_weaker


def test_entities_and_schema() -> None:
    def entity(uid: str, *groups: str) -> dict[str, Any]:
        parents = [{"type": "Group", "id": group} for group in groups]
        return {"uid": {"type": "User", "id": uid}, "attrs": {}, "parents": parents}

    name = "policy/entities.json"
    before, after = canonical([entity("7")]), canonical([entity("7", "ops"), entity("8")])
    said = words(describe_changes({name: before}, {name: after}))
    assert f'  {name}: entity User::"7": +parent Group::"ops"' in said
    assert f'  {name}: entity User::"8": added' in said
    said = words(describe_changes({"policy/schema.cedarschema": b"a"}, {"policy/schema.cedarschema": b"b"}))
    assert "SHA-256" in said


@pytest.mark.parametrize(
    "name",
    [
        "authorities.json",
        "revocations.json",
        "platform/x.json",
        "hosts/x.json",
        "policy/entities.json",
        "policy/x.cedar",
        "ek-roots/index.json",
        "ek-roots/x.pem",
        "ek-allow.json",
        "mesh.json",
    ],
)
@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"{}", b'{"payload":1}', b"null", b"1", b"[" * 100_000, b'"\\']
)
def test_other_files(name: str, data: bytes) -> None:
    """Never anything but the documented error."""
    with contextlib.suppress(MalformedError):
        describe_changes({}, {name: data})


def test_no_member_is_silent(world: World) -> None:
    """Whatever changes in a file is told: each scalar of each JSON file in turn."""
    for name, data in world.files().items():
        if not name.endswith(".json") or name.startswith("hosts/"):
            continue
        for change in _edits(json.loads(data)):
            changed = canonical(change)
            if changed == data:
                continue
            try:
                found = describe_changes({name: data}, {name: changed})
            except MalformedError:
                continue
            assert found, (name, change)
            if change.get("v") == 1 and "spki" not in str(change):
                assert "changes in form" not in words(found), (name, change)


def _edits(value: Any) -> list[Any]:
    if isinstance(value, dict):
        verified = {
            "v",
            "sig",
            "policy_digest",
            "spki",
            "lease_key",
        }  # by hosts; they say nothing of their own
        names = [name for name in value if name not in verified]
        return [{**value, name: edited} for name in names for edited in _edits(value[name])]
    if isinstance(value, list):
        return [
            [*value[:place], edited, *value[place + 1 :]]
            for place in range(len(value))
            for edited in _edits(value[place])
        ]
    return [value + 1 if isinstance(value, int) else f"{value}x" if isinstance(value, str) else 1]


def test_facts_of_other_kinds() -> None:
    changes = compare_facts(
        "roles",
        {"role root": {"threshold": "2", "key": frozenset("ab")}},
        {"role root": {"threshold": "1", "key": frozenset("ac"), "new": "x"}},
    )
    assert words(changes).splitlines() == [
        "! roles: role root: threshold 2 -> 1",
        "! roles: role root: +key c",
        "  roles: role root: -key b",
        "  roles: role root: new none -> x",
    ]
