"""Logs of boots that are made up, and files to boot next."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from attestd.tcg.eventlog.parse import UntrustedEventLog, parse_event_log
from attestd.tcg.eventlog.types import EventType
from tests.tcg.build_pe import authority, der, pe, signature
from tests.tcg.eventlog.build import RECORDED, SECURITY, event, log, separators, variable

X509 = bytes.fromhex("a159c0a5e494a74a87b5ab155c2bf072")
SHA256 = bytes.fromhex("2616c4c14c509240aca941f936934328")
OWNER = bytes(16)
KEY, CERTIFICATE = authority("db")
OTHER_KEY, OTHER = authority("other")
SIGNED = signature(KEY, CERTIFICATE)
BY_OTHER = signature(OTHER_KEY, OTHER)


def recorded(name: str) -> UntrustedEventLog:
    return parse_event_log(RECORDED[name][0])


def carrying(cert: x509.Certificate) -> bytes:
    """A signature that carries another certificate beside its own."""
    builder = pkcs7.PKCS7SignatureBuilder().set_data(b"x").add_signer(OTHER, OTHER_KEY, hashes.SHA256())
    return builder.add_certificate(cert).sign(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary])


def lists(*certificates: x509.Certificate, digests: Sequence[bytes] = ()) -> bytes:
    """EFI signature lists."""
    found = b""
    for kind, entries in ((X509, [der(item) for item in certificates]), (SHA256, digests)):
        for entry in entries:
            found += kind + struct.pack("<III", 28 + 16 + len(entry), 0, 16 + len(entry)) + OWNER + entry
    return found


def image(content: bytes, *signatures: bytes) -> bytes:
    return pe({".text": content}, signatures=signatures)


def path(name: str) -> bytes:
    """UEFI_IMAGE_LOAD_EVENT with one file path; an empty name: from memory."""
    text = name.encode("utf-16-le") + b"\0\0"
    node = struct.pack("<BBH", 4, 4, 4 + len(text)) + text if name else b""
    return struct.pack("<QQQQ", 0, 0, 0, len(node) + 4) + node + b"\x7f\xff\x04\x00"


def started(name: str, digest_of: bytes) -> bytes:
    return event(4, EventType.EFI_BOOT_SERVICES_APPLICATION, path(name), digest_of)


def keys(
    *, secure: bool = True, db: bytes | None = None, used: Sequence[x509.Certificate] = (CERTIFICATE,)
) -> list[bytes]:
    """PCR 7 with its separator."""
    database = lists(CERTIFICATE) if db is None else db
    found = [
        event(7, EventType.EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", bytes([secure]))),
        event(7, EventType.EFI_VARIABLE_DRIVER_CONFIG, variable("db", database, SECURITY)),
        event(7, EventType.EFI_VARIABLE_DRIVER_CONFIG, variable("dbx", lists(digests=[bytes(32)]), SECURITY)),
    ]
    authorities = [
        event(7, EventType.EFI_VARIABLE_AUTHORITY, variable("db", OWNER + der(item), SECURITY))
        for item in used
    ]
    return [*found, *separators(), *authorities]


def section(name: str, content: bytes) -> list[bytes]:
    logged = f"{name}\0".encode("utf-16-le")
    return [
        event(11, EventType.IPL, logged, name.encode() + b"\0"),
        event(11, EventType.IPL, logged, content),
    ]


def tag(number: int, content: bytes) -> bytes:
    """What the kernel's own stub measures."""
    return event(9, EventType.EVENT_TAG, struct.pack("<II", number, 4) + b"text", content)


def options(line: str, end: str = "\0") -> bytes:
    return tag(0x8F3B22ED, (line + end).encode("utf-16-le"))


def initrd(content: bytes) -> bytes:
    return tag(0x8F3B22EC, content)


def parsed(*events: bytes) -> UntrustedEventLog:
    return parse_event_log(log(*events))


@dataclass(frozen=True)
class Grub:
    """A boot by GRUB; `shim` starts the kernel from memory, too."""

    config: bytes = b"set timeout=0\nlinux /vmlinuz-1 root=/dev/a quiet\ninitrd /initrd-1\n"
    path: str = "/vmlinuz-1"
    line: str = "root=/dev/a quiet"
    kernel: bytes = b"kernel"
    images: tuple[bytes, ...] = ()
    initrds: str = "/initrd-1"

    def events(self) -> list[bytes]:
        commands = ["set timeout=0", f"linux {self.path} {self.line}", f"initrd {self.initrds}"]
        measured = [
            *(started("", content) for content in self.images),
            event(9, EventType.IPL, b"(hd0,gpt1)/grub.cfg", self.config),
            *(
                event(8, EventType.IPL, f"grub_cmd: {text}".encode() + b"\0", text.encode())
                for text in commands
            ),
            event(9, EventType.IPL, f"(hd0,gpt1){self.path}".encode(), self.kernel),
            event(9, EventType.IPL, self.path.encode(), self.kernel),
            event(9, EventType.IPL, self.initrds.split()[0].encode(), b"initrd"),
        ]
        text = f"{self.path} {self.line}"
        return [*measured, event(8, EventType.IPL, f"kernel_cmdline: {text}".encode() + b"\0", text.encode())]
