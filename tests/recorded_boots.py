"""A host whose software TPM measured a recorded boot, and whose agent reads that boot's logs."""

import hashlib
from base64 import b64encode
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from attestd.agent.boots import Boot, Boots
from attestd.tcg.eventlog.efi import certificate_of, parse_variable
from attestd.tcg.eventlog.meaning import read_events
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tcg.eventlog.reading import Kind
from tests.appraisal.predict.build import carrying, recorded
from tests.host import Host
from tests.tcg.build_pe import STUB, pe
from tests.tcg.eventlog.build import BOOTS, RECORDED

PHASES = (b"sysinit", b"ready")


def configure(host: Host, name: str = "uki-sb") -> None:
    """Names the logs of a recorded boot in the host's configuration."""
    lines = {
        "eventlog": BOOTS / name / "binary_bios_measurements",
        "ima_list": BOOTS / name / "binary_runtime_measurements",
        "command_line": BOOTS / name / "cmdline",
    }
    path = host.layout.configuration
    kept = [
        line
        for line in path.read_text().splitlines()
        if not line.startswith(tuple(f"{key} " for key in lines))
    ]
    path.write_text("\n".join([*kept, *(f'{key} = "{value}"' for key, value in lines.items())]) + "\n")


def digests(name: str = "uki-sb", phases: Iterable[bytes] = PHASES) -> list[tuple[int, bytes]]:
    """What a recorded boot extended, in order: PCR and SHA-256 digest."""
    events = parse_event_log(RECORDED[name][0]).events
    found = [(event.pcr, event.digests["sha256"]) for event in events if event.extends]
    return found + [(11, hashlib.sha256(phase).digest()) for phase in phases]


def boot(host: Host, name: str = "uki-sb") -> None:
    """Has the software TPM of a running agent measure a recorded boot."""
    for pcr, digest in digests(name):
        assert "ok" in host.ask("extend", pcr=pcr, data=b64encode(digest).decode())


def keep(host: Host, name: str, *, approved: tuple[str, ...]) -> None:
    """Has the agent, not yet started, know a recorded boot of before."""
    directory = BOOTS / name
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    Boots(host.layout.boots).note(
        Boot(
            eventlog=(directory / "binary_bios_measurements").read_bytes(),
            userspace=b"",
            command_line=(directory / "cmdline").read_text().rstrip("\n"),
            kernel="6.1.0-56-cloud-amd64",
            bank="sha256",
            pcrs={pcr: RECORDED[name][1]["sha256"][pcr] for pcr in (0, 2, 4, 7, 11, 12)},
            approved=approved,
            first_seen=moment,
            last_seen=moment,
        )
    )


def next_boots() -> dict[str, bytes]:
    """Files for the next boot of recorded ones: signed so that what verified those verifies them."""
    uki = {
        ".text": b"stub",
        ".sdmagic": STUB,
        ".linux": b"new kernel",
        ".osrel": b"ID=debian",
        ".cmdline": b"quiet",
    }
    return {
        "new.efi": pe(uki, signatures=(_signature("uki-sb"),)),
        "vmlinuz": pe({".text": b"new kernel"}, signatures=(_signature("shim-grub-ms-sb"),)),
    }


def _signature(name: str) -> bytes:
    """It carries the certificate that verified the kernel of a recorded boot."""
    events = read_events(recorded(name).events, bank="sha256")
    variable = parse_variable([item for item in events if item.kind == Kind.AUTHORITY][-1].content)
    return carrying(x509.load_der_x509_certificate(certificate_of(variable.value)))


def measured(host: Host, name: str = "uki-sb") -> Path:
    """Configures, starts, boots; the state is not approved."""
    configure(host, name)
    host.start()
    boot(host, name)
    return BOOTS / name
