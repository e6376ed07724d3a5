"""A software TPM as oracle: it computes the same digests and Names, and what it signs verifies."""

from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_CC,
    TPM2_EO,
    TPM2_RH,
    TPM2_SE,
    TPM2_ST,
    TPM2B_DIGEST,
    TPM2B_NV_PUBLIC,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST,
    TPML_PCR_SELECTION,
    TPMS_NV_PUBLIC,
    TPMS_SENSITIVE_CREATE,
    TPMT_PUBLIC,
    TPMT_SIG_SCHEME,
    TPMT_SIGNATURE,
    TPMT_SYM_DEF,
    TPMT_TK_HASHCHECK,
    TSS2_Exception,
)

from attestd.errors import VerificationError
from attestd.tcg import nv, policy, public
from attestd.tcg.pcr import PcrSelection, composite
from attestd.tcg.quote import verify_certify, verify_nv_certify, verify_quote
from attestd.tcg.signature import parse_signature
from tests.tcg import build
from tests.tcg.parsing import ecdsa_from_der, parse_selections

ROOT, PLATFORM, EPOCH, LEASE = (build.key(scalar) for scalar in (1001, 1002, 1003, 1004))
NAMES = {key: public.authority_name(key.public_key()) for key in (ROOT, PLATFORM, EPOCH, LEASE)}
EPOCH_NAME = nv.epoch_name(NAMES[EPOCH])
SELECTION = PcrSelection("sha256", (0, 7, 23))
SECRET, EXTRA = b"auth value", b"x" * 32
OWNER, ENDORSEMENT = ESYS_TR.OWNER, ESYS_TR.ENDORSEMENT


@pytest.fixture
def tpm(tcg_tcti: str) -> Iterator[ESAPI]:
    with ESAPI(tcg_tcti) as esapi:
        yield esapi


def session(tpm: ESAPI, kind: int = TPM2_SE.POLICY) -> ESYS_TR:
    symmetric = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
    return tpm.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, kind, symmetric, TPM2_ALG.SHA256)


def tpm_signature(data: bytes) -> TPMT_SIGNATURE:
    return TPMT_SIGNATURE.unmarshal(data)[0]


def area(data: bytes) -> TPM2B_PUBLIC:
    return TPM2B_PUBLIC(TPMT_PUBLIC.unmarshal(data)[0])


def load_authority(tpm: ESAPI, key: ec.EllipticCurvePrivateKey) -> ESYS_TR:
    return tpm.load_external(area(public.authority_public(key.public_key())), hierarchy=OWNER)


def define(tpm: ESAPI, marshalled: bytes, auth: bytes = b"") -> ESYS_TR:
    handle = tpm.nv_define_space(auth, TPM2B_NV_PUBLIC(TPMS_NV_PUBLIC.unmarshal(marshalled)[0]))
    assert bytes(tpm.nv_read_public(handle)[1]) == nv.nv_name(marshalled)
    return handle


@pytest.fixture
def epoch(tpm: ESAPI) -> ESYS_TR:
    """The epoch index, written for the first time with 4, as enrolment does."""
    index = define(tpm, nv.epoch_public(NAMES[EPOCH], written=False))
    armed = session(tpm)
    authority = load_authority(tpm, EPOCH)
    nonce, reference = bytes(tpm.trsess_get_nonce_tpm(armed)), policy.REF_EPOCH_INIT
    unwritten = nv.nv_name(nv.epoch_public(NAMES[EPOCH], written=False))
    cp_hash = policy.nv_write_cp_hash(nv_name=unwritten, data=(4).to_bytes(8, "big"))
    message = policy.signed_message(nonce_tpm=nonce, expiration=0, cp_hash=cp_hash, policy_ref=reference)
    tpm.policy_signed(
        auth_object=authority,
        policy_session=armed,
        nonce_tpm=nonce,
        cp_hash_a=cp_hash,
        policy_ref=reference,
        expiration=0,
        auth=tpm_signature(build.ecdsa(EPOCH, message)),
    )
    tpm.policy_or(armed, TPML_DIGEST([*nv.epoch_branches(NAMES[EPOCH])]))
    tpm.nv_write(index, (4).to_bytes(8, "big"), 0, index, session1=armed)
    tpm.flush_context(armed)
    tpm.flush_context(authority)
    return index


@pytest.fixture
def ak(tpm: ESAPI) -> tuple[ESYS_TR, public.Public]:
    handle, area_, *_ = tpm.create_primary(None, area(public.attestation_key_template()), ENDORSEMENT)
    return handle, public.parse_public(area_.publicArea.marshal())


