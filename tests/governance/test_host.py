"""Host records: what enrollers sign must also be what TPMs made."""

from typing import Any

import pytest

from attestd.authorization.dsse import InsufficientApprovalsError
from attestd.errors import AttestdError, MalformedError, VerificationError
from attestd.governance import host
from attestd.governance.authorities import parse_authorities
from attestd.governance.host import HOST_RECORD_TYPE, VerifiedHost, parse_host_record
from attestd.strict import canonical
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.policy import release_policy
from attestd.tcg.public import (
    Attribute,
    attestation_key_template,
    authority_name,
    host_id,
    parse_public,
    release_key_template,
)
from tests.world import (
    SELECTION,
    Host,
    World,
    attest_certify,
    attest_quote,
    b64,
    dsse,
    ed25519_key,
    key_id,
    p256,
    spki,
    tpm_signature,
    with_point,
)


@pytest.fixture
def world() -> World:
    return World()


def parse(
    world: World, record: Any = None, *, data: bytes | None = None, revoked: tuple[str, ...] = ()
) -> VerifiedHost:
    payload = canonical(world.records[world.host.id] if record is None else record)
    return parse_host_record(
        dsse(payload, world.enrollers, payload_type=HOST_RECORD_TYPE) if data is None else data,
        authorities=parse_authorities(canonical(world.authorities)),
        revoked_keys=revoked,
    )


def refused(
    world: World, record: Any = None, *, error: type[AttestdError] = VerificationError, **kwargs: Any
) -> str:
    with pytest.raises(error) as raised:
        parse(world, record, **kwargs)
    return str(raised.value)


def test_verifies(world: World) -> None:
    found = parse(world)
    assert found.host == world.host.id == host_id(world.host.ek_public)
    assert (found.ak_spki, found.release_spki) == (spki(world.host.ak), spki(world.host.release_key))
    assert found.ak_name == parse_public(world.host.ak_public).name
    assert found.release_name == parse_public(world.host.release_public).name
    assert found.enrollers == tuple(key_id(key) for key in world.enrollers)
    assert (found.tier, found.userspace, found.labels) == ("software", "none", {"role": "ci"})
    assert found.not_before < world.now < found.not_after


# enrollers


def enrollers(world: World, *, threshold: int) -> None:
    world.enrollers = [ed25519_key(f"enroller {number}") for number in range(3)]
    for key in world.enrollers:
        world.authorities["keys"][key_id(key)] = {"spki": b64(spki(key))}
    world.authorities["enrollers"] = {
        "keys": [key_id(key) for key in world.enrollers],
        "threshold": threshold,
    }


def test_k_of_n_enrollers(world: World) -> None:
    enrollers(world, threshold=2)
    payload = canonical(world.records[world.host.id])
    one, two, three = world.enrollers
    assert len(parse(world).enrollers) == 3
    for signers, enough in (([one, two], True), ([two, three], True), ([one], False)):
        data = dsse(payload, signers, payload_type=HOST_RECORD_TYPE)
        if enough:
            assert len(parse(world, data=data).enrollers) == 2
        else:
            refused(world, data=data, error=InsufficientApprovalsError)


def test_revoked_enrollers_count_for_nothing(world: World) -> None:
    enrollers(world, threshold=2)
    first, second, third = (key_id(key) for key in world.enrollers)
    assert set(parse(world, revoked=(first,)).enrollers) == {second, third}
    refused(world, revoked=(first, second), error=InsufficientApprovalsError)
    assert "every enroller key is revoked" in refused(world, revoked=(first, second, third))


def test_other_authorities_enrol_nobody(world: World) -> None:
    """Only keys named as enrollers count: neither those for authorizations nor the TPM's."""
    payload = canonical(world.records[world.host.id])
    for key in (world.authors[0], world.root, world.platform_key):
        refused(world, data=dsse(payload, [key], payload_type=HOST_RECORD_TYPE))


def test_signed_as_something_else(world: World) -> None:
    """An enroller's signature over the same bytes under another type is none of a host record."""
    payload = canonical(world.records[world.host.id])
    as_artifact = dsse(payload, world.enrollers)
    refused(world, data=as_artifact, error=MalformedError)
    swapped = as_artifact.replace(b"application/vnd.in-toto+json", HOST_RECORD_TYPE.encode())
    refused(world, data=swapped)


def test_payload_must_be_canonical(world: World) -> None:
    payload = canonical(world.records[world.host.id]) + b"\n"
    refused(world, data=dsse(payload, world.enrollers, payload_type=HOST_RECORD_TYPE), error=MalformedError)


# EK, AK, release key


def test_the_host_id_is_not_chosen(world: World) -> None:
    refused(world, {**world.host_record(world.host), "host": "00" * 32})
    other = Host("other", root=world.root)
    record = world.host_record(world.host, ek={"public": b64(other.ek_public), "chain_digest": None})
    assert "is not the SHA-256 of its EK" in refused(world, record)


def ak_with(world: World, attributes: int) -> bytes:
    template = bytearray(attestation_key_template()[:-4])
    template[4:8] = attributes.to_bytes(4, "big")
    return with_point(bytes(template), world.host.ak)


AK = parse_public(with_point(attestation_key_template()[:-4], p256("x"))).attributes


