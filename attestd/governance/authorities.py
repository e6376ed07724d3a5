"""`authorities.json`: which keys may sign what, and how many of them it takes.

Three kinds of authority: for authorizations (rules by scope, thresholds), for enrolment (host records), and for the
TPM (single P-256 keys, because TPM enforcement is one of one by nature). A team makes rules of its own within a scope
that this file gives it, in `teams/<team>/authorities.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal, TypedDict

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestd.authorization.dsse import PublicKey
from attestd.authorization.envnames import is_name
from attestd.authorization.secret import ALL_SECRET, NOTHING_SECRET, Secrets, union
from attestd.authorization.statement import Uid
from attestd.errors import MalformedError, VerificationError
from attestd.strict import Base64Bytes, Sha256Hex, Strict, decode_base64, parse_canonical
from attestd.tcg.nv import epoch_public, nv_name
from attestd.tcg.policy import release_policy
from attestd.tcg.public import Public, authority_public, parse_public

__all__ = [
    "Authorities",
    "AuthorityRule",
    "Scope",
    "Team",
    "TpmAuthority",
    "Version",
    "parse_authorities",
    "parse_team",
    "unusable_team",
]

MAX_AUTHORITIES_BYTES = 1 << 20

# Of a trust file. Bounded, so that the sum over all files is a number that JSON can carry.
Version = Annotated[int, msgspec.Meta(ge=1, le=2**31)]

_TeamName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9-]{0,31}\Z")]
_Threshold = Annotated[int, msgspec.Meta(ge=1, le=16)]
_Keys = Annotated[list[Sha256Hex], msgspec.Meta(min_length=1, max_length=64)]


class _Key(Strict, frozen=True):
    spki: Base64Bytes


class _Team(Strict, frozen=True):
    paths: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1024)]
    uids: Annotated[list[Uid], msgspec.Meta(min_length=1, max_length=1024)] | None
    max_depth: Annotated[int, msgspec.Meta(ge=0, le=8)]


class _Secret(Strict, frozen=True):
    argv: Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=65_535)]], msgspec.Meta(max_length=1024)]
    env: Annotated[list[str], msgspec.Meta(max_length=64)]


class _Rule(_Team, frozen=True, omit_defaults=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    keys: _Keys
    threshold: _Threshold
    # What the log has only salted digests of; absent where nothing is secret.
    secret: _Secret | None = None


_Rules = Annotated[list[_Rule], msgspec.Meta(max_length=1024)]


class _Enrollers(Strict, frozen=True):
    keys: _Keys
    threshold: _Threshold


class _FormerKeys(Strict, frozen=True):
    root: Sha256Hex
    platform: _Keys
    epoch: Sha256Hex


class _TpmKeys(_FormerKeys, frozen=True, omit_defaults=True):
    # Those that were replaced, the newest first; absent where none was.
    former: Annotated[list[_FormerKeys], msgspec.Meta(min_length=1, max_length=64)] | None = None


class AuthoritiesFile(Strict, frozen=True):
    """The file's exact shape; `Authorities` is what it means once its keys are loaded."""

    v: Literal[1]
    version: Version
    keys: dict[Sha256Hex, _Key]
    authorizations: _Rules
    teams: Annotated[dict[_TeamName, _Team], msgspec.Meta(max_length=64)]
    enrollers: _Enrollers
    tpm: _TpmKeys


class TeamFile(Strict, frozen=True):
    """The exact shape of `teams/<team>/authorities.json`."""

    v: Literal[1]
    version: Version
    keys: dict[Sha256Hex, _Key]
    authorizations: _Rules


@dataclass(frozen=True)
class Scope:
    """Executions that someone may speak about.

    Attributes:
        paths: Executables: an absolute path, or a directory when it ends with `/`.
        uids: The users that executions may run as; None: any.
        max_depth: How deep delegations may go.
    """

    paths: tuple[str, ...]
    uids: frozenset[int] | None
    max_depth: int

    def covers(self, *, executable: str, uid: int) -> bool:
        """Whether it speaks about running that executable as that user."""
        return (self.uids is None or uid in self.uids) and any(
            _within(executable, path) for path in self.paths
        )


@dataclass(frozen=True)
class AuthorityRule(Scope):
    """Who may authorize executions within one scope.

    Attributes:
        name: For people: it stands in explanations. A team's rule is called `<team>/<rule>`.
        keys: Distinct keys.
        threshold: How many of them must sign.
        unusable: Why nobody may authorize anything in this scope: the team's rules could not be read.
        secrets: What the log has only salted digests of.
    """

    name: str
    keys: tuple[PublicKey, ...]
    threshold: int
    unusable: str | None = None
    secrets: Secrets = NOTHING_SECRET


