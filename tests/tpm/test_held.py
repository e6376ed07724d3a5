"""When our keys are in the TPM: as long as they are loaded, for one operation, or for one command."""

import pytest

from attestd.errors import TpmError, TpmUnavailableError
from attestd.tpm import capabilities
from attestd.tpm._channel import Channel, Session
from attestd.tpm._commands import Cc
from attestd.tpm._tcti import Tcti
from attestd.tpm.device import Tpm
from attestd.tpm.embedded import EmbeddedTpm
from attestd.tpm.held import Slots, slots_of
from tests.tpm.provisioned import BOUND, DIGEST, SELECTION, Between, provision


@pytest.mark.parametrize(
    ("tcti", "slots"),
    [
        ("device:/dev/tpmrm0", Slots.MANAGED),
        ("device", Slots.MANAGED),
        ("tabrmd", Slots.MANAGED),
        ("tabrmd:bus_type=system", Slots.MANAGED),
        ("device:/dev/tpm0", Slots.SHARED),
        ("swtpm:path=/run/tpmrm/sock", Slots.OURS),
    ],
)
def test_a_tcti_string_tells_how_the_tpm_is_shared(tcti: str, slots: Slots) -> None:
    assert slots_of(tcti) is slots


def loaded(tpm: Tpm) -> tuple[int, ...]:
    return capabilities.handles(tpm._channel, capabilities.TRANSIENT)


@pytest.mark.parametrize(("slots", "stay"), [(Slots.OURS, 2), (Slots.SHARED, 0), (Slots.MANAGED, 0)])
def test_between_operations_only_what_is_ours_alone_stays_in(
    swtpm_tcti: str, slots: Slots, stay: int
) -> None:
    with Tpm(swtpm_tcti, slots=slots) as tpm:
        host = provision(tpm)
        approval = host.approval()
        for _ in range(2):
            host.assert_signed(tpm.sign_release(DIGEST, approval))
            tpm.quote(SELECTION, BOUND)
            tpm.certify_release_key(BOUND)
        assert len(loaded(tpm)) == stay
    with Tpm(swtpm_tcti) as after:
        assert loaded(after) == ()


@pytest.mark.parametrize(
    ("slots", "window"),
    [
        (Slots.SHARED, [Cc.POLICY_AUTHORIZE, Cc.POLICY_NV, Cc.POLICY_AUTHORIZE, Cc.SIGN]),
        (
            Slots.MANAGED,
            [Cc.POLICY_AUTHORIZE, Cc.POLICY_NV, Cc.POLICY_AUTHORIZE, Cc.CONTEXT_LOAD, Cc.SIGN],
        ),
    ],
)
def test_few_commands_lie_between_policy_and_signature(
    swtpm_tcti: str, slots: Slots, window: list[Cc]
) -> None:
    between = Between(swtpm_tcti)
    with Tpm(between, slots=slots) as tpm:
        approval = provision(tpm).approval()
        tpm.sign_release(DIGEST, approval)
        between.seen.clear()
        tpm.sign_release(DIGEST, approval)
        after = between.seen[between.seen.index(Cc.POLICY_PCR) + 1 :]
        assert after == [*window, Cc.FLUSH_CONTEXT]


def test_what_a_predecessor_left_loaded_beside_a_resource_manager_is_flushed(
    embedded_tpm: EmbeddedTpm,
) -> None:
    """And what the resource manager saved, a client's session, is left alone."""
    embedded_tpm.start()
    killed = Channel(Tcti(embedded_tpm.tcti))
    left, saved = Session(killed, policy=True), Session(killed, policy=True)
    killed.run(Cc.CONTEXT_SAVE, params=saved.handle.to_bytes(4, "big"))
    killed.close()
    with Tpm(embedded_tpm.tcti, slots=Slots.SHARED) as tpm:
        kinds = (capabilities.LOADED_SESSIONS, capabilities.SAVED_SESSIONS)
        handles = [handle & 0xFFFFFF for kind in kinds for handle in capabilities.handles(tpm._channel, kind)]
    assert left.handle & 0xFFFFFF not in handles
    assert handles == [saved.handle & 0xFFFFFF]


def test_contexts_of_before_a_reset_end_the_connection(embedded_tpm: EmbeddedTpm) -> None:
    embedded_tpm.start()
    with Tpm(embedded_tpm.tcti, slots=Slots.SHARED) as tpm:
        host = provision(tpm)
        assert tpm._ak is not None
        outdated = tpm._ak._context
    embedded_tpm.stop()
    embedded_tpm.start()
    with Tpm(embedded_tpm.tcti, slots=Slots.SHARED) as tpm:
        tpm.load_keys(host.blobs, host.auth_values)
        tpm.quote(SELECTION, BOUND)
        assert tpm._ak is not None
        tpm._ak._context = outdated  # as if the TPM had been reset behind the connection
        with pytest.raises(TpmUnavailableError, match="the TPM was reset"):
            tpm.quote(SELECTION, BOUND)
        assert tpm.is_lost


REFUSED = bytes.fromhex("80010000000a00000084")  # TPM_RC_VALUE


def test_a_context_that_cannot_be_saved_leaves_nothing(swtpm_tcti: str) -> None:
    between = Between(swtpm_tcti)
    with Tpm(between, slots=Slots.MANAGED) as tpm:
        host = provision(tpm)
        between.before = lambda code: REFUSED if code == Cc.CONTEXT_SAVE else None
        with pytest.raises(TpmError, match="TPM2_ContextSave"):
            tpm.load_keys(host.blobs, host.auth_values)
        assert loaded(tpm) == ()


def test_a_context_that_cannot_be_loaded(swtpm_tcti: str) -> None:
    between = Between(swtpm_tcti)
    with Tpm(between, slots=Slots.MANAGED) as tpm:
        provision(tpm)
        between.before = lambda code: REFUSED if code == Cc.CONTEXT_LOAD else None
        with pytest.raises(TpmError, match="TPM2_ContextLoad"):
            tpm.quote(SELECTION, BOUND)
        assert not tpm.is_lost
