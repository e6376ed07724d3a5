"""The epoch moves only as its authority says, only upwards; the counter only forwards."""

import shutil
from pathlib import Path

import pytest

from attestd.errors import TpmError, TpmRefusedError, UsageError
from attestd.tcg.nv import COUNTER_INDEX, EPOCH_INDEX, counter_public, epoch_name, nv_name
from attestd.tpm._commands import Cc, build, password, sized, u16, u32
from attestd.tpm.device import Tpm
from attestd.tpm.embedded import EmbeddedTpm
from attestd.tpm.keys import AuthValues
from tests.tpm.provisioned import FIRST_EPOCH, Authorities, Authority, Between, Provisioned, provision


def test_names_are_those_computed_offline(host: Provisioned) -> None:
    assert host.tpm.nv_name(EPOCH_INDEX) == epoch_name(host.authorities.epoch.name)
    assert host.tpm.nv_name(COUNTER_INDEX) == nv_name(counter_public(written=True))
    assert host.tpm.nv_name(0x01800AFF) is None


def test_one_bump_signature_serves_every_host(
    host: Provisioned, swtpm_template: Path, short_dir: Path
) -> None:
    signature, public = host.authorities.bump(FIRST_EPOCH + 3), host.authorities.epoch.public
    other = EmbeddedTpm(Path(shutil.copytree(swtpm_template, short_dir / "other")))
    other.start()
    try:
        with other.open() as second:
            provision(second, host.authorities)
            for tpm in (host.tpm, second):
                tpm.bump_epoch(FIRST_EPOCH + 3, authority_public=public, signature=signature)
                assert tpm.read_epoch() == FIRST_EPOCH + 3
    finally:
        other.kill()


@pytest.mark.parametrize("epoch", [FIRST_EPOCH - 1, FIRST_EPOCH])
def test_the_epoch_never_goes_back_or_stays(host: Provisioned, epoch: int) -> None:
    with pytest.raises(TpmRefusedError, match="epoch not moved"):
        host.bump(epoch)
    assert host.tpm.read_epoch() == FIRST_EPOCH


def test_an_old_bump_is_no_use_later(host: Provisioned) -> None:
    old = host.authorities.bump(FIRST_EPOCH + 1)
    host.bump(FIRST_EPOCH + 2)
    with pytest.raises(TpmRefusedError):
        host.tpm.bump_epoch(FIRST_EPOCH + 1, authority_public=host.authorities.epoch.public, signature=old)


def test_a_bump_is_for_its_epoch_alone(host: Provisioned) -> None:
    with pytest.raises(TpmRefusedError, match="TPM2_VerifySignature"):
        host.tpm.bump_epoch(
            FIRST_EPOCH + 2,
            authority_public=host.authorities.epoch.public,
            signature=host.authorities.bump(FIRST_EPOCH + 1),
        )


def test_a_stranger_moves_nothing(host: Provisioned) -> None:
    stranger = Authority()
    with pytest.raises(TpmRefusedError):
        host.tpm.bump_epoch(
            FIRST_EPOCH + 1,
            authority_public=stranger.public,
            signature=host.authorities.bump(FIRST_EPOCH + 1, by=stranger),
        )
    with pytest.raises(TpmRefusedError):
        host.tpm.init_epoch(FIRST_EPOCH + 1, authority_public=stranger.public, sign=stranger.sign)
    assert host.tpm.read_epoch() == FIRST_EPOCH


@pytest.mark.parametrize("handle", [EPOCH_INDEX, 0x40000001])
def test_no_auth_value_writes_the_epoch(host: Provisioned, handle: int) -> None:
    params = sized(bytes(8)) + u16(0)
    command = build(Cc.NV_WRITE, handles=u32(handle) + u32(EPOCH_INDEX), auth=password(), params=params)
    assert host.tpm._channel.attempt(command)[0] != 0
    assert host.tpm.read_epoch() == FIRST_EPOCH


