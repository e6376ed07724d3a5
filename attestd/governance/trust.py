"""Trust: authorities, policies, platform policies, host records and revocations, verified as one set of files.

Before the mesh `attestd init --standalone` writes them to a directory; their form is that of the TUF targets.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from attestd.authorization.statement import Uid
from attestd.errors import MalformedError, VerificationError
from attestd.governance.authorities import Authorities, Version, parse_authorities
from attestd.governance.cedar import Policies, parse_policies
from attestd.governance.host import VerifiedHost, parse_host_record
from attestd.governance.platform import PlatformPolicy, parse_platform_policy
from attestd.strict import HostId, Sha256Hex, Strict, canonical, parse_canonical

__all__ = ["Revocations", "Trust", "parse_trust"]

MAX_REVOCATIONS_BYTES = 16 << 20


class Revocations(Strict, frozen=True):
    """`revocations.json`: what is no longer to be trusted, whoever signed it.

    Attributes:
        artifacts: Artifact ids.
        keys: Key ids of authorities; a signature by one counts for nothing.
        hosts: Host ids.
        subjects: SHA-256 of executables, interpreters and inputs.
        requesters: User ids.
        epoch: The least epoch whose approvals still hold.
    """

    v: Literal[1]
    version: Version
    artifacts: frozenset[Sha256Hex]
    keys: frozenset[Sha256Hex]
    hosts: frozenset[HostId]
    subjects: frozenset[Sha256Hex]
    requesters: frozenset[Uid]
    epoch: Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class Trust:
    """Everything that is trusted, and nothing that is not verified.

    Attributes:
        version: Rises with every change of any of the files (it is the sum of their versions).
        digest: SHA-256 over the names and digests of all files, hex.
        platforms: Current platform policies by name.
        history: Earlier versions by (name, version): they verify old receipts and allow nothing.
        hosts: Host records by host-id.
        policies: Cedar policies.
    """

    version: int
    digest: str
    authorities: Authorities
    platforms: Mapping[str, PlatformPolicy]
    history: Mapping[tuple[str, int], PlatformPolicy]
    hosts: Mapping[str, VerifiedHost]
    revocations: Revocations
    policies: Policies

    def platform_version(self, name: str, version: int) -> PlatformPolicy | None:
        """A platform policy as it was in one version, current or earlier."""
        current = self.platforms.get(name)
        if current is not None and current.version == version:
            return current
        return self.history.get((name, version))


def parse_trust(files: Mapping[str, bytes]) -> Trust:
    """Verifies a set of trust files.

    Args:
        files: Contents by relative name, for example `platform/local.json`.

    Raises:
        MalformedError: A file is missing, unknown, or does not parse.
        VerificationError: A signature or a binding in a file does not hold.
    """
    for name in ("authorities.json", "revocations.json"):
        if name not in files:
            raise MalformedError(f"trust: {name} is missing")
    authorities = parse_authorities(files["authorities.json"])
    revocations = parse_canonical(
        files["revocations.json"], Revocations, max_bytes=MAX_REVOCATIONS_BYTES, what="revocations.json"
    )
    platforms: dict[str, PlatformPolicy] = {}
    history: dict[tuple[str, int], PlatformPolicy] = {}
    hosts: dict[str, VerifiedHost] = {}
    policies: dict[str, bytes] = {}
    for name, data in sorted(files.items()):
        match name.split("/"):
            case ["authorities.json"] | ["revocations.json"]:
                pass
            case ["platform", file]:
                policy = parse_platform_policy(data, authorities=authorities, revoked_keys=revocations.keys)
                _require_name(name, file, f"{policy.name}.json")
                platforms[policy.name] = policy
            case ["platform", "history", file]:
                policy = parse_platform_policy(data, authorities=authorities, revoked_keys=revocations.keys)
                _require_name(name, file, f"{policy.name}-{policy.version}.json")
                history[policy.name, policy.version] = policy
            case ["hosts", file]:
                host = parse_host_record(data, authorities=authorities, revoked_keys=revocations.keys)
                _require_name(name, file, f"{host.host}.json")
                hosts[host.host] = host
            case ["policy", file] | ["teams", _, "policy", file] if _is_policy(file):
                policies[name] = data
            case _:
                raise MalformedError(f"trust: unknown file {name!r}")
    if not platforms or not hosts:
        raise MalformedError("trust: at least one platform policy and one host record are needed")
    return Trust(
        version=authorities.version
        + revocations.version
        + sum(policy.version for policy in platforms.values()),
        digest=hashlib.sha256(
            canonical({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
        ).hexdigest(),
        authorities=authorities,
        platforms=platforms,
        history=history,
        hosts=hosts,
        revocations=revocations,
        policies=parse_policies(policies, teams={}),
    )


def _is_policy(file: str) -> bool:
    return file.endswith(".cedar") or file in {"schema.cedarschema", "entities.json"}


def _require_name(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise VerificationError(f"trust: {name} holds what belongs in {expected}")
