"""Hosts' logs: the witness knows them by governance, and believes the TPM's keys that their records name."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from attestd.controller.witness.logs import KnownLogs, UntrustedLogError, load_log_list
from attestd.errors import MalformedError, StoreError, UsageError, VerificationError
from attestd.governance.trust import parse_trust
from attestd.lineage.entry import EntryType
from attestd.tlog.checkpoint import BatchMode
from attestd.tlog.note import NoteSignature, format_note, parse_note
from attestd.tlog.tree import consistency_proof
from attestd.tlog.vkey import cosignature_vkey, format_vkey, mldsa_vkey, tpm_quote_vkey
from attestd.tlog.witness import AddCheckpoint, format_add_checkpoint
from tests.controller.logs import Log
from tests.controller.running import Controller
from tests.world import BOOT, Host, World, described, ed25519_key, read_of, spki
from tests.world import Log as HostLog

PATH = "/witness/add-checkpoint"


def seal(world: World, log: HostLog, *, released: bool = True, entries: int = 3) -> bytes:
    for _ in range(entries):
        log.append({}, type_=EntryType.AGENT_START, time=world.now, boot=BOOT)
    return log.seal(mode=BatchMode.RELEASE if released else BatchMode.RECORD, pcr_digest=world.pcr_digest)


def request(log: HostLog, old: int, note: bytes) -> bytes:
    size = len(log.entries)
    proof = consistency_proof(old, size, lambda level, index: log.nodes[level, index])
    return format_add_checkpoint(AddCheckpoint(old, tuple(proof), note))


@pytest.fixture
def world() -> World:
    return World("witnessed", now=datetime.now(UTC).replace(microsecond=0))


def write(world: World, controller: Controller) -> None:
    world.write_trust(controller.state / "web")
    (controller.state / "trust").mkdir(exist_ok=True)
    if not (controller.state / "trust" / "root.json").exists():
        (controller.state / "web" / "root.json").rename(controller.state / "trust" / "root.json")


@pytest.fixture
def controller(world: World, tmp_path: Path) -> Iterator[Controller]:
    state = tmp_path / "state"
    with Controller(
        state,
        roles=["witness", "governance"],
        governance=str(state / "web"),
        witness_name="witness.example/1",
    ) as made:
        write(world, made)
        yield made.init().start()


def test_a_hosts_log(world: World, controller: Controller) -> None:
    log = HostLog(world.host, log_id="log-2")
    assert controller.post(PATH, request(log, 0, seal(world, log))).status == 200
    assert controller.post(PATH, request(log, 3, seal(world, log, released=False))).status == 200
    assert controller.post(PATH, request(log, 3, seal(world, log))).body == b"6\n"
    # The next incarnation is another log.
    other = HostLog(world.host, log_id="log-3")
    assert controller.post(PATH, request(other, 0, seal(world, other))).status == 200


def test_an_old_log_that_is_restored_is_refused(world: World, controller: Controller) -> None:
    """A host whose disk was put back goes on from an earlier entry: its TPM signs, the witness does not."""
    log, restored = HostLog(world.host, log_id="log-2"), HostLog(world.host, log_id="log-2")
    first = request(log, 0, seal(world, log))
    seal(world, restored)
    assert controller.post(PATH, first).status == 200
    assert controller.post(PATH, request(log, 3, seal(world, log))).status == 200
    for _ in range(2):
        restored.append({"other": 1}, type_=EntryType.AGENT_STOP, time=world.now, boot=BOOT)
    forked = restored.seal(mode=BatchMode.RELEASE, pcr_digest=world.pcr_digest)
    assert controller.post(PATH, request(restored, 3, forked)).body == b"6\n"
    for _ in range(4):
        restored.append({"other": 1}, type_=EntryType.AGENT_STOP, time=world.now, boot=BOOT)
    forked = restored.seal(mode=BatchMode.RELEASE, pcr_digest=world.pcr_digest)
    controller.post(PATH, request(restored, 6, forked)).problem(422)


def test_a_host_that_is_not_enrolled(world: World, controller: Controller) -> None:
    log = HostLog(Host("stranger", root=world.root))
    controller.post(PATH, request(log, 0, seal(world, log))).problem(404)


def test_a_host_that_is_revoked_while_it_runs(world: World, controller: Controller) -> None:
    log = HostLog(world.host, log_id="log-2")
    assert controller.post(PATH, request(log, 0, seal(world, log))).status == 200
    world.revocations["hosts"] = [world.host.id]
    world.revocations["version"] += 1
    write(world, controller)
    controller.wait_said("governance.read version=2")
    assert "is revoked" in controller.post(PATH, request(log, 3, seal(world, log))).problem(403)


def test_governance_that_does_not_verify_answers_nobody(world: World, controller: Controller) -> None:
    log = HostLog(world.host, log_id="log-2")
    timestamp = controller.state / "web" / "metadata" / "timestamp.json"
    data = timestamp.read_bytes()
    timestamp.write_bytes(data.replace(b'"version":1', b'"version":2', 1))
    controller.wait_said("governance.unusable")
    body = request(log, 0, seal(world, log))
    controller.post(PATH, body).problem(503)
    health = controller.get("/healthz")
    assert (health.status, list(health.json["troubles"])) == (503, ["governance"])
    timestamp.write_bytes(data)
    controller.said.clear()
    controller.wait_said("governance.read")
    assert controller.post(PATH, body).status == 200


# -- which signatures


def logs(world: World, **more: object) -> KnownLogs:
    return KnownLogs({}, trust=world.trust, now=lambda: world.now, **more)  # type: ignore[arg-type]


def test_both_lines_have_to_hold(world: World) -> None:
    log = HostLog(world.host)
    note = parse_note(seal(world, log))
    known = logs(world).find(log.origin)
    assert known is not None
    assert known.host == world.host.id
    assert known.verify(note) == note.signatures
    release, quote = note.signatures
    for lines in (
        (release,),
        (quote,),
        (release, quote, quote),
        (release, release, quote),
        (NoteSignature(release.name, release.key_id, quote.payload), quote),
        (release, NoteSignature(quote.name, quote.key_id, release.payload)),
    ):
        with pytest.raises((VerificationError, MalformedError)):
            known.verify(parse_note(format_note(note.text, lines)))


def test_in_mode_record_the_quote_alone(world: World) -> None:
    log = HostLog(world.host)
    note = parse_note(seal(world, log, released=False))
    known = logs(world).find(log.origin)
    assert known is not None
    assert known.verify(note) == note.signatures
    # A release line is not needed; one that is there has to verify, as any of a trusted key.
    release = parse_note(seal(world, log)).signatures[0]
    with pytest.raises(VerificationError, match="is wrong"):
        known.verify(parse_note(format_note(note.text, (release, *note.signatures))))


def test_whose_record_cannot_be_used(world: World) -> None:
    """One that is not there now is asked for again; one that does not verify is nobody's; who is not named is unknown."""
    origin, stranger = HostLog(world.host).origin, HostLog(Host("stranger", root=world.root)).origin
    files, metadata = world.files(), described(world.files())
    name = f"hosts/{world.host.id}.json"
    record = files.pop(name)
    trust = parse_trust(read_of(files), metadata=metadata)
    known = KnownLogs({}, trust=lambda: trust, now=lambda: world.now)
    assert known.find(stranger) is None
    with pytest.raises(StoreError, match=r"not usable: .*not there"):
        known.find(origin)
    files[name] = record
    assert known.find(origin) is not None
    world.records[world.host.id]["tier"] = "none"
    with pytest.raises(UntrustedLogError, match="not usable"):
        logs(world).find(origin)


