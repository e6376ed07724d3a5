"""What events mean, and what of that is proved."""

import datetime as dt
import struct
import uuid

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestd.tcg.eventlog.efi import (
    boot_option_name,
    image_path,
    parse_signature_lists,
    parse_variable,
)
from attestd.tcg.eventlog.meaning import Meaning, read_events
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tcg.eventlog.reading import Kind, one_line
from attestd.tcg.eventlog.types import EventType
from tests.tcg.eventlog.build import BOOTS, GLOBAL, RECORDED, SECURITY, SHIM, digest, event, log, variable

T = EventType
X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072").bytes_le
SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328").bytes_le
OWNER = uuid.UUID(int=7).bytes_le
OPTIONS = "console=ttyS0 root=PARTUUID=deadbeef-0000-4000-8000-000000000002 rw ima_policy=tcb panic=-1 quiet"


def certificate(name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(day)
        .not_valid_after(day + dt.timedelta(days=1))
    )
    return built.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


CERTIFICATE = certificate("boot")


def signature_list(kind: bytes, *entries: bytes, **lies: int) -> bytes:
    each = lies.get("each", 16 + len(entries[0]))
    body = b"".join(OWNER + entry for entry in entries)
    size = lies.get("size", 28 + len(body))
    return struct.pack("<16sIII", kind, size, lies.get("header", 0), each) + body


def read(*events: bytes, lines: tuple[str, ...] = ()) -> tuple[Meaning, ...]:
    return read_events(parse_event_log(log(*events)).events, bank="sha256", command_lines=lines)


def one(*event_: object, lines: tuple[str, ...] = ()) -> tuple[Kind, str, str, bool]:
    [item] = read(event(*event_), lines=lines)  # type: ignore[arg-type]
    return item.kind, item.subject, item.value, item.proved


def hexed(content: bytes) -> str:
    return digest("sha256", content).hex()


def device_path(*nodes: tuple[int, int, bytes]) -> bytes:
    return b"".join(struct.pack("<BBH", kind, sub, 4 + len(data)) + data for kind, sub, data in nodes)


def image_event(path: bytes, *, length: int | None = None) -> bytes:
    return struct.pack("<QQQQ", 0, 0, 0, len(path) if length is None else length) + path