def approve(tpm: ESAPI, key: ec.EllipticCurvePrivateKey, digest: bytes, reference: bytes):
    """The ticket that the TPM gives for an authority's signature, made in DER as authorities do."""
    message = policy.approval_message(digest, reference)
    der = key.sign(message, ec.ECDSA(SHA256()))
    authority = load_authority(tpm, key)
    hashed = tpm.hash(message, TPM2_ALG.SHA256, ESYS_TR.RH_NULL)[0]
    ticket = tpm.verify_signature(authority, hashed, tpm_signature(ecdsa_from_der(der).marshal()))
    tpm.flush_context(authority)
    return ticket


def authorize(tpm: ESAPI, armed: ESYS_TR, key, digest: bytes, reference: bytes) -> None:
    assert bytes(tpm.policy_get_digest(armed)) == digest
    tpm.policy_authorize(
        policy_session=armed,
        approved_policy=digest,
        policy_ref=reference,
        key_sign=NAMES[key],
        check_ticket=approve(tpm, key, digest, reference),
    )


def read_pcrs(tpm: ESAPI) -> dict[int, bytes]:
    values = tpm.pcr_read("sha256:" + ",".join(map(str, SELECTION.pcrs)))[2]
    return dict(zip(SELECTION.pcrs, map(bytes, values), strict=True))


def test_authority_area_and_name(tpm):
    for key, name in NAMES.items():
        handle = load_authority(tpm, key)
        loaded, loaded_name, _ = tpm.read_public(handle)
        assert bytes(loaded_name) == name
        assert loaded.publicArea.marshal() == public.authority_public(key.public_key())
        tpm.flush_context(handle)


def test_nv_names_before_and_after_the_first_write(tpm, epoch):
    assert bytes(tpm.nv_read_public(epoch)[1]) == EPOCH_NAME
    counter = define(tpm, nv.counter_public(written=False), SECRET)
    tpm.nv_increment(counter, counter)
    assert bytes(tpm.nv_read_public(counter)[1]) == nv.nv_name(nv.counter_public(written=True))


def test_each_policy_command_in_a_trial_session(tpm, epoch):
    trial = session(tpm, TPM2_SE.TRIAL)
    digest = policy.ZERO

    def same(expected: bytes) -> bytes:
        assert bytes(tpm.policy_get_digest(trial)) == expected
        return expected

    operand = bytes(6) + b"\x09"
    tpm.policy_nv(epoch, epoch, trial, operand, TPM2_EO.UNSIGNED_LE, offset=1)
    less = policy.Eo.UNSIGNED_LE
    digest = same(policy.policy_nv(digest, nv_name=EPOCH_NAME, operand=operand, offset=1, operation=less))
    authority = load_authority(tpm, LEASE)
    tpm.policy_signed(
        auth_object=authority,
        policy_session=trial,
        nonce_tpm=b"",
        cp_hash_a=b"",
        policy_ref=policy.REF_LEASE,
        expiration=0,
        auth=tpm_signature(build.ecdsa(LEASE, b"not checked in a trial session")),
    )
    digest = same(policy.policy_signed(digest, authority_name=NAMES[LEASE], policy_ref=policy.REF_LEASE))
    tpm.policy_command_code(trial, TPM2_CC.Sign)
    digest = same(policy.policy_command_code(digest, policy.CC_SIGN))
    tpm.policy_auth_value(trial)
    digest = same(policy.policy_auth_value(digest))
    tpm.policy_pcr(trial, b"", str(SELECTION))
    digest = same(policy.policy_pcr(digest, SELECTION, composite(SELECTION, read_pcrs(tpm))))
    branches = [digest, bytes(32), b"b" * 32]
    tpm.policy_or(trial, TPML_DIGEST([TPM2B_DIGEST(branch) for branch in branches]))
    digest = same(policy.policy_or(branches))
    tpm.policy_restart(trial)
    tpm.policy_cp_hash(trial, b"c" * 32)
    same(policy.policy_cp_hash(policy.ZERO, b"c" * 32))
    tpm.flush_context(trial)
    tpm.flush_context(authority)


def test_epoch_moves_by_the_fleets_signature_and_only_upwards(tpm, epoch):
    def bump(number: int) -> None:
        armed = session(tpm)
        try:
            operand = number.to_bytes(8, "big")
            tpm.policy_nv(epoch, epoch, armed, operand, TPM2_EO.UNSIGNED_LT)
            tpm.policy_cp_hash(armed, policy.nv_write_cp_hash(nv_name=EPOCH_NAME, data=operand))
            digest = policy.epoch_set_policy(epoch_name=EPOCH_NAME, epoch=number)
            authorize(tpm, armed, EPOCH, digest, policy.REF_EPOCH_SET)
            tpm.policy_or(armed, TPML_DIGEST([*nv.epoch_branches(NAMES[EPOCH])]))
            tpm.nv_write(epoch, operand, 0, epoch, session1=armed)
        finally:
            tpm.flush_context(armed)

    bump(9)
    with pytest.raises(TSS2_Exception):
        bump(8)
    assert int.from_bytes(bytes(tpm.nv_read(epoch, 8, 0, epoch)), "big") == 9


