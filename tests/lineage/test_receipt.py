"""Receipts: each numbered step of `verify_receipt` attacked, and every byte of a receipt changed."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import structs

from attestd.errors import GovernanceBehindError, MalformedError, VerificationError
from attestd.governance.mesh import witness_key_id
from attestd.governance.trust import Trust
from attestd.lineage.entry import EntryType
from attestd.lineage.receipt import (
    VerifiedReceipt,
    join_receipts,
    parse_receipt,
    sealed_by,
    strip_receipt,
    verify_receipt,
)
from attestd.strict import canonical, format_time
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.pcr import PcrSelection
from attestd.tcg.quote import join_quote
from attestd.tlog.checkpoint import Batch, BatchMode, Checkpoint, parse_checkpoint
from attestd.tlog.cosignature import Cosigner, cosigner
from attestd.tlog.note import NoteSignature, UntrustedNote, format_note, parse_note
from attestd.tlog.proof import format_proof, parse_proof
from attestd.tlog.tree import leaf_hash
from attestd.tlog.vkey import ecdsa_vkey, tpm_quote_vkey
from tests.world import (
    BOOT,
    NOW,
    SELECTION,
    Host,
    Log,
    World,
    attest_certify,
    ed25519_key,
    key_id,
    mesh_file,
    p256,
    sign,
    spki,
    tpm_signature,
    with_cosignatures,
    with_lines,
    witness,
)

WORLD = World()
GRANTED = WORLD.grant()
TRUST = WORLD.trust()


@pytest.fixture
def world() -> World:
    return World()


def verify(receipt: bytes, world: World) -> VerifiedReceipt:
    return verify_receipt(parse_receipt(receipt), trust=world.trust())


def refused(receipt: bytes, world: World, error: type[Exception] = VerificationError) -> str:
    with pytest.raises(error) as raised:
        verify(receipt, world)
    return str(raised.value)


def test_verifies(world: World) -> None:
    granted = world.grant()
    verified = verify(granted.receipt, world)
    assert verified.entry.type is EntryType.DECISION_ALLOW
    assert verified.entry.body["id"] == granted.body["id"]
    assert verified.leaf == leaf_hash(verified.entry_bytes).hex()
    assert verified.approval is not None
    assert verified.approval.pcr_digest == world.pcr_digest
    assert (verified.at.host, verified.at.log_id, verified.at.released) == (world.host.id, "log-1", True)
    assert verified.at.clock.reset_count == 7


def test_verifies_in_a_long_log(world: World) -> None:
    """A batch of many leaves: every one of them has its own path to one signature."""
    body = world.grant().body
    time = NOW + timedelta(seconds=1)
    seqs = [world.log.append(body, type_=EntryType.DECISION_ALLOW, time=time, boot=BOOT) for _ in range(21)]
    checkpoint = world.log.seal(mode=BatchMode.RELEASE, pcr_digest=world.pcr_digest)
    leaves = {verify(world.log.receipt(seq, checkpoint), world).leaf for seq in seqs}
    assert len(leaves) == 21


@pytest.mark.parametrize("type_", [type_ for type_ in EntryType if type_ is not EntryType.DECISION_ALLOW])
@pytest.mark.parametrize("mode", list(BatchMode))
def test_other_entries_need_the_quote_only(world: World, type_: EntryType, mode: BatchMode) -> None:
    receipt = world.receipt({}, type_=type_, mode=mode, pcr_digest=bytes(32))
    verified = verify(receipt, world)
    assert verified.approval is None
    assert verified.at.released is (mode is BatchMode.RELEASE)


def test_a_proof_without_an_entry_is_no_receipt() -> None:
    proof = replace(parse_proof(GRANTED.receipt), extra=None)
    with pytest.raises(VerificationError, match="carries no entry"):
        parse_receipt(format_proof(proof))


# every byte


def _regions() -> list[tuple[int, int]]:
    """The receipt cut into 16 byte pieces."""
    return [(start, min(start + 16, len(GRANTED.receipt))) for start in range(0, len(GRANTED.receipt), 16)]


@pytest.mark.parametrize("bit", [0x01, 0x20, 0x80])
def test_every_byte_counts(bit: int) -> None:
    """One changed bit anywhere: refused, and by no other exception than those that are documented."""
    accepted = []
    for position in range(len(GRANTED.receipt)):
        changed = bytearray(GRANTED.receipt)
        changed[position] ^= bit
        try:
            verify_receipt(parse_receipt(bytes(changed)), trust=TRUST)
        except (MalformedError, VerificationError):
            continue
        accepted.append(position)
    assert accepted == []


@pytest.mark.parametrize(("start", "end"), _regions()[::9])
def test_every_region_can_be_missing_or_doubled(start: int, end: int) -> None:
    data = GRANTED.receipt
    for changed in (data[:start] + data[end:], data[:end] + data[start:], data[:start]):
        with pytest.raises((MalformedError, VerificationError)):
            verify_receipt(parse_receipt(changed), trust=TRUST)


# 1. signature lines


def relined(receipt: bytes, *, keep: tuple[int, ...] = (0, 1), add: tuple[NoteSignature, ...] = ()) -> bytes:
    """The same proof with other lines under its checkpoint (0: release key, 1: quote)."""
    proof = parse_proof(receipt)
    note = parse_note(proof.checkpoint)
    lines = tuple(note.signatures[index] for index in keep)
    return format_proof(replace(proof, checkpoint=format_note(note.text, (*lines, *add))))


def test_1_lines_missing_or_repeated(world: World) -> None:
    receipt = world.grant().receipt
    assert verify(relined(receipt), world)
    assert verify(relined(receipt, keep=(1, 0)), world)
    for keep in ((0,), (1,), (0, 0, 1), (0, 1, 1)):
        assert "expected" in refused(relined(receipt, keep=keep), world)


def test_1_witness_lines_are_not_looked_at(world: World) -> None:
    line = NoteSignature("witness.example", b"\0\0\0\1", b"\0" * 72)
    assert verify(relined(world.grant().receipt, add=(line,)), world)


@pytest.mark.parametrize("mode", list(BatchMode))
def test_what_did_not_verify_can_be_left_out(world: World, mode: BatchMode) -> None:
    """Lines of unknown keys; in mode `record` the release key's too, for nobody looked at it."""
    world.extra["mesh.json"] = mesh_file([W1])
    first = world.receipt({}, type_=EntryType.AGENT_START, mode=mode)
    origin, text = world.log.origin, parse_note(parse_proof(first).checkpoint).text
    release = ecdsa_vkey(origin, spki(world.host.release_key))
    good = with_cosignatures(first, W1)
    lines = [NoteSignature(name, b"\0\0\0\1", b"\0" * 4000) for name in (origin, "padding", W1.key.name)]
    if mode is BatchMode.RECORD:
        lines.append(NoteSignature(origin, release.key_id, b"\0" * 4000))
    padded = with_lines(good, W2.cosign(text, time=1), *lines)
    receipt = parse_receipt(padded)
    assert strip_receipt(receipt, verify(padded, world)) == good
    assert list(verify(good, world).witnesses) == [W1.key.name]


