"""`attestd governance mesh`, `allow`: controllers, their keys, and the versions before."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attestd.distribution.repository import Repository
from attestd.governance.mesh import witness_key_id
from attestd.strict import format_time
from attestd.tlog.vkey import cosignature_vkey, format_vkey, parse_vkey
from tests.cli.conftest import Cli
from tests.cli.fleet import in_repository, publish, trust, trust_id
from tests.distribution.repositories import write_key
from tests.world import ed25519_key, key_id

MESH_WITNESS = format_vkey(
    cosignature_vkey("one.example/1", ed25519_key("witness").public_key().public_bytes_raw())
)
OTHER_WITNESS = format_vkey(
    cosignature_vkey("one.example/1", ed25519_key("other").public_key().public_bytes_raw())
)


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
    publish(repository)
    run("mesh", "one", "--verifier", "alice.pem")
    run("mesh", "one", "--verifier", "bob.pem", "--handover", "30d")
    shown = repository.ok("governance", "diff", "--repository", "governance").stdout
    assert "  mesh/history/1.json: kept, for old receipts name it" in shown
    assert "  mesh.json: mesh: version 1 -> 2" in shown
    assert "  mesh.json: mesh: handover 20" in shown
    publish(repository)
    now = datetime.now(UTC)
    earlier = trust().mesh_version(1)
    assert earlier.verifiers["one"].key.key_id == trust_id("carol")
    assert earlier.until is not None
    assert timedelta(days=29.9) < earlier.until - now < timedelta(days=30)
    run("mesh", "--verifiers", "0")
    until = trust().mesh_version(2).until
    assert until is not None
    assert timedelta(days=13.9) < until - now < timedelta(days=14.1), "as a timestamp holds, and time to sign"
    # A witness's keys are revoked by its vkeys: all of them, whichever `mesh.json` names.
    found = [parse_vkey(MESH_WITNESS), parse_vkey(OTHER_WITNESS)]
    Path("vkeys").write_text(f"{MESH_WITNESS}\nanother\n")
    assert "nothing but vkeys" in repository("governance", "revoke", "--key", "vkeys").stderr
    Path("vkeys").write_text(f"{MESH_WITNESS}\n{OTHER_WITNESS}\n")
    run("revoke", "--key", "vkeys")
    assert trust().revocations.keys == {witness_key_id(key) for key in found}


def test_a_handover_that_is_shorter_than_hosts_go_by_what_they_have(repository: Cli) -> None:
    """Said where it is staged, where it is signed, and where it is published; a stolen key is no reason to wait."""
    run = in_repository(repository)
    run("mesh", "one", "--url", "https://one.example:8440", "--verifier", "carol.pem")
    publish(repository)
    place = ("--repository", "governance")
    short = ("governance", "mesh", *place, "one", "--verifier", "bob.pem", "--handover", "8h")
    refused = repository(*short)
    assert refused.status == 64
    for said in (
        "hosts may go by version 1 until",
        "what they do after the handover and before they have this version will not verify",
        "--short-handover",
    ):
        assert said in refused.stderr
    assert trust().mesh.version == 1
    long = repository(*short[:-1], "373d")
    assert (long.status, "expected at most 372 days from now" in long.stderr) == (64, True), long
    warned = "WARNING: mesh.json: handover: "
    assert warned in repository.ok(*short, "--short-handover").stderr
    assert warned in repository.ok("governance", "diff", *place).stderr
    for name in ("alice", "bob"):
        signed = repository.ok("governance", "sign", *place, "--key", f"{name}.pem", "--yes")
        assert warned in signed.stderr
    refused = repository("governance", "publish", *place)
    assert (refused.status, "hosts may go by version 1 until" in refused.stderr) == (64, True), refused
    assert warned in repository.ok("governance", "publish", *place, "--short-handover").stderr
    assert trust().mesh.version == 2
    # An edit by hand is warned of as well.
    path = Path("governance/staged/targets/mesh.json")
    handover = format_time(datetime.now(UTC) + timedelta(hours=8))
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "version": 3, "handover": handover}))
    assert warned in repository.ok("governance", "stage", *place).stderr


def test_a_controller_that_was_removed_elsewhere_does_not_come_back(repository: Cli) -> None:
    """A copy of before, to which the newer published files came: what is staged there has the controller still."""
    run = in_repository(repository)
    for name, key in (("one", "carol.pem"), ("two", "bob.pem")):
        run("mesh", name, "--url", f"https://{name}.example:8440", "--verifier", key)
    run("allow", "8" * 64, "9" * 64, "--tier", "software")
    publish(repository)
    shutil.copytree("governance", "second")
    old = ("mesh", "--repository", "second", "one", "--url", "https://one.example:9000")
    repository.ok("governance", *old)
    run("mesh", "two", "--remove")
    run("allow", "9" * 64, "--remove")
    publish(repository)
    shutil.rmtree("second/published")
    shutil.copytree("governance/published", "second/published")
    for command in (old, ("allow", "--repository", "second", "7" * 64, "--tier", "software")):
        refused = repository("governance", *command)
        assert refused.status == 64
        assert "targets version 3 is published, and what is staged was made from another" in refused.stderr
        assert "(ek-allow.json, mesh.json differ)" in refused.stderr
    repository.ok("governance", "stage", "--reset", "--repository", "second")
    repository.ok("governance", *old)
    found = Repository(Path("second")).validate().trust
    assert (found.mesh.verifiers.keys(), found.ek.allowed.keys()) == ({"one"}, {"8" * 64})


def test_an_enroller_that_the_mesh_names_has_another_key(repository: Cli) -> None:
    run = in_repository(repository)
    run("mesh", "one", "--url", "https://one.example:8440", "--enroller", "enroller.pem")
    publish(repository)
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