@dataclass(frozen=True)
class Team(Scope):
    """Who makes rules of their own for this scope, where no top-level rule covers the execution."""

    name: str

    def widenings(self, rule: Scope) -> list[str]:
        """In which ways a rule goes beyond the team's scope; none: it lies within."""
        found = [f"path {path!r}" for path in rule.paths if not any(_within(path, own) for own in self.paths)]
        if self.uids is not None:
            found += (
                ["any user"] if rule.uids is None else [f"uid {uid}" for uid in sorted(rule.uids - self.uids)]
            )
        if rule.max_depth > self.max_depth:
            found.append(f"max_depth {rule.max_depth} > {self.max_depth}")
        return found


@dataclass(frozen=True)
class TpmAuthority:
    """A P-256 key that TPM policies name: its key id, its loadable public area, and the key itself."""

    key_id: str
    public: Public
    key: ec.EllipticCurvePublicKey

    @property
    def name(self) -> bytes:
        """The TPM Name of the public area."""
        return self.public.name


@dataclass(frozen=True)
class Authorities:
    """All authorities, keys loaded and key ids recomputed.

    Attributes:
        former: The same with TPM authorities that were replaced, the newest first: what history was signed by. They
            verify old receipts, and allow nothing.
    """

    version: int
    rules: tuple[AuthorityRule, ...]
    teams: Mapping[str, Team]
    enroller_keys: tuple[PublicKey, ...]
    enroller_threshold: int
    root: TpmAuthority
    platform: Mapping[str, TpmAuthority]
    epoch: TpmAuthority
    former: tuple["Authorities", ...] = ()

    @cached_property
    def epoch_name(self) -> bytes:
        """The Name of the epoch index, WRITTEN set, on every host under these authorities."""
        return nv_name(epoch_public(self.epoch.name, written=True))

    @cached_property
    def release_policy(self) -> bytes:
        """The authPolicy of every release key under these authorities."""
        return release_policy(self.root.name)

    def rule_for(self, *, executable: str, uid: int) -> AuthorityRule | None:
        """The first rule that covers the execution: a strict rule is not weakened by a lax one after it."""
        return next((rule for rule in self.rules if rule.covers(executable=executable, uid=uid)), None)

    def secrets_of(self, executable: str | None) -> Secrets:
        """What any rule about an executable, whoever runs it, calls secret; None: what any rule at all does.

        For what is said before it is known which rule decides.
        """
        return union(
            rule.secrets
            for rule in self._rules_with_secrets
            if executable is None or any(_within(executable, path) for path in rule.paths)
        )

    @cached_property
    def _rules_with_secrets(self) -> tuple[AuthorityRule, ...]:
        return tuple(rule for rule in self.rules if rule.secrets != NOTHING_SECRET)


def parse_authorities(data: bytes) -> Authorities:
    """Parses `authorities.json` and loads its keys.

    Raises:
        MalformedError: Not that file, a key id that is not the SHA-256 of its SPKI, a rule that names an unknown
            key or asks for more distinct keys than it names, or a path that is not real and absolute; two rules of
            one name; a TPM authority that is not P-256.
    """
    what = "authorities.json"
    file = parse_canonical(data, AuthoritiesFile, max_bytes=MAX_AUTHORITIES_BYTES, what=what)
    keys = _load(file.keys, what)
    enrollers = _named(file.enrollers.keys, keys, file.enrollers.threshold, f"{what}: enrollers")
    present = Authorities(
        version=file.version,
        rules=_rules(file.authorizations, keys, prefix="", what=what),
        teams={
            name: Team(
                paths=_real_paths(team, f"{what}: team {name!r}"),
                uids=_uids(team),
                max_depth=team.max_depth,
                name=name,
            )
            for name, team in sorted(file.teams.items())
        },
        enroller_keys=enrollers,
        enroller_threshold=file.enrollers.threshold,
        **_tpm_authorities(file.tpm, keys),
    )
    former = tuple(replace(present, **_tpm_authorities(old, keys)) for old in file.tpm.former or ())
    return replace(present, former=former)


def parse_team(data: bytes, *, team: Team) -> tuple[AuthorityRule, ...]:
    """Parses `teams/<team>/authorities.json`: the team's own rules, each within the team's scope.

    Raises:
        MalformedError: Not that file; keys and rules as in `parse_authorities`.
        VerificationError: A rule goes beyond the scope that the top-level authorities gave the team.
    """
    what = f"teams/{team.name}/authorities.json"
    file = parse_canonical(data, TeamFile, max_bytes=MAX_AUTHORITIES_BYTES, what=what)
    rules = _rules(file.authorizations, _load(file.keys, what), prefix=f"{team.name}/", what=what)
    for rule in rules:
        beyond = team.widenings(rule)
        if beyond:
            raise VerificationError(
                f"{what}: rule {rule.name!r} goes beyond the team's scope: {', '.join(beyond)}"
            )
    return rules


