"""An authority, or whoever has one of its keys, that wants more than it may; with an agent that helps it.

Each artifact is decided, and, as if the agent had allowed it, sealed and handed to the runner's verification: both must
refuse it by themselves. Encodings and thresholds one by one are in tests/authorization/test_dsse.py.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.authorization.artifact import parse_artifact
from attestd.authorization.dsse import (
    PAYLOAD_TYPE,
    EnvelopeSignature,
    UntrustedEnvelope,
    format_envelope,
    pae,
    parse_envelope,
)
from attestd.codes import Code, Denied
from attestd.errors import MalformedError
from attestd.gate.execution import File, execution_body
from attestd.strict import canonical
from tests.runner.harness import Bench
from tests.world import NOTHING_CONCEALED, Granted, World, digest, ed25519_key, key_id, p256, sign

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def both(world: World, granted: Granted, artifact: bytes) -> tuple[Code, Code]:
    """How the agent decides, and how the runner does where the agent says that it allowed."""
    decision = world.decide(artifact, execution=granted.execution)
    assert decision.denial is not None
    try:
        artifact_id = parse_artifact(artifact).id
    except MalformedError:
        artifact_id = granted.body["artifact"]["id"]
    claimed = {**granted.body, "artifact": {"id": artifact_id, "sha256": digest(artifact)}}
    with pytest.raises(Denied) as denied:
        world.release(granted, receipt=world.receipt(claimed), artifact=artifact)
    return decision.denial.code, denied.value.denial.code


def signed(payload: bytes, *signatures: tuple[str, bytes], payload_type: str = PAYLOAD_TYPE) -> bytes:
    lines = tuple(EnvelopeSignature(claimed, signature) for claimed, signature in signatures)
    return format_envelope(UntrustedEnvelope(payload_type, payload, lines))


# Two must sign; the rogue has one of the two keys. Each gives the lines of an envelope.
Lines = Callable[[World, bytes], list[tuple[str, bytes]]]


def _mine(world: World, message: bytes) -> tuple[str, bytes]:
    key = world.authors[0]
    return key_id(key), sign(key, message)


ALONE: dict[str, Lines] = {
    "once": lambda w, m: [_mine(w, m)],
    "twice": lambda w, m: [_mine(w, m), _mine(w, m)],
    "twice, once without a key id": lambda w, m: [_mine(w, m), ("", _mine(w, m)[1])],
    "sixteen times": lambda w, m: [_mine(w, m)] * 16,
    "with a stranger's": lambda w, m: [_mine(w, m), (key_id(p256("stranger")), sign(p256("stranger"), m))],
    "with a stranger's without a key id": lambda w, m: [_mine(w, m), ("", sign(p256("stranger"), m))],
}
# A line that names the other author must be that author's: such an envelope is worse than an incomplete one.
FORGED: dict[str, Lines] = {
    "its own under the other's id": lambda w, m: [_mine(w, m), (key_id(w.authors[1]), _mine(w, m)[1])],
    "a stranger's under the other's id": lambda w, m: [
        _mine(w, m),
        (key_id(w.authors[1]), sign(ed25519_key("stranger"), m)),
    ],
    "the other's of something else": lambda w, m: [
        _mine(w, m),
        (key_id(w.authors[1]), sign(w.authors[1], m + b" ")),
    ],
}


@pytest.mark.parametrize("how", [*ALONE, *FORGED])
def test_one_key_for_a_threshold_of_two(how: str) -> None:
    world = World(authors=2, threshold=2)
    granted = world.grant()
    payload = parse_envelope(world.artifact(reason="mine"), payload_type=PAYLOAD_TYPE).payload
    lines = {**ALONE, **FORGED}[how](world, pae(PAYLOAD_TYPE, payload))
    expected = Code.INSUFFICIENT_APPROVALS if how in ALONE else Code.INVALID_SIGNATURE
    assert both(world, granted, signed(payload, *lines)) == (expected, expected)


def test_one_key_in_two_encodings_for_a_threshold_of_two() -> None:
    """Whoever writes the trust files would count one point, compressed and not, as two keys: no such file is trusted."""
    world = World(authors=1, threshold=1)
    point = p256("author").public_key()
    compressed = point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    plain = point.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    # SubjectPublicKeyInfo of a compressed P-256 point (RFC 5480).
    second = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + compressed
    keys = {digest(data): {"spki": b64encode(data).decode()} for data in (plain, second)}
    world.authorities["keys"] |= keys
    rule = world.authorities["authorizations"][0]
    rule["keys"], rule["threshold"] = sorted(keys), 2
    with pytest.raises(MalformedError, match="not in its plain DER form"):
        world.trust()


@pytest.mark.parametrize(
    "member", ["unknown member", "second payload", "payload in another alphabet", "another payload type"]
)
def test_envelopes_that_say_more_than_one_thing(member: str) -> None:
    """What one parser reads and another does not would be signed by those who read the one."""
    world = World()
    granted = world.grant()
    data = json.loads(granted.artifact)
    text = {
        "unknown member": lambda: canonical({**data, "note": "x"}),
        "second payload": lambda: granted.artifact.replace(b'{"payload"', b'{"payload":"e30=","payload"'),
        "payload in another alphabet": lambda: granted.artifact.replace(
            data["payload"].encode(), data["payload"].encode().replace(b"=", b"")[:-1] + b"-_"
        ),
        "another payload type": lambda: canonical({**data, "payloadType": "text/plain"}),
    }[member]()
    assert text != granted.artifact
    assert both(world, granted, text) == (Code.MALFORMED_AUTHORIZATION,) * 2


def test_a_signature_of_something_else() -> None:
    """The same bytes signed as a host record, or without DSSE's framing, authorize nothing."""
    world = World()
    granted = world.grant()
    payload = parse_envelope(granted.artifact, payload_type=PAYLOAD_TYPE).payload
    (author,) = world.authors
    for message in (payload, pae("application/vnd.attestd.host-record+json", payload)):
        artifact = signed(payload, (key_id(author), sign(author, message)))
        assert both(world, granted, artifact) == (Code.INVALID_SIGNATURE,) * 2


