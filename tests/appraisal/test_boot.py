"""Boots against rules: real ones, and logs by which an attacker would hide what was booted.

The attacker controls the log, and may extend PCRs once the system runs; what was extended before cannot be undone.
"""

import struct
from collections.abc import Sequence
from typing import Any

import pytest

from attestd.appraisal.boot import BootAppraisal, appraise_boot
from attestd.appraisal.boot_rules import BootRules, parse_boot_rules
from attestd.errors import MalformedError
from attestd.strict import canonical
from attestd.tcg.eventlog.parse import UntrustedEventLog, parse_event_log
from attestd.tcg.eventlog.replay import initial_value, replay, verify_events
from attestd.tcg.eventlog.types import EventType as T
from tests.tcg.eventlog.build import BOOTS, RECORDED, SECURITY, SHIM, digest, event, log, variable
from tests.tcg.eventlog.test_meaning import CERTIFICATE, OWNER, certificate, image_event

DB_OF_UKI = "1a4c098bb8fc1438aa9b7388b21c00058bf587179bb9eb55ceb1d7d4ec874f31"
EVIL = certificate("evil")
CERTIFICATE_DIGEST = digest("sha256", CERTIFICATE).hex()
NONE: dict[str, Any] = {
    "v": 1,
    "bank": "sha256",
    "secure_boot": "unchecked",
    "separators": "unchecked",
    "certificates": None,
    "images": None,
    "command_lines": None,
    "sections": None,
    "digests": None,
}


def rules(**set_: Any) -> BootRules:
    return parse_boot_rules(canonical({**NONE, **set_}))


def hexed(content: bytes) -> str:
    return digest("sha256", content).hex()


def appraise(
    log_: UntrustedEventLog, checked: BootRules, pcrs: Sequence[int] = tuple(range(15)), bank: str = "sha256"
) -> BootAppraisal:
    replayed = replay(log_, bank)
    values = {pcr: replayed.get(pcr, initial_value(bank, pcr)) for pcr in pcrs}
    return appraise_boot(verify_events(log_, bank=bank, values=values), rules=checked)


def words(*events: bytes, pcrs: Sequence[int] = tuple(range(15)), **set_: Any) -> list[str]:
    return [str(item) for item in appraise(parse_event_log(log(*events)), rules(**set_), pcrs).findings]


def separator(pcr: int, value: bytes = bytes(4)) -> bytes:
    return event(pcr, T.SEPARATOR, value)


