"""Trust: authorities, platform policies, host records and revocations: the target files of one set of governance.

What everything rests on must load, or nothing is trusted. Of the rest, one file that does not verify is left out and says
why, host records when somebody asks for them, so that a revoked enroller ends the hosts that rest on it and not the fleet.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from attestd.authorization.statement import Uid
from attestd.errors import GovernanceRollbackError, MalformedError, VerificationError
from attestd.governance.authorities import (
    Authorities,
    Version,
    parse_authorities,
)
from attestd.governance.cedar import Policies, parse_policies
from attestd.governance.ek_trust import EkTrust
from attestd.governance.host import ClaimedKeys, VerifiedHost, parse_claimed_keys
from attestd.governance.host_records import (
    HOSTS,
    KnownRecords,
    Read,
    record_name,
)
from attestd.governance.host_views import HostHistory, HostRecords, Reasons
from attestd.governance.mesh import NO_MESH, MeshTrust, mesh_history_name
from attestd.governance.metadata import Metadata, Versions, verify_target
from attestd.governance.parts import Memo, Parts
from attestd.governance.platform import PlatformPolicy
from attestd.governance.targets import TargetList
from attestd.strict import Base64Bytes, HostId, Sha256Hex, Strict, canonical, decode_base64, parse_canonical
from attestd.tcg.policy import REF_EPOCH_SET, approval_message, epoch_set_policy

__all__ = [
    "REVOCABLE",
    "Bump",
    "Revocations",
    "Trust",
    "parse_revocations",
    "parse_trust",
    "require_still_revoked",
]

MAX_REVOCATIONS_BYTES: Final = 16 << 20
_MEMBERS: Final = 1000
REVOCABLE: Final = ("artifacts", "keys", "hosts", "subjects", "requesters")


class Bump(Strict, frozen=True):
    """The epoch authority's signature that moves every TPM of the fleet to that epoch (`tcg.policy.epoch_set_policy`)."""

    epoch: Annotated[int, msgspec.Meta(ge=1)]
    sig: Base64Bytes


class Revocations(Strict, frozen=True):
    """`revocations.json`: what is no longer to be trusted, whoever signed it.

    Attributes:
        artifacts: Artifact ids.
        keys: Key ids of authorities; a signature by one counts for nothing.
        hosts: Host ids.
        subjects: SHA-256 of executables, interpreters and inputs.
        requesters: User ids.
        epoch: The least epoch whose approvals still hold.
        bump: What moves TPMs to that epoch; None: they stay where they are, and software alone revokes.
    """

    v: Literal[1]
    version: Version
    artifacts: frozenset[Sha256Hex]
    keys: frozenset[Sha256Hex]
    hosts: frozenset[HostId]
    subjects: frozenset[Sha256Hex]
    requesters: frozenset[Uid]
    epoch: Annotated[int, msgspec.Meta(ge=0)]
    bump: Bump | None


