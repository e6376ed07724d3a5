"""Keys, quotes, PCRs and condition, on a real software TPM; what it signs is verified by `attestd.tcg`."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from attestd.errors import TpmError, TpmRefusedError, TpmUnavailableError, UsageError, VerificationError
from attestd.tcg.attest import ClockInfo
from attestd.tcg.nv import NvAttribute, nv_public
from attestd.tcg.pcr import PcrSelection, composite_of_banks
from attestd.tcg.policy import release_policy
from attestd.tcg.public import parse_public, require_attestation_key, require_release_key
from attestd.tcg.quote import verify_certify, verify_quote
from attestd.tpm import capabilities
from attestd.tpm._codes import Rc, base
from attestd.tpm._commands import Answer, Cc, Hierarchy, build, password, sized, u16, u32
from attestd.tpm.device import Tpm
from attestd.tpm.embedded import EmbeddedTpm
from attestd.tpm.keys import _STORAGE_TEMPLATE, AuthValues
from tests.tpm.provisioned import BOUND, DIGEST, SELECTION, Between, Provisioned, provision

ALL = PcrSelection("sha256", tuple(range(24)))


def test_the_keys_are_what_verifiers_require(host: Provisioned) -> None:
    require_attestation_key(parse_public(host.blobs.ak_public))
    policy = release_policy(host.authorities.root.name)
    require_release_key(parse_public(host.blobs.release_public), auth_policy=policy)


def test_the_attestation_key_certifies_the_release_key(host: Provisioned) -> None:
    attest, signature = host.tpm.certify_release_key(BOUND)
    name = parse_public(host.blobs.release_public).name
    certified = verify_certify(
        ak_public_key=host.ak, attest=attest, signature=signature, extra_data=BOUND, name=name
    )
    assert certified.name == name


def test_a_quote_verifies(host: Provisioned) -> None:
    host.tpm.extend(7, {"sha256": sha256(b"x").digest()})
    attest, signature = host.tpm.quote(SELECTION, BOUND)
    quote = verify_quote(
        ak_public_key=host.ak,
        attest=attest,
        signature=signature,
        extra_data=BOUND,
        selection=SELECTION,
        values=host.tpm.read_pcrs(SELECTION),
    )
    properties = host.tpm.properties()
    assert quote.clock == ClockInfo(
        clock=quote.clock.clock,
        reset_count=properties.reset_count,
        restart_count=properties.restart_count,
        safe=properties.safe,
    ), "the AK is in the endorsement hierarchy: its counts are not obfuscated"
    assert 0 < quote.clock.clock <= properties.clock_ms
    assert quote.firmware_version == properties.firmware


def test_a_quote_of_several_banks_verifies(host: Provisioned) -> None:
    banks = (PcrSelection("sha1", (10,)), PcrSelection("sha384", (0, 7)))
    attest, signature = host.tpm.quote(banks, BOUND)
    digest = composite_of_banks([(bank, host.tpm.read_pcrs(bank)) for bank in banks])
    verify_quote(
        ak_public_key=host.ak,
        attest=attest,
        signature=signature,
        extra_data=BOUND,
        selection=banks,
        pcr_digest=digest,
    )


def test_a_quote_shows_an_extend(host: Provisioned) -> None:
    before = host.tpm.read_pcrs(SELECTION)
    host.tpm.extend(4, {"sha256": bytes(32)})
    attest, signature = host.tpm.quote(SELECTION, BOUND)
    with pytest.raises(VerificationError, match="composite"):
        verify_quote(
            ak_public_key=host.ak,
            attest=attest,
            signature=signature,
            extra_data=BOUND,
            selection=SELECTION,
            values=before,
        )


@pytest.mark.parametrize("size", [0, 31, 33, 48])
def test_the_attestation_key_signs_no_bytes_of_a_caller(host: Provisioned, size: int) -> None:
    with pytest.raises(UsageError, match="extra_data"):
        host.tpm.quote(SELECTION, bytes(size))
    with pytest.raises(UsageError, match="extra_data"):
        host.tpm.certify_release_key(bytes(size))


@pytest.mark.parametrize("which", ["ak", "release"])
def test_certification_takes_both_auth_values(host: Provisioned, which: str) -> None:
    host.tpm.load_keys(host.blobs, replace(host.auth_values, **{which: AuthValues.generate().ak}))
    with pytest.raises(TpmRefusedError, match="TPM2_Certify"):
        host.tpm.certify_release_key(BOUND)


def test_others_cannot_quote(host: Provisioned) -> None:
    host.tpm.load_keys(host.blobs, replace(host.auth_values, ak=AuthValues.generate().ak))
    with pytest.raises(TpmRefusedError, match="TPM2_Quote"):
        host.tpm.quote(SELECTION, BOUND)


def test_keys_load_again_and_again_within_three_slots(host: Provisioned) -> None:
    for _ in range(5):
        host.tpm.load_keys(host.blobs, host.auth_values)
    assert len(capabilities.handles(host.tpm._channel, capabilities.TRANSIENT)) == 2
    assert host.tpm.properties().transient_free == 1


@pytest.mark.parametrize("part", ["ak_private", "release_private"])
def test_damaged_blobs_load_nothing(host: Provisioned, part: str) -> None:
    damaged = bytearray(getattr(host.blobs, part))
    damaged[-1] ^= 1
    with pytest.raises(TpmError, match="TPM2_Load"):
        host.tpm.load_keys(replace(host.blobs, **{part: bytes(damaged)}), host.auth_values)
    assert capabilities.handles(host.tpm._channel, capabilities.TRANSIENT) == ()
    with pytest.raises(UsageError, match="not loaded"):
        host.tpm.quote(SELECTION, BOUND)


def test_keys_survive_a_reset_of_the_tpm(embedded_tpm: EmbeddedTpm) -> None:
    embedded_tpm.start()
    with embedded_tpm.open() as tpm:
        host = provision(tpm)
        resets = tpm.properties().reset_count
    embedded_tpm.stop()
    embedded_tpm.start()
    with embedded_tpm.open() as tpm:
        tpm.load_keys(host.blobs, host.auth_values)
        host.tpm = tpm
        host.assert_signed(tpm.sign_release(DIGEST, host.approval()))
        assert tpm.properties().reset_count == resets + 1


def test_keys_of_another_tpm_do_not_load(host: Provisioned, short_dir: Path) -> None:
    other = EmbeddedTpm(short_dir / "other")
    other.start()  # provisioned anew: the template's copies have one seed
    try:
        with other.open() as tpm, pytest.raises(TpmError, match="TPM2_Load"):
            tpm.load_keys(host.blobs, host.auth_values)
    finally:
        other.kill()


def test_slots_taken_by_others_are_an_outage_and_theirs_stay(host: Provisioned, swtpm_tcti: str) -> None:
    params = sized(sized(b"") * 2) + sized(_STORAGE_TEMPLATE) + sized(b"") + u32(0)
    foreign, _ = host.tpm._channel.load(
        Cc.CREATE_PRIMARY, handles=u32(Hierarchy.OWNER), auth=password(), params=params
    )
    with pytest.raises(TpmUnavailableError, match="slots"):
        host.tpm.sign_release(bytes(32), host.approval())
    host.tpm.close()
    with Tpm(swtpm_tcti) as after:
        assert capabilities.handles(after._channel, capabilities.TRANSIENT) == (foreign,)


def test_pcrs_are_read_past_eight(tpm: Tpm) -> None:
    values = tpm.read_pcrs(ALL)
    assert sorted(values) == list(range(24))
    assert values[0] == bytes(32)
    assert values[17] == b"\xff" * 32


@pytest.mark.parametrize(("bank", "size"), [("sha1", 20), ("sha256", 32), ("sha384", 48)])
def test_extend_is_as_specified_in_each_bank(tpm: Tpm, bank: str, size: int) -> None:
    tpm.extend(11, {bank: b"\x01" * size})
    expected = hashlib.new(bank, bytes(size) + b"\x01" * size).digest()
    assert tpm.read_pcrs(PcrSelection(bank, (11,))) == {11: expected}


@pytest.mark.parametrize("digests", [{}, {"md5": bytes(16)}])
def test_extend_of_no_known_bank(tpm: Tpm, digests: dict[str, bytes]) -> None:
    with pytest.raises(UsageError, match="PCR banks"):
        tpm.extend(11, digests)


def test_a_read_torn_by_an_extend_starts_over(swtpm_tcti: str) -> None:
    """Values of different moments would be a state that never was."""
    between = Between(swtpm_tcti)
    reads = iter(range(100))

    def extend(code: int) -> None:
        if code == Cc.PCR_READ and next(reads) == 1:
            values = u32(1) + b"\x00\x0b" + b"\x01" * 32
            between.real.exchange(build(Cc.PCR_EXTEND, handles=u32(0), auth=password(), params=values))

    between.before = extend
    with Tpm(between) as tpm:
        values = tpm.read_pcrs(ALL)
        assert between.seen.count(Cc.PCR_READ) == 2 + 3
        assert values[0] == sha256(bytes(32) + b"\x01" * 32).digest()


def test_reads_torn_without_end(swtpm_tcti: str) -> None:
    between = Between(swtpm_tcti)
    extend = build(Cc.PCR_EXTEND, handles=u32(10), auth=password(), params=u32(1) + b"\x00\x0b" + bytes(32))

    def storm(code: int) -> None:
        if code == Cc.PCR_READ:
            between.real.exchange(extend)

    between.before = storm
    with Tpm(between) as tpm, pytest.raises(TpmUnavailableError, match="each of 8 reads"):
        tpm.read_pcrs(ALL)


def test_a_bank_that_the_tpm_does_not_have(swtpm_tcti: str) -> None:
    between = Between(swtpm_tcti)
    # As a TPM without the bank answers: an update counter, no selection, no digests.
    none = bytes.fromhex("80010000001600000000000000010000000000000000")
    between.before = lambda code: none if code == Cc.PCR_READ else None
    with Tpm(between) as tpm, pytest.raises(TpmError, match="has no PCRs sha1:0"):
        tpm.read_pcrs(PcrSelection("sha1", (0,)))


def test_properties(host: Provisioned) -> None:
    properties = host.tpm.properties()
    assert properties.manufacturer == "IBM"
    assert properties.vendor == "SW   TPM"
    assert not properties.in_lockout
    assert properties.lockout_counter == 0
    assert properties.max_auth_fail == 3
    assert properties.nv_indices == 6, "four certificates, epoch, counter"
    assert properties.nv_counters_free > 0


def test_a_tpm_in_lockout_is_said_to_be(host: Provisioned) -> None:
    """Our own objects are `noDA`: they work on."""
    index, channel = 0x01800ABC, host.tpm._channel
    public = nv_public(
        index, attributes=NvAttribute.AUTHREAD | NvAttribute.AUTHWRITE, auth_policy=b"", size=8
    )
    params = sized(b"good") + sized(public)
    channel.run(Cc.NV_DEFINE_SPACE, handles=u32(Hierarchy.OWNER), auth=password(), params=params)
    write = build(Cc.NV_WRITE, handles=u32(index) * 2, auth=password(b"bad"), params=sized(b"x") + u16(0))
    codes = [base(channel.attempt(write)[0]) for _ in range(4)]
    assert codes == [Rc.AUTH_FAIL] * 3 + [Rc.LOCKOUT]
    assert host.tpm.properties().in_lockout
    with pytest.raises(TpmUnavailableError, match="lockout"):
        channel.run(Cc.NV_WRITE, handles=u32(index) * 2, auth=password(b"bad"), params=sized(b"x") + u16(0))
    host.tpm.sign_release(bytes(32), host.approval())
    host.tpm.quote(SELECTION, BOUND)
    host.tpm.step_counter()


def test_self_test(tpm: Tpm) -> None:
    tpm.self_test()


def test_closing_twice_and_leaving_nothing(embedded_tpm: EmbeddedTpm) -> None:
    embedded_tpm.start()
    tpm = embedded_tpm.open()
    provision(tpm)
    tpm.close()
    tpm.close()
    with pytest.raises(TpmUnavailableError):
        tpm.properties()
    with Tpm(embedded_tpm.tcti) as after:
        assert capabilities.handles(after._channel, capabilities.TRANSIENT) == ()


def test_a_tpm_that_is_gone(embedded_tpm: EmbeddedTpm) -> None:
    embedded_tpm.start()
    with Tpm(embedded_tpm.tcti) as tpm:
        assert not tpm.is_lost
        embedded_tpm.kill()
        for _ in range(2):
            with pytest.raises(TpmUnavailableError):
                tpm.properties()
        assert tpm.is_lost


@pytest.mark.parametrize("tcti", ["", ":x", "swtpm:path=\0"])
def test_not_a_tcti_string(tcti: str) -> None:
    with pytest.raises(UsageError, match="TCTI"):
        Tpm(tcti)


@pytest.mark.parametrize("tcti", ["device:/dev/no-such-tpm", "swtpm:path=/nonexistent/sock", "nosuchtcti"])
def test_no_tpm(tcti: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TpmUnavailableError, match=f"no TPM at {tcti}"):
        Tpm(tcti)
    assert capfd.readouterr().err == "", "tpm2-tss keeps quiet"


def test_the_user_may_have_tpm2_tss_log() -> None:
    code = "from attestd.tpm.device import Tpm\ntry: Tpm('device:/dev/no-such-tpm')\nexcept Exception: pass"
    environment = {"PATH": os.environ["PATH"], "TSS2_LOG": "all+ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "tcti" in done.stderr


def test_a_truncated_response() -> None:
    with pytest.raises(TpmError, match="truncated"):
        Answer(b"\x00\x05abc").sized()
