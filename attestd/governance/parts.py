"""The target files beside authorities, revocations and host records: each verified, or left out with its reason."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar, cast

from attestd.errors import MalformedError, VerificationError
from attestd.governance.authorities import Authorities, AuthorityRule, parse_team, unusable_team
from attestd.governance.ek_trust import EkFile, EkTrust, join_ek_trust, parse_ek_file
from attestd.governance.host_records import HOSTS, Read, RecordFiles, of_its_time
from attestd.governance.mesh import (
    MESH,
    MESH_HISTORY,
    NO_MESH,
    UNUSABLE_MESH,
    MeshTrust,
    mesh_history_name,
    parse_mesh,
)
from attestd.governance.metadata import Metadata
from attestd.governance.platform import PlatformPolicy, parse_platform_policy
from attestd.strict import canonical

__all__ = ["Memo", "Parts"]

_POLICY_FILES: Final = ("schema.cedarschema", "entities.json")
_EXPECTED: Final = (
    "authorities.json, revocations.json, platform/NAME.json, ima/NAME.json, hosts/HOST.json, policy/NAME.cedar,"
    " ek-roots/NAME.pem, ek-roots/index.json, ek-allow.json, mesh.json, mesh/history/VERSION.json, or the like below teams/TEAM/"
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Memo:
    """What a set was made of, so that the next one is verified only where it differs.

    With thousands of hosts and policies that is most of the work, and an update changes one file or none.

    Attributes:
        basis: Of `parsed`: one `authorities.json` and one set of revoked keys.
        parsed: What files came to, by name and digest.
        policies: Of the policies: one `authorities.json` and the policy files.
        records: The host records.
    """

    basis: str
    parsed: Mapping[tuple[str, str], object]
    policies: str
    records: RecordFiles


@dataclass(frozen=True)
class _Unusable:
    reason: str


class Parts:
    """Takes file by file (`add`); the attributes are what came of them, `unusable` what did not verify and why."""

    def __init__(
        self,
        *,
        authorities: Authorities,
        revoked_keys: frozenset[str],
        metadata: Metadata,
        read: Read,
        previous: Memo | None,
    ) -> None:
        self._authorities, self._revoked = authorities, revoked_keys
        # But for host records, of which there are a hundred thousand, and none is looked at here.
        self._digests = {
            name: metadata.targets[name].sha256 for name in metadata.targets if not name.startswith(HOSTS)
        }
        self._basis = self._digest_of(sorted(revoked_keys))
        self._known = previous.parsed if previous is not None and previous.basis == self._basis else {}
        self._parsed: dict[tuple[str, str], object] = {}
        self.records = RecordFiles(
            metadata.targets,
            read=read,
            authorities=authorities,
            revoked_keys=revoked_keys,
            basis=self._basis,
            previous=None if previous is None else previous.records,
        )
        self.unusable: dict[str, str] = {}
        self.rules: dict[str, tuple[AuthorityRule, ...]] = {}
        self.platforms: dict[str, PlatformPolicy] = {}
        self.history: dict[tuple[str, int], PlatformPolicy] = {}
        self.ima: dict[str, bytes] = {}
        self.policy_files: dict[str, bytes] = {}
        self.mesh: MeshTrust = NO_MESH
        # Before the first there was none, and that ends as a version does.
        self._earlier_meshes: dict[int, MeshTrust] = {0: NO_MESH} if MESH in self._digests else {}
        self._ek_files: dict[str, EkFile] = {}

    @property
    def names(self) -> list[str]:
        """The files to be added."""
        return sorted(self._digests)

    @property
    def memo(self) -> Memo:
        """For the next set."""
        policies = {name: self._digests[name] for name in self.policy_files}
        return Memo(self._basis, self._parsed, self._digest_of(policies), self.records)

    def add(self, name: str, data: bytes) -> None:
        """Takes one file.

        Raises:
            MalformedError: There is no file of such a name.
        """
        match name.split("/"):
            case ["authorities.json"] | ["revocations.json"]:
                pass
            case ["platform", file]:
                self._add_platform(name, file, data)
            case ["ima", file] if file.endswith(".json"):
                self.ima[self._digests[name]] = data
            case ["platform", "history", file]:
                self._add_history(name, file, data)
            case ["mesh.json"] | ["mesh", "history", _] | ["ek-allow.json"] | ["ek-roots", _]:
                self._add_of_controllers(name, data)
            case ["policy", file] if file in _POLICY_FILES or file.endswith(".cedar"):
                self.policy_files[name] = data
            case ["teams", team, *rest]:
                self._add_team(name, team, rest, data)
            case _:
                raise MalformedError(f"trust: unknown file {name!r}: expected {_EXPECTED}")

    def ek_trust(self) -> EkTrust:
        """Whose endorsement keys are believed; to be asked once all files are there."""
        trust, unusable = join_ek_trust(self._ek_files)
        self.unusable |= unusable
        return trust

    def mesh_history(self) -> dict[int, MeshTrust]:
        """Earlier versions of `mesh.json`, each with its end; to be asked once all files are there.

        The end is the earliest handover of all later versions: so one that lies too far ahead is shortened by the next.
        """
        found: dict[int, MeshTrust] = {}
        for version, mesh in sorted(self._earlier_meshes.items(), reverse=True):
            following = self.mesh if version + 1 == self.mesh.version else found.get(version + 1)
            if following is not None and following.handover is not None:
                end = following.handover
                found[version] = replace(mesh, until=min(end, following.until or end))
            elif version:
                self.unusable[mesh_history_name(version)] = (
                    f"until when it counts is for the next version to say: expected a version {version + 1} of {MESH} with a"
                    f" handover, found {'none' if following is None else 'one without'}"
                )
        return found

    def _digest_of(self, value: object) -> str:
        return hashlib.sha256(canonical([self._digests["authorities.json"], value])).hexdigest()

    def _add_platform(self, name: str, file: str, data: bytes) -> None:
        """A policy without the files that it was signed to go by is none."""
        for policy in self._usable(name, partial(self._platform, data, file, "{0.name}.json")):
            ima = policy.ima
            if ima is not None and self._digests.get(ima.target) != ima.sha256:
                found = self._digests.get(ima.target, "no such file")
                self.unusable[name] = f"it goes by {ima.target} with SHA-256 {ima.sha256}, found {found}"
            else:
                self.platforms[policy.name] = policy

    def _add_of_controllers(self, name: str, data: bytes) -> None:
        if name == MESH:
            parse = partial(parse_mesh, data, authorities=self._authorities, revoked_keys=self._revoked)
            [self.mesh] = self._usable(name, parse) or (UNUSABLE_MESH,)
            return
        if name.startswith(MESH_HISTORY):
            for mesh in self._usable(name, partial(self._earlier_mesh, name, data)):
                self._earlier_meshes[mesh.version] = mesh
            return
        for file in self._usable(name, partial(parse_ek_file, name, data)):
            self._ek_files[name] = file

    def _add_history(self, name: str, file: str, data: bytes) -> None:
        parse = partial(self._platform, data, file, "{0.name}-{0.version}.json")
        for policy in self._usable(name, partial(of_its_time, parse, self._authorities)):
            self.history[policy.name, policy.version] = policy

    def _add_team(self, name: str, team: str, rest: list[str], data: bytes) -> None:
        scope = self._authorities.teams.get(team)
        if scope is None:
            self.unusable[name] = f"authorities.json names no team {team!r}"
            return
        match rest:
            case ["authorities.json"]:
                found = self._usable(name, partial(parse_team, data, team=scope))
                self.rules[team] = found[0] if found else (unusable_team(scope, self.unusable[name]),)
            case ["policy", file] if file.endswith(".cedar"):
                self.policy_files[name] = data
            case _:
                self.unusable[name] = "not a file that a team may have"

    def _usable(self, name: str, parse: Callable[[], _T]) -> tuple[_T, ...]:
        """What the file says; nothing, and a reason, if it does not verify."""
        key = name, self._digests[name]
        found = cast("_T | _Unusable | None", self._known.get(key))
        if found is None:
            try:
                found = parse()
            except (MalformedError, VerificationError) as error:
                found = _Unusable(str(error))
        self._parsed[key] = found
        if isinstance(found, _Unusable):
            self.unusable[name] = found.reason
            return ()
        return (found,)

    def _earlier_mesh(self, name: str, data: bytes) -> MeshTrust:
        mesh = parse_mesh(data, authorities=None, revoked_keys=self._revoked)
        _require_name(name, mesh_history_name(mesh.version))
        return mesh

    def _platform(
        self, data: bytes, found: str, named: str, authorities: Authorities | None = None
    ) -> PlatformPolicy:
        by = authorities or self._authorities
        policy = parse_platform_policy(data, authorities=by, revoked_keys=self._revoked)
        _require_name(found, named.format(policy))
        return policy


def _require_name(found: str, expected: str) -> None:
    if found != expected:
        raise VerificationError(f"it holds what belongs in {expected}")