def joined(kept: bytes, more: bytes, world: World) -> bytes | None:
    """What becomes of a receipt that was kept when another one is brought, and verifies."""
    return join_receipts(parse_receipt(kept), parse_receipt(more), mesh=verify(more, world).mesh)


def test_no_witness_of_two_receipts_is_lost(world: World) -> None:
    """Of one checkpoint the lines of both, of one key the earlier."""
    world.extra["mesh.json"] = mesh_file([W1, W2, PQ])
    plain = world.receipt({}, type_=EntryType.AGENT_START, mode=BatchMode.RECORD)
    one, two, later = (with_cosignatures(plain, *by) for by in ((W1,), (W2, PQ), (W2,)))
    tomorrow = with_cosignatures(plain, W1, time=NOW + timedelta(days=1))
    for kept, more in ((plain, plain), (one, plain), (one, tomorrow), (two, later)):
        assert joined(kept, more, world) is None
    assert joined(plain, one, world) == joined(tomorrow, one, world) == one
    both = joined(one, two, world)
    assert both == with_lines(one, *parse_receipt(two).note.signatures[-2:])
    assert list(verify(both, world).witnesses) == ["one", "two"]
    # The second quote of a host that signs as it likes.
    [quote] = parse_receipt(plain).note.signatures
    other = relined(one, keep=(0, 1), add=(structs.replace(quote, payload=b"\0" * 72),))
    [first] = parse_receipt(plain).note.signatures
    found = join_receipts(parse_receipt(plain), parse_receipt(other), mesh=world.trust().mesh)
    assert found is not None
    assert [line for line in parse_receipt(found).note.signatures if line.name == first.name] == [first]


def test_a_note_has_only_so_many_lines_and_those_that_count_have_them(world: World) -> None:
    crowd = [witness(f"w{number}") for number in range(16)]
    world.extra["mesh.json"] = mesh_file(crowd)
    plain = world.receipt({}, type_=EntryType.AGENT_START, mode=BatchMode.RECORD)
    for room, is_joined in ((14, True), (15, False)):
        kept = with_cosignatures(plain, *crowd[:room])
        found = joined(kept, with_cosignatures(plain, crowd[room]), world)
        assert (found is not None) is is_joined
    # Full of such as count no more.
    world.revocations["keys"] = [witness_key_id(crowd[0].key)]
    better = joined(kept, with_cosignatures(plain, crowd[15]), world)
    assert better is not None
    assert set(verify(better, world).witnesses) == {f"w{number}" for number in range(1, 16)}


def test_another_checkpoint_takes_the_place_where_it_has_more_witnesses(world: World) -> None:
    world.extra["mesh.json"] = mesh_file([W1, W2, PQ])
    first, second = twice_sealed(world)
    soon = NOW + timedelta(seconds=1)

    def taken(kept: tuple[Cosigner, ...], more: tuple[Cosigner, ...], *, at: datetime = NOW) -> bool:
        brought = with_cosignatures(second, *more)
        found = joined(with_cosignatures(first, *kept, time=at), brought, world)
        assert found in (None, brought)
        return found is not None

    assert taken((), (W1,))
    assert taken((W1,), (W1, W2))
    assert taken((W1,), (W1,), at=soon), "as early, and one earlier"
    assert taken((W1, W2), (W2, PQ), at=soon), "a witness is its name, with whatever key"
    for kept, more in (((), ()), ((W1,), (W1,)), ((W1,), (W2,)), ((W1,), (W1, PQ))):
        assert not taken(kept, more)
        assert not taken(kept, more, at=NOW - timedelta(seconds=1))
    mixed = with_lines(with_cosignatures(first, W1), W2.cosign(parse_receipt(first).note.text, time=1))
    assert joined(mixed, with_cosignatures(second, W1, W2), world) is None


