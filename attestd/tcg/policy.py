"""Policy digests of enhanced authorization, computed without a TPM (TPM 2.0 Part 1, 19.7; Part 3, 23).

Each function takes the digest before and returns the digest after its command, as a SHA-256 policy session
would hold it. The compositions at the end are attestd's own: the release policy and the epoch's.
"""

import hashlib
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from attestd.errors import UsageError
from attestd.tcg._reader import sized
from attestd.tcg.pcr import PcrSelection

__all__ = [
    "REF_EPOCH_INIT",
    "REF_EPOCH_SET",
    "REF_LEASE",
    "REF_PLATFORM",
    "REF_ROOT",
    "ZERO",
    "Eo",
    "approval_message",
    "epoch_set_policy",
    "nv_write_cp_hash",
    "platform_policy",
    "policy_auth_value",
    "policy_authorize",
    "policy_command_code",
    "policy_cp_hash",
    "policy_nv",
    "policy_or",
    "policy_pcr",
    "policy_signed",
    "release_policy",
    "root_policy",
    "signed_message",
]

ZERO: Final = bytes(32)

REF_ROOT: Final = b"attestd.root.v1"
REF_PLATFORM: Final = b"attestd.platform.v1"
REF_EPOCH_INIT: Final = b"attestd.epoch.init"
REF_EPOCH_SET: Final = b"attestd.epoch.set"
REF_LEASE: Final = b"attestd.lease.v1"

CC_NV_WRITE: Final = 0x137
CC_POLICY_NV: Final = 0x149
CC_SIGN: Final = 0x15D
CC_POLICY_SIGNED: Final = 0x160
CC_POLICY_AUTHORIZE: Final = 0x16A
CC_POLICY_AUTH_VALUE: Final = 0x16B
CC_POLICY_COMMAND_CODE: Final = 0x16C
CC_POLICY_CP_HASH: Final = 0x16E
CC_POLICY_OR: Final = 0x171
CC_POLICY_PCR: Final = 0x17F

_NAME_SIZE: Final = 34  # nameAlg and a SHA-256 digest: all Names in our policies are of this kind


class Eo(IntEnum):
    """TPM_EO: how PolicyNV compares the index (left) with the operand (right)."""

    UNSIGNED_LT = 0x0005
    UNSIGNED_LE = 0x0009


def policy_nv(digest: bytes, *, nv_name: bytes, operand: bytes, offset: int = 0, operation: Eo) -> bytes:
    """After TPM2_PolicyNV (Part 3, 23.9): the index's contents compare with the operand.

    Args:
        digest: The digest before.
        nv_name: The Name of the index, with WRITTEN set, for an unwritten index compares with nothing.
        operand: What the contents from `offset` on are compared with.
        offset: Octets into the index.
        operation: The comparison.

    Raises:
        UsageError: A digest or Name of another size, or no operand.
    """
    if not operand:
        raise UsageError("PolicyNV without an operand is always true")
    arguments = hashlib.sha256(operand + struct.pack(">HH", offset, operation)).digest()
    return _extend(digest, CC_POLICY_NV, arguments, _name(nv_name))


def policy_signed(digest: bytes, *, authority_name: bytes, policy_ref: bytes) -> bytes:
    """After TPM2_PolicySigned, or TPM2_PolicyTicket of such a ticket (Part 3, 23.3): an authority signed now.

    Raises:
        UsageError: A digest or Name of another size.
    """
    return _update(digest, CC_POLICY_SIGNED, _name(authority_name), policy_ref)


def policy_command_code(digest: bytes, command_code: int) -> bytes:
    """After TPM2_PolicyCommandCode (Part 3, 23.11): for this command only.

    Raises:
        UsageError: A digest of another size.
    """
    return _extend(digest, CC_POLICY_COMMAND_CODE, struct.pack(">I", command_code))


def policy_auth_value(digest: bytes) -> bytes:
    """After TPM2_PolicyAuthValue (Part 3, 23.17): who uses the object knows its auth value.

    Raises:
        UsageError: A digest of another size.
    """
    return _extend(digest, CC_POLICY_AUTH_VALUE)


def policy_pcr(digest: bytes, selection: PcrSelection, pcr_digest: bytes) -> bytes:
    """After TPM2_PolicyPCR (Part 3, 23.7): the selected PCRs have this composite, computed with SHA-256.

    Raises:
        UsageError: A digest of another size.
    """
    return _extend(digest, CC_POLICY_PCR, selection.marshal(), _sha256(pcr_digest))


def policy_cp_hash(digest: bytes, cp_hash: bytes) -> bytes:
    """After TPM2_PolicyCpHash (Part 3, 23.13): for this command with exactly these parameters.

    Raises:
        UsageError: A digest of another size.
    """
    return _extend(digest, CC_POLICY_CP_HASH, _sha256(cp_hash))


def policy_or(digests: Sequence[bytes]) -> bytes:
    """After TPM2_PolicyOR (Part 3, 23.6): one of these branches held. What came before is replaced.

    Raises:
        UsageError: Not two to eight branches, or a digest of another size.
    """
    if not 2 <= len(digests) <= 8:
        raise UsageError(f"PolicyOR of {len(digests)} branches: a TPM takes two to eight")
    return _extend(ZERO, CC_POLICY_OR, *map(_sha256, digests))


def policy_authorize(*, authority_name: bytes, policy_ref: bytes) -> bytes:
    """After TPM2_PolicyAuthorize (Part 3, 23.16): this authority approved what the digest was. It is replaced.

    Raises:
        UsageError: A Name of another size.
    """
    return _update(ZERO, CC_POLICY_AUTHORIZE, _name(authority_name), policy_ref)