FILE = device_path((1, 1, b"x"), (4, 4, "\\EFI\\BOOT\\X.EFI\0".encode("utf-16-le")), (0x7F, 0xFF, b""))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((0, T.S_CRTM_VERSION, "v1\0".encode("utf-16-le")), (Kind.FIRMWARE, "version", "v1", True)),
        ((0, T.EFI_PLATFORM_FIRMWARE_BLOB, b"\1", b"blob"), (Kind.FIRMWARE, "blob 01", hexed(b"blob"), False)),
        ((7, T.SEPARATOR, bytes(4)), (Kind.SEPARATOR, "", "00000000", True)),
        ((7, T.SEPARATOR, b"\xff" * 4), (Kind.SEPARATOR, "", "ffffffff", True)),
        ((7, T.SEPARATOR, b"\1\0\0\0"), (Kind.SEPARATOR, "", "error 01000000", True)),
        ((5, T.EFI_GPT_EVENT, b"EFI PART.."), (Kind.PARTITIONS, "", f"SHA-256 {hexed(b'EFI PART..')}", True)),
        ((5, T.EFI_ACTION, b"Exit Boot Services Invocation"),
         (Kind.ACTION, "", "Exit Boot Services Invocation", True)),
        ((8, T.IPL, b"grub_cmd: ls\0", b"ls"), (Kind.GRUB_COMMAND, "", "ls", True)),
        ((8, T.IPL, b"kernel_cmdline: /vmlinuz quiet\0", b"/vmlinuz quiet"),
         (Kind.COMMAND_LINE, "", "/vmlinuz quiet", True)),
        ((8, T.IPL, b"module_cmdline: x\0", b"x"), (Kind.MODULE_LINE, "", "x", True)),
        ((9, T.IPL, b"/vmlinuz\0", b"kernel"), (Kind.GRUB_FILE, "/vmlinuz", hexed(b"kernel"), False)),
        ((8, T.IPL, b"grub_cmd: ls\0", b"rm"), (Kind.OTHER, "EV_IPL grub_cmd: ls", hexed(b"rm"), False)),
        ((12, T.IPL, "quiet\0".encode("utf-16-le")), (Kind.COMMAND_LINE, "", "quiet", True)),
        ((11, T.IPL, b"sysinit"), (Kind.PHASE, "", "sysinit", True)),
        ((14, T.IPL, b"MokList\0", b"keys"), (Kind.MOK, "MokList", hexed(b"keys"), False)),
        ((4, T.EFI_BOOT_SERVICES_APPLICATION, image_event(FILE), b"pe"),
         (Kind.IMAGE, "\\EFI\\BOOT\\X.EFI", hexed(b"pe"), False)),
        ((4, T.EFI_BOOT_SERVICES_APPLICATION, image_event(b""), b"pe"),
         (Kind.IMAGE, "from memory", hexed(b"pe"), False)),
        ((2, T.EFI_BOOT_SERVICES_DRIVER, image_event(FILE), b"rom"),
         (Kind.DRIVER, "\\EFI\\BOOT\\X.EFI", hexed(b"rom"), False)),
        ((9, T.EVENT_TAG, struct.pack("<II", 0x8F3B22EC, 0), b"initrd"),
         (Kind.INITRD, "of the kernel's EFI stub", hexed(b"initrd"), False)),
        ((5, T.EVENT_TAG, struct.pack("<II", 0x12345678, 0), b"?"),
         (Kind.OTHER, "EV_EVENT_TAG xV4\\x12", hexed(b"?"), False)),
        ((0, T.NONHOST_INFO, b"GCE\0\1" + bytes(27)), (Kind.OTHER, "EV_NONHOST_INFO", "GCE\\x00\\x01", True)),
        ((3, 0x80001234, b"", b"?"), (Kind.OTHER, "0x80001234", hexed(b"?"), False)),
        ((7, T.EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\1")),
         (Kind.VARIABLE, "SecureBoot", "on", True)),
        ((7, T.EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\0")),
         (Kind.VARIABLE, "SecureBoot", "off", True)),
        ((7, T.EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"")),
         (Kind.VARIABLE, "SecureBoot", "absent", True)),
        ((7, T.EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\1", SHIM)),
         (Kind.VARIABLE, "SecureBoot", "\\x01", True)),
        ((7, T.EFI_VARIABLE_AUTHORITY, variable("SbatLevel", b"sbat,1\n", SHIM)),
         (Kind.VARIABLE, "SbatLevel", "sbat,1\\n", True)),
        ((1, T.EFI_VARIABLE_BOOT, variable("BootOrder", b"\1\0\2\x10"), b"\1\0\2\x10"),
         (Kind.BOOT_OPTION, "order", "0001,1002", True)),
    ],
)  # fmt: skip
def test_meaning(given, expected):
    assert one(*given) == expected


def test_boot_options():
    value = struct.pack("<IH", 1, 0) + "Debian\0".encode("utf-16-le") + b"path"
    assert boot_option_name(value) == "Debian"
    for data, name in [(value, "Debian"), (value[:8], "?"), (b"", "?")]:
        found = one(1, T.EFI_VARIABLE_BOOT, variable("Boot0001", data), data)
        assert found == (Kind.BOOT_OPTION, "Boot0001", f"{name} (SHA-256 {hexed(data)})", True)