def test_what_another_host_sealed_is_not_joined(world: World) -> None:
    """Entries do not name their log: another host can seal the same bytes, and have them cosigned by more."""
    world.extra["mesh.json"] = mesh_file([W1, W2])
    other = World("other")
    receipts = [
        found.receipt({}, type_=EntryType.AGENT_START, mode=BatchMode.RECORD) for found in (world, other)
    ]
    assert parse_receipt(receipts[0]).entry_bytes == parse_receipt(receipts[1]).entry_bytes
    kept, more = (
        with_cosignatures(receipt, *by) for receipt, by in zip(receipts, [(W1,), (W1, W2)], strict=True)
    )
    assert join_receipts(parse_receipt(kept), parse_receipt(more), mesh=world.trust().mesh) is None


def twice_sealed(world: World) -> tuple[bytes, bytes]:
    """Receipts of one leaf under two checkpoints."""
    first = world.receipt({}, type_=EntryType.AGENT_START, mode=BatchMode.RECORD)
    world.log.append({}, type_=EntryType.AGENT_START, time=NOW, boot=BOOT)
    return first, world.log.receipt(0, world.log.seal(mode=BatchMode.RECORD, pcr_digest=world.pcr_digest))


def test_who_counts_no_more_keeps_nobody_out(world: World) -> None:
    """Names vouch for nothing: of what was kept those weigh whose keys are in force, and not revoked."""
    first, second = twice_sealed(world)
    one_two, two = with_cosignatures(first, W1, W2), with_cosignatures(second, W2, W3)
    world.extra["mesh.json"] = mesh_file([W1, W2, W3])
    assert joined(one_two, two, world) is None
    world.revocations["keys"] = [witness_key_id(W1.key)]
    assert joined(one_two, two, world) == two
    # A key that took another's place under its name.
    world = World()
    first, second = twice_sealed(world)
    world.extra["mesh.json"] = mesh_file([cosigner("one", ed25519_key("the next"))])
    good = with_cosignatures(second, cosigner("one", ed25519_key("the next")))
    assert joined(with_cosignatures(first, W1), good, world) == good
    # One that is wrong by now, as of a key with the same id: the receipt verifies no more.
    wrong = with_lines(first, structs.replace(parse_receipt(good).note.signatures[-1], payload=b"\0" * 72))
    assert joined(wrong, good, world) == good


def test_a_decision_without_enough_witnesses_by_now_makes_room(world: World) -> None:
    """It verifies no more; whose checkpoint has enough does, though none of the same witnesses cosigned it."""
    four = witness("four")
    world.extra["mesh.json"] = mesh_file([W1, W2, W3, four], quorum=2)
    body = world.decide().body
    kept = with_cosignatures(world.receipt(body), W1, W2)
    world.log = Log(world.host)  # A fork, or one that was restored.
    world.log.append({}, type_=EntryType.AGENT_START, time=NOW, boot=BOOT)
    more = with_cosignatures(world.receipt(body), W3, four)
    assert parse_receipt(more).entry_bytes == parse_receipt(kept).entry_bytes
    assert joined(kept, more, world) is None
    world.revocations["keys"] = [witness_key_id(W1.key)]
    assert joined(kept, more, world) == more


def forged(world: World, *, release: Any = None, quote: bytes | None = None) -> bytes:
    """A receipt with one line made by someone else."""
    receipt = world.grant().receipt
    proof = parse_proof(receipt)
    note = parse_note(proof.checkpoint)
    release_line, quote_line = note.signatures
    if release is not None:
        release_line = structs.replace(release_line, payload=sign(release, note.text))
    if quote is not None:
        quote_line = structs.replace(quote_line, payload=quote)
    return format_proof(replace(proof, checkpoint=format_note(note.text, (release_line, quote_line))))


def test_1_release_line_by_another_key(world: World) -> None:
    assert "wrong" in refused(forged(world, release=p256("other")), world)


def quote_over(
    world: World, *, purpose: Purpose = Purpose.CHECKPOINT, host: Host | None = None, **changes: Any
) -> bytes:
    """A quote line's payload for the next grant's text, or for something else."""
    text = changes.pop("text", None) or parse_note(parse_proof(World().grant().receipt).checkpoint).text
    parts = {"selection": SELECTION, "pcr_digest": world.pcr_digest, **changes}
    return join_quote(*(host or world.host).quote(purpose, text, **parts))


def test_1_quote_line(world: World) -> None:
    assert verify(forged(world, quote=quote_over(world)), World())


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.CHECKPOINT])
def test_1_quote_made_for_another_purpose(world: World, purpose: Purpose) -> None:
    """The agent's evidence, over a challenge that is the text of a forged checkpoint."""
    assert "extraData is" in refused(forged(world, quote=quote_over(world, purpose=purpose)), World())


def test_1_quote_over_another_text(world: World) -> None:
    assert "extraData is" in refused(forged(world, quote=quote_over(world, text=b"x\n")), World())


def test_1_quote_by_another_key(world: World) -> None:
    stranger = Host("stranger", root=world.root)
    stranger.id = world.host.id
    assert "does not verify" in refused(forged(world, quote=quote_over(world, host=stranger)), World())