def secure_boot(value: bytes) -> bytes:
    return event(7, T.EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", value))


def authority(der: bytes = CERTIFICATE, **changed: Any) -> bytes:
    kind = changed.get("kind", T.EFI_VARIABLE_AUTHORITY)
    content = variable("db", OWNER + der, SECURITY)
    return event(7, kind, changed.get("data", content), content)


def grub(text: str, label: str = "grub_cmd") -> bytes:
    return event(8, T.IPL, f"{label}: {text}".encode() + b"\0", text.encode())


def section(name: str, content: bytes, data: bytes | None = None) -> list[bytes]:
    wide = f"{name}\0".encode("utf-16-le")
    return [
        event(11, T.IPL, wide, name.encode() + b"\0"),
        event(11, T.IPL, wide if data is None else data, content),
    ]


GRUB = [grub("linux /vmlinuz quiet"), grub("/vmlinuz quiet", "kernel_cmdline")]
IMAGE = event(4, T.EFI_BOOT_SERVICES_APPLICATION, image_event(b""), b"pe")


# --- recorded boots ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uki-sb", "uki-sb-cmdline2"])
def test_recorded_uki(name):
    parsed = parse_event_log(RECORDED[name][0])
    line = (BOOTS / name / "cmdline").read_text().strip()
    by_number = {item.number: item.digests["sha256"].hex() for item in parsed.events[1:]}
    checked = rules(
        secure_boot="required",
        separators="required",
        certificates=[DB_OF_UKI],
        images=[by_number[24]],
        command_lines=[line],
        sections={".linux": [by_number[26]], ".osrel": [by_number[28]], ".cmdline": [by_number[30]]},
        digests={"0": [by_number[1], by_number[2], by_number[3]], "2": [], "9": [], "14": []},
    )
    found = appraise(parsed, checked)
    assert found.findings == ()
    assert found.not_evaluated == ()
    other = parse_event_log(RECORDED[({"uki-sb", "uki-sb-cmdline2"} - {name}).pop()][0])
    rejected = {(item.rule, item.event) for item in appraise(other, checked).findings}
    by_line = {("command_lines", 30), ("command_lines", 31), ("sections", 30), ("digests", 31)}
    assert rejected == {("images", 24), *by_line}


def test_recorded_grub():
    parsed = parse_event_log(RECORDED["shim-grub-ms-sb"][0])
    line = (BOOTS / "shim-grub-ms-sb" / "cmdline").read_text().strip()
    checked = {
        "secure_boot": "required",
        "separators": "required",
        "certificates": [
            "48e99b991f57fc52f76149599bff0a58c47154229b9f8d603ac40d3500248507",
            "079646974bce09b1f04da67bd722d1fb0947ae4c4010bccdbba52d5b23cbf1a2",
        ],
        "command_lines": [line],
    }
    assert appraise(parsed, rules(**checked)).findings == ()
    without = rules(**{**checked, "certificates": checked["certificates"][:1]})
    [found] = appraise(parsed, without).findings
    assert str(found).startswith(
        "PCR 7: certificate that verified the boot chain from MokListRT: expected the certificate that is allowed, found"
        " CN=Debian Secure Boot CA (SHA-256 0796"
    )
    assert found.event == 29


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_secure_boot_of_recorded_boots(name):
    data, banks = RECORDED[name]
    if "sha256" in banks:
        found = appraise(parse_event_log(data), rules(secure_boot="required", separators="required"))
        off = name.startswith("ubuntu")
        assert [item.rule for item in found.findings] == ["secure_boot"] * (2 * off)


# --- rule by rule --------------------------------------------------------------------------------------------------


def test_what_is_not_evaluated_is_said():
    found = appraise(parse_event_log(log(secure_boot(b"\1"), separator(7))), rules(secure_boot="required"))
    assert found.evaluated == ("data", "secure_boot")
    assert found.not_evaluated == (
        "separators",
        "certificates",
        "images",
        "command_lines",
        "sections",
        "digests",
    )


@pytest.mark.parametrize(
    ("set_", "pcr"),
    [
        ({"secure_boot": "required"}, 7),
        ({"certificates": [CERTIFICATE_DIGEST]}, 7),
        ({"images": [hexed(b"pe")]}, 4),
        ({"sections": {".linux": [hexed(b"k")]}}, 11),
    ],
)
def test_a_pcr_that_was_not_quoted_is_a_finding(set_, pcr):
    assert words(IMAGE, pcrs=(0,), **set_) == [f"PCR {pcr}: expected a quoted value, found none"]


def test_data_that_is_not_what_was_measured():
    lying = event(1, T.EFI_ACTION, b"said", b"done")
    where = "PCR 1: event EV_EFI_ACTION said"
    assert words(lying, images=[hexed(b"pe")], pcrs=(1, 4))[0] == (
        f"{where}: expected data that hashes to the digest, found data that does not (event 1)"
    )


def test_secure_boot():
    assert words(secure_boot(b"\1"), separator(7), secure_boot="required") == []
    absent = "PCR 7: expected Secure Boot on, before the separator, found none"
    for value, word in [(b"\0", "off"), (b"", "absent")]:
        assert words(secure_boot(value), separator(7), secure_boot="required") == [
            absent,
            f"PCR 7: UEFI variable SecureBoot: expected on, found {word} (event 1)",
        ]
    assert words(separator(7), secure_boot="required") == [absent]


def test_secure_boot_said_again_by_whoever_runs_later():
    """The true event's data is left out of the log, or called something else; the lie comes behind the separator."""
    off = variable("SecureBoot", b"\0")
    for first in (secure_boot(b"\0"), event(7, T.IPL, b"?", off), event(7, T.SEPARATOR, b"", off)):
        for last in (separator(7), event(7, T.IPL, b"no separator", bytes(4))):
            found = words(first, last, secure_boot(b"\1"), separator(7), secure_boot="required")
            assert [item for item in found if "before the separator" in item]


def test_separators():
    good = [separator(pcr) for pcr in range(8)]
    behind = [
        event(4, T.EFI_ACTION, b"Returning from EFI Application from Boot Option"),
        IMAGE,
        event(5, T.EFI_GPT_EVENT, b"EFI PART"),
        event(5, T.EFI_ACTION, b"Exit Boot Services Invocation"),
        authority(),
        event(7, T.EFI_VARIABLE_AUTHORITY, variable("SbatLevel", b"sbat,1", SHIM)),
    ]
    assert words(*good, *behind, separators="required") == []
    assert words(*good[:-1], separator(7, b"\xff" * 4), separators="required") == []
    assert words(*good[1:], separators="required") == ["PCR 0: expected a separator, found none"]
    assert words(*good[1:], separators="required", pcrs=(1, 2)) == []


@pytest.mark.parametrize(
    "late",
    [
        event(0, T.S_CRTM_VERSION, b"1"),
        event(2, T.EFI_BOOT_SERVICES_DRIVER, image_event(b""), b"rom"),
        event(4, T.EFI_ACTION, b"Calling something"),
        event(5, T.EFI_GPT_EVENT, b"EFI PART", b"another table"),
        event(7, T.EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\1")),
        event(7, T.EFI_VARIABLE_AUTHORITY, b"?", b"hidden"),
        separator(3),
    ],
)
def test_what_does_not_belong_behind_the_separators(late):
    found = words(*[separator(pcr) for pcr in range(8)], late, separators="required")
    assert len([item for item in found if "behind the separator" in item]) == 1


def test_an_error_is_no_separator():
    good = [separator(pcr) for pcr in range(7)]
    assert words(*good, separator(7, b"\1\0\0\0"), separators="required") == [
        "PCR 7: expected a separator, found none"
    ]


def test_certificates():
    allowed = [CERTIFICATE_DIGEST]
    assert words(authority(), certificates=allowed) == []
    [found] = words(authority(), certificates=["00" * 32])
    assert found.startswith(
        "PCR 7: certificate that verified the boot chain from db: expected the certificate that is allowed"
    )
    assert words(separator(7), certificates=allowed) == [
        "PCR 7: expected a certificate that verified the boot chain, found none"
    ]


@pytest.mark.parametrize(
    "hidden",
    [
        {"kind": T.EFI_VARIABLE_DRIVER_CONFIG},
        {"kind": T.IPL},
        {"kind": T.IPL, "data": b"a harmless thing"},
        {"data": variable("db", b"?", SECURITY)},
        {"data": variable("db", OWNER + CERTIFICATE, SECURITY)},
        {"data": variable("SbatLevel", variable("db", OWNER + EVIL, SECURITY), SHIM)},
        {"data": b"grub_cmd: " + variable("db", OWNER + EVIL, SECURITY)},
        {"data": variable("db", OWNER + EVIL, SECURITY) + b"\0"},
        {"data": b"".join(bytes([byte, 0]) for byte in variable("db", OWNER + EVIL, SECURITY))},
    ],
)
def test_a_certificate_is_not_hidden(hidden):
    """By another type, without its data, wrapped as if by a quirk; behind a good one, which anyone may extend later."""
    good = authority()
    assert words(good, certificates=[CERTIFICATE_DIGEST]) == []
    assert words(authority(EVIL, **hidden), good, certificates=[CERTIFICATE_DIGEST]) != []


@pytest.mark.parametrize(
    "item",
    [
        event(7, T.EFI_VARIABLE_AUTHORITY, variable("db", OWNER + b"h" * 32, SECURITY)),
        event(7, T.EFI_VARIABLE_AUTHORITY, variable("MokSBState", b"\1", SHIM)),
        event(7, T.EFI_ACTION, b"UEFI Debug Mode"),
        event(7, T.EFI_VARIABLE_AUTHORITY, variable("dbx", b"no list", SECURITY)),
        event(7, T.EFI_VARIABLE_AUTHORITY, variable("PK", b"no list")),
        event(7, T.EFI_VARIABLE_AUTHORITY, variable("Vendor", b"\1")),
    ],
)
def test_images_that_no_certificate_verified(item):
    """By their hash in db, or not at all."""
    assert len(words(authority(), item, certificates=[CERTIFICATE_DIGEST])) == 1


def test_images():
    first = [event(4, T.EFI_ACTION, b"Calling EFI Application from Boot Option"), separator(4)]
    assert words(*first, IMAGE, images=[hexed(b"pe")]) == []
    assert words(*first, IMAGE, images=[hexed(b"other")]) == [
        f"PCR 4: image from memory: expected the image that is allowed, found digest {hexed(b'pe')} (event 3)"
    ]
    assert words(*first, images=[hexed(b"pe")]) == ["PCR 4: expected an image, found none"]


@pytest.mark.parametrize("kind", [T.EFI_ACTION, T.SEPARATOR, T.IPL, 0x12])
def test_an_image_is_not_hidden_as_something_else(kind):
    """Its very bytes logged as an action: the digest covers them, and it is an image all the same."""
    found = words(event(4, kind, b"evil pe"), IMAGE, images=[hexed(b"pe")])
    assert len(found) == 1
    assert hexed(b"pe") not in found[0]


def test_command_lines_of_grub():
    for line in ("/vmlinuz quiet", "quiet", "BOOT_IMAGE=/vmlinuz quiet"):
        assert words(*GRUB, command_lines=[line]) == []
    assert words(*GRUB, command_lines=["loud"]) == [
        "PCR 8: kernel command line: expected `loud`, found /vmlinuz quiet (event 2)",
        "PCR 8: GRUB command: expected `loud`, found linux /vmlinuz quiet (event 1)",
    ]
    [found, _] = words(*GRUB, command_lines=["loud", "soft"])
    assert "one of 2 command lines" in found
    assert words(grub("boot"), command_lines=["quiet"]) == [
        "PCRs 8, 11 and 12: expected a kernel command line, found none"
    ]
    quoted = [grub("linux /vmlinuz a=b c"), grub('/vmlinuz "a=b c"', "kernel_cmdline")]
    assert words(*quoted, command_lines=['"a=b c"']) == []


def test_a_command_line_is_not_hidden_behind_another():
    """The true one is called a command, or loses its data; then a good one is extended."""
    evil = "/vmlinuz quiet init=/bin/sh"
    good = grub("/vmlinuz quiet", "kernel_cmdline")
    raw = [event(8, T.IPL, text.encode()) for text in (f"linux {evil}", evil)]
    for hidden in ([grub(f"linux {evil}"), grub(evil)], [event(8, T.IPL, b"?", evil.encode())], raw):
        assert words(*hidden, good, command_lines=["quiet"]) != []


@pytest.mark.parametrize("kind", [T.IPL, T.ACTION, T.EVENT_TAG, 0x80001234])
@pytest.mark.parametrize("text", ["init=/bin/sh\0", "init=/bin/sh", "init=/bin/\u00e9\0"])
def test_an_overridden_command_line_is_not_hidden(kind, text):
    """In PCR 12, by whatever type; and whatever is measured there in another form."""
    override = event(12, kind, text.encode("utf-16-le"))
    assert words(*section(".cmdline", b"quiet"), override, command_lines=["quiet"]) != []


def test_a_command_line_extended_by_a_running_system_takes_images_to_be_found():
    """The firmware starts another kernel, which extends PCR 12 by what is allowed: the rules say that they are weak."""
    direct = [IMAGE, event(12, T.IPL, "quiet\0".encode("utf-16-le"))]
    assert words(*direct, command_lines=["quiet"]) == []
    assert "images" in (rules(command_lines=["quiet"]).weakness or "")
    known = {"command_lines": ["quiet"], "images": [hexed(b"the kernel")]}
    assert len(words(*direct, **known)) == 1
    assert rules(**known).weakness is None
    assert rules(images=known["images"]).weakness is None


def test_multiboot():
    assert words(*GRUB, grub("x", "module_cmdline"), command_lines=["quiet"]) == [
        "PCR 8: module command line: expected `quiet`, found x (event 3)"
    ]
    assert len(words(*GRUB, grub("multiboot2 /xen x"), command_lines=["quiet"])) == 1


def test_command_lines_of_ukis():
    uki = section(".cmdline", b"quiet\0")
    override = event(12, T.IPL, "loud\0".encode("utf-16-le"))
    assert words(*uki, command_lines=["quiet"]) == []
    [found] = words(*uki, command_lines=["loud"])
    where = "PCR 11: kernel command line in section .cmdline"
    assert found == f"{where}: expected `loud`, found digest {hexed(b'quiet' + bytes(1))} (event 2)"
    [found] = words(*uki, override, command_lines=["quiet"])
    assert found == "PCR 12: kernel command line: expected `quiet`, found loud (event 3)"
    assert words(*uki, override, command_lines=["quiet", "loud"]) == []
    assert words(*uki, pcrs=(11,), command_lines=["quiet"]) == [
        "PCR 12: expected a quoted value (it can override the UKI's), found none"
    ]
    # The first word of a UKI's command line is no kernel's path.
    assert len(words(*section(".cmdline", b"init=/bin/sh quiet"), command_lines=["quiet"])) == 1
    [found] = words(*uki, event(12, T.IPL, b"?", b"loud"), command_lines=["quiet"])
    assert "PCR 12" in found


def test_a_ukis_command_line_is_not_hidden_behind_another():
    evil = [event(11, T.IPL, b"?", b".cmdline\0"), event(11, T.IPL, b"?", b"init=/bin/sh")]
    good = section(".cmdline", b"quiet")
    assert words(*evil, *good, command_lines=["quiet"]) != []


def test_load_options_alone_show_nothing():
    """PCR 9 holds files as well: what is not in the log cannot be told from them."""
    tag = event(9, T.EVENT_TAG, struct.pack("<II", 0x8F3B22ED, 0), "quiet\0".encode("utf-16-le"))
    assert words(tag, command_lines=["quiet"]) == [
        "PCRs 8, 11 and 12: expected a kernel command line, found none"
    ]
    assert words(tag, *GRUB, command_lines=["quiet"]) == []
    assert len(words(tag, *section(".cmdline", b"loud"), command_lines=["loud"])) == 1


def test_sections():
    uki = [*section(".linux", b"kernel"), *section(".cmdline", b"quiet"), event(11, T.IPL, b"sysinit")]
    wanted = {".linux": [hexed(b"kernel")], ".cmdline": [hexed(b"quiet")]}
    assert words(*uki, sections=wanted) == []
    assert words(*uki, sections={**wanted, ".linux": ["00" * 32]}) == [
        f"PCR 11: UKI section .linux: expected the digest that is allowed, found digest {hexed(b'kernel')} (event 2)"
    ]
    del wanted[".cmdline"]
    [found] = words(*uki, sections=wanted)
    assert found.startswith("PCR 11: kernel command line in section .cmdline: expected no such section")
    assert words(sections=wanted) == ["PCR 11: expected UKI section .linux, found none"]
    [found] = words(*section(".linux", b"kernel"), event(11, T.IPL, b"?", b"x"), sections=wanted)
    assert "expected no such section" in found


def test_digests():
    """All else: what is not named may not be there, whatever it is called."""
    rom = event(2, T.EFI_BOOT_SERVICES_DRIVER, image_event(b""), b"rom")
    assert words(rom, separator(2), digests={"2": [hexed(b"rom")]}) == []
    for kind in (T.EFI_BOOT_SERVICES_DRIVER, T.SEPARATOR, T.EFI_ACTION):
        assert len(words(event(2, kind, b"evil"), separator(2), digests={"2": [hexed(b"rom")]})) == 1
    assert words(rom, digests={"9": []}) == []
    assert words(rom, digests={"2": []}) == [
        f"PCR 2: driver from memory: expected one of 0 digests, found digest {hexed(b'rom')} (event 1)"
    ]
    assert words(rom, digests={"2": []}, pcrs=(7,)) == ["PCR 2: expected a quoted value, found none"]
    tag = event(9, T.EVENT_TAG, struct.pack("<II", 0x8F3B22ED, 0), "quiet\0".encode("utf-16-le"))
    assert words(tag, *GRUB, digests={"9": []}, command_lines=["quiet"]) == []
    assert len(words(tag, *GRUB, digests={"9": []})) == 1


@pytest.mark.parametrize("name", ["MokSBState", "MokDBState"])
def test_shim_told_to_verify_nothing(name):
    """Secure Boot is on, and the boot loader is not verified."""
    weak = event(7, T.EFI_VARIABLE_AUTHORITY, variable(name, b"\1", SHIM))
    [found] = words(secure_boot(b"\1"), separator(7), weak, secure_boot="required")
    assert (
        found
        == f"PCR 7: UEFI variable {name}: expected no such variable: images are verified, found \\x01 (event 3)"
    )
    content = variable(name, b"\1", SHIM)
    for data in (b"?", variable("SbatLevel", content, SHIM), b"grub_cmd: " + content):
        hidden = event(7, T.IPL, data, content)
        assert len(words(secure_boot(b"\1"), separator(7), hidden, secure_boot="required")) == 1


# --- the rules themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "nothing is evaluated"),
        ({"bank": "sha1", "secure_boot": "required"}, "SHA-1"),
        ({"bank": "md5", "secure_boot": "required"}, "bank"),
        ({"secure_boot": "skip"}, "secure_boot"),
        ({"certificates": []}, "certificates"),
        ({"certificates": ["AB" * 32]}, "certificates"),
        ({"images": []}, "images"),
        ({"images": ["ab" * 48]}, "not of bank sha256"),
        ({"sections": {}}, "sections"),
        ({"sections": {".linux": []}}, "sections"),
        ({"sections": {".linux": ["ab" * 64]}}, "not of bank sha256"),
        ({"command_lines": [""]}, "command_lines"),
        ({"digests": {}}, "digests"),
        ({"digests": {"24": []}}, "digests"),
        ({"digests": {"9": ["ab" * 48]}}, "not of bank sha256"),
        ({"v": 2, "secure_boot": "required"}, "v"),
        ({"secure_boot": "required", "more": 1}, "more"),
    ],
)
def test_malformed(changed, message):
    with pytest.raises(MalformedError, match=message):
        parse_boot_rules(canonical({**NONE, **changed}))


def test_another_bank():
    parsed = parse_event_log(RECORDED["uki-sb"][0])
    checked = rules(bank="sha384", secure_boot="required")
    assert appraise(parsed, checked, bank="sha384").findings == ()
    with pytest.raises(MalformedError, match="rules are of bank sha384, the events of bank sha256"):
        appraise(parsed, checked)
