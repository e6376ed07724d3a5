"""The messages of enrolment: strict, bounded, and the same in both directions."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.governance.enrolment import (
    MAX_ACTIVATION_BYTES,
    MAX_ENROLMENT_BYTES,
    EpochSignature,
    Pending,
    Signed,
    epoch_message,
    join_host_records,
    nonce_of_epoch_message,
    parse_challenge,
    parse_outcome,
)
from attestd.governance.host import HOST_RECORD_TYPE, parse_host_record
from attestd.strict import canonical
from attestd.tcg.nv import epoch_public, nv_name
from attestd.tcg.policy import REF_EPOCH_INIT, nv_write_cp_hash
from attestd.tcg.public import authority_name
from tests.governance.enrolling import Enrolling, allow, parse_activation, parse_enrolment
from tests.world import World, b64, dsse, ed25519_key, key_id, spki

WORLD = World()
allow(WORLD, WORLD.host)
HOST = Enrolling(WORLD, WORLD.host, b"certificate", b"issuer")
CHALLENGE = HOST.challenge()
ACTIVATION = HOST.activation(CHALLENGE, epoch_nonce=b64(bytes(32)))
SIGNED = Signed(
    v=1,
    record=b64(b"{}"),
    ended=b64(b"{}"),
    ak_certificate="PEM",
    epoch=EpochSignature(epoch=1, sig=b64(b"s")),
)
PENDING = Pending(v=1, digest="00" * 32, reasons=("labels",))


def test_what_is_written_is_read() -> None:
    assert parse_enrolment(canonical(HOST.request())) == HOST.request()
    assert parse_challenge(canonical(CHALLENGE)) == CHALLENGE
    assert parse_activation(canonical(ACTIVATION)) == ACTIVATION
    for outcome in (SIGNED, PENDING):
        assert parse_outcome(canonical(outcome)) == outcome
    assert b'"state":"pending"' in canonical(PENDING)


def test_no_canonical_form_is_asked_for() -> None:
    """Nobody signs them: a client in any language may write them."""
    laid_out = msgspec.json.format(canonical(HOST.request()), indent=2)
    assert parse_enrolment(laid_out) == HOST.request()


def changed(message: Any, path: str, value: Any) -> bytes:
    """The message with one member replaced; it goes where the value is ...."""
    plain = msgspec.json.decode(canonical(message))
    *way, last = path.split("/")
    inside = plain
    for step in way:
        inside = inside[step]
    if value is ...:
        del inside[last]
    else:
        inside[last] = value
    return canonical(plain)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("v", 2),
        ("more", 1),
        ("ek", ...),
        ("ek/certificates", ["AAAA"] * 9),
        ("ek/certificates", ["A" * 10928]),
        ("ek/certificates", ["not base64!"]),
        ("ek/certificates", None),
        ("ek/public", "A" * 2052),
        ("ek/more", 1),
        ("ak/public", 5),
        ("release_key/certify", {}),
        ("release_key/certify/attest", ...),
    ],
)
def test_an_enrolment_that_is_none(path: str, value: Any) -> None:
    with pytest.raises(MalformedError, match="enrolment"):
        parse_enrolment(changed(HOST.request(), path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("secret", ...),
        ("secret", "A" * 2052),
        ("record", "A" * 87386),
        ("epoch_nonce", ...),
        ("epoch_nonce", b64(bytes(15))),
        ("epoch_nonce", b64(bytes(67))),
        ("enrolment", None),
        ("enrolment/v", 2),
    ],
)
def test_an_activation_that_is_none(path: str, value: Any) -> None:
    with pytest.raises(MalformedError, match="activation"):
        parse_activation(changed(ACTIVATION, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", "00" * 55),
        ("id", "../../../etc/passwd"),
        ("tier", "gold"),
        ("host", "00"),
        ("expires", "tomorrow"),
        ("credential", {"id_object": ""}),
    ],
)
def test_a_challenge_that_is_none(path: str, value: Any) -> None:
    with pytest.raises(MalformedError, match="challenge"):
        parse_challenge(changed(CHALLENGE, path, value))


@pytest.mark.parametrize(
    ("message", "path", "value"),
    [
        (SIGNED, "state", "maybe"),
        (SIGNED, "state", "pending"),
        (SIGNED, "state", ...),
        (SIGNED, "epoch/epoch", -1),
        (SIGNED, "ak_certificate", "A" * 16385),
        (PENDING, "reasons", ["x"] * 17),
        (PENDING, "reasons", ["x" * 513]),
        (PENDING, "record", "AAAA"),
    ],
)
def test_an_outcome_that_is_none(message: Any, path: str, value: Any) -> None:
    with pytest.raises(MalformedError, match="outcome"):
        parse_outcome(changed(message, path, value))


@pytest.mark.parametrize(
    ("parse", "limit"),
    [
        (parse_enrolment, MAX_ENROLMENT_BYTES),
        (parse_activation, MAX_ACTIVATION_BYTES),
        (parse_challenge, MAX_ENROLMENT_BYTES),
        (parse_outcome, MAX_ACTIVATION_BYTES),
    ],
)
def test_limits(parse: Any, limit: int) -> None:
    with pytest.raises(MalformedError, match="the limit is"):
        parse(b" " * (limit + 1))
    with pytest.raises(MalformedError, match="not acceptable JSON"):
        parse(b" " * limit)


def test_the_largest_request_is_within_the_limits() -> None:
    """Eight certificates of 8 KiB: what the parts allow, the whole does not refuse."""
    full = Enrolling(WORLD, WORLD.host, *[bytes(8 * 1024)] * 8)
    request = full.request()
    assert parse_enrolment(canonical(request)) == request
    activation = full.activation(CHALLENGE, record=b64(bytes(64 * 1024)))
    assert parse_activation(canonical(activation)) == activation


class TestJoin:
    """k of n enrollers, each with its own signature over the same record."""

    @pytest.fixture
    def world(self) -> World:
        world = World()
        second = ed25519_key("second enroller")
        world.enrollers.append(second)
        world.authorities["keys"][key_id(second)] = {"spki": b64(spki(second))}
        world.authorities["enrollers"] = {"keys": [key_id(key) for key in world.enrollers], "threshold": 2}
        return world

    def signed(self, world: World, payload: bytes) -> list[bytes]:
        return [dsse(payload, [key], payload_type=HOST_RECORD_TYPE) for key in world.enrollers]

    def test_two_of_two(self, world: World) -> None:
        authorities = world.trust().authorities
        records = self.signed(world, canonical(world.records[world.host.id]))
        for few in (records[:1], records[:1] * 2):
            with pytest.raises(VerificationError, match="expected signatures of 2 distinct keys, found 1"):
                parse_host_record(join_host_records(few), authorities=authorities, revoked_keys=())
        found = parse_host_record(join_host_records(records), authorities=authorities, revoked_keys=())
        assert len(found.enrollers) == 2

    def test_one_enroller_signs_something_else(self, world: World) -> None:
        records = [
            self.signed(world, canonical(record))[number]
            for number, record in enumerate(
                (world.records[world.host.id], world.host_record(world.host, tier="hardware"))
            )
        ]
        with pytest.raises(UsageError, match="expected one record, signed by each, found 2"):
            join_host_records(records)

    def test_nothing_to_join(self) -> None:
        with pytest.raises(UsageError, match="found 0"):
            join_host_records([])
        with pytest.raises(MalformedError):
            join_host_records([b"{}"])


class TestEpoch:
    NAME = authority_name(WORLD.epoch_key.public_key())

    @given(nonce=st.binary(min_size=16, max_size=64), epoch=st.integers(0, 2**53))
    def test_by_hand(self, nonce: bytes, epoch: int) -> None:
        message = epoch_message(self.NAME, epoch=epoch, nonce=nonce)
        index = nv_name(epoch_public(self.NAME, written=False))
        cp_hash = nv_write_cp_hash(nv_name=index, data=epoch.to_bytes(8, "big"))
        assert message == nonce + bytes(4) + cp_hash + REF_EPOCH_INIT
        assert nonce_of_epoch_message(message) == nonce

    @pytest.mark.parametrize("size", [0, 15, 65])
    def test_a_nonce_that_is_none(self, size: int) -> None:
        with pytest.raises(UsageError, match="expected 16 to 64"):
            epoch_message(self.NAME, epoch=1, nonce=bytes(size))
        with pytest.raises(MalformedError, match="first write"):
            nonce_of_epoch_message(bytes(size + 36) + REF_EPOCH_INIT)

    def test_another_message(self) -> None:
        with pytest.raises(MalformedError, match="first write"):
            nonce_of_epoch_message(bytes(32) + b"attestd.epoch.set")