def test_the_first_write_happens_once(host: Provisioned) -> None:
    """A second one would bring the epoch back: its cpHash has the Name without WRITTEN."""
    epoch = host.authorities.epoch
    with pytest.raises(TpmRefusedError):
        host.tpm.init_epoch(FIRST_EPOCH, authority_public=epoch.public, sign=epoch.sign)


def test_a_first_write_does_not_serve_again_after_redefinition(tpm: Tpm) -> None:
    authorities = Authorities()
    epoch, signatures = authorities.epoch, []

    def sign(message: bytes) -> bytes:
        signatures.append(epoch.sign(message))
        return signatures[-1]

    tpm.define_epoch(epoch.public)
    tpm.init_epoch(1, authority_public=epoch.public, sign=sign)
    tpm.undefine(EPOCH_INDEX)
    tpm.define_epoch(epoch.public)
    with pytest.raises(TpmRefusedError, match="TPM2_PolicySigned"):
        tpm.init_epoch(1, authority_public=epoch.public, sign=lambda _: signatures[0])


def test_a_bump_does_not_initialise(tpm: Tpm) -> None:
    authorities = Authorities()
    tpm.define_epoch(authorities.epoch.public)
    with pytest.raises(TpmError):
        tpm.bump_epoch(5, authority_public=authorities.epoch.public, signature=authorities.bump(5))
    with pytest.raises(TpmError, match="TPM2_NV_Read"):
        tpm.read_epoch()


def test_defining_is_idempotent_and_never_takes_what_is_not_ours(host: Provisioned) -> None:
    host.tpm.define_epoch(host.authorities.epoch.public)
    host.tpm.define_counter(host.auth_values.counter)
    assert host.tpm.read_epoch() == FIRST_EPOCH
    with pytest.raises(TpmError, match="exists and is not ours"):
        host.tpm.define_epoch(Authority().public)


def test_a_definition_without_its_first_step_is_completed(swtpm_tcti: str) -> None:
    """A crash between TPM2_NV_DefineSpace and the first TPM2_NV_Increment."""
    between, secret = Between(swtpm_tcti), AuthValues.generate().counter
    crash = bytes.fromhex("80010000000a00000101")
    between.before = lambda code: crash if code == Cc.NV_INCREMENT else None
    with Tpm(between) as tpm:
        with pytest.raises(TpmError):
            tpm.define_counter(secret)
        between.before = lambda _: None
        tpm.define_counter(secret)
        assert tpm.read_counter() > 0


def test_the_counter_steps_by_one(host: Provisioned) -> None:
    start = host.tpm.read_counter()
    assert [host.tpm.step_counter() for _ in range(3)] == [start + 1, start + 2, start + 3]
    assert host.tpm.read_counter() == start + 3


def test_others_do_not_step_the_counter(host: Provisioned) -> None:
    host.tpm._counter_auth = AuthValues.generate().counter
    with pytest.raises(TpmRefusedError, match="TPM2_NV_Increment"):
        host.tpm.step_counter()


def test_the_counter_needs_its_secret(tpm: Tpm) -> None:
    with pytest.raises(UsageError, match="load the keys"):
        tpm.step_counter()


def test_a_redefined_counter_is_above_the_old_one(host: Provisioned) -> None:
    before = host.tpm.read_counter()
    host.tpm.undefine(COUNTER_INDEX)
    host.tpm.define_counter(host.auth_values.counter)
    assert host.tpm.read_counter() > before


def test_an_orderly_stop_keeps_the_counter_and_a_power_cut_moves_it_forwards(
    embedded_tpm: EmbeddedTpm,
) -> None:
    embedded_tpm.start()
    with embedded_tpm.open() as tpm:
        host = provision(tpm)
        saved = tpm.step_counter()
    embedded_tpm.stop()
    embedded_tpm.start()
    with embedded_tpm.open() as tpm:
        tpm.load_keys(host.blobs, host.auth_values)
        assert tpm.read_counter() == saved
        cut = tpm.step_counter()
    embedded_tpm.kill()
    embedded_tpm.start()
    with embedded_tpm.open() as tpm:
        tpm.load_keys(host.blobs, host.auth_values)
        assert cut <= tpm.read_counter() <= cut + 256, "at most one orderly interval"
