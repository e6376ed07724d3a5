"""`attestd governance`: from the keys of a fleet to published files, by two persons on two machines."""

import io
import json
import shutil
import sys
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.ngclient import Updater

from attestd.distribution.approve import parse_pcr_values
from attestd.distribution.repository import Repository
from attestd.errors import MalformedError
from attestd.governance.mesh import witness_key_id
from attestd.governance.trust import Trust
from attestd.strict import canonical, format_time
from attestd.tlog.vkey import cosignature_vkey, format_vkey, parse_vkey
from tests.cli.conftest import Cli
from tests.cli.meanwhile import Meanwhile
from tests.distribution.repositories import Reference, served, write_key
from tests.softhsm import PIN
from tests.world import World, ed25519_key, key_id, spki

FLEET = (
    *("--authorization", "alice.pem", "--authorization", "bob.pem", "--authorization-threshold", "1"),
    *("--enroller", "enroller.pem", "--tpm-root", "tpm root.pem"),
    *("--tpm-platform", "tpm platform.pem", "--tpm-epoch", "tpm epoch.pem"),
)
NAMES = ("root", "alice", "bob", "carol", "online", "enroller", "tpm root", "tpm platform", "tpm epoch")
MESH_WITNESS = format_vkey(
    cosignature_vkey("one.example/1", ed25519_key("witness").public_key().public_bytes_raw())
)
OTHER_WITNESS = format_vkey(
    cosignature_vkey("one.example/1", ed25519_key("other").public_key().public_bytes_raw())
)
FORBID = '@id("deny-nobody") forbid (principal == User::"65534", action, resource);\n'


@pytest.fixture
def office(nowhere: Cli) -> Cli:
    """The command line in an empty directory with keys; nothing is initialised there."""
    for name in NAMES:
        write_key(Path(), name)
    return nowhere


@pytest.fixture
def repository(office: Cli) -> Cli:
    """The same, with a published repository of a fleet: two persons sign targets."""
    create(office, *FLEET)
    for name in ("root", "alice", "bob"):
        office.ok("governance", "sign", "--repository", "governance", "--key", f"{name}.pem", "--yes")
    office.ok("governance", "publish", "--repository", "governance")
    return office


def create(cli: Cli, *options: str) -> None:
    cli.ok(
        *("governance", "init", "governance", "--root", "root.pem", "--targets", "alice.pem"),
        *("--targets", "bob.pem", "--online", "online.pem", "--publish-to", "web", *options),
    )


def in_repository(cli: Cli) -> Callable[..., object]:
    def call(*arguments: str | Path) -> object:
        command, *rest = arguments
        return cli.ok("governance", command, "--repository", "governance", *rest)

    return call


def trust() -> Trust:
    return Repository(Path("governance")).validate().trust


def test_a_first_repository(office: Cli) -> None:
    create(office)
    shown = office.ok("governance", "show", "--repository", "governance", "--json").json
    assert shown["version"] is None
    assert [(item["role"], item["lacking"]) for item in shown["roles"]] == [("root", 1), ("targets", 2)]
    office.ok("governance", "sign", "--repository", "governance", "--key", "root.pem", "--yes")
    refused = office("governance", "sign", "--repository", "governance", "--key", "alice.pem", "--yes")
    assert refused.status == 65
    assert "authorities.json" in refused.stderr, "nothing that hosts would believe is staged yet"
    # A file at a time: everything is judged when it is complete.
    files = World().files()
    Path("a").write_bytes(files["authorities.json"])
    added = office.ok("governance", "add", "--repository", "governance", "authorities.json", "a")
    assert "needs revocations.json as well" in added.stderr
    Path("r").write_text(json.dumps(json.loads(files["revocations.json"]), indent=4))
    office.ok("governance", "add", "--repository", "governance", "revocations.json", "r")
    for name in ("alice", "bob"):
        office.ok("governance", "sign", "--repository", "governance", "--key", f"{name}.pem", "--yes")
    published = office.ok("governance", "publish", "--repository", "governance", "--json").json
    assert (published["version"], published["root"], published["timestamp"]) == (1, 1, 1)
    staged = Path("governance/staged/targets/revocations.json").read_bytes()
    assert staged == files["revocations.json"], "in the form that hosts read"
    with served(Path("web")) as url:
        anchor = Path("governance/published/metadata/1.root.json").read_bytes()
        found = Reference(Path("client"), url, anchor).download(["authorities.json"])
    assert found["authorities.json"] == files["authorities.json"]