@pytest.mark.parametrize(
    "attributes",
    [
        AK & ~Attribute.RESTRICTED,
        AK & ~Attribute.FIXED_TPM,
        AK & ~Attribute.SENSITIVE_DATA_ORIGIN,
        AK | Attribute.DECRYPT,
    ],
)
def test_an_ak_that_would_sign_anything(world: World, attributes: int) -> None:
    record = world.host_record(world.host, ak={"public": b64(ak_with(world, attributes))})
    assert "attestation key" in refused(world, record)


def with_release_key(world: World, public: bytes, **changes: Any) -> dict[str, Any]:
    """A record whose release key has that public area, properly certified unless `changes` say otherwise."""
    name = parse_public(public).name
    parts: dict[str, Any] = {
        "host": world.host.id,
        "purpose": Purpose.ENROLL,
        "data": name,
        "name": name,
        "key": world.host.ak,
        **changes,
    }
    extra = extra_data(parts["purpose"], host_id=parts["host"], data=parts["data"])
    body = changes.get("body") or attest_certify(extra, name=parts["name"])
    certify = {"attest": b64(body), "signature": b64(tpm_signature(parts["key"], body))}
    return world.host_record(world.host, release_key={"public": b64(public), "certify": certify})


def release_template(world: World, *, attributes: int | None = None, root: Any = None) -> bytes:
    policy = release_policy(authority_name((root or world.root).public_key()))
    template = bytearray(release_key_template(policy)[:-4])
    if attributes is not None:
        template[4:8] = attributes.to_bytes(4, "big")
    return with_point(bytes(template), world.host.release_key)


def test_a_certified_release_key(world: World) -> None:
    assert parse(world, with_release_key(world, release_template(world))).host == world.host.id


RELEASE = parse_public(release_key_template(bytes(32))).attributes


@pytest.mark.parametrize(
    "attributes",
    [
        RELEASE | Attribute.USER_WITH_AUTH,
        RELEASE & ~Attribute.FIXED_TPM & ~Attribute.FIXED_PARENT,
        RELEASE & ~Attribute.SENSITIVE_DATA_ORIGIN,
        RELEASE | Attribute.RESTRICTED,
    ],
)
def test_a_release_key_that_signs_without_its_policy(world: World, attributes: int) -> None:
    """Certified by the AK, but of another kind: it could sign in any state, or was made outside."""
    public = release_template(world, attributes=attributes)
    assert "release key" in refused(world, with_release_key(world, public))


def test_a_release_key_of_another_root(world: World) -> None:
    public = release_template(world, root=p256("other root"))
    assert "auth_policy" in refused(world, with_release_key(world, public))


def test_a_release_key_that_the_ak_did_not_certify(world: World) -> None:
    public = release_template(world)
    for changes in (
        {"key": p256("not the AK")},
        {"purpose": Purpose.QUOTE},
        {"host": "00" * 32},
        {"data": b"another name"},
        {"name": b"\x00\x0b" + bytes(32)},
        {"body": attest_quote(b"x" * 32, selection=SELECTION, pcr_digest=bytes(32))},
    ):
        refused(world, with_release_key(world, public, **changes))


def test_another_hosts_keys(world: World) -> None:
    """A record for our EK with the AK and release key of another host: certified for that host, not for this."""
    other = world.host_record(Host("other", root=world.root))
    record = world.host_record(world.host, ak=other["ak"], release_key=other["release_key"])
    assert "extraData" in refused(world, record)


@pytest.mark.parametrize("which", ["ak", "release_key"])
def test_a_point_off_its_curve(world: World, which: str) -> None:
    public = bytearray(world.host.ak_public if which == "ak" else world.host.release_public)
    public[-1] ^= 1
    record = (
        with_release_key(world, bytes(public))
        if which == "release_key"
        else world.host_record(world.host, ak={"public": b64(bytes(public))})
    )
    assert "not a public key" in refused(world, record, error=MalformedError)


@pytest.mark.parametrize("member", ["epoch", "log_counter"])
def test_nv_names_are_those_of_the_authorities(world: World, member: str) -> None:
    record = world.host_record(world.host)
    record["nv"][member] = "000b" + "00" * 32
    assert "NV Names" in refused(world, record)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("tier", "gold"),
        ("userspace", "trust-me"),
        ("not_after", "2026-02-30T00:00:00Z"),
        ("not_before", "2026-01-01T00:00:00+00:00"),
        ("labels", {"": "x"}),
        ("labels", {"x": ""}),
        ("v", 2),
        ("ek", {"public": "AAAA", "chain_digest": None}),
    ],
)
def test_members_of_another_form(world: World, member: str, value: Any) -> None:
    refused(world, world.host_record(world.host, **{member: value}), error=MalformedError)


RSA_PUBLIC = (
    bytes.fromhex("0001000b00050072" + "0000" + "0010" + "0014000b" + "0800" + "00000000" + "0100")
    + b"\xc1" * 256
)


def test_an_rsa_ak_is_not_of_the_right_kind(world: World) -> None:
    record = world.host_record(world.host, ak={"public": b64(RSA_PUBLIC)})
    assert "attestation key" in refused(world, record)
    with pytest.raises(MalformedError):  # also should the check before it ever go
        host._ec_key(parse_public(RSA_PUBLIC))