def unusable_team(team: Team, reason: str) -> AuthorityRule:
    """The rule that stands for a team whose own rules are not usable: it covers the whole scope, and nobody may sign.

    Without it the rules of the next team would decide, which may be laxer.
    """
    return AuthorityRule(
        paths=team.paths,
        uids=team.uids,
        max_depth=0,
        name=f"{team.name}/",
        keys=(),
        threshold=1,
        unusable=reason,
        secrets=ALL_SECRET,  # nobody can say what is
    )


def _rules(
    rules: list[_Rule], keys: Mapping[str, PublicKey], *, prefix: str, what: str
) -> tuple[AuthorityRule, ...]:
    if len({rule.name for rule in rules}) != len(rules):
        raise MalformedError(f"{what}: two rules of the same name")
    return tuple(
        AuthorityRule(
            paths=_real_paths(rule, f"{what}: rule {rule.name!r}"),
            uids=_uids(rule),
            max_depth=rule.max_depth,
            name=f"{prefix}{rule.name}",
            keys=_named(rule.keys, keys, rule.threshold, f"{what}: rule {rule.name!r}"),
            threshold=rule.threshold,
            secrets=_secrets(rule.secret, f"{what}: rule {rule.name!r}"),
        )
        for rule in rules
    )


def _secrets(secret: _Secret | None, what: str) -> Secrets:
    if secret is None:
        return NOTHING_SECRET
    if not secret.argv and not secret.env:
        raise MalformedError(f"{what}: secret names neither an argument nor a variable: leave it out")
    for name in secret.env:
        # Where a script's interpreter is looked up is said when it is not found.
        if not is_name(name) or name == "PATH":
            raise MalformedError(f"{what}: secret: {name!r} is no variable that can be secret")
    return Secrets(frozenset(secret.argv), frozenset(secret.env))


def _within(path: str, own: str) -> bool:
    return path.startswith(own) if own.endswith("/") else path == own


def _uids(scope: _Team) -> frozenset[int] | None:
    return None if scope.uids is None else frozenset(scope.uids)


def _real_paths(scope: _Team, what: str) -> tuple[str, ...]:
    for path in scope.paths:
        parts = path[1:].removesuffix("/").split("/") if path != "/" else []
        # Executables are compared by their real paths: another spelling would never match, and a laxer rule might.
        if not path.startswith("/") or "\0" in path or any(part in {"", ".", ".."} for part in parts):
            raise MalformedError(f"{what}: {path!r} is not a real, absolute path")
    return tuple(scope.paths)


def _load(keys: Mapping[str, _Key], what: str) -> dict[str, PublicKey]:
    loaded = {key_id: PublicKey(decode_base64(key.spki, what=f"{what}: key")) for key_id, key in keys.items()}
    for key_id, key in loaded.items():
        if key.key_id != key_id:
            raise MalformedError(f"{what}: key {key_id} has the id {key.key_id}")
    return loaded


def _named(ids: list[str], keys: Mapping[str, PublicKey], threshold: int, what: str) -> tuple[PublicKey, ...]:
    unknown = [key_id for key_id in ids if key_id not in keys]
    if unknown:
        raise MalformedError(f"{what} names the unknown key {unknown[0]}")
    if len(set(ids)) != len(ids) or threshold > len(ids):
        raise MalformedError(f"{what} asks for {threshold} of {len(set(ids))} distinct keys")
    return tuple(keys[key_id] for key_id in ids)


class _TpmAuthorities(TypedDict):
    root: TpmAuthority
    platform: dict[str, TpmAuthority]
    epoch: TpmAuthority


def _tpm_authorities(named: _FormerKeys, keys: Mapping[str, PublicKey]) -> _TpmAuthorities:
    platform = _named(named.platform, keys, 1, "authorities.json: TPM authority 'platform'")
    return {
        "root": _tpm_authority(named.root, keys, "root"),
        "platform": {key.key_id: _tpm_authority(key.key_id, keys, "platform") for key in platform},
        "epoch": _tpm_authority(named.epoch, keys, "epoch"),
    }


def _tpm_authority(key_id: str, keys: Mapping[str, PublicKey], role: str) -> TpmAuthority:
    what = f"authorities.json: TPM authority {role!r}"
    (named,) = _named([key_id], keys, 1, what)
    key = load_der_public_key(named.spki_der)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MalformedError(f"{what} must be an ECDSA P-256 key")
    return TpmAuthority(key_id=key_id, public=parse_public(authority_public(key)), key=key)
