"""What platform and IMA policies say, as facts that can be compared (`attestd.governance.changes`). Pure."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["ANYTHING", "Facts", "Value", "ima_facts", "ima_summary", "platform_facts", "text", "texts"]

Value = str | frozenset[str]
Facts = Mapping[str, Mapping[str, Value]]

# What a rule allows that is not set.
ANYTHING: Final = "(anything)"
_BOOT_RULES: Final = (
    "secure_boot",
    "separators",
    "certificates",
    "images",
    "command_lines",
    "sections",
    "digests",
)
_IMA_WORDS: Final = {"digests": "paths", "patterns": "patterns", "exclude": "excluded", "keys": "keys"}


def platform_facts(_: str, data: bytes) -> Facts:
    """Of `platform/<name>.json`; whatever error there is, it is not of that form."""
    value = json.loads(data)
    subject = f"platform policy {value.pop('name')}"
    reference = value.pop("reference")
    states = frozenset(
        f"{item['bank']} PCRs {','.join(map(str, item['pcrs']))} composite {item['pcr_digest']},"
        f" until epoch {item['epoch']}, by key {item['key_id']}"
        for item in value.pop("approvals")
    )
    keys = frozenset(
        f"{item['key_id']} until epoch {item['max_epoch']}" for item in value.pop("platform_keys")
    )
    lifecycle = value.pop("lifecycle")
    windows = frozenset(f"{item['not_after']}: {item['pcr_digest']}" for item in lifecycle.pop("windows"))
    ima = reference.pop("ima") or {}
    facts: dict[str, Value] = {
        "approved state": states,
        "platform key": keys,
        "minimum tier": text(reference.pop("min_tier")),
        "user space": texts(reference.pop("userspace")),
        "valid until": text(lifecycle.pop("valid_until")),
        "approved only until": windows,
        "IMA policy": frozenset([f"{ima['policy']}, SHA-256 {ima['sha256']}" if ima else ANYTHING]),
        **_boot_rules(reference.pop("boot")),
        **{member: text(number) for member, number in reference.pop("quorums").items()},
    }
    for bank, values in reference.pop("pcrs").items():
        facts |= {
            f"PCR {index} ({bank}) value": texts(allowed)
            for index, allowed in sorted(values.items(), key=_index)
        }
    facts |= {member: text(item) for member, item in reference.items()}
    version = text(value.pop("version"))
    return {
        subject: {
            **facts,
            "version": version,
            **{member: text(item) for member, item in {**lifecycle, **value}.items() if member != "v"},
        }
    }


def _boot_rules(rules: Mapping[str, Any] | None) -> dict[str, Value]:
    facts: dict[str, Value] = {}
    for name in _BOOT_RULES:
        rule = (rules or {}).get(name)
        values = (
            [f"{key} {item}" for key, items in rule.items() for item in items or ["nothing"]]
            if isinstance(rule, dict)
            else rule
            if isinstance(rule, list)
            else [ANYTHING if rule in (None, "unchecked") else rule]
        )
        facts[f"boot rule {name}"] = frozenset(values)
    rest = {name: item for name, item in (rules or {}).items() if name not in (*_BOOT_RULES, "v")}
    return facts | {f"boot rules' {name}": text(item) for name, item in rest.items()}


def ima_facts(name: str, data: bytes) -> Facts:
    """Of `ima/<name>.json`, line by line; whatever error there is, it is not of that form."""
    value = json.loads(data)
    value.pop("v")
    digests, patterns = value.pop("digests"), value.pop("patterns")
    found: dict[str, Value] = {
        "IMA path": frozenset(f"{path} {item}" for path, items in digests.items() for item in items),
        "IMA pattern": texts(patterns),
        "IMA excluded": texts(value.pop("exclude")),
        "IMA key": frozenset(f"{key} {spki}" for key, spki in value.pop("keys").items()),
        "IMA violations": frozenset([value.pop("violations")]),
    }
    return {_ima_subject(name): found | {member: text(item) for member, item in value.items()}}


def _index(item: tuple[str, Any]) -> int:
    return int(item[0])


def ima_summary(name: str, data: bytes) -> Facts:
    """An IMA policy that is added or removed as a whole: its lines are more than anybody reads."""
    value = json.loads(data)
    counts = {words: str(len(value[member])) for member, words in _IMA_WORDS.items()}
    digest = hashlib.sha256(data).hexdigest()
    return {_ima_subject(name): {**counts, "violations": text(value["violations"]), "SHA-256": digest}}


def _ima_subject(name: str) -> str:
    return f"IMA policy {name.removeprefix('ima/').removesuffix('.json')}"


def texts(values: Iterable[Any]) -> frozenset[str]:
    """Values as a set of texts."""
    return frozenset(map(text, values))


def text(value: Any) -> str:
    """A value as text: JSON where it is none."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, sort_keys=True)
