"""The two keys of a host: what is stored of them, what must stay secret, and the TPM's part in making them."""

import hashlib
import secrets
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

from attestd.errors import TpmError, TpmRefusedError, TpmUnavailableError, UsageError
from attestd.tcg.policy import release_policy
from attestd.tcg.public import attestation_key_template, parse_public, release_key_template
from attestd.tpm._channel import Channel
from attestd.tpm._commands import Answer, Cc, Hierarchy, password, sized, u16, u32

__all__ = ["AuthValues", "KeyBlobs", "LoadedKey", "certify", "create_keys", "load_keys"]

_AUTH_SIZE: Final = 32  # TPMs take at most the size of the object's nameAlg digest

# Storage key: ECC P-256, AES-128-CFB; fixedTPM fixedParent sensitiveDataOrigin userWithAuth noDA restricted
# decrypt (TCG TPM v2.0 Provisioning Guidance, 7.5.1). Recreated from the hierarchy's seed whenever needed.
_STORAGE_TEMPLATE: Final = (
    bytes.fromhex("0023000b000304720000000600800043001000030010") + sized(bytes(32)) * 2
)
_SCHEME_NULL: Final = u16(0x0010)


@dataclass(frozen=True, slots=True)
class AuthValues:
    """The secrets that go with a host's TPM objects: 32 random bytes each, never in the state that is backed up.

    Attributes:
        ak: Of the attestation key: other users of the TPM (group `tss`) cannot sign with it.
        release: Of the release key, besides its policy; proven by HMAC, never sent.
        counter: Of the log counter: others cannot step it.
    """

    ak: bytes = field(repr=False)
    release: bytes = field(repr=False)
    counter: bytes = field(repr=False)

    def __post_init__(self) -> None:
        # A TPM strips trailing zeros from auth values, an HMAC key does not: such a value would not be the same.
        if any(len(value) != _AUTH_SIZE or not value[-1] for value in (self.ak, self.release, self.counter)):
            raise UsageError(f"auth values are {_AUTH_SIZE} bytes that do not end in a zero byte")

    @classmethod
    def generate(cls) -> "AuthValues":
        """Draws new ones."""
        return cls(
            *(secrets.token_bytes(_AUTH_SIZE - 1) + bytes([1 + secrets.randbelow(255)]) for _ in range(3))
        )


@dataclass(frozen=True, slots=True)
class KeyBlobs:
    """Attestation key and release key as they are stored: useless without their TPM, not secret.

    Attributes:
        ak_public: TPMT_PUBLIC of the attestation key.
        ak_private: Its TPM2B_PRIVATE's contents, wrapped by a storage key of the endorsement hierarchy.
        release_public: TPMT_PUBLIC of the release key.
        release_private: Its TPM2B_PRIVATE's contents, wrapped by a storage key of the owner hierarchy.
    """

    ak_public: bytes
    ak_private: bytes
    release_public: bytes
    release_private: bytes


@dataclass(frozen=True, slots=True)
class LoadedKey:
    """A key in one of the TPM's transient slots."""

    handle: int
    name: bytes
    auth_value: bytes = field(repr=False)


def create_keys(channel: Channel, *, root_name: bytes, auth_values: AuthValues) -> KeyBlobs:
    """Makes both keys inside the TPM; loads nothing. See `Tpm.create_keys`."""
    ak_public, ak_private = _create(
        channel, Hierarchy.ENDORSEMENT, attestation_key_template(), auth_values.ak
    )
    release_public, release_private = _create(
        channel, Hierarchy.OWNER, release_key_template(release_policy(root_name)), auth_values.release
    )
    return KeyBlobs(ak_public, ak_private, release_public, release_private)


