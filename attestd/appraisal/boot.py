"""Appraises a boot: rules over the events that a quote proves, and what each finding expected and found.

The rules (`attestd.appraisal.boot_rules`) look at digests and at content that a digest covers. An attacker who can extend
PCRs after the boot, and write the log, must not be able to hide an event: by another type, another label, or by leaving
its data out. So what a rule looks for it knows by its digest, or else everything in that PCR has to be readable.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Final

from attestd.appraisal.boot_rules import BootRules
from attestd.errors import MalformedError
from attestd.plain import counted
from attestd.tcg.eventlog.covered import DEFINED
from attestd.tcg.eventlog.efi import (
    GLOBAL_VARIABLE,
    IMAGE_SECURITY_DATABASE,
    SHIM_LOCK,
    Variable,
    certificate_of,
    parse_signature_lists,
    parse_variable,
)
from attestd.tcg.eventlog.meaning import Meaning, read_events
from attestd.tcg.eventlog.reading import Kind
from attestd.tcg.eventlog.replay import VerifiedEvents
from attestd.tcg.eventlog.types import HASHES

__all__ = ["ACTIONS", "SEPARATORS", "BootAppraisal", "BootFinding", "appraise_boot", "measured_line"]

SEPARATORS: Final = (bytes(4), b"\xff" * 4)
ACTIONS: Final = (
    b"Calling EFI Application from Boot Option",
    b"Returning from EFI Application from Boot Option",
    b"Exit Boot Services Invocation",
    b"Exit Boot Services Returned with Success",
)
# What belongs behind the separator of a PCR; of variables, those by which shim says what it applied.
_BEHIND: Final = {
    4: frozenset({Kind.IMAGE, Kind.DRIVER}),
    5: frozenset({Kind.PARTITIONS}),
    7: frozenset({Kind.AUTHORITY, Kind.VARIABLE}),
}
_MODES: Final = frozenset({"SecureBoot", "DeployedMode", "AuditMode", "SetupMode"})
_SHIM_VARIABLES: Final = frozenset({"SbatLevel", "MokListTrusted"})
_SHIM_WEAKENED: Final = frozenset({"MokSBState", "MokSBStateRT", "MokDBState", "MokIgnoreDB"})
_LOADERS: Final = frozenset(
    {
        "linux",
        "linux16",
        "linuxefi",
        "multiboot",
        "multiboot2",
        "module",
        "module2",
        "xen_hypervisor",
        "xen_module",
    }
)
_QUOTES: Final = str.maketrans("", "", "\"'\\")


@dataclass(frozen=True)
class BootFinding:
    """What a rule found wrong.

    Attributes:
        rule: The rule's name.
        event: The event's number in the log; None: something is missing.
        where: The event in words.
    """

    rule: str
    event: int | None
    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        place = "" if self.event is None else f" (event {self.event})"
        return f"{self.where}: expected {self.expected}, found {self.found}{place}"


@dataclass(frozen=True)
class BootAppraisal:
    """A boot, measured against rules.

    Attributes:
        evaluated, not_evaluated: Names of rules.
        findings: What is wrong; it is a good boot exactly if there are none.
    """

    evaluated: tuple[str, ...]
    not_evaluated: tuple[str, ...]
    findings: tuple[BootFinding, ...]


def appraise_boot(
    verified: VerifiedEvents, *, rules: BootRules, command_lines: Sequence[str] = ()
) -> BootAppraisal:
    """Measures the events that a quote proves against rules.

    1. `data`: data that its type defines to have been hashed is what was hashed (always evaluated).
    2. `secure_boot`, `separators`, `certificates`, `images`, `command_lines`, `sections`, `digests`: as `BootRules` says.

    A rule whose PCR was not quoted is a finding: nothing is known of it.

    Args:
        verified: Events that quoted PCR values prove.
        rules: The rules.
        command_lines: What the kernel's command line may be: told in place of its digest where a rule does not allow it.

    Raises:
        MalformedError: The events are verified in another bank than the rules'.
    """
    if verified.bank != rules.bank:
        raise MalformedError(f"boot rules are of bank {rules.bank}, the events of bank {verified.bank}")
    events = read_events(verified.events, bank=verified.bank, command_lines=rules.command_lines or ())
    evaluated, findings = ["data"], list(_data(events))
    for name, (pcrs, rule) in _RULES.items():
        if not rules.is_set(name):
            continue
        evaluated.append(name)
        missing = [pcr for pcr in pcrs if pcr not in verified.pcrs]
        if missing:
            findings.append(BootFinding(name, None, f"PCR {missing[0]}", "a quoted value", "none"))
        else:
            findings += rule(events, rules, verified.pcrs)
    not_evaluated = tuple(name for name in _RULES if name not in evaluated)
    named = _named(verified, command_lines) if findings else {}
    told = (replace(item, found=named.get((item.event, item.found), item.found)) for item in findings)
    return BootAppraisal(tuple(evaluated), not_evaluated, tuple(told))


def _named(verified: VerifiedEvents, command_lines: Sequence[str]) -> dict[tuple[int | None, str], str]:
    """Command lines in place of their digests, for findings only.

    A rule that knew them would take an event with such a digest for readable: whoever chooses the command line could
    hide another one behind it.
    """
    events = read_events(verified.events, bank=verified.bank, command_lines=command_lines)
    return {
        (item.event.number, f"digest {item.digest.hex()}"): item.value
        for item in events
        if item.kind == Kind.COMMAND_LINE and item.proved
    }


def _one_of(allowed: Sized, noun: str) -> str:
    return f"the {noun} that is allowed" if len(allowed) == 1 else f"one of {counted(len(allowed), noun)}"


def _finding(rule: str, item: Meaning, expected: str, found: str | None = None) -> BootFinding:
    value = item.value if item.proved else f"digest {item.value}"
    where = f"PCR {item.event.pcr}: {item.name}"
    return BootFinding(rule, item.event.number, where, expected, value if found is None else found)


def _absent(rule: str, pcr: int, expected: str) -> BootFinding:
    return BootFinding(rule, None, f"PCR {pcr}", expected, "none")


def _data(events: Sequence[Meaning]) -> Iterator[BootFinding]:
    for item in events:
        if item.event.type in DEFINED and item.content is None:
            yield _finding("data", item, "data that hashes to the digest", "data that does not")


def _of(events: Sequence[Meaning], pcr: int) -> list[Meaning]:
    return [item for item in events if item.event.pcr == pcr]


def _known(bank: str, *contents: bytes) -> frozenset[bytes]:
    """Digests of contents that are known beforehand: no log can call such an event something else."""
    return frozenset(HASHES[bank](content).digest() for content in contents)


def _split(rules: BootRules, events: Sequence[Meaning], pcr: int) -> tuple[list[Meaning], list[Meaning]]:
    """A PCR's events before its first separator, and from it on."""
    of_pcr = _of(events, pcr)
    separators = _known(rules.bank, *SEPARATORS)
    place = next((n for n, item in enumerate(of_pcr) if item.digest in separators), len(of_pcr))
    return of_pcr[:place], of_pcr[place:]


