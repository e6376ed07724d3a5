"""The document of `attestd quote`: verified offline, each check attacked."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.appraisal.document import MAX_QUOTE_BYTES, VerifiedQuoteDocument, parse_quote, verify_document
from attestd.errors import MalformedError, VerificationError
from attestd.strict import canonical
from attestd.tcg.attest import ClockInfo
from attestd.tcg.binding import Purpose
from attestd.tcg.pcr import PcrSelection, composite
from tests.world import CLOCK, SELECTION, Host, World, b64, key_id

CHALLENGE = b"a verifier's nonce"
WORLD = World()


@pytest.fixture
def world() -> World:
    return World()


def document(world: World, **changes: Any) -> dict[str, Any]:
    """The document's JSON; `changes` replace members after everything was quoted."""
    parts: dict[str, Any] = {"purpose": Purpose.QUOTE, "challenge": CHALLENGE, "host": world.host}
    quoted = {name: changes.pop(f"quoted_{name}", value) for name, value in parts.items()}
    attest, signature = quoted["host"].quote(
        quoted["purpose"], quoted["challenge"], selection=SELECTION, pcr_digest=world.pcr_digest
    )
    return {
        "v": 1,
        "host": world.host.id,
        "challenge": b64(CHALLENGE),
        "attest": b64(attest),
        "signature": b64(signature),
        "pcrs": {"sha256": {str(pcr): value.hex() for pcr, value in world.values.items()}},
        **changes,
    }


def verify(world: World, value: Any, *, challenge: bytes | None = CHALLENGE) -> VerifiedQuoteDocument:
    return verify_document(parse_quote(canonical(value)), trust=world.trust(), challenge=challenge)


def refused(world: World, value: Any, error: type[Exception] = VerificationError, **kwargs: Any) -> str:
    with pytest.raises(error) as raised:
        verify(world, value, **kwargs)
    return str(raised.value)


def test_verifies(world: World) -> None:
    verified = verify(world, document(world))
    assert (verified.host.host, verified.challenge) == (world.host.id, CHALLENGE)
    assert (verified.selection, verified.values) == (SELECTION, world.values)
    assert verified.quote.clock == CLOCK
    assert verify(world, document(world), challenge=None).challenge == CHALLENGE


def test_what_is_written_is_read_again(world: World) -> None:
    parsed = parse_quote(canonical(document(world)))
    assert parsed.to_bytes() == canonical(document(world)) + b"\n"
    assert parse_quote(parsed.to_bytes()) == parsed


def test_1_not_enrolled(world: World) -> None:
    other = Host("other", root=world.root)
    assert "no record" in refused(world, document(world, host=other.id, quoted_host=other))


def test_1_revoked(world: World) -> None:
    world.revocations["hosts"] = [world.host.id]
    assert "revoked" in refused(world, document(world))


def test_1_another_hosts_name(world: World) -> None:
    other = Host("other", root=world.root)
    world.records[other.id] = world.host_record(other)
    refused(world, document(world, host=other.id))


def test_2_another_challenge(world: World) -> None:
    assert "expected" in refused(world, document(world), challenge=b"fresh")
    replayed = document(world, challenge=b64(b"fresh"))
    assert "extraData" in refused(world, replayed, challenge=b"fresh")


def test_2_another_key(world: World) -> None:
    stranger = Host("stranger", root=world.root)
    stranger.id = world.host.id
    assert "does not verify" in refused(world, document(world, quoted_host=stranger))


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.QUOTE])
def test_2_another_purpose(world: World, purpose: Purpose) -> None:
    assert "extraData" in refused(world, document(world, quoted_purpose=purpose))


def test_3_other_values(world: World) -> None:
    values = document(world)["pcrs"]["sha256"]
    for changed in (
        {"sha256": {**values, "4": "00" * 32}},
        {"sha256": {pcr: value for pcr, value in values.items() if pcr != "4"}},
        {"sha256": {**values, "5": "00" * 32}},
        {"sha384": dict.fromkeys(values, "00" * 48)},
    ):
        refused(world, document(world, pcrs=changed))


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"host": "x"},
        {"challenge": ""},
        {"challenge": "AAA"},
        {"signature": "AAAA"},
        {"pcrs": {}},
        {"pcrs": {"sha256": {}}},
        {"pcrs": {"md5": {"0": "00" * 32}}},
        {"pcrs": {"sha256": {"24": "00" * 32}}},
        {"pcrs": {"sha256": {"00": "00" * 32}}},
        {"pcrs": {"sha256": {"0": "00" * 31}}},
        {"pcrs": {"sha256": {"0": "00" * 32}, "sha1": {"0": "00" * 20}}},
        {"extra": 1},
    ],
)
def test_malformed(world: World, changes: dict[str, Any]) -> None:
    refused(world, document(world, **changes), MalformedError, challenge=None)


def test_nothing_in_place_of_something(world: World) -> None:
    refused(world, document(world, attest=""), MalformedError)
    short = {str(pcr): "00" * 20 for pcr in SELECTION.pcrs}
    refused(world, document(world, pcrs={"sha256": short}), MalformedError)


def test_too_large() -> None:
    with pytest.raises(MalformedError, match="the limit is"):
        parse_quote(b" " * (MAX_QUOTE_BYTES + 1))


@given(st.data())
def test_any_byte_changed(data: st.DataObject) -> None:
    good = canonical(document(WORLD))
    position = data.draw(st.integers(0, len(good) - 1))
    changed = good[:position] + bytes([data.draw(st.integers(0, 255))]) + good[position + 1 :]
    try:
        verify_document(parse_quote(changed), trust=WORLD.trust(), challenge=None)
    except (MalformedError, VerificationError):
        return
    assert json.loads(changed) == json.loads(good)


def test_values_of_another_bank_are_not_guessed(world: World) -> None:
    """SHA-384 values whose composite is what was quoted, under a selection of SHA-256: the bank is signed too."""
    values = dict.fromkeys(SELECTION.pcrs, bytes(48))
    digest = composite(PcrSelection("sha384", SELECTION.pcrs), values)
    clock = ClockInfo(1, 1, 1, safe=True)
    attest, signature = world.host.quote(
        Purpose.QUOTE, CHALLENGE, selection=SELECTION, pcr_digest=digest, clock=clock
    )
    pcrs = {"sha384": {str(pcr): value.hex() for pcr, value in values.items()}}
    forged = document(world, pcrs=pcrs, attest=b64(attest), signature=b64(signature))
    assert "the quote is over" in refused(world, forged)


def test_enrollers_revoked_meanwhile(world: World) -> None:
    value = document(world)
    world.revocations["keys"] = [key_id(world.enrollers[0])]
    refused(world, value)
