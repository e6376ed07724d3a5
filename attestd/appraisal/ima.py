"""Appraises IMA lists: is every file that was measured one that policy allows, and if not, which and why.

The policy is one canonical JSON object (docs/formats/eventlog.md):

    {"v": 1, "digests": {PATH: ["sha256:HEX", ...]}, "patterns": [{"path", "digests", "keys"}], "exclude": [PATTERN],
     "keys": {NAME: base64 SPKI}, "violations": "refuse" | "exclude"}
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestd.appraisal.paths import PathPattern, kernel_path, parse_pattern
from attestd.errors import MalformedError, VerificationError
from attestd.strict import Base64Bytes, Strict, decode_base64, parse_canonical
from attestd.tcg.ima.entry import DIGEST_SIZES, ImaEntry, file_digest, pack_field
from attestd.tcg.ima.replay import VerifiedImaList
from attestd.tcg.ima.signature import ImaKey, verify_ima_signature

__all__ = ["MAX_POLICY_BYTES", "ImaAppraisal", "ImaFinding", "ImaPolicy", "appraise_ima", "parse_ima_policy"]

MAX_POLICY_BYTES: Final = 32 * 1024 * 1024
MAX_FINDINGS: Final = 100
_NO_SIGNATURE: Final = bytes(4)
_AGGREGATE: Final = b"boot_aggregate"
_SHOWN: Final = 3

_Digest = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9-]{2,9}:[0-9a-f]{32,128}\Z")]
_Path = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
_KeyName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]


class _PatternRule(Strict, frozen=True):
    path: str
    digests: list[_Digest]
    keys: list[_KeyName]


class _PolicyFile(Strict, frozen=True):
    v: Literal[1]
    digests: dict[_Path, Annotated[list[_Digest], msgspec.Meta(min_length=1)]]
    patterns: Annotated[list[_PatternRule], msgspec.Meta(max_length=256)]
    exclude: Annotated[list[str], msgspec.Meta(max_length=256)]
    keys: Annotated[dict[_KeyName, Base64Bytes], msgspec.Meta(max_length=64)]
    violations: Literal["refuse", "exclude"]


@dataclass(frozen=True)
class _Rule:
    pattern: PathPattern
    digests: frozenset[str]
    keys: tuple[ImaKey, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class ImaPolicy:
    """What may be measured. Only `parse_ima_policy` makes one.

    Attributes:
        digests: Allowed digests by path, as the kernel names both.
        excluded: What is not looked at.
        excuses_violations: Whether a violation of a file with an excluded name is no finding. The name of a violation
            is in no digest: it is the list's word.
    """

    digests: Mapping[bytes, tuple[str, ...]] = field(repr=False)
    rules: tuple[_Rule, ...]
    excluded: tuple[PathPattern, ...]
    excuses_violations: bool
    allowed: frozenset[bytes] = field(repr=False)

    def excludes(self, path: bytes) -> bool:
        """Whether a path is not looked at."""
        return any(pattern.matches(path) for pattern in self.excluded)


@dataclass(frozen=True)
class ImaFinding:
    """One entry that policy does not allow.

    Attributes:
        number: The entry's place in the list.
        path: The file, decoded; control characters and all.
    """

    number: int
    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"IMA entry {self.number}: {self.path}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class ImaAppraisal:
    """A list, measured against a policy.

    Attributes:
        entries: How many were appraised.
        findings: What is wrong: up to 100 of `count`.
    """

    entries: int
    findings: tuple[ImaFinding, ...]
    count: int


def parse_ima_policy(data: bytes) -> ImaPolicy:
    """Parses a policy and prepares it for fast use; keep it, it is expensive.

    Raises:
        MalformedError: Not that object, a pattern or hash of an unknown form, a key that is neither RSA nor ECC, a rule
            that names an unknown key or allows nothing, or a policy that allows everything or nothing at all.
    """
    what = "IMA policy"
    file = parse_canonical(data, _PolicyFile, max_bytes=MAX_POLICY_BYTES, what=what)
    if not file.digests and not file.patterns:
        raise MalformedError(
            f"{what}: it names no digests and no patterns: nothing could be measured under it"
        )
    keys = {name: _parse_key(name, text) for name, text in file.keys.items()}
    excluded = tuple(map(parse_pattern, file.exclude))
    if any(pattern.text in {"**", "/**"} for pattern in excluded):
        raise MalformedError(f"{what}: it excludes everything")
    digests = {kernel_path(path): tuple(allowed) for path, allowed in file.digests.items()}
    return ImaPolicy(
        digests=digests,
        rules=tuple(_rule(item, keys) for item in file.patterns),
        excluded=excluded,
        excuses_violations=file.violations == "exclude",
        allowed=frozenset(_allowed(digests)),
    )


def _parse_key(name: str, text: str) -> ImaKey:
    what = f"IMA policy: key {name!r}"
    try:
        key = load_der_public_key(decode_base64(text, what=what))
    except ValueError as error:
        raise MalformedError(f"{what}: not a public key: {error}") from error
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise MalformedError(f"{what}: expected an RSA or ECC key")
    return key


def _rule(item: _PatternRule, keys: Mapping[str, ImaKey]) -> _Rule:
    if not item.digests and not item.keys:
        raise MalformedError(
            f"IMA policy: the rule for {item.path[:80]!r} allows nothing: name digests or keys"
        )
    unknown = [name for name in item.keys if name not in keys]
    if unknown:
        raise MalformedError(
            f"IMA policy: the rule for {item.path[:80]!r} names an unknown key {unknown[0]!r}"
        )
    for digest in item.digests:
        _split_digest(digest)
    return _Rule(
        parse_pattern(item.path),
        frozenset(item.digests),
        tuple(keys[name] for name in item.keys),
        tuple(item.keys),
    )


def _split_digest(text: str) -> tuple[str, bytes]:
    algorithm, _, value = text.partition(":")
    digest = bytes.fromhex(value) if len(value) % 2 == 0 else b""
    if DIGEST_SIZES.get(algorithm.encode()) != len(digest) or not any(digest):
        raise MalformedError(
            f"IMA policy: digest {text!r}: expected a hash and a digest of its size, not zero"
        )
    return algorithm, digest


def _allowed(digests: Mapping[bytes, tuple[str, ...]]) -> Iterator[bytes]:
    """The template data of every allowed file, for `ima-ng` and for `ima-sig` without a signature.

    An entry whose bytes are one of these needs no more than a look-up: this is what makes long lists cheap.
    """
    for path, allowed in digests.items():
        name = pack_field(path + b"\0")
        for text in allowed:
            plain = pack_field(file_digest(*_split_digest(text))) + name
            yield plain
            yield plain + _NO_SIGNATURE


def appraise_ima(
    measured: VerifiedImaList, *, policy: ImaPolicy, aggregates: Collection[bytes] | None
) -> ImaAppraisal:
    """Measures every entry against the policy.

    Args:
        measured: Entries that a quote proves.
        policy: What is allowed.
        aggregates: What `boot_aggregate` may be (`boot_aggregates`); None: it is not evaluated, for PCRs 0 to 9 were
            not quoted.

    Returns:
        The appraisal; what is not allowed is a result, not an error.
    """
    findings: list[ImaFinding] = []
    count = 0
    for finding in _findings(measured, policy, aggregates):
        count += 1
        if len(findings) < MAX_FINDINGS:
            findings.append(finding)
    return ImaAppraisal(len(measured), tuple(findings), count)


def _findings(
    measured: VerifiedImaList, policy: ImaPolicy, aggregates: Collection[bytes] | None
) -> Iterator[ImaFinding]:
    data, allowed = measured.data, policy.allowed
    for template, indices in measured.runs():
        for index in indices:
            # A violation's data is in no digest: it never counts as allowed.
            if data[index] in allowed and not measured.is_violation(index):
                continue
            number = measured.start.entries + index
            try:
                entry = measured.entry(index, template)
            except MalformedError as error:
                yield ImaFinding(number, "?", "an entry of a known form", str(error))
                continue
            problem = _problem(entry, policy, aggregates)
            if problem is not None:
                yield ImaFinding(number, entry.path.decode("utf-8", "backslashreplace"), *problem)


def _problem(
    entry: ImaEntry, policy: ImaPolicy, aggregates: Collection[bytes] | None
) -> tuple[str, str] | None:
    """What was expected and what was found; None: the entry is allowed."""
    if entry.violation:
        excused = policy.excuses_violations and policy.excludes(entry.path)
        found = "a violation: the file was open for writing while it was measured"
        return None if excused else ("a digest", found)
    if entry.path == _AGGREGATE:
        # Not evaluated is not a free name for files: only the first entry may go without.
        good = entry.number == 0 if aggregates is None else entry.digest in aggregates
        expected = _listed(sorted(item.hex() for item in aggregates or ()))
        return None if good else (f"the hash of PCRs 0 to 9 ({expected or 'entry 0'})", _found(entry))
    return _file_problem(entry, policy)


def _found(entry: ImaEntry) -> str:
    return f"{entry.algorithm}:{entry.digest.hex()}"


def _file_problem(entry: ImaEntry, policy: ImaPolicy) -> tuple[str, str] | None:
    known = policy.digests.get(entry.path, ())
    rules = [rule for rule in policy.rules if rule.pattern.matches(entry.path)]
    reasons = [reason for rule in rules for reason in _refusals(entry, rule)]
    by_digest = entry.digest_type == "ima" and _found(entry) in known
    if by_digest or len(reasons) < len(rules) or policy.excludes(entry.path):
        return None
    digests = sorted({*known, *(digest for rule in rules for digest in rule.digests)})
    keys = sorted({name for rule in rules for name in rule.names})
    expected = [_listed(digests)] if digests else []
    expected += [f"a signature by {_listed(keys)}"] if keys else []
    words = " or ".join(expected) or "no such file: no rule covers this path"
    return words, "; ".join([_found(entry), *dict.fromkeys(filter(None, reasons))])


def _refusals(entry: ImaEntry, rule: _Rule) -> list[str]:
    """Why a rule does not allow an entry: one reason; none if it does."""
    if entry.digest_type == "ima" and _found(entry) in rule.digests:
        return []
    if not rule.keys:
        return [""]
    try:
        verify_ima_signature(entry, keys=rule.keys)
    except (MalformedError, VerificationError) as error:
        return [str(error)]
    return []


def _listed(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return (
        "one of " * (len(items) > 1) + ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    )