def test_1_quote_line_with_a_certification(world: World) -> None:
    """TPM2_Certify of an object of our choice is signed by the same key, over the same kind of structure."""
    text = parse_note(parse_proof(World().grant().receipt).checkpoint).text
    extra = extra_data(Purpose.CHECKPOINT, host_id=world.host.id, data=text)
    body = attest_certify(extra, name=b"\x00\x0b" + bytes(32))
    payload = join_quote(body, tpm_signature(world.host.ak, body))
    assert "expected QuoteInfo" in refused(forged(world, quote=payload), World())


@pytest.mark.parametrize("payload", [b"\0", b"\0\0", b"\0\1x", b"\0\4\xffTCGsig", b"\xff\xff" + bytes(80)])
def test_1_quote_line_that_holds_none(world: World, payload: bytes) -> None:
    refused(forged(world, quote=payload), world, MalformedError)


def test_1_no_host_record(world: World) -> None:
    other = Log(Host("other", root=world.root))
    other.append({}, type_=EntryType.AGENT_START, time=NOW, boot=BOOT)
    receipt = other.receipt(0, other.seal(mode=BatchMode.RECORD, pcr_digest=bytes(32)))
    assert "no host record" in refused(receipt, world)


def test_1_origin_of_another_host(world: World) -> None:
    """Our keys under the name of another enrolled host: the lines are not those of its record."""
    other = Host("other", root=world.root)
    world.records[other.id] = world.host_record(other)
    log = Log(world.host)
    log.origin = log.origin.replace(world.host.id, other.id)
    log.append({}, type_=EntryType.AGENT_START, time=NOW, boot=BOOT)
    receipt = log.receipt(0, log.seal(mode=BatchMode.RECORD, pcr_digest=bytes(32)))
    assert "0 signatures" in refused(receipt, world)


def test_1_checkpoint_that_is_none(world: World) -> None:
    note = UntrustedNote(b"not a checkpoint\n", ())
    with pytest.raises(MalformedError):
        sealed_by(note, trust=world.trust())[1].verify(note)


def test_1_record_checkpoints_verify_without_a_release_line(world: World) -> None:
    world.log.append({}, type_=EntryType.AGENT_STOP, time=NOW, boot=BOOT)
    note = parse_note(world.log.seal(mode=BatchMode.RECORD, pcr_digest=bytes(32)))
    verified = sealed_by(note, trust=world.trust())[1].verify(note)
    assert not verified.released
    assert verified.pcr_digest == bytes(32)
    assert verified.checkpoint == parse_checkpoint(note.text)


# 2. inclusion


def test_2_another_entry(world: World) -> None:
    granted = world.grant()
    proof = parse_proof(granted.receipt)
    assert proof.extra is not None
    evil = proof.extra.replace(b'"prod"', b'"evil"')
    assert evil != proof.extra
    refused(format_proof(replace(proof, extra=evil)), world)


def test_2_another_index(world: World) -> None:
    proof = parse_proof(world.grant().receipt)
    for index in (0, 2, 3, 2**63 - 1):
        refused(format_proof(replace(proof, index=index)), world)


def test_2_path_too_long_or_short(world: World) -> None:
    proof = parse_proof(world.grant().receipt)
    refused(format_proof(replace(proof, proof=())), world)
    refused(format_proof(replace(proof, proof=(*proof.proof, bytes(32)))), world)


def test_2_entry_that_says_another_seq(world: World) -> None:
    """The same entry appended twice: its own seq is right in one place only."""
    world.grant()
    entry = world.log.entries[1]
    seq = world.log.append_raw(entry)
    checkpoint = world.log.seal(mode=BatchMode.RELEASE, pcr_digest=world.pcr_digest)
    assert "says seq 1" in refused(world.log.receipt(seq, checkpoint), world)


def test_2_leaf_that_is_no_entry(world: World) -> None:
    seq = world.log.append_raw(b'{"v":1}')
    checkpoint = world.log.seal(mode=BatchMode.RELEASE, pcr_digest=world.pcr_digest)
    refused(world.log.receipt(seq, checkpoint), world, MalformedError)


# 3. the host was enrolled, and is not revoked


@pytest.mark.parametrize(
    ("not_before", "not_after", "enrolled"), [(0, 60, True), (1, 60, False), (-60, 1, True), (-60, 0, False)]
)
def test_3_enrolled_at_the_entrys_time(world: World, not_before: int, not_after: int, enrolled: bool) -> None:
    receipt = world.grant().receipt
    record = world.records[world.host.id]
    record["not_before"] = format_time(NOW + timedelta(seconds=not_before))
    record["not_after"] = format_time(NOW + timedelta(seconds=not_after))
    if enrolled:
        assert verify(receipt, world)
    else:
        assert "not enrolled" in refused(receipt, world)


def test_3_revoked(world: World) -> None:
    receipt = world.grant().receipt
    world.revocations["hosts"] = [world.host.id]
    assert "revoked" in refused(receipt, world)


# 4. batch rule


def test_4_quote_only_batch(world: World) -> None:
    receipt = world.receipt(world.grant().body, mode=BatchMode.RECORD)
    assert "not in a batch sealed for release" in refused(receipt, world)


def test_4_leaf_of_an_earlier_batch(world: World) -> None:
    body = world.grant().body
    seq = world.log.append(body, type_=EntryType.DECISION_ALLOW, time=NOW, boot=BOOT)
    world.log.seal(mode=BatchMode.RECORD, pcr_digest=bytes(32))
    world.log.append({}, type_=EntryType.AGENT_START, time=NOW, boot=BOOT)
    checkpoint = world.log.seal(mode=BatchMode.RELEASE, pcr_digest=world.pcr_digest)
    assert "not in a batch sealed for release" in refused(world.log.receipt(seq, checkpoint), world)


