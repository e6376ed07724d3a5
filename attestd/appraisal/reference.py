"""Reference values from a boot that is known to be good: rules over its events, an IMA policy over its list.

What is derived allows exactly that boot. A person shortens and widens it: a file can have several digests, a pattern
stands for many.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from attestd.appraisal.boot import ACTIONS, SEPARATORS, appraise_boot, measured_line
from attestd.appraisal.boot_rules import BootRules, require_sound_rules
from attestd.appraisal.ima import appraise_ima, parse_ima_policy
from attestd.appraisal.inspect import best_bank
from attestd.appraisal.paths import parse_pattern
from attestd.errors import MalformedError
from attestd.strict import canonical
from attestd.tcg.eventlog.efi import certificate_of, parse_variable
from attestd.tcg.eventlog.meaning import Meaning, read_events
from attestd.tcg.eventlog.parse import UntrustedEventLog
from attestd.tcg.eventlog.reading import Kind
from attestd.tcg.eventlog.replay import initial_value, replay, verify_events
from attestd.tcg.eventlog.types import HASHES
from attestd.tcg.ima.replay import replay_list

__all__ = ["derive_boot_rules", "derive_ima_policy", "join_boot_rules"]

# Firmware, drivers, files that boot loaders and the kernel's stub read, machine owner keys.
_BY_DIGEST = (0, 2, 9, 14)
_GRUB_PCR = 8
_UNCHECKED: dict[str, Any] = {"secure_boot": "unchecked", "separators": "unchecked"}


def derive_boot_rules(
    log: UntrustedEventLog, *, command_lines: Sequence[str]
) -> tuple[BootRules, tuple[str, ...]]:
    """Rules that a boot keeps: all that it can keep.

    Args:
        log: The boot's log, with what user space measured.
        command_lines: Its kernel command line, if it is known.

    Returns:
        The rules, and why some of them are left out.

    Raises:
        MalformedError: No bank but SHA-1 can be replayed; no rule holds.
    """
    bank = best_bank(log.banks)
    if bank == "sha1":
        raise MalformedError("this boot's log has SHA-1 digests alone, which can be made to collide")
    replayed = replay(log, bank)
    values = {pcr: replayed.get(pcr, initial_value(bank, pcr, locality=log.locality)) for pcr in range(16)}
    verified = verify_events(log, bank=bank, values=values)
    events = read_events(verified.events, bank=bank, command_lines=command_lines)
    rules = BootRules(
        v=1,
        bank=bank,
        secure_boot="required",
        separators="required",
        certificates=_certificates(events) or None,
        images=_digests(events, 4, bank) or None,
        command_lines=_command_lines(events) or None,
        sections=_sections(events) or None,
        digests={str(pcr): found for pcr in _BY_DIGEST if (found := _digests(events, pcr, bank))} or None,
    )
    notes: list[str] = []
    for finding in appraise_boot(verified, rules=rules).findings:
        if finding.rule != "data" and rules.is_set(finding.rule):
            rules = msgspec.structs.replace(rules, **{finding.rule: _UNCHECKED.get(finding.rule)})
        notes.append(f"{finding.rule}: {finding}")
    if not any(rules.is_set(name) for name in rules.__struct_fields__[2:]):
        raise MalformedError("this boot keeps no rule: its log has nothing to know it by")
    return rules, tuple(notes)


def join_boot_rules(first: BootRules, second: BootRules) -> BootRules:
    """Rules that allow what one of two allows: for an update, before and after it.

    Raises:
        MalformedError: They are of different banks, or have no rule in common.
    """
    if first.bank != second.bank:
        raise MalformedError(f"boot rules of banks {first.bank} and {second.bank} are no rules of one boot")
    joined = {
        name: _join(getattr(first, name), getattr(second, name)) for name in first.__struct_fields__[2:]
    }
    if first.sections is None or second.sections is None or first.sections.keys() != second.sections.keys():
        joined["sections"] = None  # each section that is named has to be there, in every boot
    rules = msgspec.structs.replace(first, **joined)
    require_sound_rules(rules)
    return rules


def _join(first: Any, second: Any) -> Any:
    if first in (None, "unchecked") or second in (None, "unchecked"):
        return None if first is None or second is None else "unchecked"
    if isinstance(first, dict):
        return {name: _join(first.get(name, []), second.get(name, [])) for name in sorted({*first, *second})}
    return sorted({*first, *second}) if isinstance(first, list) else first


def _certificates(events: Sequence[Meaning]) -> list[str]:
    variables = [parse_variable(item.content or b"") for item in events if item.kind == Kind.AUTHORITY]
    found = [certificate_of(variable.value) for variable in variables if variable is not None]
    return sorted({hashlib.sha256(der).hexdigest() for der in found if der is not None})


def _digests(events: Sequence[Meaning], pcr: int, bank: str) -> list[str]:
    known = {HASHES[bank](content).digest() for content in (*SEPARATORS, *ACTIONS)}
    of_pcr = [item for item in events if item.event.pcr == pcr and item.digest not in known]
    return sorted({item.digest.hex() for item in of_pcr if item.kind != Kind.COMMAND_LINE})


def _command_lines(events: Sequence[Meaning]) -> list[str]:
    lines = [item for item in events if item.kind in (Kind.COMMAND_LINE, Kind.MODULE_LINE) and item.proved]
    # GRUB measures the kernel's path where the kernel itself says BOOT_IMAGE=.
    return sorted(
        {
            f"BOOT_IMAGE={measured_line(item)}" if item.event.pcr == _GRUB_PCR else measured_line(item)
            for item in lines
        }
    )


def _sections(events: Sequence[Meaning]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for item in events:
        if item.event.pcr == 11 and item.kind in (Kind.SECTION, Kind.COMMAND_LINE):
            name = item.subject if item.kind == Kind.SECTION else ".cmdline"
            found.setdefault(name, set()).add(item.digest.hex())
    return {name: sorted(digests) for name, digests in found.items()}


def derive_ima_policy(
    data: bytes, *, exclude: Iterable[str], max_bytes: int
) -> tuple[bytes, tuple[str, ...]]:
    """An IMA policy that allows what a list has: each file with its digests.

    Files that were written while they were measured have no digest: their paths are excluded.

    Args:
        data: The binary list.
        exclude: Patterns of paths that are not looked at.
        max_bytes: The limit for `data`.

    Returns:
        The policy's file, and what of the list it does not allow, or does not look at.

    Raises:
        MalformedError: As `replay_list`, `parse_pattern`; nothing is left to allow.
    """
    measured = replay_list(data, bank="sha1", max_bytes=max_bytes)
    patterns = [parse_pattern(text) for text in exclude]
    digests: dict[str, set[str]] = {}
    excluded: dict[str, None] = dict.fromkeys(pattern.text for pattern in patterns)
    notes: list[str] = []
    for template, indices in measured.runs():
        for index in indices:
            try:
                entry = measured.entry(index, template)
            except MalformedError as error:
                notes.append(str(error))
                continue
            path = entry.path.decode("utf-8", "backslashreplace")
            if any(pattern.matches(entry.path) for pattern in patterns) or path == "boot_aggregate":
                continue
            if entry.violation and "*" in path:
                # Whoever may create files chooses their names: this one would exclude others as well.
                notes.append(
                    f"{path}: written while it was measured; its name would be a pattern: it is not excluded"
                )
            elif entry.violation:
                excluded[path] = None
                notes.append(f"{path}: written while it was measured: it is excluded")
            elif entry.digest_type == "ima":
                digests.setdefault(path, set()).add(f"{entry.algorithm}:{entry.digest.hex()}")
    policy = _policy(digests, list(excluded))
    appraised = appraise_ima(measured, policy=parse_ima_policy(policy), aggregates=None)
    return policy, (*notes, *(str(finding) for finding in appraised.findings))


def _policy(digests: Mapping[str, Iterable[str]], excluded: list[str]) -> bytes:
    return canonical(
        {
            "v": 1,
            "digests": {path: sorted(allowed) for path, allowed in digests.items()},
            "patterns": [],
            "exclude": excluded,
            "keys": {},
            "violations": "exclude" if excluded else "refuse",
        }
    )
