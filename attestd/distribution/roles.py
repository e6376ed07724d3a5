"""Which keys a host trusts, and for what; and what a key's file says of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from attestd.authorization.dsse import PublicKey
from attestd.distribution.signer import Ask, load_authority, load_public, read_key_file
from attestd.governance.trust import Trust

__all__ = ["KeyInUse", "PublicHalf", "keys_in_use", "public_of"]

_PUBLIC_PEM: Final = b"-----BEGIN PUBLIC KEY-----"


@dataclass(frozen=True)
class PublicHalf:
    """A public key: its id, kind (`ed25519`, `ecdsa secp256r1`), and PEM."""

    key_id: str
    kind: str
    pem: str


@dataclass(frozen=True)
class KeyInUse:
    """A trusted key and what for."""

    key_id: str
    kind: str
    roles: tuple[str, ...]
    revoked: bool


def public_of(uri: str, *, public_key: Path | None = None, ask: Ask | None = None) -> PublicHalf:
    """The public half of a key: of a PEM file, private or public, or of any URI that can sign.

    Args:
        uri: The key.
        public_key: PEM of its public key, for keys that are no files.
        ask: For the passphrase of an encrypted file.

    Raises:
        UsageError, StoreError, MalformedError: As `load_authority` and `load_public`.
    """
    path = Path(uri.removeprefix("file:"))
    if path.exists() and _PUBLIC_PEM in read_key_file(path):
        key = load_public(path)
    else:
        key = load_authority(uri, public_key=public_key, ask=ask).public
    pem = load_der_public_key(key.spki_der).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return PublicHalf(key.key_id, _kind(key), pem.decode("ascii"))


def keys_in_use(trust: Trust) -> list[KeyInUse]:
    """Every key that is trusted, whatever for."""
    roles: dict[str, list[str]] = {}
    known: dict[str, PublicKey] = {}
    for role, key in _roles(trust):
        known[key.key_id] = key
        roles.setdefault(key.key_id, []).append(role)
    return [
        KeyInUse(key_id, _kind(known[key_id]), tuple(found), key_id in trust.revocations.keys)
        for key_id, found in roles.items()
    ]


def _roles(trust: Trust) -> list[tuple[str, PublicKey]]:
    authorities = trust.authorities
    found = [
        (f"authorizations: rule {rule.name!r}, {rule.threshold} of {len(rule.keys)}", key)
        for rule in authorities.rules
        for key in rule.keys
    ]
    enrolling = f"enrolling hosts, {authorities.enroller_threshold} of {len(authorities.enroller_keys)}"
    found += [(enrolling, key) for key in authorities.enroller_keys]
    for role, authority in (
        ("TPM: root, approves platform keys", authorities.root),
        *(("TPM: approves platform states", item) for item in authorities.platform.values()),
        ("TPM: epoch, revokes approvals", authorities.epoch),
    ):
        spki = authority.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        found.append((role, PublicKey(spki)))
    return found


def _kind(key: PublicKey) -> str:
    loaded = load_der_public_key(key.spki_der)
    return f"ecdsa {loaded.curve.name}" if isinstance(loaded, ec.EllipticCurvePublicKey) else "ed25519"