def _hidden(rule: str, items: Sequence[Meaning]) -> Iterator[BootFinding]:
    """Events whose content the log does not show, where every content has to be seen."""
    for item in items:
        if not item.proved:
            yield _finding(rule, item, "content that its digest covers", f"only digest {item.value}")


def _secure_boot_value(value: bytes) -> bytes:
    name = "SecureBoot".encode("utf-16-le")
    head = struct.pack("<16sQQ", GLOBAL_VARIABLE.bytes_le, len(name) // 2, len(value))
    return head + name + value


def _secure_boot(events: Sequence[Meaning], rules: BootRules, _: tuple[int, ...]) -> Iterator[BootFinding]:
    rule = "secure_boot"
    # Whoever runs behind the separator can extend another "Secure Boot is on": only what the firmware said counts.
    before, rest = _split(rules, events, 7)
    on = _known(rules.bank, _secure_boot_value(b"\1"))
    off = _known(rules.bank, _secure_boot_value(b"\0"), _secure_boot_value(b""))
    if not any(item.digest in on for item in before):
        yield _absent(rule, 7, "Secure Boot on, before the separator")
    for item in before:
        if item.digest in off:
            yield _finding(rule, item, "on")
    # shim says so if the machine's owner told it to verify nothing.
    yield from _hidden(rule, rest)
    for item in rest:
        if item.kind == Kind.VARIABLE and item.subject in _SHIM_WEAKENED:
            yield _finding(rule, item, "no such variable: images are verified")


def _separators(events: Sequence[Meaning], rules: BootRules, pcrs: tuple[int, ...]) -> Iterator[BootFinding]:
    rule = "separators"
    separators, actions = _known(rules.bank, *SEPARATORS), _known(rules.bank, *ACTIONS)
    for pcr in (pcr for pcr in range(8) if pcr in pcrs):
        _before, rest = _split(rules, events, pcr)
        if not rest:
            yield _absent(rule, pcr, "a separator")
        for item in rest[1:]:
            fits = item.kind in _BEHIND.get(pcr, ()) and (item.proved or pcr == 4)
            if item.kind == Kind.VARIABLE:
                fits = fits and item.subject in _SHIM_VARIABLES
            if item.digest in separators or not (fits or (pcr in (4, 5) and item.digest in actions)):
                yield _finding(rule, item, "nothing of that kind behind the separator")


def _certificates(events: Sequence[Meaning], rules: BootRules, _: tuple[int, ...]) -> Iterator[BootFinding]:
    rule, allowed = "certificates", frozenset(rules.certificates or ())
    of_pcr, separators = _of(events, 7), _known(rules.bank, *SEPARATORS)
    yield from _hidden(rule, of_pcr)
    count = 0
    # All else in PCR 7 says how an image was verified, or how it was not: by its hash, for example.
    for item in of_pcr:
        variable = parse_variable(item.content or b"")
        if not item.proved or item.digest in separators or (variable and _is_configuration(variable)):
            continue
        certificate = None if variable is None else certificate_of(variable.value)
        count += certificate is not None
        if hashlib.sha256(certificate or b"").hexdigest() not in allowed:
            yield _finding(rule, item, _one_of(allowed, "certificate"))
    if not count:
        yield _absent(rule, 7, "a certificate that verified the boot chain")


def _is_configuration(variable: Variable) -> bool:
    """Whether it is what the firmware measures of its own state before it verifies anything, or shim of its revocations."""
    if variable.guid == SHIM_LOCK:
        return variable.name in _SHIM_VARIABLES
    if variable.guid == IMAGE_SECURITY_DATABASE or variable.name in ("PK", "KEK"):
        # One entry of a database is how an image was verified; the database is configuration.
        return parse_signature_lists(variable.value) is not None
    return variable.guid == GLOBAL_VARIABLE and variable.name in _MODES


def _images(events: Sequence[Meaning], rules: BootRules, _: tuple[int, ...]) -> Iterator[BootFinding]:
    rule, allowed = "images", frozenset(rules.images or ())
    # All else in PCR 4 is an image, whatever the log calls it: an image's bytes could be logged as an "action".
    known = _known(rules.bank, *SEPARATORS, *ACTIONS)
    images = [item for item in _of(events, 4) if item.digest not in known]
    for item in images:
        if item.digest.hex() not in allowed:
            yield _finding(rule, item, _one_of(allowed, "image"))
    if not images:
        yield _absent(rule, 4, "an image")


def _command_lines(
    events: Sequence[Meaning], rules: BootRules, pcrs: tuple[int, ...]
) -> Iterator[BootFinding]:
    rule, allowed = "command_lines", frozenset(rules.command_lines or ())
    words = _one_of(allowed, "command line") if len(allowed) > 1 else f"`{''.join(allowed)}`"
    # GRUB's PCR and that of overridden command lines: an event that cannot be read may be the one that counts.
    yield from _hidden(rule, [*_of(events, 8), *_of(events, 12)])
    lines = [item for item in events if item.kind in (Kind.COMMAND_LINE, Kind.MODULE_LINE)]
    for item in lines:
        forms = _grub_forms(measured_line(item)) if item.event.pcr == 8 else {measured_line(item)}
        if not item.proved or forms.isdisjoint(allowed):
            yield _finding(rule, item, words)
    # GRUB's labels are in no digest: a command line may be called a command, or go without. But the command that set it
    # is there, too, without the quotes that the kernel sees.
    unquoted = frozenset(line.translate(_QUOTES) for line in allowed)
    for item in _of(events, 8):
        command, _, rest = ("" if item.content is None else measured_line(item)).partition(" ")
        if command in _LOADERS and unquoted.isdisjoint(_grub_forms(rest.strip())):
            yield _finding(rule, item, words)
    for item in _of(events, 12):
        if item.proved and item.kind != Kind.COMMAND_LINE:
            yield _finding(rule, item, "nothing but command lines")
    found = {item.event.pcr for item in lines}
    # The kernel's own stub measures into PCR 9, among files: that alone shows nothing.
    if not found & {8, 11, 12}:
        yield BootFinding(rule, None, "PCRs 8, 11 and 12", "a kernel command line", "none")
    if 11 in found and 12 not in pcrs:
        yield BootFinding(rule, None, "PCR 12", "a quoted value (it can override the UKI's)", "none")


def measured_line(item: Meaning) -> str:
    """The measured text, exactly; `value` may have escapes in it."""
    if item.content is None:
        return item.value
    coding = "utf-16-le" if item.event.pcr == 12 else "utf-8"
    return item.content.decode(coding, "replace").rstrip("\0")


def _grub_forms(text: str) -> frozenset[str]:
    """GRUB measures the kernel's path before the options, where the kernel itself says `BOOT_IMAGE=`."""
    return frozenset({text, text.partition(" ")[2], f"BOOT_IMAGE={text}"})


def _sections(events: Sequence[Meaning], rules: BootRules, _: tuple[int, ...]) -> Iterator[BootFinding]:
    wanted = rules.sections or {}
    found = set()
    for item in events:
        if item.event.pcr != 11 or item.kind in (Kind.SECTION_NAME, Kind.PHASE):
            continue
        name = ".cmdline" if item.kind == Kind.COMMAND_LINE else item.subject
        found.add(name)
        if item.digest.hex() not in wanted.get(name, ()):
            expected = _one_of(wanted[name], "digest") if name in wanted else "no such section"
            yield _finding("sections", item, expected)
    for name in sorted(set(wanted) - found):
        yield _absent("sections", 11, f"UKI section {name}")


def _digests(events: Sequence[Meaning], rules: BootRules, pcrs: tuple[int, ...]) -> Iterator[BootFinding]:
    rule, known = "digests", _known(rules.bank, *SEPARATORS, *ACTIONS)
    lines = frozenset(rules.command_lines or ())
    for name, allowed in (rules.digests or {}).items():
        pcr = int(name)
        if pcr not in pcrs:
            yield BootFinding(rule, None, f"PCR {pcr}", "a quoted value", "none")
        for item in _of(events, pcr):
            # A command line that the rules allow is known by its digest: the kernel's stub measures it into PCR 9.
            is_line = item.kind == Kind.COMMAND_LINE and item.proved and measured_line(item) in lines
            if item.digest.hex() not in allowed and item.digest not in known and not is_line:
                yield _finding(rule, item, _one_of(allowed, "digest"))


_Rule = Callable[[Sequence[Meaning], BootRules, tuple[int, ...]], Iterator[BootFinding]]
_RULES: Final[dict[str, tuple[tuple[int, ...], _Rule]]] = {
    "secure_boot": ((7,), _secure_boot),
    "separators": ((), _separators),
    "certificates": ((7,), _certificates),
    "images": ((4,), _images),
    "command_lines": ((), _command_lines),
    "sections": ((11,), _sections),
    "digests": ((), _digests),
}
