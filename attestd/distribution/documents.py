"""Metadata files of a repository: parsed, whose signatures they carry, and whose they need. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from attestd.errors import UsageError
from attestd.governance.changes import Facts
from attestd.governance.draft import Delegation, RoleKeys
from attestd.governance.signed import UntrustedSigned, parse_signed, public_key

__all__ = [
    "Approvals",
    "Document",
    "delegations_of",
    "digests",
    "evaluate_approvals",
    "key_names",
    "keys_of",
    "parse_document",
    "require_keys",
    "role_facts",
]

_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True)
class Document(Generic[_T]):
    """A metadata file: its bytes, and what they say. Nothing is verified."""

    data: bytes
    untrusted: UntrustedSigned[_T]

    @property
    def content(self) -> _T:
        """What it says."""
        return self.untrusted.content

    @property
    def version(self) -> int:
        """Its version."""
        return int(self.content.version)


@dataclass(frozen=True)
class Approvals:
    """Who signed a version of a role.

    Attributes:
        threshold: How many must.
        signed: Ids of the keys whose signatures verify, as everywhere in attestd: SHA-256 of the public key.
        missing: Ids of those that could sign as well.
    """

    threshold: int
    signed: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def lacking(self) -> int:
        """How many signatures there are too few."""
        return max(0, self.threshold - len(self.signed))


def parse_document(data: bytes, kind: type[_T], *, what: str) -> Document[_T]:
    """Parses a metadata file.

    Raises:
        MalformedError: As `parse_signed`.
    """
    return Document(data, parse_signed(data, kind, what=what))


def evaluate_approvals(delegator: Root | Targets, role: str, document: Document[Any]) -> Approvals:
    """Who signed a version of a role, as its delegator counts."""
    found = document.untrusted
    result = delegator.get_verification_result(role, found.payload, found.signatures)
    names = key_names(delegator, role)
    return Approvals(
        result.threshold,
        tuple(name for keyid, name in names.items() if keyid in result.signed),
        tuple(name for keyid, name in names.items() if keyid in result.unsigned),
    )


def key_names(delegator: Root | Targets, role: str) -> dict[str, str]:
    """The keys of a role: attestd's ids by TUF's."""
    return {
        keyid: public_key(delegator.get_key(keyid), role).key_id
        for keyid in delegator.get_delegated_role(role).keyids
    }


def keys_of(delegator: Root | Targets, role: str) -> RoleKeys:
    """Who signs for a role."""
    found = delegator.get_delegated_role(role)
    return RoleKeys(
        tuple(public_key(delegator.get_key(keyid), role) for keyid in found.keyids), found.threshold
    )


def delegations_of(targets: Targets) -> dict[str, Delegation]:
    """What a role delegates, by role."""
    roles = targets.delegations.roles or {} if targets.delegations else {}
    return {
        name: Delegation(name, keys_of(targets, name), tuple(role.paths or ()), terminating=role.terminating)
        for name, role in roles.items()
    }


def role_facts(root: Root | None, targets: Targets | None) -> Facts:
    """Who signs for each role, as facts to compare."""
    facts: dict[str, dict[str, str | frozenset[str]]] = {}
    if root is not None:
        for role in ("root", "targets", "snapshot", "timestamp"):
            facts[f"role {role}"] = _signers(keys_of(root, role))
    for name, delegation in (delegations_of(targets) if targets else {}).items():
        facts[f"role {name}"] = {**_signers(delegation.keys), "target": frozenset(delegation.paths)}
    return facts


def _signers(keys: RoleKeys) -> dict[str, str | frozenset[str]]:
    return {"threshold": str(keys.threshold), "key": frozenset(key.key_id for key in keys.keys)}


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each, hex."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def require_keys(keys: RoleKeys, *, role: str) -> RoleKeys:
    """Refuses a role for which nobody could sign, or one key could twice.

    Raises:
        UsageError: No key, one key twice, or a threshold that these keys cannot reach.
    """
    if not keys.keys:
        raise UsageError(f"role {role} needs one key at least: nobody could sign for it")
    if len(set(keys.keys)) != len(keys.keys):
        raise UsageError(f"role {role}: one key was named twice")
    if not 1 <= keys.threshold <= len(keys.keys):
        raise UsageError(
            f"role {role}: threshold {keys.threshold}: expected 1 to {len(keys.keys)}, the number of its keys"
        )
    return keys