def approval_message(policy_digest: bytes, policy_ref: bytes) -> bytes:
    """What an authority signs, with ECDSA and SHA-256, to approve a policy for TPM2_PolicyAuthorize.

    Raises:
        UsageError: A digest of another size.
    """
    return _sha256(policy_digest) + policy_ref


def signed_message(*, nonce_tpm: bytes, expiration: int, cp_hash: bytes, policy_ref: bytes) -> bytes:
    """What an authority signs, with ECDSA and SHA-256, for TPM2_PolicySigned (Part 3, 23.3: aHash).

    Args:
        nonce_tpm: The session's nonce: the signature serves this session only.
        expiration: Seconds; 0 never expires, negative asks for a ticket.
        cp_hash: The one command and parameters to allow, or empty for any.
        policy_ref: As in the policy.

    Raises:
        UsageError: No nonce: the signature could be replayed for ever.
    """
    if not nonce_tpm:
        raise UsageError("PolicySigned without a nonce: the signature could be replayed")
    return nonce_tpm + struct.pack(">i", expiration) + cp_hash + policy_ref


def platform_policy(
    *,
    epoch_name: bytes,
    epoch: int,
    selection: PcrSelection,
    pcr_digest: bytes,
    lease_name: bytes | None = None,
) -> bytes:
    """What a platform key approves for one state of the platform.

    `PolicyNV(epoch index <= epoch) · [PolicySigned(lease key)] · PolicyCommandCode(Sign) · PolicyAuthValue ·
    PolicyPCR(state)`. The PCRs come last, for any PCR extend after that command fails the session; the
    command code keeps the approval from serving TPM2_Quote, TPM2_Certify or TPM2_ObjectChangeAuth.

    Args:
        epoch_name: The Name of the epoch index, written.
        epoch: The last epoch in which the approval holds.
        selection: The PCRs of the state.
        pcr_digest: Their composite, with SHA-256.
        lease_name: The Name of the lease key, where the mesh grants leases.

    Raises:
        UsageError: A digest or Name of another size, an epoch that is not a UINT64.
    """
    digest = _epoch_at_most(ZERO, epoch_name, epoch)
    if lease_name is not None:
        digest = policy_signed(digest, authority_name=lease_name, policy_ref=REF_LEASE)
    digest = policy_command_code(digest, CC_SIGN)
    digest = policy_auth_value(digest)
    return policy_pcr(digest, selection, pcr_digest)


def root_policy(*, platform_name: bytes, epoch_name: bytes, max_epoch: int) -> bytes:
    """What the root approves: that this platform key decides on states, as long as the epoch is not over.

    `PolicyAuthorize(platform key) · PolicyNV(epoch index <= max_epoch)`.

    Raises:
        UsageError: A Name of another size, an epoch that is not a UINT64.
    """
    approved = policy_authorize(authority_name=platform_name, policy_ref=REF_PLATFORM)
    return _epoch_at_most(approved, epoch_name, max_epoch)


def release_policy(root_name: bytes) -> bytes:
    """The release key's authPolicy: `PolicyAuthorize(root)`. Platform keys rotate, the release key stays.

    Raises:
        UsageError: A Name of another size.
    """
    return policy_authorize(authority_name=root_name, policy_ref=REF_ROOT)


def epoch_set_policy(*, epoch_name: bytes, epoch: int) -> bytes:
    """What the epoch authority approves to move the epoch of every host: only upwards, to exactly `epoch`.

    `PolicyNV(epoch index < epoch) · PolicyCpHash(NV_Write epoch)`: one signature serves the whole fleet.

    Raises:
        UsageError: A Name of another size, an epoch that is not a UINT64.
    """
    operand = _uint64(epoch)
    digest = policy_nv(ZERO, nv_name=epoch_name, operand=operand, operation=Eo.UNSIGNED_LT)
    return policy_cp_hash(digest, nv_write_cp_hash(nv_name=epoch_name, data=operand))


def nv_write_cp_hash(*, nv_name: bytes, data: bytes) -> bytes:
    """The cpHash of TPM2_NV_Write of `data` at offset 0, the index being its own authorization (Part 1, 16.7).

    Args:
        nv_name: The Name of the index at that moment: the first write of an index sees it without WRITTEN.
        data: What is written.

    Raises:
        UsageError: A Name of another size.
    """
    handles = _name(nv_name) * 2
    return hashlib.sha256(struct.pack(">I", CC_NV_WRITE) + handles + sized(data) + b"\0\0").digest()


def _epoch_at_most(digest: bytes, epoch_name: bytes, epoch: int) -> bytes:
    return policy_nv(digest, nv_name=epoch_name, operand=_uint64(epoch), operation=Eo.UNSIGNED_LE)


def _extend(digest: bytes, command_code: int, *arguments: bytes) -> bytes:
    return hashlib.sha256(b"".join([_sha256(digest), struct.pack(">I", command_code), *arguments])).digest()


def _update(digest: bytes, command_code: int, name: bytes, policy_ref: bytes) -> bytes:
    """PolicyUpdate (Part 3, 23.2): the reference goes into a second hash, so that it cannot run into the Name."""
    return hashlib.sha256(_extend(digest, command_code, name) + policy_ref).digest()


def _sha256(digest: bytes) -> bytes:
    if len(digest) != 32:
        raise UsageError(f"a digest of {len(digest)} bytes, expected a SHA-256 digest")
    return digest


def _name(name: bytes) -> bytes:
    if len(name) != _NAME_SIZE or not name.startswith(b"\x00\x0b"):
        raise UsageError(f"Name {name.hex()[:80]}: expected 000b and a SHA-256 digest")
    return name


def _uint64(number: int) -> bytes:
    if not 0 <= number < 1 << 64:
        raise UsageError(f"epoch {number}: expected 0 to 2^64 - 1")
    return number.to_bytes(8, "big")
