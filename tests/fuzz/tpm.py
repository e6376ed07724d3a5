"""Targets: what TPMs make, and what a TPM (or what stands between it and us) answers."""

import struct
from collections.abc import Callable, Iterator
from functools import cache

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from attestd.errors import MalformedError, TpmError, UsageError, VerificationError
from attestd.tcg.attest import QuoteInfo, parse_attest
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.pcr import PcrSelection, marshal_selections, selection_from_text
from attestd.tcg.public import parse_public, require_attestation_key, require_release_key
from attestd.tcg.quote import split_quote, verify_quote_of_any_state
from attestd.tcg.signature import parse_signature
from attestd.tpm.device import Tpm
from attestd.tpm.keys import AuthValues, KeyBlobs
from tests.fuzz import valid
from tests.fuzz.target import target
from tests.fuzz.valid import TRUST, WORLD
from tests.tcg.parsing import parse_selections
from tests.world import SELECTION, sized

AK = WORLD.host.ak.public_key()


def _vectors(name: str) -> list[bytes]:
    return valid.vectors(f"tcg/data/*/{name}")


@target(
    MalformedError, VerificationError, seeds=lambda: [valid.PUBLICS[0], *valid.PUBLICS, *_vectors("ak.pub")]
)
def tpm_public(data: bytes) -> None:
    public = parse_public(data)
    assert public.raw == data
    assert public.name
    public.public_key()
    require = require_release_key if public.auth_policy else None
    if require is not None:
        require(public, auth_policy=TRUST.authorities.release_policy)
    else:
        require_attestation_key(public)


@target(
    MalformedError,
    VerificationError,
    seeds=lambda: [valid.SIGNATURE, *_vectors("quote.sig")],
)
def tpm_signature(data: bytes) -> None:
    parse_signature(data).verify(AK, valid.ATTEST)


@target(MalformedError, seeds=lambda: [valid.ATTEST, valid.CERTIFY[0], *_vectors("quote.msg")])
def tpm_attest(data: bytes) -> None:
    found = parse_attest(data)
    assert found.raw == data
    if isinstance(found.body, QuoteInfo):
        assert marshal_selections(found.body.selections) in data


@target(MalformedError, seeds=lambda: [SELECTION.marshal(), PcrSelection("sha1", (10,)).marshal()])
def pcr_selections(data: bytes) -> None:
    assert marshal_selections(parse_selections(data)) == data


@target(UsageError, seeds=lambda: [b"0,2,4,7", b"sha384:23"])
def pcr_text(data: bytes) -> None:
    selection = selection_from_text(data.decode("utf-8", "surrogateescape"))
    assert selection_from_text(str(selection)) == selection


@target(MalformedError, VerificationError, seeds=lambda: [valid.QUOTE_LINE])
def quote_line(data: bytes) -> None:
    attest, signature = split_quote(data)
    bound = extra_data(Purpose.CHECKPOINT, host_id=WORLD.host.id, data=valid.TEXT)
    assert isinstance(AK, EllipticCurvePublicKey)
    found = verify_quote_of_any_state(ak_public_key=AK, attest=attest, signature=signature, extra_data=bound)
    assert found.attest == valid.ATTEST


# --- a TPM that answers anything -----------------------------------------------------------------------------------

AUTH = AuthValues(*(bytes([number]) * 32 for number in (1, 2, 3)))
BLOBS = KeyBlobs(WORLD.host.ak_public, b"private", WORLD.host.release_public, b"private")
RESPONSES = 64
SUCCESS = struct.Struct(">HII")


def response(body: bytes, *, code: int = 0) -> bytes:
    """A response as the header says."""
    return SUCCESS.pack(0x8001, 10 + len(body), code) + body


class Said:
    """A transport whose answers are the input: each after its length; the last one again and again."""

    def __init__(self, data: bytes) -> None:
        self._answers = list(_cut(data))[:RESPONSES] or [b""]
        self._asked = 0
        self.is_lost = False

    def exchange(self, _: bytes) -> bytes:
        self._asked += 1
        # No protocol of ours takes more than some tens of commands: beyond that we would be kept busy for ever.
        assert self._asked < 2000, "a TPM can keep us busy for ever"
        return self._answers[min(self._asked, len(self._answers)) - 1]

    def close(self) -> None:
        self.is_lost = True


def _cut(data: bytes) -> Iterator[bytes]:
    """Bodies; a length with the top bit set is that of a whole response, header included."""
    position = 0
    while position + 2 <= len(data):
        size = int.from_bytes(data[position : position + 2], "big")
        body = data[position + 2 : position + 2 + (size & 0x7FFF)]
        # Codes that ask to be asked again cost a second each: the tests of the channel have them.
        yield body if size & 0x8000 and body[6:10] < b"\x00\x00\x09" else response(body)
        position += 2 + (size & 0x7FFF)


def _loaded(tpm: Tpm) -> Tpm:
    tpm.load_keys(BLOBS, AUTH)
    return tpm