@pytest.mark.parametrize("kind", [T.EFI_VARIABLE_AUTHORITY, T.EFI_VARIABLE_DRIVER_CONFIG, T.IPL])
@pytest.mark.parametrize("owner", [OWNER, b""])
def test_certificates_that_verified_the_boot_chain(kind, owner):
    """By their form, whatever the type says."""
    value = f"CN=boot (SHA-256 {hexed(CERTIFICATE)})"
    for name, guid in [("db", SECURITY), ("MokListRT", SHIM)]:
        found = one(7, kind, variable(name, owner + CERTIFICATE, guid))
        assert found == (Kind.AUTHORITY, f"from {name}", value, True)


def test_databases():
    hashed = signature_list(SHA256, b"a" * 32, b"b" * 32)
    data = signature_list(X509, CERTIFICATE) + hashed + signature_list(OWNER, b"other")
    entries = parse_signature_lists(data)
    assert entries is not None
    assert [(entry.kind, entry.digest) for entry in entries] == [
        ("certificate", hexed(CERTIFICATE)),
        ("sha256", (b"a" * 32).hex()),
        ("sha256", (b"b" * 32).hex()),
        (str(uuid.UUID(int=7)), hexed(b"other")),
    ]
    assert {entry.owner for entry in entries} == {uuid.UUID(int=7)}
    found = one(7, T.EFI_VARIABLE_DRIVER_CONFIG, variable("db", data, SECURITY))
    words = f"1 certificate [CN=boot] and 3 hashes (SHA-256 {hexed(data)})"
    assert found == (Kind.VARIABLE, "db", words, True)
    found = one(7, T.EFI_VARIABLE_DRIVER_CONFIG, variable("dbx", b"no lists", SECURITY))
    assert found == (Kind.VARIABLE, "dbx", f"SHA-256 {hexed(b'no lists')}", True)
    unreadable = signature_list(X509, b"not DER")
    found = one(7, T.EFI_VARIABLE_DRIVER_CONFIG, variable("KEK", unreadable, GLOBAL))
    assert hexed(b"not DER") in found[2]


@pytest.mark.parametrize(
    "data",
    [
        b"short",
        signature_list(SHA256, b"a" * 32, size=27),
        signature_list(SHA256, b"a" * 32, size=1000),
        signature_list(SHA256, b"a" * 32, header=1000),
        signature_list(SHA256, b"a" * 32, header=1),
        signature_list(SHA256, b"a" * 32, each=0),
        signature_list(SHA256, b"a" * 32, each=16),
        signature_list(SHA256, b"a" * 32, each=47),
        signature_list(SHA256, b"a") + signature_list(SHA256, *[b"a"] * 16_384),
    ],
    ids=len,
)
def test_databases_that_lie(data):
    assert parse_signature_lists(data) is None


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (image_event(FILE), "\\EFI\\BOOT\\X.EFI"),
        (image_event(FILE[:-6]), None),
        (image_event(struct.pack("<BBH", 4, 4, 3)), None),
        (image_event(struct.pack("<BBH", 4, 4, 0)), None),
        (image_event(FILE, length=2**64 - 1), "\\EFI\\BOOT\\X.EFI"),
        (b"short", None),
    ],
)
def test_image_paths(data, path):
    assert image_path(data) == path


def test_sections_of_a_uki():
    """Names are known by their digests, so the log cannot hide one; content is what comes next in PCR 11."""
    items = read(
        event(11, T.IPL, ".linux\0".encode("utf-16-le"), b".linux\0"),
        event(9, T.IPL, b"between", b"?"),
        event(11, T.IPL, ".linux\0".encode("utf-16-le"), b"kernel"),
        event(11, T.IPL, b"called something else", b".cmdline\0"),
        event(11, T.IPL, b"too", b"quiet"),
        event(11, T.IPL, b".osrel\0"),
        event(11, T.IPL, b"content in the log"),
        lines=("panic", "quiet"),
    )
    assert [(item.kind, item.subject, item.value, item.proved) for item in items if item.event.pcr == 11] == [
        (Kind.SECTION_NAME, ".linux", ".linux", True),
        (Kind.SECTION, ".linux", hexed(b"kernel"), False),
        (Kind.SECTION_NAME, ".cmdline", ".cmdline", True),
        (Kind.COMMAND_LINE, "in section .cmdline", "quiet", True),
        (Kind.SECTION_NAME, ".osrel", ".osrel", True),
        (Kind.SECTION, ".osrel", "content in the log", True),
    ]


