"""The release key signs in the approved state, for TPM2_Sign, with its auth value; and else not at all."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

import pytest

from attestd.errors import MalformedError, TpmError, TpmRefusedError, UsageError
from attestd.tcg.nv import EPOCH_INDEX
from attestd.tcg.pcr import PcrSelection, composite
from attestd.tpm import capabilities
from attestd.tpm._channel import Channel
from attestd.tpm._codes import Rc, base
from attestd.tpm._commands import Cc, build, password, sized, u16, u32
from attestd.tpm.device import Tpm
from attestd.tpm.keys import AuthValues, LoadedKey
from attestd.tpm.release import arm
from tests.tpm.provisioned import (
    DIGEST,
    FIRST_EPOCH,
    MAX_EPOCH,
    SELECTION,
    Authority,
    Between,
    Provisioned,
    provision,
)

EVIL = {"sha256": sha256(b"evil").digest()}


@pytest.fixture
def between(swtpm_tcti: str) -> Between:
    return Between(swtpm_tcti)


@pytest.fixture
def watched(between: Between) -> Iterator[Provisioned]:
    with Tpm(between) as tpm:
        yield provision(tpm)


def open_handles(tpm: Tpm) -> list[int]:
    kinds = (capabilities.TRANSIENT, capabilities.LOADED_SESSIONS)
    return [handle for kind in kinds for handle in capabilities.handles(tpm._channel, kind)]


def test_signs_in_the_approved_state(host: Provisioned) -> None:
    approval = host.approval()
    for _ in range(2):
        host.assert_signed(host.tpm.sign_release(DIGEST, approval))


def test_an_approval_is_verified_once_and_then_costs_nine_commands(
    watched: Provisioned, between: Between
) -> None:
    approval = watched.approval()
    watched.tpm.sign_release(DIGEST, approval)
    between.seen.clear()
    watched.tpm.sign_release(DIGEST, approval)
    assert between.seen == [
        Cc.START_AUTH_SESSION,
        Cc.POLICY_NV,
        Cc.POLICY_COMMAND_CODE,
        Cc.POLICY_AUTH_VALUE,
        Cc.POLICY_PCR,
        Cc.POLICY_AUTHORIZE,
        Cc.POLICY_NV,
        Cc.POLICY_AUTHORIZE,
        Cc.SIGN,
    ]


def test_many_approvals_are_remembered_within_bounds(host: Provisioned) -> None:
    digest = host.approval().pcr_digest
    for epoch in range(FIRST_EPOCH, FIRST_EPOCH + 12):
        host.tpm.sign_release(DIGEST, host.authorities.approve(digest, epoch=epoch))
    assert len(host.tpm._armed) == 8


@pytest.mark.parametrize("pcr", SELECTION.pcrs)
def test_a_changed_pcr_refuses_and_names_them(host: Provisioned, pcr: int) -> None:
    approval = host.approval()
    host.tpm.sign_release(DIGEST, approval)
    host.tpm.extend(pcr, EVIL)
    with pytest.raises(TpmRefusedError, match=r"PCRs sha256:0,2,4,7,11,12 are not as approved"):
        host.tpm.sign_release(DIGEST, approval)


def test_a_pcr_outside_the_selection_or_bank_changes_nothing(host: Provisioned) -> None:
    approval = host.approval()
    host.tpm.extend(10, EVIL)
    host.tpm.extend(7, {"sha384": bytes(48)})
    host.assert_signed(host.tpm.sign_release(DIGEST, approval))


def test_the_new_state_once_approved_signs_and_the_old_does_not(host: Provisioned) -> None:
    old = host.approval()
    host.tpm.extend(7, EVIL)
    host.assert_signed(host.tpm.sign_release(DIGEST, host.approval()))
    with pytest.raises(TpmRefusedError):
        host.tpm.sign_release(DIGEST, old)


def test_an_epoch_bump_ends_the_approval(host: Provisioned) -> None:
    approval = host.approval()
    host.tpm.sign_release(DIGEST, approval)
    host.bump(FIRST_EPOCH + 1)
    with pytest.raises(TpmRefusedError, match="the epoch is past that of the approval"):
        host.tpm.sign_release(DIGEST, approval)


def test_an_epoch_bump_ends_the_platform_key(host: Provisioned) -> None:
    digest = host.approval().pcr_digest
    long_lived = host.authorities.approve(digest, epoch=MAX_EPOCH + 1)
    host.bump(MAX_EPOCH)
    host.assert_signed(host.tpm.sign_release(DIGEST, long_lived))
    host.bump(MAX_EPOCH + 1)
    with pytest.raises(TpmRefusedError, match="the epoch is past that of the platform key"):
        host.tpm.sign_release(DIGEST, long_lived)


def test_a_rotated_platform_key_signs_under_the_same_release_key(host: Provisioned) -> None:
    digest = host.approval().pcr_digest
    successor = host.authorities.approve(digest, platform=Authority())
    host.assert_signed(host.tpm.sign_release(DIGEST, successor))


def test_another_root_approves_nothing(host: Provisioned) -> None:
    approval = host.authorities.approve(host.approval().pcr_digest, root=Authority())
    with pytest.raises(TpmRefusedError, match=r"TPM2_Sign: .*policy"):
        host.tpm.sign_release(DIGEST, approval)


def test_a_platform_key_that_the_root_did_not_approve(host: Provisioned) -> None:
    digest, stranger = host.approval().pcr_digest, Authority()
    approval = replace(
        host.authorities.approve(digest, platform=stranger),
        root_sig=host.approval().root_sig,
    )
    with pytest.raises(TpmRefusedError, match="TPM2_VerifySignature"):
        host.tpm.sign_release(DIGEST, approval)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": FIRST_EPOCH + 1},
        {"max_epoch": MAX_EPOCH + 1},
        {"pcr_digest": bytes(32)},
        {"selection": PcrSelection("sha256", (0, 2))},
        {"selection": PcrSelection("sha1", SELECTION.pcrs)},
    ],
)
def test_what_authorities_signed_cannot_be_changed(host: Provisioned, change: dict[str, object]) -> None:
    with pytest.raises(TpmRefusedError, match="TPM2_VerifySignature"):
        host.tpm.sign_release(DIGEST, replace(host.approval(), **change))  # type: ignore[arg-type]


def test_signatures_and_digests_that_are_none(host: Provisioned) -> None:
    with pytest.raises(MalformedError, match="not DER"):
        host.tpm.sign_release(DIGEST, replace(host.approval(), root_sig=b"\x30\x03\x02\x01\x01"))
    with pytest.raises(MalformedError, match="P-256"):
        host.tpm.sign_release(DIGEST, replace(host.approval(), root_sig=_der_of(1 << 300, 1)))
    with pytest.raises(UsageError, match="expected SHA-256"):
        host.tpm.sign_release(DIGEST[:20], host.approval())


def _der_of(r: int, s: int) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    return encode_dss_signature(r, s)


def test_a_wrong_auth_value_is_refused_and_locks_nothing(host: Provisioned) -> None:
    approval = host.approval()
    host.tpm.load_keys(host.blobs, replace(host.auth_values, release=AuthValues.generate().release))
    for _ in range(10):
        with pytest.raises(TpmRefusedError, match=r"TPM2_Sign: .*auth"):
            host.tpm.sign_release(DIGEST, approval)
    assert host.tpm.properties().lockout_counter == 0
    host.tpm.load_keys(host.blobs, host.auth_values)
    host.assert_signed(host.tpm.sign_release(DIGEST, approval))


def test_the_auth_value_alone_signs_nothing(host: Provisioned) -> None:
    """`userWithAuth` is clear: an agent that is broken into, with all its secrets, cannot leave out the policy."""
    assert host.tpm._release is not None
    with host.tpm._release.used() as key:
        params = sized(DIGEST) + bytes.fromhex("00108024400000070000")
    command = build(Cc.SIGN, handles=u32(key.handle), auth=password(key.auth_value), params=params)
    code, _ = host.tpm._channel.attempt(command)
    assert base(code) == Rc.AUTH_UNAVAILABLE


def _satisfied(channel: Channel, host: Provisioned, session: object) -> bytes:
    armed = arm(channel, host.approval(), epoch_name=host.authorities.epoch_name)
    handle = u32(session.handle)  # type: ignore[attr-defined]
    for _, head, tail in armed.steps:
        assert channel.attempt(head + handle + tail)[0] == 0
    return handle


def test_the_approval_serves_no_quote(host: Provisioned) -> None:
    _assert_refused_for(host, Cc.QUOTE, sized(bytes(32)) + u16(0x0010) + SELECTION.marshal(), handles=1)


def test_the_approval_serves_no_change_of_the_auth_value(host: Provisioned) -> None:
    _assert_refused_for(host, 0x150, sized(b"new"), handles=2)  # TPM2_ObjectChangeAuth


def test_the_approval_serves_no_certification(host: Provisioned) -> None:
    """TPM2_CertifyCreation, with the release key as the signer."""
    params = sized(b"") + sized(bytes(32)) + u16(0x0010) + bytes.fromhex("8021400000070000")
    _assert_refused_for(host, 0x14A, params, handles=2)


def _assert_refused_for(host: Provisioned, code: int, params: bytes, *, handles: int) -> None:
    channel = host.tpm._channel
    assert host.tpm._release is not None
    assert host.tpm._ak is not None
    with host.tpm._release.used() as key, host.tpm._ak.used() as other:
        _assert_refused(channel, host, code, params, (key, other)[:handles])


def _assert_refused(
    channel: Channel, host: Provisioned, code: int, params: bytes, objects: tuple[LoadedKey, ...]
) -> None:
    with channel.session(policy=True) as session:
        _satisfied(channel, host, session)
        names, area = b"".join(o.name for o in objects), b"".join(u32(o.handle) for o in objects)
        cp_hash = sha256(u32(code) + names + params).digest()
        auth = session.authorize(cp_hash, objects[0].auth_value)
        result, _ = channel.attempt(build(code, handles=area, auth=auth, params=params))  # type: ignore[arg-type]
    assert base(result) in {Rc.POLICY_CC, Rc.POLICY_FAIL}, hex(result)


def test_a_pcr_extended_during_the_policy_is_no_refusal(watched: Provisioned, between: Between) -> None:
    """IMA extends PCR 10 at each exec: `TPM_RC_PCR_CHANGED`, for PCRs that the policy does not select too."""
    approval, storms = watched.approval(), iter([True, True, True])
    between.seen.clear()
    between.before = lambda code: _extend_before(between, code, storms)
    watched.assert_signed(watched.tpm.sign_release(DIGEST, approval))
    assert between.seen.count(Cc.START_AUTH_SESSION) == 1
    assert between.seen.count(Cc.POLICY_RESTART) == 3
    assert len(open_handles(watched.tpm)) == 2


def test_a_storm_without_end_is_a_refusal_in_time(watched: Provisioned, between: Between) -> None:
    approval = watched.approval()
    watched.tpm.sign_release(DIGEST, approval)
    between.seen.clear()
    between.before = lambda code: _extend_before(between, code, iter([True]))
    with pytest.raises(TpmRefusedError, match="PCRs were extended during every attempt"):
        watched.tpm.sign_release(DIGEST, approval, patience_s=1.0)
    assert between.seen.count(Cc.SIGN) > 32
    assert len(open_handles(watched.tpm)) == 2


def test_a_selected_pcr_extended_in_the_storm_is_refused(watched: Provisioned, between: Between) -> None:
    approval, storms = watched.approval(), iter([True])
    between.before = lambda code: _extend_before(between, code, storms, pcr=7)
    with pytest.raises(TpmRefusedError, match="are not as approved"):
        watched.tpm.sign_release(DIGEST, approval)


def _extend_before(between: Between, code: int, storms: Iterator[bool], *, pcr: int = 10) -> None:
    if code == Cc.SIGN and next(storms, False):
        values = u32(1) + u16(0x000B) + EVIL["sha256"]
        between.real.exchange(build(Cc.PCR_EXTEND, handles=u32(pcr), auth=password(), params=values))


def test_a_response_changed_on_its_way_is_found(watched: Provisioned, between: Between) -> None:
    approval = watched.approval()

    def flip(code: int, response: bytes) -> bytes:
        return response[:40] + bytes([response[40] ^ 1]) + response[41:] if code == Cc.SIGN else response

    between.after = flip
    with pytest.raises(TpmError, match="changed on its way"):
        watched.tpm.sign_release(DIGEST, approval)


def test_nothing_is_left_open_after_many_operations(host: Provisioned) -> None:
    good = host.approval()
    bad = replace(good, root_sig=good.platform_sig)
    before = open_handles(host.tpm)
    for number in range(200):
        if number % 4 == 0:
            host.tpm.extend(7 if number % 8 else 10, EVIL)
        for approval in (good, bad, host.authorities.approve(bytes(32))):
            try:
                host.tpm.sign_release(DIGEST, approval)
            except TpmRefusedError:
                continue
    assert open_handles(host.tpm) == before
    assert len(before) == 2


def test_a_redefined_epoch_index_serves_no_approval(host: Provisioned) -> None:
    """Whoever has the owner auth may redefine it with lower contents, but not under its Name."""
    approval = host.approval()
    host.tpm.undefine(EPOCH_INDEX)
    with pytest.raises(TpmError, match="not defined"):
        host.tpm.sign_release(DIGEST, approval)
    thief = Authority()
    host.tpm.define_epoch(thief.public)
    host.tpm.init_epoch(0, authority_public=thief.public, sign=thief.sign)
    with pytest.raises(TpmRefusedError):
        host.tpm.sign_release(DIGEST, approval)


def test_a_redefined_epoch_index_is_found_with_the_approval_armed(host: Provisioned) -> None:
    approval = host.approval()
    host.tpm.sign_release(DIGEST, approval)
    thief = Authority()
    armed = dict(host.tpm._armed)
    host.tpm.undefine(EPOCH_INDEX)
    host.tpm.define_epoch(thief.public)
    host.tpm.init_epoch(0, authority_public=thief.public, sign=thief.sign)
    host.tpm._armed.update(armed)  # an agent that did not see the change
    with pytest.raises(TpmRefusedError, match="platform key's approval"):
        host.tpm.sign_release(DIGEST, approval)


def test_keys_must_be_loaded(tpm: Tpm) -> None:
    pcr_digest = composite(SELECTION, tpm.read_pcrs(SELECTION))
    from tests.tpm.provisioned import Authorities

    with pytest.raises(UsageError, match="not loaded"):
        tpm.sign_release(DIGEST, Authorities().approve(pcr_digest))