# -- more than its scope ----------------------------------------------------------------------------------------------


def scoped() -> World:
    """Whoever signs for /opt/tools/ as uid 1001 is not who signs for everything else."""
    world = World()
    lax = p256("lax")
    world.authorities["keys"][key_id(lax)] = {
        "spki": b64encode(
            lax.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).decode()
    }
    everything = world.authorities["authorizations"][0]
    narrow = {**everything, "name": "lax", "keys": [key_id(lax)], "paths": ["/opt/tools/"], "uids": [1001]}
    world.authorities["authorizations"] = [narrow, everything]
    return world


@pytest.mark.parametrize(
    ("path", "uid"),
    [
        ("/usr/bin/tool", 1001),
        ("/opt/tools/tool", 0),
        ("/opt/toolsmith", 1001),
        ("/opt/tools", 1001),
        ("/opt/tools/../../usr/bin/tool", 1001),
        ("/opt//tools/tool", 1001),
    ],
)
def test_outside_the_paths_and_users_of_its_rule(path: str, uid: int) -> None:
    """The rule is chosen by what runs, by its real path; what the artifact calls itself chooses nothing."""
    world = scoped()
    granted = world.grant()
    inside = world.execution(executable=File("/opt/tools/tool", digest(b"x")), uid=1001)
    assert world.decide(world.artifact(inside, signers=[p256("lax")]), execution=inside).denial is None
    outside = world.execution(executable=File(path, digest(b"x")), uid=uid)

    def rename(statement: dict[str, Any]) -> None:
        statement["subject"][0]["name"] = path

    artifact = world.artifact(inside, signers=[p256("lax")], edit=rename, uid=uid)
    lie = Granted(
        artifact,
        outside,
        granted.receipt,
        {**granted.body, **execution_body(outside, concealment=NOTHING_CONCEALED)},
    )
    real = ".." not in path and "//" not in path
    expected = Code.INVALID_SIGNATURE if real else Code.MALFORMED_AUTHORIZATION
    assert both(world, lie, artifact) == (expected, expected)


# -- more uses ----------------------------------------------------------------------------------------------------------


def test_the_same_authorization_as_another_file(bench: Bench) -> None:
    """Its id is the payload's, so one more signature, or another spelling of one, is no new authorization to use up."""
    world = bench.world
    execution = bench.execution("/bin/true")
    granted = bench.grant(execution, max_uses=1)
    assert bench.submit(granted).start().kind
    envelope = json.loads(granted.artifact)
    stranger = p256("stranger")
    message = pae(PAYLOAD_TYPE, b64decode(envelope["payload"]))
    spare = {"keyid": key_id(stranger), "sig": b64encode(sign(stranger, message)).decode()}
    (line,) = envelope["signatures"]
    for signatures in ([line, line], [{**line, "keyid": ""}], [spare, line], [line, spare]):
        again = canonical({**envelope, "signatures": signatures})
        assert again != granted.artifact
        decision = world.decide(again, execution=execution)
        assert decision.denial is None, "valid, as far as it goes"
        submitted = bench.submit(granted, artifact=again, receipt=world.receipt(decision.body))
        assert submitted.refusal() == "uses_exhausted"


def test_the_other_half_of_an_ecdsa_signature() -> None:
    """(r, n - s) verifies where (r, s) does: it is the same key's all the same."""
    world = World(authors=2, threshold=2)
    granted = world.grant()
    author = p256("author")
    spki = author.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    world.authorities["keys"][key_id(author)] = {"spki": b64encode(spki).decode()}
    world.authorities["authorizations"][0]["keys"].append(key_id(author))
    payload = parse_envelope(world.artifact(reason="mine"), payload_type=PAYLOAD_TYPE).payload
    one = sign(author, pae(PAYLOAD_TYPE, payload))
    r, s = decode_dss_signature(one)
    other = encode_dss_signature(r, P256_ORDER - s)
    artifact = signed(payload, (key_id(author), one), (key_id(author), other), ("", other))
    assert both(world, granted, artifact) == (Code.INSUFFICIENT_APPROVALS,) * 2
