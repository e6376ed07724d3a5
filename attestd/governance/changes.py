"""What a new version of governance changes, in words: what a person reads before they sign. Pure.

Each file is turned into facts (a subject, its members, their values), and facts are compared: whatever a file says shows
up, also what nobody wrote words for.
"""

import hashlib
import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from attestd.errors import MalformedError
from attestd.governance.ek_facts import ek_allow_facts, ek_file_facts, ek_index_facts
from attestd.governance.facts import (
    ANYTHING,
    Facts,
    Value,
    ima_facts,
    ima_summary,
    platform_facts,
    text,
    texts,
)
from attestd.governance.mesh import MESH, MESH_HISTORY
from attestd.governance.mesh_facts import mesh_facts

__all__ = ["Change", "Facts", "compare_facts", "describe_changes"]


# Neither has two ways to match one text: what is compared may come from anybody's copy.
_POLICY: Final = re.compile(r'\A(?:\s|@[A-Za-z_]+(?:\("[^"]*"\))?)*(?P<effect>permit|forbid)\b')
_ID: Final = re.compile(r'@id\("([^"]*)"\)')
# Subjects whose appearance, or disappearance, makes more possible.
_LAXER: Final = ("authority ", "team ", "host ", "permit ", "statement ", "EK ", "verifier ", "witness ")
_STRICTER: Final = ("authority ", "forbid ", "statement ", "mesh quorum")
_FLOORS: Final = ("threshold", "verifiers", "witnesses")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z|\\)|//[^\n]*|;|[^";/]+|/', re.DOTALL)


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        target: The file, or the TUF role, that changes.
        words: What changes, without full stop.
        is_weaker: More is possible afterwards, or something that was known to be bad no longer counts as that.
    """

    target: str
    words: str
    is_weaker: bool = False


def describe_changes(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[Change]:
    """What changes from one set of target files to the next.

    Args:
        before: Contents by name.
        after: Contents by name, as hosts would accept them.

    Raises:
        MalformedError: A file is not of the form of its name.
    """
    changes: list[Change] = []
    for name in sorted({*before, *after}, key=_order):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if name.startswith(("platform/history/", MESH_HISTORY)):
            words = "kept, for old receipts name it" if old is None else "changed" if new else "removed"
            changes.append(Change(name, words, is_weaker=old is not None))
            continue
        whole = old is None or new is None
        found = compare_facts(name, _facts(name, old, whole=whole), _facts(name, new, whole=whole))
        changes += found or [Change(name, _of_form(old, new))]
    return changes


def _of_form(old: bytes | None, new: bytes | None) -> str:
    if old is None:
        return "added; it says nothing"
    return "changes in form, not in what it says" if new is not None else "removed; it said nothing"


def compare_facts(target: str, before: Facts, after: Facts) -> list[Change]:
    """The differences between two sets of facts."""
    changes: list[Change] = []
    for subject in [*before, *(subject for subject in after if subject not in before)]:
        if subject not in after:
            changes.append(Change(target, f"{subject}: removed", subject.startswith(_STRICTER)))
            continue
        old, new = before.get(subject), after[subject]
        if old is None:
            members = {
                member: value for member, value in new.items() if value and value != frozenset([ANYTHING])
            }
            told = "; ".join(f"{member} {_shown(value)}".strip() for member, value in members.items())
            changes.append(
                Change(target, f"{subject}: added{': ' * bool(told)}{told}", subject.startswith(_LAXER))
            )
            continue
        for member in [*old, *(member for member in new if member not in old)]:
            changes += _member_changes(target, subject, member, old.get(member), new.get(member))
    return changes


def _member_changes(
    target: str, subject: str, member: str, old: Value | None, new: Value | None
) -> Iterator[Change]:
    if old == new:
        return
    if isinstance(old, frozenset) or isinstance(new, frozenset):
        was, now = _as_set(old), _as_set(new)
        for item in sorted(now - was):
            change = _item_change(target, subject, member, item, is_added=True)
            yield replace(change, is_weaker=False) if was == frozenset([ANYTHING]) else change
        for item in sorted(was - now):
            yield _item_change(target, subject, member, item, is_added=False)
        return
    weaker = (
        _number(new) < _number(old)
        if member in _FLOORS
        else member == "max depth" and _number(new) > _number(old)
    )
    yield Change(target, f"{subject}: {member} {old or 'none'} -> {new or 'none'}", weaker)


def _item_change(target: str, subject: str, member: str, item: str, *, is_added: bool) -> Change:
    if subject == "revoked":
        words = f"revoked: {member} {item}" if is_added else f"NO LONGER revoked: {member} {item}"
        return Change(target, words, is_weaker=not is_added)
    if member == "approved state":
        words = f"one {'more' if is_added else 'less'} approved state, {item}"
        return Change(target, f"{subject}: {words}", is_weaker=is_added)
    return Change(
        target,
        f"{subject}: {'+' if is_added else '-'}{member} {item}",
        is_weaker=member in ("key", "path", "uid", "user space", "state", "tier", "certificate")
        or (member.startswith(("boot rule ", "IMA ")) and item != "refuse")
        if is_added
        else member in ("secret", "approved only until"),
    )


def _shown(value: Value) -> str:
    return ", ".join(sorted(value)) if isinstance(value, frozenset) else value


def _as_set(value: Value | None) -> frozenset[str]:
    return value if isinstance(value, frozenset) else frozenset([value] if value else [])


def _number(value: Value | None) -> int:
    return int(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else 0


def _order(name: str) -> tuple[int, str]:
    first = (
        "authorities.json",
        "revocations.json",
        "platform/",
        "ima/",
        "policy/",
        "teams/",
        "ek-",
        MESH,
        MESH_HISTORY,
        "hosts/",
    )
    return next((place for place, prefix in enumerate(first) if name.startswith(prefix)), len(first)), name


# --- facts of each kind of file ----------------------------------------------------------------------------------


def _facts(name: str, data: bytes | None, *, whole: bool) -> Facts:
    if data is None:
        return {}
    for matches, read in (*(_SUMMARIES if whole else ()), *_READERS):
        if re.fullmatch(matches, name):
            try:
                return read(name, data)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise MalformedError(f"{name}: not of the form that its name says: {error!r}") from error
    return {"file": {"SHA-256": hashlib.sha256(data).hexdigest()}}


def _authorities(name: str, data: bytes) -> Facts:
    value = json.loads(data)
    prefix = f"{name.split('/')[1]}/" if name.startswith("teams/") else ""
    rules = value.pop("authorizations")
    facts = {f"authority {prefix}{rule['name']}": _rule(rule) for rule in rules}
    if len(rules) > 1:
        facts["order of authorities, the first that covers an execution decides"] = {
            "": ", ".join(rule["name"] for rule in rules)
        }
    for team, scope in value.pop("teams", {}).items():
        facts[f"team {team}"] = _rule(scope)
    if "enrollers" in value:
        facts["enrollers"] = _rule(value.pop("enrollers"))
    if "tpm" in value:
        tpm = value.pop("tpm")
        facts["TPM"] = {
            "root (another root: every host needs new keys)": text(tpm["root"]),
            "platform key": texts(tpm["platform"]),
            "epoch key (another key: every host needs new keys)": text(tpm["epoch"]),
        }
    # A key is what its id says; what counts is where it is named.
    named = {item for members in facts.values() for value in members.values() for item in _as_set(value)}
    unused = frozenset(value.pop("keys").keys()) - named
    return {
        **facts,
        **({"keys": {"key that signs for nothing": unused}} if unused else {}),
        **_rest("file", value),
    }


def _rule(rule: Mapping[str, Any]) -> dict[str, Value]:
    words = {"keys": "key", "paths": "path", "uids": "uid"}
    found: dict[str, Value] = {}
    for member, value in rule.items():
        if member == "uids" and value is None:
            found["uid"] = frozenset(["any"])
        elif member == "secret":
            found["secret"] = frozenset(
                [*(f"argv[{index}]" for index in value["argv"]), *(f"env:{name}" for name in value["env"])]
                if value
                else []
            )
        elif member in words:
            found[words[member]] = texts(value)
        elif member != "name":
            found[member.replace("_", " ")] = text(value)
    return found


def _revocations(_: str, data: bytes) -> Facts:
    value = json.loads(data)
    members = ("artifacts", "keys", "hosts", "subjects", "requesters")
    revoked = {member.removesuffix("s"): texts(value.pop(member)) for member in members}
    epoch = {
        "epoch": text(value.pop("epoch")),
        "signature that moves TPMs": text((value.pop("bump", None) or {}).get("epoch")),
    }
    return {"revoked": revoked, "approvals of earlier epochs end": epoch, **_rest("file", value)}


def _host(_: str, data: bytes) -> Facts:
    envelope = json.loads(data)
    record = json.loads(b64decode(envelope["payload"]))
    host = record.pop("host")
    facts: dict[str, Value] = {
        "label": frozenset(f"{label}={text}" for label, text in record.pop("labels").items()),
        "signed by": texts(item["keyid"] for item in envelope["signatures"]),
    }
    for member, value in record.items():
        if isinstance(value, dict):
            facts[member.replace("_", " ")] = f"SHA-256 {hashlib.sha256(text(value).encode()).hexdigest()}"
        elif member != "v":
            facts[member.replace("_", " ")] = text(value)
    return {f"host {host}": facts}


def _policy(_: str, data: bytes) -> Facts:
    facts: dict[str, dict[str, Value]] = {}
    for statement in _statements(data.decode("utf-8")):
        found = _POLICY.match(statement)
        effect = found["effect"] if found else "statement"
        identifier = _ID.search(statement, 0, found.end()) if found else None
        # No id begins with "#", and nobody finds two texts of one digest: no policy covers another.
        named = identifier[1] if identifier else f"#{hashlib.sha256(statement.encode()).hexdigest()[:32]}"
        each = facts.setdefault(f"{effect} {named}", {})
        each[f"({len(each) + 1})" if each else ""] = statement
    return facts


def _statements(text: str) -> Iterator[str]:
    """What ends in semicolons, comments left out, each on one line."""
    parts: list[str] = []
    for part in _TOKEN.findall(text):
        if not part.startswith("//"):
            parts.append(part)
        if part == ";":
            yield " ".join("".join(parts).split())
            parts = []
    rest = " ".join("".join(parts).split())
    if rest:
        yield rest


def _entities(_: str, data: bytes) -> Facts:
    def named(entity: Mapping[str, str]) -> str:
        return f'{entity["type"]}::"{entity["id"]}"'

    entities = json.loads(data)
    facts: dict[str, dict[str, Value]] = {}
    for entity in entities:
        members = {"parent": frozenset(map(named, entity["parents"]))}
        others = {
            name: text(value) for name, value in entity.items() if name not in ("uid", "parents") and value
        }
        facts[f"entity {named(entity['uid'])}"] = {**members, **others}
    return facts


def _rest(subject: str, value: Mapping[str, Any]) -> Facts:
    members = {member: text(item) for member, item in value.items() if member != "v"}
    return {subject: members} if members else {}


_SUMMARIES: Final[Iterable[tuple[str, Callable[[str, bytes], Facts]]]] = ((r"ima/[^/]+\.json", ima_summary),)
_READERS: Final[Iterable[tuple[str, Callable[[str, bytes], Facts]]]] = (
    (r"(teams/[^/]+/)?authorities\.json", _authorities),
    (r"revocations\.json", _revocations),
    (r"platform/[^/]+\.json", platform_facts),
    (r"ima/[^/]+\.json", ima_facts),
    (r"hosts/[^/]+\.json", _host),
    (r"ek-roots/index\.json", ek_index_facts),
    (r"ek-roots/[^/]+\.pem", ek_file_facts),
    (r"ek-allow\.json", ek_allow_facts),
    (r"mesh\.json", mesh_facts),
    (r".*\.cedar", _policy),
    (r"policy/entities\.json", _entities),
)