def test_4_leaf_of_a_later_release_batch_only_in_its_own(world: World) -> None:
    """Also a leaf that was released once has no second receipt under a later checkpoint."""
    world.grant()
    world.log.append({}, type_=EntryType.AGENT_STOP, time=NOW, boot=BOOT)
    checkpoint = world.log.seal(mode=BatchMode.RELEASE, pcr_digest=world.pcr_digest)
    assert "not in a batch sealed for release" in refused(world.log.receipt(1, checkpoint), world)


def test_4_release_line_under_a_record_batch(world: World) -> None:
    """A release signature over a text that says `record` releases nothing: the mode is what was signed."""
    seq = world.log.append(world.grant().body, type_=EntryType.DECISION_ALLOW, time=NOW, boot=BOOT)
    batch = Batch(seq, BatchMode.RECORD, 9)
    text = Checkpoint(world.log.origin, seq + 1, world.log.frontier.root(), batch).text()
    note = world.log.note(text, pcr_digest=world.pcr_digest, released=True)
    assert "mode record" in refused(world.log.receipt(seq, note), world)


# 5. the quoted state is an approved one of the policy that the leaf names


def test_5_unapproved_state(world: World) -> None:
    """A release line over an unapproved quote: not from a TPM that works, but nothing is taken on trust."""
    receipt = world.receipt(world.grant().body, pcr_digest=bytes(32))
    assert "no approved one" in refused(receipt, world)


@pytest.mark.parametrize("pcrs", [(0,), (0, 2, 4, 7, 11), (0, 2, 4, 7, 11, 12, 13)])
def test_5_other_pcrs(world: World, pcrs: tuple[int, ...]) -> None:
    receipt = world.receipt(world.grant().body, selection=PcrSelection("sha256", pcrs))
    assert "other PCRs" in refused(receipt, world)


def test_5_other_bank(world: World) -> None:
    receipt = world.receipt(world.grant().body, selection=PcrSelection("sha1", SELECTION.pcrs))
    assert "other PCRs" in refused(receipt, world)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"name": None},
        {"version": 2},
        {"version": "1"},
        {"version": True},
        {"digest": "00" * 32},
        {"digest": None},
    ],
)
def test_5_policy_that_is_not_in_trust(world: World, changes: dict[str, Any]) -> None:
    body = world.grant().body
    receipt = world.receipt({**body, "platform": {**body["platform"], **changes}})
    assert "is not in the trust directory" in refused(receipt, world)


@pytest.mark.parametrize("platform", [None, "local", [], 1])
def test_5_no_policy_named(world: World, platform: Any) -> None:
    receipt = world.receipt({**world.grant().body, "platform": platform})
    assert "names no platform policy" in refused(receipt, world)


def test_5_old_receipts_verify_against_the_history(world: World) -> None:
    receipt = world.grant().receipt
    world.history["local-1"] = world.platforms["local"]
    world.platforms["local"] = world.platform_file(version=2, values={pcr: bytes(32) for pcr in world.values})
    assert verify(receipt, world).approval is not None
    del world.history["local-1"]
    assert "is not in the trust directory" in refused(receipt, world)


def test_5_old_epochs_verify_for_ever(world: World) -> None:
    """Offline, a receipt is about the past: that its approval no longer holds is for who releases to check."""
    receipt = world.grant().receipt
    world.revocations["epoch"] = 9
    assert verify(receipt, world).approval is not None


def test_5_revoked_platform_key(world: World) -> None:
    receipt = world.grant().receipt
    world.revocations["keys"] = [key_id(world.platform_key)]
    assert "no approved one" in refused(receipt, world)


@pytest.mark.parametrize(("seconds", "verifies"), [(-1, False), (0, False), (1, True)])
def test_5_sealed_after_its_window(world: World, seconds: int, verifies: bool) -> None:
    """An allow that is sealed when the state was approved no more does not verify, then or later."""
    state = world.platforms["local"]["approvals"][0]["pcr_digest"]
    end = format_time(NOW + timedelta(seconds=seconds))
    file = world.platforms["local"]
    world.platforms["local"] = {
        **file,
        "lifecycle": {**file["lifecycle"], "windows": [{"pcr_digest": state, "not_after": end}]},
    }
    policy = world.trust().platforms["local"]
    body = {**GRANTED.body, "platform": {"name": "local", "version": 1, "digest": policy.digest}}
    receipt = world.receipt(body)
    if verifies:
        assert verify(receipt, world).approval is not None
        world.history["local-1"] = world.platforms["local"]
        world.platforms["local"] = world.platform_file(version=2)
        assert verify(receipt, world).approval is not None, "as history, for good"
    else:
        assert "no approved one of the policy it names at 20" in refused(receipt, world)


# 6. witnesses


@pytest.mark.parametrize(
    ("quorum", "message"), [(1, "must have cosigned"), (2**53 - 1, "must have cosigned")]
)
def test_6_witness_quorum(world: World, quorum: int, message: str) -> None:
    assert message in refused(world.receipt({**world.grant().body, "witness_quorum": quorum}), world)


W1, W2, W3, PQ = (
    witness("one"),
    witness("two"),
    witness("three"),
    cosigner("one", MLDSA44PrivateKey.from_seed_bytes(b"post-quantum".ljust(32))),
)