def test_keys_of_a_fleet(repository: Cli) -> None:
    found = trust()
    assert [rule.name for rule in found.authorities.rules] == ["all"]
    assert found.policies.digest("exec") is not None
    shown = repository.ok("governance", "show", "--repository", "governance").stdout
    assert "version 1" in shown
    assert "2 of 2" in shown
    assert "policy/exec.cedar" in shown


def test_two_persons_on_two_machines(repository: Cli) -> None:
    Path("night.cedar").write_text(FORBID)
    run = in_repository(repository)
    run("add", "policy/night.cedar", "night.cedar")
    diff = repository.ok("governance", "diff", "--repository", "governance").stdout
    assert "policy/night.cedar: forbid deny-nobody: added: " in diff
    changes = repository.ok("governance", "diff", "--repository", "governance", "--json").json["changes"]
    assert [(change["target"], change["weaker"]) for change in changes] == [("policy/night.cedar", False)]
    signed = repository.ok("governance", "sign", "--repository", "governance", "--key", "alice.pem", "--yes")
    assert "forbid deny-nobody" in signed.stderr, "what is signed is shown first"
    refused = repository("governance", "publish", "--repository", "governance")
    assert refused.status == 64
    assert "targets version 2 has 1 of 2 signatures" in refused.stderr
    # Bob's machine has a copy, which comes back on a stick.
    shutil.copytree("governance", "stick")
    signed = repository.ok(
        "governance", "sign", "--repository", "stick", "--key", "bob.pem", "--yes", "--json"
    )
    assert signed.json["signed"] == ["targets"]
    run("sign", "--merge", "stick")
    assert repository.ok("governance", "publish", "--repository", "governance", "--json").json["version"] == 2


class Terminal(io.StringIO):
    """Somebody who answers."""

    def isatty(self) -> bool:
        return True