DIGEST = bytes(32)
OPERATIONS: tuple[Callable[[Tpm], object], ...] = (
    lambda tpm: tpm.properties(),
    lambda tpm: tpm.endorsement_key(),
    lambda tpm: tpm.create_keys(root_name=b"\x00\x0b" + DIGEST, auth_values=AUTH),
    lambda tpm: _loaded(tpm).quote(SELECTION, DIGEST),
    lambda tpm: _loaded(tpm).certify_release_key(DIGEST),
    lambda tpm: _loaded(tpm).step_counter(),
    lambda tpm: tpm.read_pcrs(SELECTION),
    lambda tpm: tpm.read_epoch(),
    lambda tpm: tpm.define_counter(AUTH.counter),
    lambda tpm: tpm.was_shut_down(),
    lambda tpm: tpm._flush_all([0x80000000]),
    lambda tpm: tpm.extend(16, {"sha256": DIGEST}),
    lambda tpm: _loaded(tpm).activate_credential(
        ek_public=WORLD.host.ek_public, id_object=sized(DIGEST), encrypted_secret=sized(DIGEST)
    ),
)
_ECDSA = b"\x00\x18\x00\x0b" + sized(DIGEST) * 2


def _operation(number: int, *bodies: bytes) -> bytes:
    return bytes([number]) + b"".join(sized(body) for body in bodies)


def _seeds() -> list[bytes]:
    properties = b"\0" + struct.pack(">III", 6, 1, 0x105) + b"IBM\0"
    handles = b"\0" + struct.pack(">III", 1, 1, 0x01C0000A)
    clock = struct.pack(">QQIIB", 1, 2, 3, 4, 1)
    loaded = [struct.pack(">I", 0x80000000 + number) + bytes(4) for number in range(4)]
    quoted = bytes(4) + sized(valid.ATTEST) + _ECDSA + b"\0\0\0\0\0"
    pcrs = struct.pack(">II", 7, 1) + SELECTION.marshal()[4:] + struct.pack(">I", 6) + sized(DIGEST) * 6
    number = bytes(4) + sized(bytes(8))
    missing = bytes([0x80, 10]) + response(b"", code=0x18B)
    ek = struct.pack(">I", 0x80000002) + bytes(4) + sized(WORLD.host.ek_public)
    session = struct.pack(">I", 0x03000000) + sized(bytes(16))
    activated = bytes(4) + sized(DIGEST) + bytes(5) + bytes(2) + b"\0" + bytes(2)
    return [
        _operation(0, properties, properties, clock, handles),
        _operation(1, sized(bytes(14)) + sized(b"name"), number),
        _operation(2, loaded[0], bytes(4) + sized(b"private") + sized(WORLD.host.ak_public)),
        _operation(3, *loaded, b"", quoted),
        _operation(4, *loaded, struct.pack(">I", 2) + sized(DIGEST), quoted),
        _operation(5, *loaded, b"", number),
        _operation(6, pcrs),
        _operation(7, number),
        _operation(8, b"", b"", b"", number),
        _operation(9, properties),
        _operation(10, handles, b"", handles, b"", handles),
        _operation(11, b""),
        _operation(12, *loaded, b"", b"") + 2 * missing + _operation(0, ek, session, b"", activated)[1:],
        bytes([7, 0x80, 4]) + b"\x80\x01\0\0",
        bytes([7, 0x80, 10]) + response(b"", code=0x101),
    ]


@target(TpmError, seeds=_seeds, max_bytes=8192)
def tpm_responses(data: bytes) -> None:
    OPERATIONS[data[0] % len(OPERATIONS) if data else 0](Tpm(Said(data[1:])))


class WithCertificate(Said):
    """A TPM that holds the input as its EK certificate, and one EK."""

    def __init__(self, data: bytes) -> None:
        super().__init__(b"")
        self._data = data

    def exchange(self, command: bytes) -> bytes:
        code = int.from_bytes(command[6:10], "big")
        index = int.from_bytes(command[10:14], "big")
        if code == 0x169 and index == 0x01C0000A:
            return response(sized(bytes(12) + struct.pack(">H", len(self._data))) + sized(b"name"))
        if code == 0x169:
            return response(b"", code=0x18B)
        if code == 0x14E:
            size, offset = struct.unpack(">HH", command[-4:])
            return response(bytes(4) + sized(self._data[offset : offset + size]))
        if code == 0x131:
            return response(struct.pack(">I", 0x80000000) + bytes(4) + sized(WORLD.host.ek_public))
        return response(b"\0" + struct.pack(">II", 1, 0))


@cache
def _certificate() -> bytes:
    from datetime import timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "attestd")])
    builder = x509.CertificateBuilder(name, name, WORLD.host.ek.public_key(), 1)
    dated = builder.not_valid_before(WORLD.now).not_valid_after(WORLD.now + timedelta(days=1))
    return dated.sign(WORLD.root, SHA256()).public_bytes(Encoding.DER)


@target(TpmError, seeds=lambda: [_certificate(), _certificate() + bytes(100)], max_bytes=4096)
def ek_certificate(data: bytes) -> None:
    Tpm(WithCertificate(data)).endorsement_key()
