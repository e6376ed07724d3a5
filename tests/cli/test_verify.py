"""`attestd verify`: offline, from files alone."""

import json
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from attestd.agent.mesh import result_body
from attestd.agent.standalone import LocalAuthorities
from attestd.gate.decide import decide
from attestd.governance.signed import MAX_BYTES
from attestd.paths import find_layout
from attestd.strict import canonical, format_time
from attestd.tlog.tree import verify_consistency
from tests.cli.conftest import Cli, ran
from tests.host import Host
from tests.results import result, sealed, token, verifiers
from tests.world import World, key_id, mesh_file, p256, with_cosignatures, witness


@pytest.fixture
def offline(running: Host, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A directory with copies of what a host gives away, and no way back to that host."""
    shutil.copytree(running.layout.trust, "trust")
    cli.ok("audit", "prove", ran(running), "-o", "run.tlog-proof")
    cli.ok("quote", "--challenge", "00112233", "-o", "host.quote.json")
    cli.ok("authorization", "issue", "--", "id")
    cli.ok("audit", "export", "export")
    with sqlite3.connect(running.layout.log) as source, sqlite3.connect("log.db") as copy:
        source.backup(copy)
    copy.close()
    source.close()
    monkeypatch.setenv("ATTESTD_STATE_DIR", "/nonexistent")
    monkeypatch.setenv("ATTESTD_SOCKET", "/nonexistent/socket")
    return cli


GIVEN = [
    ("receipt", "run.tlog-proof"),
    ("quote", "host.quote.json"),
    ("artifact", "id.auth.json"),
    ("log", "log.db"),
    ("log", "export"),
]


@pytest.mark.parametrize(("what", "file"), GIVEN)
def test_what_a_host_gives_away_verifies(what: str, file: str, offline: Cli) -> None:
    shown = offline.ok("verify", what, file, "--trust", "trust")
    assert shown.stdout.startswith("✓ "), shown
    assert shown.stderr == ""
    assert "by governance version " in shown.stdout
    assert offline.ok("verify", what, file, "--trust", "trust", "--json").json["verified"] is True


@pytest.mark.parametrize(("what", "file"), GIVEN)
def test_under_other_trust_nothing_does(what: str, file: str, offline: Cli, running: Host) -> None:
    # Without the host's record nobody's keys are known; an artifact needs none, but can be revoked.
    other = find_layout("other")
    shutil.copytree("trust", other.trust)
    shutil.copytree(running.layout.authority, other.authority)
    authorities = LocalAuthorities(other)
    if what == "artifact":
        revocations = json.loads(authorities.files()["revocations.json"])
        revocations["artifacts"] += [offline.ok("authorization", "inspect", "--json", file).json["id"]]
        revocations["version"] += 1
        authorities.publish({"revocations.json": canonical(revocations)})
    else:
        authorities.publish({f"hosts/{running.id}.json": None})
    result = offline("verify", what, file, "--trust", other.trust)
    assert result.status in (1, 65), result
    assert result.stderr


@pytest.mark.parametrize(("what", "file"), GIVEN[:4])
def test_what_is_none_of_it_is_malformed(what: str, file: str, offline: Cli) -> None:
    Path(file).write_bytes(b"nonsense")
    result = offline("verify", what, file, "--trust", "trust")
    assert result.status == 65, result
    assert result.stderr.count("\n") == 1


def test_the_receipt_says_what_it_proves(offline: Cli, running: Host) -> None:
    found = offline.ok("verify", "receipt", "run.tlog-proof", "--trust", "trust", "--json").json
    assert found["type"] == "decision.allow"
    assert found["released"] is True
    assert found["host"] == running.id
    assert found["tier"] == "software"
    assert found["body"]["argv"] == ["/usr/bin/id", "-u"]


def test_another_challenge(offline: Cli) -> None:
    good = offline.ok(
        "verify", "quote", "host.quote.json", "--trust", "trust", "--challenge", "00112233", "--json"
    ).json
    assert good["challenge_given"] is True
    assert good["approved_by"] == {"local": True}
    bad = offline("verify", "quote", "host.quote.json", "--trust", "trust", "--challenge", "00112234")
    assert bad.status == 1
    assert (
        "not shown to be fresh" in offline.ok("verify", "quote", "host.quote.json", "--trust", "trust").stdout
    )


def test_a_quote_with_other_values(offline: Cli) -> None:
    document = json.loads(Path("host.quote.json").read_bytes())
    document["pcrs"]["sha256"]["7"] = "ab" * 32
    Path("host.quote.json").write_text(json.dumps(document))
    result = offline("verify", "quote", "host.quote.json", "--trust", "trust", "--json")
    assert result.status == 1
    assert result.json["verified"] is False
    assert "composite" in result.json["problem"]


def test_a_log_that_was_edited(offline: Cli) -> None:
    with sqlite3.connect("log.db") as database:
        database.execute("DROP TRIGGER leaves_no_update")
        database.execute(
            "UPDATE leaves SET entry = CAST(replace(CAST(entry AS TEXT), '/usr/bin/id', '/usr/bin/no') AS BLOB)"
        )
        database.execute(
            "CREATE TRIGGER leaves_no_update BEFORE UPDATE ON leaves BEGIN SELECT RAISE(ABORT, 'leaves is append-only'); END"
        )
    database.close()
    result = offline("verify", "log", "log.db", "--trust", "trust")
    assert result.status == 1
    assert "does NOT verify" in result.stdout


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tile/entries/000.p/{n}", b"/usr/bin/id", b"/usr/bin/no"),
        ("tile/entries/000.p/{n}", b'"seq":2', b'"seq":3'),
        ("tile/entries/000.p/{n}", b'"type":"agent.start"', b'"type":"agent.stxxx"'),
        ("tile/0/000.p/{n}", None, None),
        ("checkpoint", b"release", b"record"),
        ("checkpoint", b"attestd.batch", b"attestd.botch"),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else None,
)
def test_an_export_that_was_edited(file: str, old: bytes | None, new: bytes | None, offline: Cli) -> None:
    size = offline.ok("verify", "log", "export", "--trust", "trust", "--json").json["size"]
    path = Path("export") / file.format(n=size)
    data = path.read_bytes()
    if old is None or new is None:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif old == b"release":
        path.write_bytes(
            data.replace(b"record", b"release") if b" record " in data else data.replace(old, new)
        )
    else:
        assert old in data
        path.write_bytes(data.replace(old, new))
    assert offline("verify", "log", "export", "--trust", "trust").status in (1, 65)


def test_an_export_that_lacks_a_file(offline: Cli) -> None:
    (Path("export") / "checkpoint").unlink()
    assert offline("verify", "log", "export", "--trust", "trust").status == 65


def test_a_trust_directory_that_others_can_write(offline: Cli) -> None:
    (Path("trust") / "root.json").chmod(0o666)
    result = offline("verify", "receipt", "run.tlog-proof", "--trust", "trust")
    assert result.status == 1
    assert "the trust directory trust cannot be used" in result.stderr


def test_consistency_proof(cli: Cli) -> None:
    cli.ok("audit", "prove", "--consistency", "2", "4", "-o", "grew.json")
    found = json.loads(Path("grew.json").read_bytes())
    verify_consistency(
        old_size=found["old"]["size"],
        old_root=bytes.fromhex(found["old"]["root"]),
        new_size=found["new"]["size"],
        new_root=bytes.fromhex(found["new"]["root"]),
        proof=[bytes.fromhex(node) for node in found["proof"]],
    )
    assert (found["old"]["size"], found["new"]["size"]) == (2, 4)
    assert cli("audit", "prove", "--consistency", "4", "2").status == 64
    assert cli("audit", "prove", "--consistency", "1", "100000").status == 64
    assert cli("audit", "prove", "2", "--consistency", "1", "2").status == 64


@pytest.fixture
def published(nowhere: Cli) -> Cli:
    """What a web server has of a fleet's governance, the root of trust elsewhere, and a receipt that two verified for."""
    world = World()
    world.extra["mesh.json"] = verifiers("one", "two", quorum=2)
    results = [result(world, name) for name in ("one", "two")]
    decision = decide(world.request(), world.context(results=results))
    Path("run.tlog-proof").write_bytes(world.receipt(decision.body))
    world.write_trust(Path("web"))
    Path("web/root.json").rename("given.root.json")
    return nowhere


def test_a_receipt_names_the_verifiers_that_counted(published: Cli) -> None:
    found = published.ok(
        "verify", "receipt", "run.tlog-proof", "--trust", "web", "--root", "given.root.json", "--json"
    )
    assert found.json["verifiers"] == [
        {"verifier": name, "status": "affirming", "tier": "software"} for name in ("one", "two")
    ]
    shown = published.ok(
        "verify", "receipt", "run.tlog-proof", "--trust", "web", "--root", "given.root.json"
    ).stdout
    for name in ("one", "two"):
        assert f"{name}: affirming, tier software" in shown


def test_published_files_and_the_root_of_trust_do(published: Cli) -> None:
    """No trust directory has to be put together: who can write to the copy of what is published does not matter."""
    Path("web").chmod(0o777)
    given = ("verify", "receipt", "run.tlog-proof", "--trust", "web")
    without = published(*given)
    assert without.status == 64
    for words in (
        "web: expected a trust directory, found one without root.json",
        "name the root of trust",
        "--root FILE",
    ):
        assert words in " ".join(without.stderr.split())
    for root in ("given.root.json", "web/metadata/1.root.json"):
        assert published.ok(*given, "--root", root).stdout.startswith("✓ ")


def test_another_root_than_the_fleets_is_nobodys(published: Cli) -> None:
    given = ("verify", "receipt", "run.tlog-proof", "--trust", "web", "--root")
    World("another").write_trust(Path("another"))
    other = published(*given, "another/root.json")
    assert other.status == 1
    assert "cannot be used with the root another/root.json: " in " ".join(other.stderr.split())
    for data in (b"", b"nonsense", b" " * (MAX_BYTES["root"] + 1)):
        Path("bad").write_bytes(data)
        assert published(*given, "bad").status == 65
    # Nothing of a mirror is believed because the root is.
    timestamp = Path("web/metadata/timestamp.json")
    timestamp.write_bytes(timestamp.read_bytes().replace(b'"version":1', b'"version":2'))
    assert published(*given, "given.root.json").status == 1


def test_how_old_a_copy_is_is_said(nowhere: Cli) -> None:
    """Whoever gives it chooses: one of before a revocation, or one that expired long ago, verifies, and says what it is."""
    world = World("old", now=datetime(2015, 3, 1, 12, tzinfo=UTC))
    Path("run.tlog-proof").write_bytes(world.receipt(world.decide().body))
    world.write_trust(Path("web"))
    given = ("verify", "receipt", "run.tlog-proof", "--trust", "web", "--root", "web/root.json")
    trust = world.trust()
    assert trust.issued is not None
    issued, expires = format_time(trust.issued), format_time(trust.expires)
    over = f"these files expired at {expires} ({trust.expires_role}): what was revoked since is not known"
    shown = nowhere.ok(*given)
    assert f"by governance version 1, issued {issued}, which holds until {expires}\n" in shown.stdout
    assert over in " ".join(shown.stderr.split())
    shown = nowhere.ok(*given, "--json", "--min-version", "1")
    assert shown.json["trust"] == {"version": 1, "issued": issued, "expires": expires}
    assert over in " ".join(shown.stderr.split())
    older = nowhere(*given, "--min-version", "2")
    assert (older.status, older.stdout) == (1, "")
    assert "governance version 1, expected 2 or newer (--min-version)" in " ".join(older.stderr.split())


def test_after_a_witness_and_a_verifier_were_replaced(nowhere: Cli) -> None:
    """What was made before verifies by the version that it names; what their keys sign later does not."""
    world = World(now=datetime.now(UTC).replace(microsecond=0))
    nodes = json.loads(verifiers("one", quorum=1))["verifiers"]
    world.extra["mesh.json"] = mesh_file([witness("one")], quorum=1, verifiers=nodes)
    decision = decide(world.request(), world.context(results=[result(world, "one")]))
    handover = world.now + timedelta(seconds=60)

    def write(name: str, time: datetime) -> None:
        receipt = world.receipt(decision.body, time=time)
        Path(name).write_bytes(with_cosignatures(receipt, witness("one"), time=world.now))

    write("before.tlog-proof", world.now)
    write("later.tlog-proof", handover)
    Path("before.jwt").write_text(token(world, "one"))
    nodes = json.loads(verifiers("two", quorum=1))["verifiers"]
    world.replace_mesh(mesh_file([witness("two")], quorum=1, verifiers=nodes), handover=handover)
    world.write_trust(Path("trust"))
    shown = nowhere.ok("verify", "receipt", "before.tlog-proof", "--trust", "trust").stdout
    assert f"version 1, for what was sealed before {format_time(handover)}" in " ".join(shown.split())
    assert "cosigned by one" in " ".join(shown.split())
    later = nowhere("verify", "receipt", "later.tlog-proof", "--trust", "trust")
    assert later.status == 1
    assert "version 1 of mesh.json, which counts for what was decided before" in " ".join(
        later.stderr.split()
    )
    judged = ("verify", "result", "before.jwt", "--trust", "trust", "--at", format_time(world.now))
    for mesh, said in (
        ((), "version 2 of mesh.json names no verifier with key"),
        (("--mesh", "3"), "version 3 of mesh.json is not in the trust directory: expected one of 1, 2;"),
    ):
        refused = nowhere(*judged, *mesh)
        assert refused.status == 1
        assert said in " ".join(refused.stderr.split())
    assert nowhere.ok(*judged, "--mesh", "1").stdout.startswith("✓ ")


def test_the_results_in_a_log(nowhere: Cli) -> None:
    """How many verify, and what is the matter with others, is said; a result that is a lie makes the log wrong."""
    world = World()
    world.extra["mesh.json"] = verifiers("one", "two")
    bodies = [result_body(result(world, name)) for name in ("one", "two")]
    log = sealed(Path("log.db"), world, *bodies)
    lie = sealed(Path("lie.db"), world, bodies[0] | {"status": "contraindicated"})
    world.revocations["keys"] = [key_id(p256("verifier two"))]
    world.write_trust(Path("trust"))
    given = ("--trust", "trust")
    shown = " ".join(nowhere.ok("verify", "log", str(log), *given).stdout.split())
    assert "attestation 2" in shown
    assert "1 attestation result verified 1 not counted: the verifier's key was revoked since" in shown
    found = nowhere.ok("verify", "log", str(log), *given, "--json").json["results"]
    assert found == {"verified": 1, "others": {"not counted: the verifier's key was revoked since": 1}}
    wrong = nowhere("verify", "log", str(lie), *given)
    assert wrong.status == 1
    said = " ".join(wrong.stderr.split())
    assert "entry 1: its attestation result does not verify: status: the result says 'affirming'" in said


def test_a_result_of_before_a_host_had_other_keys(nowhere: Cli) -> None:
    """By the earlier record, while that held; what it says of now is nothing."""
    world = World()
    world.extra["mesh.json"] = verifiers("one")
    Path("before.jwt").write_text(token(world, "one"))
    over = world.now + timedelta(seconds=60)
    world.records[world.host.id]["not_after"] = format_time(over)
    own = f"hosts/{world.host.id}.json"
    world.extra[f"hosts/history/{world.host.id}-1.json"] = world.files()[own]
    world.records[world.host.id] = world.host_record(world.host.reinstalled("again", root=world.root))
    world.write_trust(Path("trust"))
    given = ("verify", "result", "before.jwt", "--trust", "trust", "--at")
    assert nowhere.ok(*given, format_time(world.now))
    later = nowhere(*given, format_time(over))
    assert later.status == 1
    assert "was enrolled with these keys from" in " ".join(later.stderr.split())


def test_a_root_without_what_it_is_the_root_of(published: Cli) -> None:
    Path("id.auth.json").write_bytes(World().artifact())
    verify = ("authorization", "verify", "--root", "given.root.json", "id.auth.json")
    assert "name that too" in published(*verify).stderr
    least = ("--min-version", "2", "id.auth.json")
    assert "name that too" in published("authorization", "verify", *least).stderr
    assert published(*verify[:-1], "--trust", "web", *least).status == 1
    assert published.ok(*verify, "--trust", "web", "--json").json["verified"] is True
