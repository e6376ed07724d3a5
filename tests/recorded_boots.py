"""Recorded boots: in a TPM that no agent has open, and files for the boot after them."""

import hashlib
import struct

from cryptography import x509

from attestd.appraisal.predict import Change, Running, predict
from attestd.tcg.eventlog.efi import certificate_of, parse_variable
from attestd.tcg.eventlog.meaning import read_events
from attestd.tcg.eventlog.reading import Kind
from attestd.tpm.embedded import EmbeddedTpm
from tests.appraisal.predict.build import carrying, recorded
from tests.measured import BANKS, PHASES, MeasuredHost
from tests.tcg.build_pe import STUB, pe
from tests.tcg.eventlog.build import BOOTS, log


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


def extend_as_in(tpm: EmbeddedTpm, name: str) -> None:
    """Has a running software TPM hold what a recorded boot measured."""
    with tpm.open() as opened:
        for event in recorded(name).events:
            if event.extends:
                opened.extend(event.pcr, {bank: event.digests[bank] for bank in BANKS})
        for phase in PHASES:
            opened.extend(11, {bank: hashlib.new(bank, phase).digest() for bank in BANKS})


def boot_new(host: MeasuredHost) -> None:
    """Boots `new.efi` after `uki-sb`: the TPM measures what was predicted, and the log says so.

    That this is what a machine measures, other tests show (recorded boots, and the machine that really boots).
    """
    change = Change(uki=next_boots()["new.efi"])
    running = Running((BOOTS / "uki-sb" / "cmdline").read_text().rstrip("\n"))
    events = predict(recorded("uki-sb"), bank="sha256", change=change, running=running).log.events[1:]
    host.reboot("uki-sb")
    tpm = EmbeddedTpm(host.layout.tpm)
    tpm.stop()
    tpm.start()
    with tpm.open() as opened:
        for event in events:
            opened.extend(event.pcr, event.digests)
        for phase in PHASES:
            opened.extend(11, {"sha256": hashlib.sha256(phase).digest()})
    raw = [
        struct.pack("<IIIH", event.pcr, event.type, 1, 0x0B)
        + event.digests["sha256"]
        + struct.pack("<I", len(event.data))
        + event.data
        for event in events
    ]
    host.eventlog.write_bytes(log(*raw, banks=("sha256",)))
    host.command_line.write_text("quiet\n")
