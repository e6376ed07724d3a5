"""TPM and disk as conditions: polled, denied while they do not hold, and what makes them hold again."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestd.agent.findings import Examined, of_status
from attestd.agent.health import LOOK_S, Health
from attestd.codes import Code
from attestd.tpm.embedded import EmbeddedTpm
from tests.agent.sick import Sick, guess, sick_tpm
from tests.agent.test_exec import denied
from tests.host import Host, wait_for


@pytest.fixture
def sick(swtpm_tcti: str) -> Iterator[tuple[Sick, Health]]:
    with sick_tpm(swtpm_tcti) as found:
        yield found


def tpm_findings(host: Host) -> dict[str, Examined]:
    """The findings of the status about the TPM, by area."""
    return {item.area: item for item in of_status(host.status(), now=datetime.now(UTC)) if item.remedy}


@pytest.mark.parametrize("code", [0, 0x153, 0x90A])
def test_a_tpm_that_passed_its_tests_or_still_makes_them(sick: tuple[Sick, Health], code: int) -> None:
    transport, health = sick
    transport.self_test = code
    asyncio.run(health.poll())
    assert health.tpm() is None
    assert health.self_test_failure is None


def test_a_failed_self_test_denies_until_it_passes(sick: tuple[Sick, Health]) -> None:
    transport, health = sick
    assert health.tpm() is None
    transport.self_test = 0x101
    asyncio.run(health.poll())
    found = health.tpm()
    assert found is not None
    assert (found.code, "failure mode" in found.sentence) == (Code.TPM_UNAVAILABLE, True)
    assert "power-cycle" in str(health.self_test_failure)
    transport.self_test = None
    asyncio.run(health.poll())
    assert health.tpm() is None


def test_lockout_denies_until_it_is_cleared(sick: tuple[Sick, Health]) -> None:
    """Our own keys would work on in lockout, but somebody is guessing."""
    _, health = sick
    asyncio.run(health.poll())
    assert health.tpm() is None
    health._port.other(lambda tpm: guess(tpm, 4)).result()
    asyncio.run(health.poll())
    found = health.tpm()
    assert found is not None
    assert found.code is Code.TPM_UNAVAILABLE
    assert "3 failed authorizations" in found.sentence


def test_room_is_looked_at_every_20_ms(tmp_path: Path, sick: tuple[Sick, Health]) -> None:
    health = Health(sick[1]._port, directory=tmp_path, reserve=1)
    assert health.disk() is None
    health.reserve = health.free() + (1 << 40)
    time.sleep(LOOK_S)
    found = health.disk()
    assert found is not None
    assert found.code is Code.AUDIT_UNAVAILABLE
    assert str(tmp_path) in found.sentence
    gone = Health(sick[1]._port, directory=tmp_path / "gone", reserve=1).disk()
    assert gone is not None
    assert "cannot be looked at" in gone.sentence


def test_a_host_in_lockout_and_its_remedy(stopped: Host) -> None:
    """Denied and said; the remedy that the doctor names is typed in, and the host runs commands again."""
    embedded = EmbeddedTpm(stopped.layout.tpm)
    embedded.start()
    with embedded.open() as tpm:
        guess(tpm, 4)
    host = stopped.start()
    wait_for("the TPM was polled", lambda: host.status()["conditions"]["tpm"])
    said = denied(host.run("/bin/true"), "tpm_unavailable", status=69)
    assert "lockout" in said
    finding = tpm_findings(host)["TPM lockout"]
    assert "tpm2_dictionarylockout --clear-lockout" in str(finding.remedy)
    host.stop()
    embedded.start()
    subprocess.run(
        ["tpm2_dictionarylockout", "--clear-lockout", "-T", embedded.tcti], check=True, capture_output=True
    )
    host.start()
    assert host.run("/bin/true").status == 0
    assert "TPM lockout" not in tpm_findings(host)


def test_a_full_disk_denies_and_records(stopped: Host) -> None:
    """Below the reserve nothing is released, and what is denied is still sealed: for that the reserve is there."""
    host = stopped.start(env={"ATTESTD_DISK_RESERVE_MB": str(1 << 20)})
    size = host.status()["log"]["size"]
    said = denied(host.run("/bin/true"), "audit_unavailable", status=69)
    assert "MiB free" in said
    assert host.status()["log"]["size"] == size + 1
    assert "make room" in str(tpm_findings(host)["disk"].remedy)
    host.stop()
    host.start()
    assert host.run("/bin/true").status == 0
    host.wait_settled()
    host.require_sound()