@pytest.mark.parametrize(
    "form", [b"quiet", b"quiet\n", b"quiet\0", "quiet\0".encode("utf-16-le"), "quiet".encode("utf-16-le")]
)
def test_command_lines_are_recognised_by_their_digest(form):
    tag = struct.pack("<II", 0x8F3B22ED, 0)
    expected = (Kind.COMMAND_LINE, "in the load options", "quiet", True)
    assert one(9, T.EVENT_TAG, tag, form, lines=("quiet",)) == expected
    assert one(9, T.EVENT_TAG, tag, form, lines=("loud", "\udcff"))[2:] == (hexed(form), False)


def test_events_that_extend_nothing_mean_nothing():
    assert read(event(0, T.NO_ACTION, b"x"), event(0, T.ACTION, b"x", banks=("sha1",))) == ()


def test_in_words():
    [item] = read(event(12, T.IPL, "quiet\0".encode("utf-16-le")))
    assert str(item) == "PCR 12: kernel command line: quiet (event 1)"
    assert "content" not in repr(item)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain", "plain"),
        (b"plain\0", "plain"),
        ("wide\0".encode("utf-16-le"), "wide"),
        ("\u00e9".encode(), "\u00e9"),
        (b"\xff\xfe\xfd", "fffefd"),
        (bytes([255]) * 300, f"SHA-256 {hexed(bytes([255]) * 300)}"),
        (b"a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        (b"\0\0", "0000"),
        (b"", ""),
    ],
)
def test_one_line(data, text):
    assert one_line(data) == text


def test_variables():
    found = parse_variable(variable("a", b"v"))
    assert found is not None
    assert (found.name, found.value, found.guid.bytes_le) == ("a", b"v", GLOBAL)
    assert parse_variable(b"x") is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "shim-grub-ms-sb",
            {
                "PCR 7: UEFI variable SecureBoot: on (event 4)",
                f"PCR 8: kernel command line: /vmlinuz {OPTIONS} shimgrub (event 43)",
                "PCR 7: UEFI variable SbatLevel: sbat,1,2025021800\\nshim,4\\ngrub,5\\n (event 27)",
                "PCR 8: GRUB command: boot (event 46)",
                "PCR 5: action: Exit Boot Services Returned with Success (event 48)",
            },
        ),
        (
            "uki-sb",
            {
                f"PCR 11: kernel command line in section .cmdline: {OPTIONS} (event 30)",
                "PCR 1: boot option order: 0001,0000,0002 (event 10)",
            },
        ),
        ("ubuntu-1804-amd-sev", {"PCR 7: UEFI variable SecureBoot: off (event 3)"}),
        ("rhel8-uefi", {"PCR 0: firmware version: GCE Virtual Firmware v1 (event 1)"}),
    ],
)
def test_recorded(name, expected):
    data, _ = RECORDED[name]
    lines = [(BOOTS / name / "cmdline").read_text().strip()] if (BOOTS / name).exists() else []
    items = read_events(parse_event_log(data).events, bank="sha256", command_lines=lines)
    assert expected <= set(map(str, items))


def test_recorded_kinds():
    """Every event of the recorded logs is one of a known kind but for firmware's own."""
    for data, banks in RECORDED.values():
        items = read_events(parse_event_log(data).events, bank=next(iter(banks)))
        others = {item.event.type for item in items if item.kind == Kind.OTHER}
        assert others <= {T.NONHOST_INFO}
        assert sum(item.kind == Kind.AUTHORITY for item in items) <= 3
