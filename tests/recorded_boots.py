"""Files for the boot after a recorded one."""

from cryptography import x509

from attestd.tcg.eventlog.efi import certificate_of, parse_variable
from attestd.tcg.eventlog.meaning import read_events
from attestd.tcg.eventlog.reading import Kind
from tests.appraisal.predict.build import carrying, recorded
from tests.tcg.build_pe import STUB, pe


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