def test_of_whom_the_record_does_not_hold(world: World) -> None:
    origin = HostLog(world.host).origin
    for moment in (world.now - timedelta(days=2), world.now + timedelta(days=400)):
        with pytest.raises(UntrustedLogError, match="does not hold now"):
            KnownLogs({}, trust=world.trust, now=lambda moment=moment: moment).find(origin)  # type: ignore[misc]
    found = logs(world)
    assert found.find(origin) is found.find(origin), "keys are loaded once"
    for unknown in ("example.com/log", f"attestd/{'0' * 64}/log", origin.upper(), f"{origin}/"):
        assert found.find(unknown) is None
    assert KnownLogs({}, trust=None, now=lambda: world.now).find(origin) is None


# -- the list


def test_the_list_of_logs(tmp_path: Path) -> None:
    one, two = Log("example.com/one"), Log("example.com/two")
    path = tmp_path / "logs"
    path.write_text(
        f"# a comment\n\n{one.vkey}  # one\n{two.vkey} example.com/some origin\n{two.vkey} example.com/one\n"
    )
    assert load_log_list(path) == {
        "example.com/one": (one.key, two.key),
        "example.com/some origin": (two.key,),
    }


@pytest.mark.parametrize("kind", ["malformed", "witness", "mldsa", "quote", "origin", "encoding", "size"])
def test_what_is_no_list_of_logs(tmp_path: Path, world: World, kind: str) -> None:
    raw = ed25519_key("x").public_key().public_bytes_raw()
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

    lines = {
        "malformed": b"example.com/one+00000000+AAAA",
        "witness": format_vkey(cosignature_vkey("w", raw)).encode(),
        "mldsa": format_vkey(
            mldsa_vkey("w", MLDSA44PrivateKey.from_seed_bytes(bytes(32)).public_key().public_bytes_raw())
        ).encode(),
        "quote": format_vkey(tpm_quote_vkey("q", spki(world.host.ak))).encode(),
        "origin": f"{Log().vkey} {'x' * 256}".encode(),
        "encoding": b"\xff",
        "size": b"#" * ((1 << 20) + 1),
    }
    (tmp_path / "logs").write_bytes(lines[kind] + b"\n")
    with pytest.raises(UsageError):
        load_log_list(tmp_path / "logs")
    with pytest.raises(StoreError, match="No such file"):
        load_log_list(tmp_path / "none")