def test_nobody_said_yes(repository: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    in_repository(repository)("revoke", "--requester", "4242")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    sign = ("governance", "sign", "--repository", "governance", "--key", "alice.pem")
    refused = repository(*sign)
    assert refused.status == 64
    assert "revoked: requester 4242" in refused.stderr
    assert "Sign this? Confirm on a terminal, or with --yes" in refused.stderr
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    refused = repository(*sign)
    assert refused.status == 1
    assert "nothing was done" in refused.stderr
    shown = repository.ok("governance", "show", "--repository", "governance", "--json").json
    assert [item["lacking"] for item in shown["roles"] if item["staged"]] == [2]


def test_revoking(repository: Cli) -> None:
    run = in_repository(repository)
    digest = "ab" * 32
    run(
        "revoke",
        "--artifact",
        digest,
        "--key",
        digest,
        "--host",
        digest,
        "--subject",
        digest,
        "--requester",
        "7",
    )
    run("revoke", "--epoch", "2", "--epoch-key", "tpm epoch.pem")
    found = trust().revocations
    assert (found.artifacts, found.keys, found.hosts, found.subjects, found.requesters) == (
        *[{digest}] * 4,
        {7},
    )
    assert found.bump is not None
    assert (found.epoch, found.bump.epoch) == (2, 2)
    for wrong, said in (
        ((), "nothing to revoke"),
        (("--epoch", "3"), "--epoch-key is needed"),
        (("--epoch", "3", "--epoch-key", "alice.pem"), "not the epoch authority's"),
        (("--epoch", "2", "--epoch-key", "tpm epoch.pem"), "expected 3 or more"),
        (("--artifact", "abcd"), "artifacts"),
    ):
        refused = repository("governance", "revoke", "--repository", "governance", *wrong)
        assert refused.status in (64, 65), refused
        assert said in refused.stderr


def test_a_team(repository: Cli) -> None:
    run = in_repository(repository)
    run(
        "delegate", "web", "--key", "carol.pem", "--path", "/usr/bin/deploy", "--uid", "0", "--max-depth", "1"
    )
    team = {
        "v": 1,
        "version": 1,
        "keys": trust_keys("carol"),
        "authorizations": [
            {
                "name": "deploy",
                "paths": ["/usr/bin/deploy"],
                "uids": [0],
                "keys": list(trust_keys("carol")),
                "threshold": 1,
                "max_depth": 0,
            }
        ],
    }
    Path("team.json").write_text(json.dumps(team))
    run("add", "teams/web/authorities.json", "team.json")
    for name in ("alice", "bob"):
        run("sign", "--key", f"{name}.pem", "--yes")
    refused = repository("governance", "publish", "--repository", "governance")
    assert "team-web version 1 has 0 of 1 signatures" in refused.stderr
    run("sign", "--key", "carol.pem", "--yes")
    run("publish")
    assert [rule.name for rule in trust().authorities.rules] == ["all", "web/deploy"]
    # What goes beyond the team's scope never leaves the desk.
    team["authorizations"][0]["paths"] = ["/usr/bin/"]  # type: ignore[index]
    Path("team.json").write_text(json.dumps({**team, "version": 2}))
    refused = repository(
        "governance", "add", "--repository", "governance", "teams/web/authorities.json", "team.json"
    )
    assert refused.status == 1
    assert "goes beyond the team's scope" in refused.stderr
    run("delegate", "web", "--remove")
    assert "- " not in repository.ok("governance", "diff", "--repository", "governance").stderr
    for name in ("alice", "bob"):
        run("sign", "--key", f"{name}.pem", "--yes")
    run("publish")
    assert not trust().authorities.teams
    refused = repository("governance", "delegate", "--repository", "governance", "web", "--remove")
    assert refused.status == 64
    run("delegate", "web", "--key", "carol.pem", "--path", "/usr/bin/deploy")
    with served(Path("web")) as url:
        anchor = Path("governance/published/metadata/1.root.json").read_bytes()
        Reference(Path("client"), url, anchor).download(["authorities.json"])


def trust_keys(name: str) -> dict[str, dict[str, str]]:
    key = ed25519_key(name)
    return {key_id(key): {"spki": b64encode(spki(key)).decode()}}


def test_roles(repository: Cli) -> None:
    run = in_repository(repository)
    write_key(Path(), "new")
    run("role", "targets", "--add", "carol.pem", "--remove", "bob.pem")
    run("role", "online", "--add", "new.pem", "--remove", trust_id("online"))
    run("role", "root", "--add", "new.pem", "--threshold", "2")
    diff = repository.ok("governance", "diff", "--repository", "governance").stdout
    for expected in (
        f"! roles: role targets: +key {trust_id('carol')}",
        f"  roles: role targets: -key {trust_id('bob')}",
        "  roles: role root: threshold 1 -> 2",
    ):
        assert expected in diff
    for name in ("root", "new", "alice", "carol"):
        run("sign", "--key", f"{name}.pem", "--yes")
    refused = repository("governance", "publish", "--repository", "governance")
    assert "online keys" in refused.stderr
    run("publish", "--online", "new.pem")
    run("refresh", "--online", "new.pem")
    refused = repository("governance", "role", "--repository", "governance", "root", "--remove", "alice.pem")
    assert "does not sign for root" in refused.stderr
    refused = repository("governance", "role", "--repository", "governance", "root")
    assert "nothing would change" in refused.stderr


def test_rules(repository: Cli) -> None:
    run = in_repository(repository)
    two = ("--key", "bob.pem", "--key", "carol.pem")
    run("rule", "deploy", "--path", "/usr/bin/deploy", *two, "--uid", "0", "--max-depth", "1")
    run("rule", "rest", "--path", "/opt/", *two, "--threshold", "1", "--last")
    found = {rule.name: rule for rule in trust().authorities.rules}
    assert list(found) == ["deploy", "all", "rest"]
    assert (found["deploy"].threshold, found["deploy"].uids, found["deploy"].max_depth) == (2, {0}, 1)
    assert {key.key_id for key in found["rest"].keys} == {trust_id("bob"), trust_id("carol")}
    run("rule", "deploy", "--threshold", "1", "--path", "/usr/bin/deploy2")
    diff = repository.ok("governance", "diff", "--repository", "governance").stdout
    assert "authority deploy: added: key " in diff
    run("rule", "rest", "--remove")
    assert [rule.name for rule in trust().authorities.rules] == ["deploy", "all"]


def trust_id(name: str) -> str:
    return next(iter(trust_keys(name)))


def test_staging_by_hand(repository: Cli) -> None:
    run = in_repository(repository)
    path = Path("governance/staged/targets/revocations.json")
    value = json.loads(path.read_bytes())
    path.write_text(json.dumps({**value, "requesters": [7]}, indent=2))
    refused = repository("governance", "stage", "--repository", "governance")
    assert refused.status == 64
    assert "its version must rise: expected 2 or more, found 1" in refused.stderr
    path.write_text(json.dumps({**value, "requesters": [7], "version": 2}, indent=2))
    run("stage")
    assert trust().revocations.requesters == {7}
    run("stage", "--reset", "revocations.json")
    assert trust().revocations.requesters == frozenset()
    run("stage", "--renew", "root", "--renew", "targets")
    shown = repository.ok("governance", "show", "--repository", "governance", "--json").json
    assert [item["version"] for item in shown["roles"] if item["staged"]] == [2, 2]
    run("stage", "--reset")
    assert "nothing changes" in repository.ok("governance", "diff", "--repository", "governance").stdout
    run("remove", "policy/exec.cedar")
    assert "permit all: removed" in repository.ok("governance", "diff", "--repository", "governance").stdout


def test_enrolling(repository: Cli) -> None:
    """A host's request becomes a record that hosts accept; an enroller who is none cannot admit anybody."""
    world = fleet_world()
    Path("authorities.json").write_bytes(canonical({**world.authorities, "version": 2}))
    run = in_repository(repository)
    run("add", "authorities.json", "authorities.json")
    now = datetime.now(UTC)
    times = {
        "not_before": format_time(now - timedelta(hours=30.5)),
        "not_after": format_time(now + timedelta(days=9)),
    }
    Path("request.json").write_bytes(canonical({**world.records[world.host.id], **times}))
    enroll = ("governance", "enroll", "--repository", "governance", "request.json", "--yes")
    refused = repository(*enroll, "--key", "carol.pem")
    assert refused.status == 1
    assert "no host would accept it" in refused.stderr
    done = repository.ok(*enroll, "--key", "enroller.pem")
    assert world.host.id in done.stderr, "what is signed is shown first"
    assert f"WARNING: it waited: it begins at {times['not_before']}, 1 day ago" in done.stderr
    assert trust().hosts.keys() == {world.host.id}
    assert repository(*enroll).status == 64
    Path("request.json").write_bytes(b"{}")
    assert repository(*enroll, "--key", "enroller.pem").status == 65


def test_what_was_seen_is_what_is_signed(repository: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another enroller's record of this host is published while somebody looks: that one would end."""
    world = fleet_world()
    Path("authorities.json").write_bytes(canonical({**world.authorities, "version": 2}))
    run = in_repository(repository)
    run("add", "authorities.json", "authorities.json")
    other = world.host_record(world.host.reinstalled("other", root=world.root))
    Path("first.json").write_bytes(canonical(world.records[world.host.id]))
    Path("second.json").write_bytes(canonical(other))
    enroll = ("governance", "enroll", "--repository", "governance", "--key", "enroller.pem")

    def published() -> None:
        repository.ok(*enroll, "first.json", "--yes")
        for name in ("alice", "bob"):
            run("sign", "--key", f"{name}.pem", "--yes")
        run("publish")

    monkeypatch.setattr(sys, "stdin", Meanwhile(published, "y"))
    refused = repository(*enroll, "second.json")
    assert (refused.status, "has changed meanwhile" in refused.stderr) == (64, True), refused
    assert "the keys before" not in refused.stderr
    shown = repository.ok("governance", "show", "--repository", "governance", "--json").json
    assert not [item["role"] for item in shown["roles"] if item["staged"]]
    assert "WARNING: the keys before" in repository.ok(*enroll, "second.json", "--yes").stderr


def test_two_enrollers(repository: Cli) -> None:
    world = fleet_world()
    world.authorities["enrollers"] = {"keys": [trust_id("enroller"), trust_id("carol")], "threshold": 2}
    world.authorities["keys"] |= trust_keys("carol")
    Path("authorities.json").write_bytes(canonical({**world.authorities, "version": 2}))
    in_repository(repository)("add", "authorities.json", "authorities.json")
    Path("request.json").write_bytes(canonical(world.records[world.host.id]))
    enroll = ("governance", "enroll", "--repository", "governance", "--yes")
    refused = repository(*enroll, "request.json", "--key", "enroller.pem")
    assert refused.status == 1
    repository.ok(*enroll, "request.json", "--key", "enroller.pem", "-o", "half.json")
    assert repository(*enroll, "half.json", "--key", "enroller.pem").status == 1, "one key twice is one"
    repository.ok(*enroll, "half.json", "--key", "carol.pem")
    (host,) = trust().hosts.values()
    assert set(host.enrollers) == {trust_id("enroller"), trust_id("carol")}
    for name in ("alice", "bob", "root"):
        repository("governance", "sign", "--repository", "governance", "--key", f"{name}.pem", "--yes")
    repository.ok("governance", "publish", "--repository", "governance")
    # It comes again, with other labels: both sign the new record, and that the old one ends.
    begins = world.now + timedelta(hours=1)
    again = {**world.records[world.host.id], "labels": {"role": "new"}, "not_before": format_time(begins)}
    Path("request.json").write_bytes(canonical(again))
    one = ("request.json", "--key", "enroller.pem", "-o", "again.json")
    assert repository(*enroll, *one).status == 64, "without --ended the next one does not get it"
    assert not Path("again.json").exists()
    repository.ok(*enroll, *one, "--ended", "ended.json")
    assert repository(*enroll, "again.json", "--key", "carol.pem").status == 1
    assert repository(*enroll, "again.json", "--key", "carol.pem", "--ended", "half.json").status == 64
    repository.ok(*enroll, "again.json", "--key", "carol.pem", "--ended", "ended.json")
    assert trust().hosts[host.host].labels == {"role": "new"}
    [past] = trust().host_history[host.host]
    assert (past.labels, past.not_after) == (host.labels, begins + timedelta(minutes=5))
    # Or both keys are at one place.
    repository.ok("governance", "stage", "--repository", "governance", "--reset")
    assert repository(*enroll, "request.json", "--key", "carol.pem").status == 1
    repository.ok(*enroll, "request.json", "--key", "carol.pem", "--key", "enroller.pem")
    assert trust().host_history[host.host][0].not_after == past.not_after


def fleet_world() -> World:
    """A world whose enroller is the office's."""
    world = World()
    world.enrollers = [ed25519_key("enroller")]
    world.authorities["enrollers"]["keys"] = [trust_id("enroller")]
    world.authorities["keys"] |= trust_keys("enroller")
    return world


def test_a_mesh(repository: Cli) -> None:
    run = in_repository(repository)
    Path("vkeys").write_text(f"{MESH_WITNESS}\nanother\n")
    run(
        *(
            "mesh",
            "one",
            "--url",
            "https://one.example:8440",
            "--enroller",
            "enroller.pem",
            "--verifier",
            "carol.pem",
        ),
        *("--witness", "vkeys", "--verifiers", "1", "--witnesses", "1"),
    )
    run("allow", "8" * 64, "9" * 64, "--tier", "software")
    run("allow", "9" * 64, "--remove")
    found = trust()
    assert found.mesh.verifiers["one"].key.key_id == key_id(ed25519_key("carol"))
    assert found.mesh.witnesses["one"].url == "https://one.example:8440/witness"
    assert (found.mesh.verifier_quorum, found.mesh.witness_quorum) == (1, 1)
    assert found.ek.allowed == {"8" * 64: "software"}
    shown = repository.ok("governance", "diff", "--repository", "governance").stdout
    assert "mesh.json: " in shown
    run("mesh", "one", "--remove", "--verifiers", "0", "--witnesses", "0")
    assert trust().mesh.verifiers == {}


def test_another_key_in_the_mesh(repository: Cli) -> None:
    """The version before goes to the history by itself; however often it is edited, the next version is one more."""
    run = in_repository(repository)
    run("mesh", "one", "--url", "https://one.example:8440", "--verifier", "carol.pem", "--verifiers", "1")

    def publish() -> None:
        for name in ("alice", "bob"):
            run("sign", "--key", f"{name}.pem", "--yes")
        run("publish")

    publish()
    run("mesh", "one", "--verifier", "alice.pem")
    run("mesh", "one", "--verifier", "bob.pem", "--handover", "8h")
    shown = repository.ok("governance", "diff", "--repository", "governance").stdout
    assert "  mesh/history/1.json: kept, for old receipts name it" in shown
    assert "  mesh.json: mesh: version 1 -> 2" in shown
    assert "  mesh.json: mesh: handover 20" in shown
    publish()
    now = datetime.now(UTC)
    earlier = trust().mesh_version(1)
    assert earlier.verifiers["one"].key.key_id == trust_id("carol")
    assert earlier.until is not None
    assert timedelta(hours=7.9) < earlier.until - now < timedelta(hours=8)
    run("mesh", "--verifiers", "0")
    until = trust().mesh_version(2).until
    assert until is not None
    assert timedelta(days=6.9) < until - now < timedelta(days=7.1), "as long as a timestamp holds"
    # A witness's keys are revoked by its vkeys: all of them, whichever `mesh.json` names.
    found = [parse_vkey(MESH_WITNESS), parse_vkey(OTHER_WITNESS)]
    Path("vkeys").write_text(f"{MESH_WITNESS}\nanother\n")
    assert "nothing but vkeys" in repository("governance", "revoke", "--key", "vkeys").stderr
    Path("vkeys").write_text(f"{MESH_WITNESS}\n{OTHER_WITNESS}\n")
    run("revoke", "--key", "vkeys")
    assert trust().revocations.keys == {witness_key_id(key) for key in found}


def test_an_enroller_that_the_mesh_names_has_another_key(repository: Cli) -> None:
    run = in_repository(repository)
    run("mesh", "one", "--url", "https://one.example:8440", "--enroller", "enroller.pem")
    for name in ("alice", "bob"):
        run("sign", "--key", f"{name}.pem", "--yes")
    run("publish")
    write_key(Path(), "new")
    shown = repository.ok(
        *("authority", "rotate", "--repository", "governance", "--role", "enrollers", "new.pem", "--yes")
    )
    assert "mesh.json: enroller" in shown.stdout
    found = trust()
    assert found.mesh.enrollers["one"].key_id == trust_id("new")
    assert (found.mesh.version, found.mesh_version(1).until) == (2, found.mesh.handover)
    # In another role the mesh does not change.
    run("stage", "--reset")
    repository.ok(
        "authority", "rotate", "--repository", "governance", "--old", trust_id("alice"), "new.pem", "--yes"
    )
    assert trust().mesh.version == 1


def test_misuse(repository: Cli) -> None:
    for arguments, status, said in (
        (("init", "governance", "--root", "root.pem", "--targets", "alice.pem", "--online", "online.pem"), 64, "not empty"),
        (("init", "x", "--root", "root.pem", "--targets", "alice.pem", "--online", "online.pem", "--enroller", "bob.pem"), 64, "go together"),
        (("init", "x", "--root", "root.pem", "--targets", "alice.pem", "--online", "online.pem", "--expiry", "root=0"), 64, "ROLE=DAYS"),
        (("init", "x", "--root", "root.pem", "--targets", "alice.pem", "--online", "online.pem", "--expiry", "foo=3"), 64, "with a role of root, targets, snapshot, timestamp"),
        (("init", "x", "--root", "root.pem", "--targets", "alice.pem", "--online", "online.pem", "--expiry", "root=x"), 64, "--expiry root=x: expected ROLE=DAYS"),
        (("init", "x", "--root", "root.pem", "--root-threshold", "2", "--targets", "alice.pem", "--online", "online.pem"), 64, "expected 1 to 1"),
        (("sign",), 64, "--key is needed"),
        (("sign", "--key", "alice.pem", "--merge", "governance"), 64, "either --key or --merge"),
        (("mesh",), 64, "nothing would change"),
        (("mesh", "one"), 64, "NAME goes with"),
        (("mesh", "--url", "http://a"), 64, "NAME goes with"),
        (("mesh", "one", "--remove", "--url", "http://a"), 64, "--remove goes with no --url"),
        (("mesh", "one", "--url", "http://a"), 64, "'one' is new"),
        (("mesh", "one", "--url", "http://a", "--witness", "alice.pem"), 1, "expected <name>+<key id>"),
        (("mesh", "one", "--url", "http://a", "--witness", "/dev/null"), 65, "found nothing"),
        (("mesh", "one", "--url", "http://a", "--enroller", "alice.pem"), 1, "expected a key of authorities.json's enrollers"),
        (("mesh", "--verifiers", "1"), 1, "a quorum of 1, and 0 to reach it"),
        (("allow", "8" * 64), 64, "either --tier, or --remove"),
        (("allow", "x", "--tier", "software"), 65, "ek-allow.json"),
        (("rule", "x"), 64, "--key and --path"),
        (("rule", "x", "--remove"), 64, "there is no rule"),
        (("rule", "all", "--threshold", "3"), 65, "asks for 3 of 2"),
        (("sign", "--key", "carol.pem"), 64, "signs nothing of what is staged"),
        (("stage", "policy/exec.cedar"), 64, "--reset"),
        (("stage", "--renew", "team-none"), 64, "expected one of root, targets"),
        (("remove", "platform/none.json"), 64, "is not staged"),
        (("add", "../x", "alice.pem"), 64, "expected a relative name"),
        (("add", "notes.txt", "alice.pem"), 65, "unknown file"),
        (("add", "authorities.json", "alice.pem"), 65, "authorities.json"),
        (("delegate", "web"), 64, "--key and --path"),
        (("delegate", "web", "--remove"), 64, "no team"),
        (("publish", "--online", "carol.pem"), 0, ""),
        (("refresh", "--online", "carol.pem"), 64, "online keys"),
        (("role", "timestamp"), 64, "role"),
    ):  # fmt: skip
        command, *rest = arguments
        place = () if command == "init" else ("--repository", "governance")
        done = repository("governance", command, *place, *rest)
        assert done.status == status, (arguments, done)
        assert said in done.stderr, (arguments, done)


def test_a_role_that_expires_before_long(office: Cli) -> None:
    create(office, *FLEET, "--expiry", "targets=20", "--expiry", "timestamp=2")
    for name in ("root", "alice", "bob"):
        office.ok("governance", "sign", "--repository", "governance", "--key", f"{name}.pem", "--yes")
    for command in ("publish", "refresh", "show"):
        said = office.ok("governance", command, "--repository", "governance").stderr
        assert "targets holds until" in said
        assert "--renew targets" in said
        assert "root holds" not in said


def test_which_repository(repository: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = repository("governance", "show")
    assert refused.status == 64
    assert "--repository" in refused.stderr
    monkeypatch.setenv("ATTESTD_REPOSITORY", "governance")
    repository.ok("governance", "show")
    monkeypatch.delenv("ATTESTD_REPOSITORY")
    monkeypatch.chdir("governance")
    repository.ok("governance", "show")


def test_a_platform_policy_of_a_fleet(repository: Cli) -> None:
    """From PCR values of a reference machine; what replaces it keeps its history by itself."""
    run = in_repository(repository)
    Path("pcrs").write_text(
        "sha1:\n  0 : 0x" + "ab" * 20 + "\nsha256:\n  0 : 0x" + "AB" * 32 + "\n  11: 0x" + "0" * 64
    )
    make = (
        "platform",
        "prod",
        "--values",
        "pcrs",
        "--root-key",
        "tpm root.pem",
        "--key",
        "tpm platform.pem",
        "--yes",
    )
    run(*make)
    found = trust().platforms["prod"]
    assert (found.selection.pcrs, found.min_tier, found.values[0]) == ((0, 11), "hardware", (b"\xab" * 32,))
    for wrong, said in (
        (make, "is there"),
        ((*make[:1], "x", *make[2:4], "--root-key", "alice.pem", *make[6:]), "not the TPM root"),
        ((*make[:1], "x", *make[2:6], "--key", "tpm root.pem", "--yes"), "no platform authority"),
        ((*make[:1], "x", "--values", "alice.pem", *make[4:]), "PCR values"),
    ):
        refused = repository("governance", wrong[0], "--repository", "governance", *wrong[1:])
        assert refused.status in (64, 65), refused
        assert said in refused.stderr
    for name in ("alice", "bob"):
        run("sign", "--key", f"{name}.pem", "--yes")
    run("publish")
    value = json.loads(Path("governance/staged/targets/platform/prod.json").read_bytes())
    Path("prod.json").write_text(json.dumps({**value, "version": 2, "writable": "refuse"}))
    run("add", "platform/prod.json", "prod.json")
    assert trust().history.keys() == {("prod", 1)}
    diff = repository.ok("governance", "diff", "--repository", "governance").stdout
    assert "platform policy prod: writable copy -> refuse" in diff
    assert "kept, for old receipts name it" in diff
    run("remove", "platform/history/prod-1.json")
    assert trust().history.keys() == {("prod", 1)}, "it cannot be removed while it is the published version"


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", "0 : 0x00", "sha256:\n 0 : 0xzz", '{"pcrs": {}}', '{"pcrs": {"0": {"now": "x"}}, "bank": "sha256"}', "\xff",
     "sha256:\n 24 : 0x" + "0" * 64, "sha256:\n 1 : 0x" + "0" * 64 + "\n 01 : 0x" + "0" * 64],
)  # fmt: skip
def test_no_pcr_values(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_pcr_values(text.encode("latin-1"))


def test_pcr_values_as_they_are_shown() -> None:
    shown = {"bank": "sha256", "pcrs": {"4": {"now": "ab" * 32, "approved": []}}, "platform": "local"}
    assert parse_pcr_values(json.dumps(shown).encode()) == {4: b"\xab" * 32}


def test_keys_in_a_token(office: Cli, token: str) -> None:
    """Root and online are keys in a PKCS#11 token (SoftHSM): what they sign, the reference client accepts."""
    Path("pin").write_text(PIN)
    Path("pin").chmod(0o600)
    pin = ("--passphrase-file", "pin")
    root, online = f"hsm:41?label={token}", f"hsm:42?label={token}"
    for name, uri in (("hsm-root", root), ("hsm-online", online)):
        office.ok("authority", "keygen", "--kind", "p256", "--hsm", uri, *pin, name)
    office.ok(
        *("governance", "init", "governance", "--root", "hsm-root.pub", "--targets", "alice.pem"),
        *("--online", "hsm-online.pub", *FLEET),
    )
    place = ("--repository", "governance")
    office.ok("governance", "sign", *place, "--key", root, "--public-key", "hsm-root.pub", *pin, "--yes")
    office.ok("governance", "sign", *place, "--key", "alice.pem", "--yes")
    with_key = ("--online", online, "--public-key", "hsm-online.pub", *pin)
    office.ok("governance", "publish", *place, *with_key, "--to", "web")
    office.ok("governance", "refresh", *place, *with_key, "--to", "web")
    with served(Path("web")) as url:
        anchor = Path("web/metadata/1.root.json").read_bytes()
        Reference(Path("client"), url, anchor).download(["authorities.json"])


def test_the_reference_client_is_not_fooled(repository: Cli) -> None:
    """The published directory, altered: not by us, and the reference client says so."""
    with served(Path("web")) as url:
        anchor = Path("governance/published/metadata/1.root.json").read_bytes()
        client = Reference(Path("client"), url, anchor)
        client.download(["authorities.json"])
        for path in Path("web/targets").rglob("*revocations.json"):
            path.write_bytes(b"{}")
        updater = Updater("client", f"{url}/metadata/", "client", f"{url}/targets/", bootstrap=anchor)
        info = updater.get_targetinfo("revocations.json")
        assert info is not None
        with pytest.raises(Exception, match=r"[Ll]ength|hash"):
            updater.download_target(info)
    repository.ok("governance", "publish", "--repository", "governance")
    assert all(path.read_bytes() != b"{}" for path in Path("web/targets").rglob("*revocations.json"))
