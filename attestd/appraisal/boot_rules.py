"""The rules that a boot is held against: one canonical JSON object (docs/formats/eventlog.md)."""

import hashlib
from typing import Annotated, Final, Literal

import msgspec

from attestd.errors import MalformedError
from attestd.strict import PcrName, Sha256Hex, Strict, parse_canonical

__all__ = ["MAX_RULES_BYTES", "BootRules", "parse_boot_rules", "require_sound_rules"]

MAX_RULES_BYTES: Final = 1024 * 1024

_Digest = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})\Z")]
_Line = Annotated[str, msgspec.Meta(min_length=1, max_length=65_536)]

# What each rule looks at.
_PCRS: Final = {
    "secure_boot": frozenset({7}),
    "separators": frozenset(range(8)),
    "certificates": frozenset({7}),
    "images": frozenset({4}),
    "command_lines": frozenset({8, 11, 12}),
    "sections": frozenset({11}),
}


class BootRules(Strict, frozen=True):
    """What a boot has to be. None, or `unchecked`: not evaluated, and the appraisal says so.

    Attributes:
        bank: The bank of `images` and `sections`; the events have to be verified in it.
        secure_boot: Secure Boot was on before any boot loader ran (PCR 7).
        separators: Firmware PCRs 0 to 7 ended with a separator, and nothing but what belongs there came behind it.
        certificates: SHA-256 of the certificates that may have verified the boot chain (PCR 7).
        images: Digests of what firmware and boot loaders may have started (PCR 4).
        command_lines: The kernel's command line, one of these.
        sections: Digests of the UKI's sections, by name (PCR 11).
        digests: By PCR, digests of all else that may be in it: firmware (0), drivers (2), files (9), MOK (14).
    """

    v: Literal[1]
    bank: Literal["sha1", "sha256", "sha384", "sha512"]
    secure_boot: Literal["required", "unchecked"]
    separators: Literal["required", "unchecked"]
    certificates: Annotated[list[Sha256Hex], msgspec.Meta(min_length=1)] | None
    images: Annotated[list[_Digest], msgspec.Meta(min_length=1)] | None
    command_lines: Annotated[list[_Line], msgspec.Meta(min_length=1)] | None
    sections: (
        Annotated[dict[str, Annotated[list[_Digest], msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1)]
        | None
    )
    digests: Annotated[dict[PcrName, list[_Digest]], msgspec.Meta(min_length=1)] | None

    def is_set(self, rule: str) -> bool:
        """Whether a rule is to be evaluated."""
        return getattr(self, rule) not in (None, "unchecked")

    @property
    def pcrs(self) -> frozenset[int]:
        """The PCRs that the rules look at: of an event in another one nothing is proved that they ask for."""
        found = {int(pcr) for pcr in self.digests or ()}
        for rule, pcrs in _PCRS.items():
            found |= pcrs if self.is_set(rule) else frozenset()
        return frozenset(found)

    @property
    def weakness(self) -> str | None:
        """How a boot that is not meant gets by these rules, although each of them is evaluated; None: it does not.

        PCRs 8, 11 and 12 can be extended by a system that runs. So a kernel that the firmware started directly, with a
        command line of its own that nothing measured there, can have an allowed one measured afterwards.
        """
        if self.command_lines is None or self.images is not None:
            return None
        return (
            "command_lines without images: a kernel that is started directly, with any command line, can extend PCR 12 by"
            " an allowed one; name the images as well (attestd platform measure --rules)"
        )


def parse_boot_rules(data: bytes) -> BootRules:
    """Parses rules.

    Raises:
        MalformedError: Not that object; digests of another bank, or SHA-1's; nothing to be evaluated.
    """
    rules = parse_canonical(data, BootRules, max_bytes=MAX_RULES_BYTES, what="boot rules")
    require_sound_rules(rules)
    return rules


def require_sound_rules(rules: BootRules) -> None:
    """What the shape of rules cannot say.

    Raises:
        MalformedError: Digests of another bank, or SHA-1's; nothing to be evaluated.
    """
    if rules.bank == "sha1":
        raise MalformedError("boot rules: SHA-1 can be made to collide: name another bank")
    size = hashlib.new(rules.bank).digest_size * 2
    named = [*(rules.sections or {}).values(), *(rules.digests or {}).values()]
    digests = [*(rules.images or ()), *(digest for allowed in named for digest in allowed)]
    if any(len(digest) != size for digest in digests):
        raise MalformedError(f"boot rules: a digest that is not of bank {rules.bank}")
    if not any(rules.is_set(name) for name in rules.__struct_fields__[2:]):
        raise MalformedError("boot rules: nothing is evaluated: every boot would do")