@dataclass(frozen=True)
class Trust:
    """Everything that is trusted, and nothing that is not verified.

    Attributes:
        version: Of the snapshot: it rises with every change of any file.
        digest: SHA-256 over the names and digests of all files, hex.
        versions: Of every role of the metadata.
        expires: When the first role expires, which is `expires_role`.
        issued: When the timestamp was made, if it says so.
        unusable: Why a file was left out, by name: whatever names it is denied. Of a host record it is known once somebody
            asked for it, or for all of them (`look_at_hosts`).
        platforms: Current platform policies by name.
        history: Earlier versions by (name, version): they verify old receipts and allow nothing.
        ima: IMA policies by their SHA-256, as they were published: who goes by one parses it.
        hosts: Host records by host-id, verified when they are asked for (`HostRecords`: use `get`).
        host_history: Earlier records by host-id, the newest first: they verify what was sealed while they held.
        policies: Cedar policies.
        ek: Whose endorsement keys enrollers believe.
        mesh: The controllers that hosts ask.
        mesh_history: Earlier versions of it by number, each with its end: they verify what was signed before, and whoever acts
            now goes by none of them. 0: that there was none.
        metadata: What was verified before.
    """

    version: int
    digest: str
    versions: Versions
    expires: datetime
    expires_role: str
    issued: datetime | None
    unusable: Mapping[str, str]
    authorities: Authorities
    platforms: Mapping[str, PlatformPolicy]
    history: Mapping[tuple[str, int], PlatformPolicy]
    ima: Mapping[str, bytes] = field(repr=False)
    hosts: Mapping[str, VerifiedHost]
    host_history: Mapping[str, tuple[VerifiedHost, ...]]
    revocations: Revocations
    policies: Policies
    ek: EkTrust
    mesh: MeshTrust
    mesh_history: Mapping[int, MeshTrust]
    metadata: Metadata = field(repr=False, compare=False)
    _memo: Memo = field(repr=False, compare=False)

    def platform_version(self, name: str, version: int) -> PlatformPolicy | None:
        """A platform policy as it was in one version, current or earlier."""
        current = self.platforms.get(name)
        if current is not None and current.version == version:
            return current
        return self.history.get((name, version))

    def mesh_version(self, version: int) -> MeshTrust:
        """`mesh.json` as it was in one version, in force or earlier.

        Raises:
            VerificationError: It is not here.
        """
        found = self.mesh if version == self.mesh.version else self.mesh_history.get(version)
        if found is None or not found.version:
            newer = "; a newer copy of what is published may have it" if version > self.mesh.version else ""
            raise VerificationError(
                f"version {version} of mesh.json is not in the trust directory{self._why_no_mesh(version)}: expected"
                f" {self._known_meshes()}{newer}"
            )
        return found

    def before_mesh(self) -> MeshTrust:
        """That there is no `mesh.json`, or was none until the first one's handover: nobody counts.

        Raises:
            VerificationError: There is one, and it does not say until when there was none.
        """
        found = self.mesh if self.mesh is NO_MESH else self.mesh_history.get(0)
        if found is None:
            raise VerificationError(
                f"no mesh.json: expected {self._known_meshes()}: the first does not say, by a handover, until when there was none"
            )
        return found

    def _known_meshes(self) -> str:
        known = filter(None, [*sorted(self.mesh_history), self.mesh.version])
        return f"one of {', '.join(map(str, known)) or 'none'}"

    def _why_no_mesh(self, version: int) -> str:
        reason = self.unusable.get(mesh_history_name(version))
        return "" if reason is None else f", for {mesh_history_name(version)} cannot be used: {reason}"

    def look_at_hosts(self, names: Iterable[str] | None = None) -> int:
        """Reads and verifies host records, so that `unusable` tells of them.

        Args:
            names: Of their files; others among them are left out. None: all, of which a thousand take half a second.

        Returns:
            How many were looked at.
        """
        return self._memo.records.look(names)

    def file(self, name: str) -> bytes | None:
        """A file as it is published, verified against the metadata, and by that alone; None: none is of that name.

        Raises:
            StoreError: It is not there, or cannot be read.
            VerificationError, MalformedError: What is there is not the file that the metadata names.
        """
        return self._memo.records.read(name) if name in self.metadata.targets else None

    def claimed_keys(self, name: str) -> ClaimedKeys | None:
        """The keys that a host record's file is about, of which nothing but its digest is verified; None: it is no host record.

        Raises:
            StoreError: It is not there, or cannot be read.
            VerificationError, MalformedError: What is there is not the file that the metadata names.
        """
        data = self._memo.records.read(name)
        try:
            return parse_claimed_keys(data)
        except MalformedError:
            return None

    def unread(self, host: str) -> list[str]:
        """The files of a host's records, earlier ones too, that cannot be read now: a host keeps its own only."""
        return self._memo.records.unread(host)

    def is_refused(self, name: str) -> bool:
        """Whether a host record's file does not verify; False where it is not known, for it cannot be read now."""
        return self._memo.records.is_refused(name)

    @property
    def host_files(self) -> Iterator[tuple[str, bytes]]:
        """The files of host records, earlier ones too: names, and what the metadata says of each, to be compared."""
        files = self._memo.records.files
        return ((name, files.packed(name)) for name in files if name.startswith(HOSTS))

    def why_none(self, host: str) -> str:
        """Why there is no record of a host, to be put behind a sentence that says so; empty: governance names none."""
        reason = self.unusable.get(f"{HOSTS}{host}.json")
        return "" if reason is None else f": {reason}"

    def faults(self, host: str) -> dict[str, str]:
        """Why files are not usable, as far as one host is concerned: its own records first, and not that others' are not there."""
        found = self.unusable.items()
        own = (record_name(host), f"{HOSTS}history/{host}-")
        others = {
            name: why
            for name, why in found
            if not name.startswith(own) and not self._memo.records.is_unreadable(name)
        }
        return {name: why for name, why in found if name.startswith(own)} | others

    def known_records(self, host: str) -> KnownRecords:
        """All that governance says of a host, for who decides by what it does not say.

        Raises:
            StoreError: One of its records cannot be read now: that it has none would be a guess.
        """
        return self._memo.records.known(host)

    def records(self, host: str) -> tuple[VerifiedHost, ...]:
        """The records of a host that are usable now: the present one, if it has one, and earlier ones, the newest first."""
        present = self.hosts.get(host)
        return (() if present is None else (present,)) + self.host_history.get(host, ())