def asked_for(world: World, quorum: int, *witnesses: Cosigner) -> bytes:
    """A receipt that so many of these witnesses must have cosigned."""
    world.extra["mesh.json"] = mesh_file(witnesses)
    return world.receipt({**world.grant().body, "witness_quorum": quorum})


def test_6_cosigned(world: World) -> None:
    receipt = asked_for(world, 2, W1, W2)
    verified = verify(with_cosignatures(receipt, W1, W2), world)
    assert dict(verified.witnesses) == dict.fromkeys(["one", "two"], int(NOW.timestamp()))
    for some in ((), (W1,), (W2,)):
        assert "2 witnesses must have cosigned its checkpoint" in refused(
            with_cosignatures(receipt, *some), world
        )
    # Not asked for, shown all the same.
    receipt = with_cosignatures(asked_for(world, 0, W1, W2), W2)
    assert list(verify(receipt, world).witnesses) == ["two"]


def test_6_one_witness_with_a_key_of_each_kind_counts_once(world: World) -> None:
    receipt = asked_for(world, 1, W1, PQ)
    for lines in ((W1,), (PQ,), (W1, PQ)):
        assert list(verify(with_cosignatures(receipt, *lines), world).witnesses) == ["one"]
    receipt = asked_for(world, 2, W1, PQ)
    assert "1 of 1 in version 1 of mesh.json have" in refused(with_cosignatures(receipt, W1, PQ), world)


def test_6_cosignatures_that_count_for_nothing(world: World) -> None:
    """By a witness that governance does not name, or names no more; they are not even looked at."""
    receipt = asked_for(world, 1, W1)
    stranger = cosigner("one", ed25519_key("a witness of the same name"))
    for line in (W2, stranger):
        assert "0 of 1 in version 1 of mesh.json have" in refused(with_cosignatures(receipt, line), world)
    cosigned = with_cosignatures(receipt, W1)
    assert verify(cosigned, world)
    world.revocations["keys"] = [
        hashlib.sha256(
            W1.key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).hexdigest()
    ]
    assert "0 of 0 in version 1 of mesh.json have" in refused(cosigned, world)


def test_6_cosignatures_that_are_none(world: World) -> None:
    """Forged, of another size or origin, twice the same; needed or not."""
    other = Log(world.host, log_id="log-9")
    other.append({}, type_=EntryType.AGENT_START, time=NOW, boot=BOOT)
    other_text = parse_note(other.seal(mode=BatchMode.RECORD, pcr_digest=bytes(32))).text
    for quorum in (0, 1):
        receipt = asked_for(world, quorum, W1)
        text = parse_note(parse_proof(receipt).checkpoint).text
        good = W1.cosign(text, time=1)
        larger = structs.replace(parse_checkpoint(text), size=99).text()
        for lines in (
            (structs.replace(good, payload=W2.cosign(text, time=1).payload),),
            (structs.replace(good, payload=good.payload[:8]),),
            (structs.replace(good, payload=bytes(8) + good.payload[8:]),),
            (W1.cosign(text, time=1 << 40),),
            (W1.cosign(larger, time=1),),
            (W1.cosign(other_text, time=1),),
            (good, good),
            (good, W1.cosign(text, time=2)),
        ):
            refused(with_lines(receipt, *lines), world)
        assert verify(with_lines(receipt, good), world)


@pytest.mark.parametrize("quorum", [None, -1, "0", True, False, [0]])
def test_6_no_witness_quorum(world: World, quorum: Any) -> None:
    assert "no witness quorum" in refused(
        world.receipt({**world.grant().body, "witness_quorum": quorum}), world
    )


# 6. earlier versions of mesh.json


END = NOW + timedelta(days=7)
AFTER = END + timedelta(seconds=1)


def replaced(world: World, *, time: datetime = NOW, handover: datetime = END) -> bytes:
    """A receipt of a decision by version 1, which one of two witnesses must cosign; W2 then took the place of W1."""
    world.extra["mesh.json"] = mesh_file([W1], quorum=1)
    receipt = world.receipt(world.grant().body, time=time)
    world.replace_mesh(mesh_file([W2], quorum=1), handover=handover)
    return receipt


def test_6_a_receipt_of_before_a_key_was_replaced(world: World) -> None:
    receipt = replaced(world)
    verified = verify(with_cosignatures(receipt, W1), world)
    assert (list(verified.witnesses), verified.mesh.version, verified.mesh.until) == (["one"], 1, END)
    for some in ((), (W2,)):
        message = refused(with_cosignatures(receipt, *some), world)
        assert "0 of 1 in version 1 of mesh.json have before it ended at 2026-03-08T12:00:00Z" in message
    world.replace_mesh(mesh_file())
    world.replace_mesh(mesh_file([witness("three")]))
    assert verify(with_cosignatures(receipt, W1), world).mesh.version == 1, "two versions later as well"


def test_6_a_replaced_key_counts_for_no_later_version(world: World) -> None:
    replaced(world)
    receipt = world.receipt(world.grant().body)
    assert verify(with_cosignatures(receipt, W2), world).mesh.until is None
    assert "0 of 1 in version 2 of mesh.json have" in refused(with_cosignatures(receipt, W1), world)


