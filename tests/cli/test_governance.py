"""`attestd governance`: from the keys of a fleet to published files, by two persons on two machines."""

import io
import json
import shutil
from pathlib import Path

import pytest
from tuf.ngclient import Updater

from tests.cli.conftest import Cli
from tests.cli.fleet import FLEET, create, in_repository, trust
from tests.distribution.repositories import Reference, served
from tests.softhsm import PIN
from tests.world import World

FORBID = '@id("deny-nobody") forbid (principal == User::"65534", action, resource);\n'


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