def parse_trust(read: Read, *, metadata: Metadata, previous: Trust | None = None) -> Trust:
    """Verifies the target files of a set of governance; host records are read and verified when they are asked for.

    Args:
        read: Gives the contents of a target by its name, for example `platform/local.json`; for as long as the result is used,
            from any thread.
        metadata: Verified; it says what each file must be. Whether it has expired is for whoever decides by it.
        previous: What was trusted before: what it verified under the same authorities is not verified again.

    Raises:
        StoreError: A file cannot be read.
        MalformedError: `authorities.json`, `revocations.json` or a policy does not parse; a file of no known name.
        VerificationError: A file is not what the metadata says.
    """

    def contents(name: str) -> bytes:
        data = read(name)
        verify_target(name, metadata.targets[name], data)
        return data

    authorities = parse_authorities(_required(metadata, "authorities.json", contents))
    revocations = _revocations(_required(metadata, "revocations.json", contents), authorities)
    parts = Parts(
        authorities=authorities,
        revoked_keys=revocations.keys,
        metadata=metadata,
        read=contents,
        previous=None if previous is None else previous._memo,  # noqa: SLF001 - its own
    )
    for name in parts.names:
        parts.add(name, contents(name))
    ek, mesh_history = parts.ek_trust(), parts.mesh_history()
    policies = _policies(parts, authorities, previous)
    team_rules = [rule for team in authorities.teams for rule in parts.rules.get(team, ())]
    return Trust(
        version=metadata.versions.snapshot,
        digest=_digest(metadata.targets, previous),
        versions=metadata.versions,
        expires=metadata.expires,
        expires_role=metadata.expires_role,
        issued=metadata.issued,
        unusable=Reasons({**parts.unusable, **policies.unusable}, parts.records),
        authorities=replace(authorities, rules=(*authorities.rules, *team_rules)),
        platforms=parts.platforms,
        history=parts.history,
        ima=parts.ima,
        hosts=HostRecords(parts.records),
        host_history=HostHistory(parts.records),
        revocations=revocations,
        policies=policies,
        ek=ek,
        mesh=parts.mesh,
        mesh_history=mesh_history,
        metadata=metadata,
        _memo=parts.memo,
    )


def _policies(parts: Parts, authorities: Authorities, previous: Trust | None) -> Policies:
    if previous is not None and previous._memo.policies == parts.memo.policies:  # noqa: SLF001 - its own
        return previous.policies
    return parse_policies(parts.policy_files, teams=authorities.teams)


def parse_revocations(data: bytes) -> Revocations:
    """`revocations.json`; that its bump is signed is for `parse_trust` to see.

    Raises:
        MalformedError: It is not of that form.
    """
    return parse_canonical(data, Revocations, max_bytes=MAX_REVOCATIONS_BYTES, what="revocations.json")


def require_still_revoked(before: Revocations, after: Revocations) -> None:
    """What was revoked once stays revoked, whoever signs otherwise later.

    Raises:
        GovernanceRollbackError: Something is missing that was revoked before, or the epoch went back.
    """
    for member in REVOCABLE:
        gone = sorted(getattr(before, member) - getattr(after, member))
        if gone:
            raise GovernanceRollbackError(
                f"revocations.json version {after.version}: {member}: expected {gone[0]}, which version"
                f" {before.version} revokes: what was revoked stays revoked; publish a version that has it again"
            )
    if after.epoch < before.epoch:
        raise GovernanceRollbackError(
            f"revocations.json version {after.version}: epoch {after.epoch}: expected {before.epoch} or more: no TPM"
            " goes back to an earlier one"
        )


def _required(metadata: Metadata, name: str, read: Read) -> bytes:
    if name not in metadata.targets:
        raise MalformedError(f"trust: governance has no {name}")
    return read(name)


def _digest(files: TargetList, previous: Trust | None) -> str:
    """SHA-256 over the RFC 8785 form of an object that has each file's digest by its name; a thousand members at a time."""
    if previous is not None and files.is_same(previous._memo.records.files):  # noqa: SLF001 - its own
        return previous.digest
    names, digest = sorted(files), hashlib.sha256(b"{")
    for start in range(0, len(names), _MEMBERS):
        some = {name: files[name].sha256 for name in names[start : start + _MEMBERS]}
        digest.update((b"," if start else b"") + canonical(some)[1:-1])
    digest.update(b"}")
    return digest.hexdigest()


def _revocations(data: bytes, authorities: Authorities) -> Revocations:
    what = "revocations.json"
    revocations = parse_revocations(data)
    bump = revocations.bump
    if bump is None:
        return revocations
    if bump.epoch != revocations.epoch:
        raise MalformedError(
            f"{what}: the bump is to epoch {bump.epoch}, the least epoch is {revocations.epoch}"
        )
    policy = epoch_set_policy(epoch_name=authorities.epoch_name, epoch=bump.epoch)
    try:
        authorities.epoch.key.verify(
            decode_base64(bump.sig, what=what), approval_message(policy, REF_EPOCH_SET), ec.ECDSA(SHA256())
        )
    except InvalidSignature as error:
        raise VerificationError(
            f"{what}: the bump to epoch {bump.epoch} is not signed by the epoch authority"
        ) from error
    return revocations