def test_6_a_replaced_key_counts_for_nothing_new(world: World) -> None:
    """An attacker has W1's key and the host's: his entry names the version in which it stood."""
    last = with_cosignatures(replaced(world, time=END - timedelta(microseconds=1)), W1)
    assert verify(last, world)
    for time in (END, AFTER, END + timedelta(days=30)):
        receipt = with_cosignatures(replaced(World(), time=time), W1)
        message = refused(receipt, world)
        assert (
            "version 1 of mesh.json, which counts for what was decided before 2026-03-08T12:00:00Z" in message
        )


def test_6_a_replaced_witness_that_still_runs(world: World) -> None:
    """It signs what it is shown, an entry with an old time too; but the time that it signs is its own."""
    receipt = replaced(world)
    assert verify(with_cosignatures(receipt, W1, time=END - timedelta(seconds=1)), world)
    for time in (END, AFTER):
        assert "0 of 1 in version 1" in refused(with_cosignatures(receipt, W1, time=time), world)


def test_6_a_key_that_leaked_is_revoked(world: World) -> None:
    """Who has the keys of the host and of the witness dates both as he likes: this ends it, in whatever version."""
    receipt = with_cosignatures(replaced(world), W1)
    assert verify(receipt, world)
    spki_der = W1.key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    world.revocations["keys"] = [hashlib.sha256(spki_der).hexdigest()]
    assert "0 of 0 in version 1 of mesh.json have" in refused(receipt, world)


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"version": 3}, "version 3 of mesh.json is not in the trust directory: expected one of 1, 2"),
        ({"version": 0}, "version 0 of mesh.json is not in the trust directory"),
        ({"version": True}, "version -1 of mesh.json is not in the trust directory"),
        ({"version": "1"}, "version -1 of mesh.json is not in the trust directory"),
        ({"digest": "00" * 32}, "version 1 of mesh.json: expected SHA-256 "),
        ({"digest": None}, "version 1 of mesh.json: expected SHA-256 "),
        ("1", "does not say by which version of mesh.json"),
        (1, "does not say by which version of mesh.json"),
        ([], "does not say by which version of mesh.json"),
        (None, "0 of 0 in mesh.json have"),
    ],
)
def test_6_a_decision_that_names_another_version(world: World, lie: Any, message: str) -> None:
    replaced(world)
    named = {"version": 1, "digest": hashlib.sha256(world.extra["mesh/history/1.json"]).hexdigest()}
    body = {**world.grant().body, "mesh": named}
    assert verify(with_cosignatures(world.receipt(body), W1), world)
    body["mesh"] = {**named, **lie} if isinstance(lie, dict) else lie
    assert message in refused(with_cosignatures(world.receipt(body), W1, W2), world)
    del body["mesh"]
    assert "does not say by which" in refused(with_cosignatures(world.receipt(body), W1, W2), world)


def test_6_a_version_without_an_end_is_none(world: World) -> None:
    """Until when it counts is in the next version: without that it would count for ever."""
    receipt = with_cosignatures(replaced(world), W1)
    following = json.loads(world.extra["mesh.json"])
    for changes in ({"handover": None}, {"version": 3}):
        members = {name: value for name, value in {**following, **changes}.items() if value is not None}
        world.extra["mesh.json"] = canonical(members)
        message = refused(receipt, world)
        assert (
            "version 1 of mesh.json is not in the trust directory, for mesh/history/1.json cannot be used"
            in message
        )
        assert message.endswith(f"expected one of {members['version']}")


def test_6_a_decision_that_asks_for_fewer_witnesses(world: World) -> None:
    """An attacker has the host's keys, its TPM's included, and no witness's: neither part of governance lets him ask for none."""
    world.extra["mesh.json"] = mesh_file([W1], quorum=1)
    body = world.grant().body
    fewer = world.receipt({**body, "witness_quorum": 0})
    assert "expected a witness quorum of 1 or more, by version 1 of mesh.json" in refused(fewer, world)
    assert verify(with_cosignatures(world.receipt(body), W1), world)
    world.extra["mesh.json"] = mesh_file([W1])
    world.platforms["local"]["reference"]["quorums"]["witnesses"] = 1
    body = world.grant().body
    assert "expected a witness quorum of 1 or more" in refused(
        world.receipt({**body, "witness_quorum": 0}), world
    )
    assert verify(with_cosignatures(world.receipt(body), W1), world)


def test_6_a_decision_without_a_mesh_is_of_before_the_first(world: World) -> None:
    """Otherwise whoever has a host's keys says "there was none", for good."""
    body = world.grant().body
    assert body["mesh"] is None
    receipt = world.receipt(body)
    assert verify(receipt, world).mesh.until is None
    world.extra["mesh.json"] = mesh_file([W1], quorum=1, handover=format_time(END))
    assert verify(receipt, world).mesh.until == END
    for time in (END, AFTER):
        message = refused(world.receipt(body, time=time), world)
        assert "without mesh.json, which counts for what was decided before 2026-03-08T12:00:00Z" in message
    world.replace_mesh(mesh_file(), handover=END - timedelta(days=1))
    assert verify(receipt, world).mesh.until == END - timedelta(days=1), "versions later as well"


def test_6_a_first_mesh_that_does_not_say_until_when_there_was_none(world: World) -> None:
    receipt = world.receipt(world.grant().body)
    first = json.loads(mesh_file([W1], quorum=1))
    del first["handover"]
    world.extra["mesh.json"] = canonical(first)
    assert "no mesh.json: expected one of 1: the first does not say" in refused(receipt, world)
    world.extra["mesh.json"] = b"{}"
    assert "no mesh.json: expected one of none" in refused(receipt, world)


