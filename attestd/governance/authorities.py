"""`authorities.json`: which keys may sign what, and how many of them it takes.

Three kinds of authority: for authorizations (rules by scope, thresholds), for enrolment (host records), and for the
TPM (single P-256 keys, because TPM enforcement is one of one by nature).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestd.authorization.dsse import PublicKey
from attestd.authorization.statement import Uid
from attestd.errors import MalformedError
from attestd.strict import Base64Bytes, Sha256Hex, Strict, decode_base64, parse_canonical
from attestd.tcg.nv import epoch_public, nv_name
from attestd.tcg.policy import release_policy
from attestd.tcg.public import Public, authority_public, parse_public

__all__ = ["Authorities", "AuthorityRule", "TpmAuthority", "Version", "parse_authorities"]

MAX_AUTHORITIES_BYTES = 1 << 20

# Of a trust file. Bounded, so that the sum over all files is a number that JSON can carry.
Version = Annotated[int, msgspec.Meta(ge=1, le=2**31)]

_Threshold = Annotated[int, msgspec.Meta(ge=1, le=16)]
_Keys = Annotated[list[Sha256Hex], msgspec.Meta(min_length=1, max_length=64)]


class _Key(Strict, frozen=True):
    spki: Base64Bytes


class _Rule(Strict, frozen=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    paths: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1024)]
    uids: Annotated[list[Uid], msgspec.Meta(min_length=1, max_length=1024)] | None
    keys: _Keys
    threshold: _Threshold
    max_depth: Annotated[int, msgspec.Meta(ge=0, le=8)]


class _Enrollers(Strict, frozen=True):
    keys: _Keys
    threshold: _Threshold


class _TpmKeys(Strict, frozen=True):
    root: Sha256Hex
    platform: _Keys
    epoch: Sha256Hex


class AuthoritiesFile(Strict, frozen=True):
    """The file's exact shape; `Authorities` is what it means once its keys are loaded."""

    v: Literal[1]
    version: Version
    keys: dict[Sha256Hex, _Key]
    authorizations: Annotated[list[_Rule], msgspec.Meta(max_length=1024)]
    enrollers: _Enrollers
    tpm: _TpmKeys


@dataclass(frozen=True)
class AuthorityRule:
    """Who may authorize executions within one scope.

    Attributes:
        name: For people: it stands in explanations.
        paths: Executables it covers: an absolute path, or a directory when it ends with `/`.
        uids: The users that executions may run as; None: any.
        keys: Distinct keys.
        threshold: How many of them must sign.
        max_depth: How deep delegations under it may go.
    """

    name: str
    paths: tuple[str, ...]
    uids: frozenset[int] | None
    keys: tuple[PublicKey, ...]
    threshold: int
    max_depth: int

    def covers(self, *, executable: str, uid: int) -> bool:
        """Whether this rule speaks about running that executable as that user."""
        if self.uids is not None and uid not in self.uids:
            return False
        return any(
            executable.startswith(path) if path.endswith("/") else executable == path for path in self.paths
        )


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
    """All authorities, keys loaded and key ids recomputed."""

    version: int
    rules: tuple[AuthorityRule, ...]
    enroller_keys: tuple[PublicKey, ...]
    enroller_threshold: int
    root: TpmAuthority
    platform: Mapping[str, TpmAuthority]
    epoch: TpmAuthority

    @property
    def epoch_name(self) -> bytes:
        """The Name of the epoch index, WRITTEN set, on every host under these authorities."""
        return nv_name(epoch_public(self.epoch.name, written=True))

    @property
    def release_policy(self) -> bytes:
        """The authPolicy of every release key under these authorities."""
        return release_policy(self.root.name)

    def rule_for(self, *, executable: str, uid: int) -> AuthorityRule | None:
        """The first rule that covers the execution: a strict rule is not weakened by a lax one after it."""
        return next((rule for rule in self.rules if rule.covers(executable=executable, uid=uid)), None)


def parse_authorities(data: bytes) -> Authorities:
    """Parses `authorities.json` and loads its keys.

    Raises:
        MalformedError: Not that file, a key id that is not the SHA-256 of its SPKI, a rule that names an unknown
            key or asks for more distinct keys than it names, or a path that is not real and absolute; two rules of
            one name; a TPM authority that is not P-256.
    """
    file = parse_canonical(data, AuthoritiesFile, max_bytes=MAX_AUTHORITIES_BYTES, what="authorities.json")
    keys = {key_id: _load(key_id, key.spki) for key_id, key in file.keys.items()}
    rules = tuple(
        AuthorityRule(
            name=rule.name,
            paths=_real_paths(rule),
            uids=None if rule.uids is None else frozenset(rule.uids),
            keys=_named(rule.keys, keys, rule.threshold, f"rule {rule.name!r}"),
            threshold=rule.threshold,
            max_depth=rule.max_depth,
        )
        for rule in file.authorizations
    )
    if len({rule.name for rule in rules}) != len(rules):
        raise MalformedError("authorities.json: two rules of the same name")
    enrollers = _named(file.enrollers.keys, keys, file.enrollers.threshold, "enrollers")
    return Authorities(
        version=file.version,
        rules=rules,
        enroller_keys=enrollers,
        enroller_threshold=file.enrollers.threshold,
        root=_tpm_authority(file.tpm.root, keys, "root"),
        platform={
            key.key_id: _tpm_authority(key.key_id, keys, "platform")
            for key in _named(file.tpm.platform, keys, 1, "TPM authority 'platform'")
        },
        epoch=_tpm_authority(file.tpm.epoch, keys, "epoch"),
    )


def _real_paths(rule: _Rule) -> tuple[str, ...]:
    for path in rule.paths:
        parts = path[1:].removesuffix("/").split("/") if path != "/" else []
        # Executables are compared by their real paths: another spelling would never match, and a laxer rule might.
        if not path.startswith("/") or "\0" in path or any(part in {"", ".", ".."} for part in parts):
            raise MalformedError(
                f"authorities.json: rule {rule.name!r}: {path!r} is not a real, absolute path"
            )
    return tuple(rule.paths)


def _load(key_id: str, spki: str) -> PublicKey:
    key = PublicKey(decode_base64(spki, what="authorities.json: key"))
    if key.key_id != key_id:
        raise MalformedError(f"authorities.json: key {key_id} has the id {key.key_id}")
    return key


def _named(ids: list[str], keys: Mapping[str, PublicKey], threshold: int, what: str) -> tuple[PublicKey, ...]:
    unknown = [key_id for key_id in ids if key_id not in keys]
    if unknown:
        raise MalformedError(f"authorities.json: {what} names the unknown key {unknown[0]}")
    if len(set(ids)) != len(ids) or threshold > len(ids):
        raise MalformedError(
            f"authorities.json: {what} asks for {threshold} of {len(set(ids))} distinct keys"
        )
    return tuple(keys[key_id] for key_id in ids)


def _tpm_authority(key_id: str, keys: Mapping[str, PublicKey], what: str) -> TpmAuthority:
    (named,) = _named([key_id], keys, 1, f"TPM authority {what!r}")
    key = load_der_public_key(named.spki_der)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MalformedError(f"authorities.json: TPM authority {what!r} must be an ECDSA P-256 key")
    return TpmAuthority(key_id=key_id, public=parse_public(authority_public(key)), key=key)
