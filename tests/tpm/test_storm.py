"""Files are executed as fast as the machine can, and IMA extends PCR 10 for each: still the release key signs in time."""

from collections.abc import Iterator

import pytest

from attestd.errors import TpmRefusedError
from attestd.tpm import release
from attestd.tpm._tcti import Tcti
from attestd.tpm.device import Tpm
from attestd.tpm.held import Slots
from tests.tpm.provisioned import BOUND, DIGEST, SELECTION, Provisioned, provision
from tests.tpm.storm import Shared

RELEASES = 20


@pytest.fixture
def shared(swtpm_tcti: str, monkeypatch: pytest.MonkeyPatch) -> Shared:
    shared = Shared(Tcti(swtpm_tcti))

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return shared.now

        @staticmethod
        def sleep(seconds: float) -> None:
            shared.now += seconds

    monkeypatch.setattr(release, "time", Clock)
    return shared


def took(shared: Shared, host: Provisioned) -> Iterator[float]:
    """What each of some releases took, with the quote that belongs to it."""
    approval = host.approval()
    for _ in range(RELEASES):
        start = shared.now
        host.assert_signed(host.tpm.sign_release(DIGEST, approval, patience_s=10.0))
        host.tpm.quote(SELECTION, BOUND)
        yield shared.now - start


def test_beside_the_resource_manager_any_storm_leaves_time(shared: Shared) -> None:
    """The device itself: five commands from PolicyPCR to Sign."""
    shared.managed = False
    with Tpm(shared, slots=Slots.SHARED) as tpm:
        host = provision(tpm)
        shared.storm(writers=2, pause_s=0.030, command_s=0.003, between_s=0.002)
        seconds = sorted(took(shared, host))
    assert shared.extends / shared.now > 30
    assert seconds[-1] < 5.0


def test_through_the_resource_manager_a_fast_storm_does(shared: Shared) -> None:
    """It sends three commands for each of ours."""
    with Tpm(shared, slots=Slots.MANAGED) as tpm:
        host = provision(tpm)
        shared.storm(writers=2, pause_s=0.045, command_s=0.0012, between_s=0.001)
        seconds = sorted(took(shared, host))
    assert shared.extends / shared.now > 30
    assert seconds[-1] < 5.0


def test_with_both_keys_in_the_same_storm_leaves_none(shared: Shared) -> None:
    """Nine commands for each of ours: what keys that stay in cost."""
    with Tpm(shared, slots=Slots.OURS) as tpm:
        approval = provision(tpm).approval()
        tpm.sign_release(DIGEST, approval)
        shared.storm(writers=2, pause_s=0.030, command_s=0.0012, between_s=0.001)
        with pytest.raises(TpmRefusedError, match="PCRs were extended during every attempt"):
            tpm.sign_release(DIGEST, approval, patience_s=5.0)