def load_keys(channel: Channel, blobs: KeyBlobs, auth_values: AuthValues) -> tuple[LoadedKey, LoadedKey]:
    """Loads attestation key and release key, or neither; two transient slots stay taken, a third is used."""
    ak = _load(channel, Hierarchy.ENDORSEMENT, blobs.ak_public, blobs.ak_private, auth_values.ak)
    try:
        release = _load(
            channel, Hierarchy.OWNER, blobs.release_public, blobs.release_private, auth_values.release
        )
    except BaseException:
        channel.flush(ak.handle)
        raise
    return ak, release


def certify(channel: Channel, key: LoadedKey, signer: LoadedKey, extra_data: bytes) -> tuple[bytes, bytes]:
    """TPM2_Certify (Part 3, 18.2). The key's ADMIN role takes its auth value: by HMAC, so that it is not sent."""
    params = sized(extra_data) + _SCHEME_NULL
    cp_hash = hashlib.sha256(u32(Cc.CERTIFY) + key.name + signer.name + params).digest()
    with channel.session(policy=False) as session:
        auth = session.authorize(cp_hash, key.auth_value) + password(signer.auth_value)
        handles = u32(key.handle) + u32(signer.handle)
        answer = channel.run(Cc.CERTIFY, handles=handles, auth=auth, params=params)
        attest, signature = signed_structure(answer)
        session.accept(Cc.CERTIFY, answer, sized(attest) + signature, key.auth_value)
    return attest, signature


def signed_structure(answer: Answer) -> tuple[bytes, bytes]:
    """Reads TPM2B_ATTEST and TPMT_SIGNATURE, as quotes and certifications are answered.

    Raises:
        TpmError: The signature is not ECDSA, as our attestation keys sign.
    """
    return answer.sized(), read_ecdsa(answer)


def read_ecdsa(answer: Answer) -> bytes:
    """Reads a TPMT_SIGNATURE of ECDSA; returns it as marshalled.

    Raises:
        TpmError: Another algorithm.
    """
    head = answer.take(4)
    if head != b"\x00\x18\x00\x0b":
        raise TpmError(f"the TPM signed with {head.hex()}, expected ECDSA with SHA-256")
    return head + sized(answer.sized()) + sized(answer.sized())


def _create(
    channel: Channel, hierarchy: Hierarchy, template: bytes, auth_value: bytes
) -> tuple[bytes, bytes]:
    sensitive = sized(sized(auth_value) + sized(b""))
    with _storage_key(channel, hierarchy) as (parent, _):
        answer = channel.run(
            Cc.CREATE,
            handles=u32(parent),
            auth=password(),
            params=sensitive + sized(template) + sized(b"") + u32(0),
        )
    private, public = answer.sized(), answer.sized()
    return public, private


def _load(
    channel: Channel, hierarchy: Hierarchy, public: bytes, private: bytes, auth_value: bytes
) -> LoadedKey:
    name = parse_public(public).name
    with _storage_key(channel, hierarchy) as (parent, _):
        try:
            handle, _ = channel.load(
                Cc.LOAD, handles=u32(parent), auth=password(), params=sized(private) + sized(public)
            )
        except (TpmRefusedError, TpmUnavailableError):
            raise
        except TpmError as error:
            raise TpmError(
                f"{error}: these keys are not of this TPM as it is now: it was cleared, or is another one (attestd rekey"
                " --lost makes new keys)"
            ) from error
    return LoadedKey(handle, name, auth_value)


def _storage_key(channel: Channel, hierarchy: Hierarchy) -> AbstractContextManager[tuple[int, Answer]]:
    return primary(channel, hierarchy, _STORAGE_TEMPLATE)


def primary(
    channel: Channel, hierarchy: Hierarchy, template: bytes
) -> AbstractContextManager[tuple[int, Answer]]:
    """TPM2_CreatePrimary (Part 3, 24.1): the same key each time; flushed at the end of the block."""
    params = sized(sized(b"") * 2) + sized(template) + sized(b"") + u32(0)
    return channel.object(Cc.CREATE_PRIMARY, handles=u32(hierarchy), auth=password(), params=params)