def behind(world: World, change: Callable[[], None]) -> tuple[bytes, Trust]:
    """A receipt of after a change of governance, and governance of before it."""
    older = world.trust()
    change()
    return world.receipt(world.grant().body), older


def test_governance_here_is_older_than_what_a_receipt_names(world: World) -> None:
    """It is not believed, and whoever asks is told that it may be later: while governance here is of before the entry."""
    world.extra["mesh.json"] = mesh_file([W1])

    def next_policy() -> None:
        world.platforms["local"]["version"] += 1

    for change in (lambda: world.replace_mesh(mesh_file([W2])), next_policy):
        receipt, older = behind(world, change)
        assert verify(receipt, world)
        hour = timedelta(hours=1)
        for issued in (None, NOW - hour, NOW, NOW + hour - timedelta(seconds=1)):
            with pytest.raises(GovernanceBehindError) as raised:
                verify_receipt(parse_receipt(receipt), trust=replace(older, issued=issued))
            assert (raised.value.here, raised.value.named) == (older.version, older.version + 1)
            words = f"here is version {older.version}, the receipt names {older.version + 1}: that is newer, or never was"
            assert words in str(raised.value)
        for known in (replace(older, issued=NOW + hour), replace(older, version=older.version + 1)):
            with pytest.raises(VerificationError) as refusal:
                verify_receipt(parse_receipt(receipt), trust=known)
            assert not isinstance(refusal.value, GovernanceBehindError)


def test_who_signed_comes_before_what_is_not_here(world: World) -> None:
    """Nobody but an enrolled host can say that governance here is behind."""
    world.extra["mesh.json"] = mesh_file([W1])
    receipt, older = behind(world, lambda: world.replace_mesh(mesh_file([W2])))
    release = parse_receipt(receipt).note.signatures[0]
    broken = relined(receipt, keep=(1,), add=(structs.replace(release, payload=bytes(70)),))
    index = parse_receipt(receipt).proof.index
    elsewhere = receipt.replace(b"index %d" % index, b"index %d" % (index - 1))
    for data in (elsewhere, broken):
        with pytest.raises((MalformedError, VerificationError)) as raised:
            verify_receipt(parse_receipt(data), trust=older)
        assert not isinstance(raised.value, GovernanceBehindError)
    body = world.grant().body
    for named in (None, "9", {}, {"version": "9"}, {"version": True}):
        wrong = world.receipt({**body, "governance": named})
        with pytest.raises(VerificationError) as refusal:
            verify_receipt(parse_receipt(wrong), trust=older)
        assert not isinstance(refusal.value, GovernanceBehindError)


def test_6_other_entries_tell_who_cosigned_now(world: World) -> None:
    replaced(world)
    receipt = world.receipt({"mesh": "x"}, type_=EntryType.AGENT_START, mode=BatchMode.RECORD)
    verified = verify(with_cosignatures(receipt, W1, W2), world)
    assert (list(verified.witnesses), verified.mesh.version) == (["two"], 2)


def test_what_is_kept_of_an_old_receipt_is_by_the_keys_of_then(world: World) -> None:
    receipt = with_cosignatures(replaced(world), W1, W2)
    kept = strip_receipt(parse_receipt(receipt), verify(receipt, world))
    names = [line.name for line in parse_note(parse_proof(kept).checkpoint).signatures]
    assert names == [world.log.origin, world.log.origin, "one"]


def test_a_line_that_does_not_count_keeps_no_good_one_out(world: World) -> None:
    """Whoever brings a receipt first has a replaced witness sign too late: its timely line is kept when it comes."""
    world.extra["mesh.json"] = mesh_file([W1, W2], quorum=1)
    plain = world.receipt(world.grant().body)
    world.replace_mesh(mesh_file([W2], quorum=1), handover=END)

    def kept(receipt: bytes) -> bytes:
        return strip_receipt(parse_receipt(receipt), verify(receipt, world))

    timely = with_cosignatures(plain, W2)
    first = kept(with_cosignatures(timely, W1, time=AFTER))
    assert first == timely
    both = joined(first, kept(with_cosignatures(plain, W1)), world)
    assert both is not None
    assert list(verify(both, world).witnesses) == ["one", "two"]


def test_a_line_that_came_too_late_by_now_keeps_no_good_one_out(world: World) -> None:
    """It counted when it was kept, for nobody had said yet when that version ends."""
    world.extra["mesh.json"] = mesh_file([W1], quorum=1)
    plain = world.receipt(world.grant().body)
    late, timely = (with_cosignatures(plain, W1, time=time) for time in (AFTER, NOW))
    assert verify(late, world)
    world.replace_mesh(mesh_file([W2], quorum=1), handover=END)
    assert joined(late, timely, world) == timely
    assert list(verify(timely, world).witnesses) == ["one"]


# sanity of the forgeries above


def test_the_worlds_lines_are_those_of_the_formats() -> None:
    note = parse_note(parse_proof(GRANTED.receipt).checkpoint)
    origin = parse_checkpoint(note.text).origin
    release, quote = note.signatures
    assert (release.name, release.key_id) == (origin, ecdsa_vkey(origin, spki(WORLD.host.release_key)).key_id)
    assert (quote.name, quote.key_id) == (origin, tpm_quote_vkey(origin, spki(WORLD.host.ak)).key_id)
    assert b64encode(quote.payload[2:6]) == b64encode(b"\xffTCG")
