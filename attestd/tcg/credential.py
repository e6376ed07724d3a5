"""TPM2_MakeCredential without a TPM (TPM 2.0 Part 1, 24 Credential Protection; Part 3, 12.6).

A credential is a secret that only the TPM with a certain endorsement key recovers, and only while an object of a certain
Name is loaded in it: who gives the secret back has shown that EK and object are in one TPM.
"""

import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from attestd.errors import UsageError
from attestd.tcg._reader import sized
from attestd.tcg.algorithms import ALG_AES, HASH_SIZES, digest
from attestd.tcg.public import Public

__all__ = ["Credential", "Random", "kdfa", "kdfe", "make_credential"]

Random = Callable[[int], bytes]

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}
_IDENTITY: Final = "IDENTITY"  # of the seed; "STORAGE" and "INTEGRITY" of the keys from it
_SYMMETRIC: Final = struct.Struct(">HHH")
_CFB: Final = 0x0043
_KEY_BITS: Final = frozenset({128, 256})
_BLOCK: Final = 16
_MAX_NAME: Final = 50


@dataclass(frozen=True, slots=True)
class Credential:
    """What TPM2_ActivateCredential takes, each as marshalled on the wire, with its size.

    Attributes:
        id_object: TPM2B_ID_OBJECT: the secret, encrypted, with its HMAC.
        encrypted_secret: TPM2B_ENCRYPTED_SECRET: the seed of both keys, for the EK.
    """

    id_object: bytes
    encrypted_secret: bytes


def make_credential(ek: Public, *, name: bytes, secret: bytes, random: Random) -> Credential:
    """Encrypts a secret for the TPM that has an endorsement key, and for an object in it.

    Does not check that `ek` is an endorsement key (`endorsement.require_endorsement_key`), nor whose.

    Args:
        ek: Its public area: RSA, or ECC on P-256 or P-384, with AES in CFB mode.
        name: The object's Name: for enrolment the attestation key's.
        secret: At most as long as a digest of the EK's nameAlg.
        random: Gives as many unpredictable bytes as asked for.

    Raises:
        UsageError: The secret is empty or too long, the Name empty or too long, or the key is not for storage.
        MalformedError: The EK's point is not on its curve.
    """
    size = HASH_SIZES[ek.name_alg]
    if not 0 < len(secret) <= size:
        raise UsageError(
            f"a secret of {len(secret)} bytes: expected 1 to {size}, a digest of the EK's nameAlg"
        )
    if not 0 < len(name) <= _MAX_NAME:
        raise UsageError(f"a Name of {len(name)} bytes: expected at most {_MAX_NAME}")
    key_bits = _symmetric_bits(ek)
    seed, encrypted_secret = _share_seed(ek, random)
    storage = kdfa(ek.name_alg, seed, label="STORAGE", context=name, bits=key_bits)
    # A zero IV: the key serves once, for it comes from a fresh seed.
    encryptor = Cipher(AES(storage), CFB(bytes(_BLOCK))).encryptor()
    identity = encryptor.update(sized(secret)) + encryptor.finalize()
    integrity = kdfa(ek.name_alg, seed, label="INTEGRITY", bits=size * 8)
    mac = hmac.digest(integrity, identity + name, ek.name_alg)
    return Credential(sized(sized(mac) + identity), sized(encrypted_secret))


def _symmetric_bits(ek: Public) -> int:
    algorithm, key_bits, mode = _SYMMETRIC.unpack_from(ek.parameters)
    if algorithm != ALG_AES or key_bits not in _KEY_BITS or mode != _CFB:
        raise UsageError("not a storage key: expected AES-128 or AES-256 in CFB mode in its public area")
    return int(key_bits)


def _share_seed(ek: Public, random: Random) -> tuple[bytes, bytes]:
    """A seed of the nameAlg's size, and what tells it to the EK's TPM alone (Part 1, B.10.4 and C.6.4)."""
    key = ek.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        seed = random(HASH_SIZES[ek.name_alg])
        algorithm = _HASHES[ek.name_alg]
        label = _IDENTITY.encode() + b"\0"
        oaep = padding.OAEP(mgf=padding.MGF1(algorithm), algorithm=algorithm, label=label)
        return seed, key.encrypt(seed, oaep)
    ephemeral = _ephemeral(key.curve, random)
    own = ephemeral.public_key().public_numbers()
    octets = (key.curve.key_size + 7) // 8
    shared = ephemeral.exchange(ec.ECDH(), key)
    party_u, party_v = own.x.to_bytes(octets, "big"), key.public_numbers().x.to_bytes(octets, "big")
    seed = kdfe(ek.name_alg, shared, label=_IDENTITY, party_u=party_u, party_v=party_v)
    return seed, sized(party_u) + sized(own.y.to_bytes(octets, "big"))


def _ephemeral(curve: ec.EllipticCurve, random: Random) -> ec.EllipticCurvePrivateKey:
    # 64 bits more than the order has: so the reduction's bias is none that counts (FIPS 186-5, A.2.1).
    number = int.from_bytes(random((curve.key_size + 64) // 8), "big")
    return ec.derive_private_key(1 + number % (curve.group_order - 1), curve)


def kdfa(hash_alg: str, key: bytes, *, label: str, context: bytes = b"", bits: int) -> bytes:
    """KDFa (TPM 2.0 Part 1, 11.4.10.2): SP 800-108 in counter mode, with HMAC.

    Args:
        hash_alg: Of the HMAC: `sha256` or `sha384`.
        key: Its key.
        label: What the key is for.
        context: contextU and contextV, one after the other.
        bits: How many are asked for, a multiple of 8.
    """
    fixed = label.encode() + b"\0" + context + bits.to_bytes(4, "big")
    size = bits // 8
    counters = range(1, 1 + -(-size // HASH_SIZES[hash_alg]))
    blocks = (hmac.digest(key, counter.to_bytes(4, "big") + fixed, hash_alg) for counter in counters)
    return b"".join(blocks)[:size]


def kdfe(hash_alg: str, shared_x: bytes, *, label: str, party_u: bytes, party_v: bytes) -> bytes:
    """KDFe (TPM 2.0 Part 1, 11.4.10.3), over the x coordinate of an ECDH exchange: as many bits as the hash has.

    Args:
        hash_alg: `sha256` or `sha384`.
        shared_x: Of the exchange, as long as the curve's numbers; so are the next two.
        label: What the key is for.
        party_u: The x coordinate of the ephemeral key.
        party_v: The x coordinate of the static key.
    """
    fixed = shared_x + label.encode() + b"\0" + party_u + party_v
    return digest(hash_alg, (1).to_bytes(4, "big") + fixed)