def create_release_key(tpm: ESAPI) -> tuple[ESYS_TR, public.Public]:
    parent = tpm.create_primary(None, "ecc256", OWNER)[0]
    template = area(public.release_key_template(policy.release_policy(NAMES[ROOT])))
    sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=SECRET))
    private, created, *_ = tpm.create(parent, sensitive, template)
    handle = tpm.load(parent, private, created)
    tpm.flush_context(parent)
    tpm.tr_set_auth(handle, SECRET)
    return handle, public.parse_public(created.publicArea.marshal())


def release(tpm: ESAPI, handle: ESYS_TR, epoch: ESYS_TR, pcr_digest: bytes, message: bytes) -> bytes:
    """The whole release: both approvals, then TPM2_Sign."""
    state = policy.platform_policy(
        epoch_name=EPOCH_NAME, epoch=7, selection=SELECTION, pcr_digest=pcr_digest, lease_name=None
    )
    root = policy.root_policy(platform_name=NAMES[PLATFORM], epoch_name=EPOCH_NAME, max_epoch=9)
    armed = session(tpm)
    try:
        tpm.policy_nv(epoch, epoch, armed, (7).to_bytes(8, "big"), TPM2_EO.UNSIGNED_LE)
        tpm.policy_command_code(armed, TPM2_CC.Sign)
        tpm.policy_auth_value(armed)
        tpm.policy_pcr(armed, b"", str(SELECTION))
        authorize(tpm, armed, PLATFORM, state, policy.REF_PLATFORM)
        tpm.policy_nv(epoch, epoch, armed, (9).to_bytes(8, "big"), TPM2_EO.UNSIGNED_LE)
        authorize(tpm, armed, ROOT, root, policy.REF_ROOT)
        digest = tpm.hash(message, TPM2_ALG.SHA256, ESYS_TR.RH_NULL)[0]
        ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
        scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
        signed = tpm.sign(handle, digest, scheme, ticket, session1=armed)
    finally:
        tpm.flush_context(armed)
    return signed.marshal()


def test_release_key_signs_under_the_policy_computed_offline(tpm, epoch):
    handle, key = create_release_key(tpm)
    public.require_release_key(key, auth_policy=policy.release_policy(NAMES[ROOT]))
    message = b"a checkpoint"
    signature = release(tpm, handle, epoch, composite(SELECTION, read_pcrs(tpm)), message)
    parse_signature(signature).verify(key.public_key(), message)


def test_attestation_key_quotes_and_certifies(tpm, epoch, ak):
    handle, key = ak
    public.require_attestation_key(key)
    assert key.name == bytes(tpm.read_public(handle)[1])
    preloaded = key.public_key()
    scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)

    selection = TPML_PCR_SELECTION.parse(str(SELECTION))
    assert parse_selections(selection.marshal()) == (SELECTION,)
    attest, signature = tpm.quote(handle, selection, EXTRA, scheme)
    signed = {"ak_public_key": preloaded, "attest": bytes(attest), "signature": signature.marshal()}
    quoted = verify_quote(**signed, extra_data=EXTRA, selection=SELECTION, values=read_pcrs(tpm))
    assert quoted.clock.reset_count == tpm.read_clock().clockInfo.resetCount

    release_handle, release_key = create_release_key(tpm)
    attest, signature = tpm.certify(release_handle, handle, EXTRA, scheme)
    signed = {"ak_public_key": preloaded, "attest": bytes(attest), "signature": signature.marshal()}
    assert verify_certify(**signed, extra_data=EXTRA, name=release_key.name).name == release_key.name
    with pytest.raises(VerificationError, match="certified Name"):
        verify_certify(**signed, extra_data=EXTRA, name=key.name)

    attest, signature = tpm.nv_certify(handle, epoch, EXTRA, scheme, 8, auth_handle=epoch)
    signed = {"ak_public_key": preloaded, "attest": bytes(attest), "signature": signature.marshal()}
    certified = verify_nv_certify(**signed, extra_data=EXTRA, index_name=EPOCH_NAME, size=8)
    assert int.from_bytes(certified.contents, "big") == 4
