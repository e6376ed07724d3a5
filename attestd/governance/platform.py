"""`platform/<name>.json`: the platform states that may release, as verifiers appraise and as TPMs enforce them."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, get_args

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from attestd.appraisal.boot_rules import BootRules, require_sound_rules
from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.governance.authorities import Authorities, TpmAuthority, Version
from attestd.strict import (
    Base64Bytes,
    PcrName,
    Sha256Hex,
    Strict,
    Utc,
    decode_base64,
    parse_canonical,
    parse_time,
)
from attestd.tcg.ima.replay import IMA_PCR
from attestd.tcg.pcr import PcrSelection
from attestd.tcg.policy import REF_PLATFORM, REF_ROOT, approval_message, platform_policy, root_policy

__all__ = [
    "MAX_QUORUM",
    "TIERS",
    "Approval",
    "ImaReference",
    "PlatformPolicy",
    "Quorums",
    "Tier",
    "Userspace",
    "parse_platform_policy",
]

MAX_PLATFORM_BYTES = 2 << 20
MAX_QUORUM: Final = 16
# How the evidence is rooted. Weakest first: a policy's minimum admits itself and what stands right of it.
Tier = Literal["software", "uncertified", "vtpm", "hardware"]
TIERS: Final[tuple[str, ...]] = get_args(Tier)
# How user space is protected.
Userspace = Literal["none", "encrypted-tpm", "ima-appraise", "verity"]

_Epoch = Annotated[int, msgspec.Meta(ge=0)]
_Quorum = Annotated[int, msgspec.Meta(ge=0, le=MAX_QUORUM)]
_Pcr = Annotated[int, msgspec.Meta(ge=0, le=23)]
_Values = Annotated[list[Sha256Hex], msgspec.Meta(min_length=1)]
_Bank = Literal["sha256"]
_Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,63}\Z")]


class Quorums(Strict, frozen=True):
    """How many verifiers must vouch for a host in each decision, and how many witnesses cosign it."""

    verifiers: _Quorum
    witnesses: _Quorum


class ImaReference(Strict, frozen=True):
    """The IMA policy that a platform policy goes by: the target `ima/<policy>.json` with that SHA-256.

    Attributes:
        policy: Its name.
        sha256: Of the file: another one makes the platform policy unusable.
    """

    policy: _Name
    sha256: Sha256Hex

    @property
    def target(self) -> str:
        """The target's name."""
        return f"ima/{self.policy}.json"


class _Reference(Strict, frozen=True):
    boot: BootRules | None
    ima: ImaReference | None
    min_tier: Tier
    pcrs: dict[_Bank, dict[PcrName, _Values]]
    quorums: Quorums
    userspace: Annotated[list[Userspace], msgspec.Meta(min_length=1)]


class _Approval(Strict, frozen=True):
    bank: _Bank
    pcrs: Annotated[list[_Pcr], msgspec.Meta(min_length=1, max_length=24)]
    pcr_digest: Sha256Hex
    epoch: _Epoch
    lease_key: None
    policy_digest: Sha256Hex
    key_id: Sha256Hex
    sig: Base64Bytes


class _KeyApproval(Strict, frozen=True):
    key_id: Sha256Hex
    max_epoch: _Epoch
    policy_digest: Sha256Hex
    sig: Base64Bytes


class Window(Strict, frozen=True):
    """Until when the approvals of one state hold: software looks at it, TPMs do not."""

    pcr_digest: Sha256Hex
    not_after: Utc


class _Lifecycle(Strict, frozen=True):
    valid_until: Utc | None
    windows: Annotated[list[Window], msgspec.Meta(max_length=1024)]


class PlatformFile(Strict, frozen=True):
    """The file's exact shape; `PlatformPolicy` is what it means once its approvals are verified."""

    v: Literal[1]
    name: _Name
    version: Version
    reference: _Reference
    approvals: Annotated[list[_Approval], msgspec.Meta(min_length=1, max_length=1024)]
    platform_keys: Annotated[list[_KeyApproval], msgspec.Meta(min_length=1, max_length=64)]
    lifecycle: _Lifecycle
    writable: Literal["copy", "refuse"]


@dataclass(frozen=True)
class Approval:
    """One approved platform state: all that a TPM needs to let the release key sign in it.

    Attributes:
        selection: The PCRs that were approved.
        pcr_digest: Their composite (32 bytes).
        epoch: The state is approved while the epoch index is at most this.
        policy_digest: What the platform key signed.
        platform: The platform key, `platform_sig` its DER signature.
        max_epoch: The platform key is approved while the epoch index is at most this.
        root: The root key, `root_sig` its DER signature over the platform key's approval.
    """

    selection: PcrSelection
    pcr_digest: bytes
    epoch: int
    policy_digest: bytes
    platform: TpmAuthority
    platform_sig: bytes
    max_epoch: int
    root: TpmAuthority
    root_sig: bytes


@dataclass(frozen=True)
class PlatformPolicy:
    """A platform policy, every approval's signature verified and digest recomputed.

    Attributes:
        digest: SHA-256 of the file, hex: what a decision names.
        values: Allowed values of the SHA-256 bank by PCR: they explain, the approvals decide.
        selection: The PCRs; one selection for all approvals, so that one quote decides.
        quoted: What evidence quotes: those, the ones that `boot` looks at, and PCR 10 for `ima`.
        boot: What the boot's events have to be, besides; None: whatever leads to an approved state.
        ima: The IMA policy that measured files have to comply with; None: none.
        windows: Until when the approvals of a state hold, by its composite; a state that is not there: always.
        min_tier, userspace: What kind of evidence is accepted.
        writable: What happens to files that others than root can write: `copy` or `refuse`.
    """

    name: str
    version: int
    digest: str
    selection: PcrSelection
    quoted: PcrSelection
    approvals: tuple[Approval, ...]
    boot: BootRules | None
    ima: ImaReference | None
    windows: Mapping[bytes, datetime]
    min_tier: str
    userspace: tuple[str, ...]
    values: Mapping[int, tuple[bytes, ...]]
    verifier_quorum: int
    witness_quorum: int
    valid_until: datetime | None
    writable: str

    def approval_for(self, pcr_digest: bytes, *, epoch: int, at: datetime) -> Approval | None:
        """The approval of the state with that composite that still holds at that epoch and time."""
        if pcr_digest in self.windows and at >= self.windows[pcr_digest]:
            return None
        return next(
            (
                approval
                for approval in self.approvals
                if approval.pcr_digest == pcr_digest and epoch <= min(approval.epoch, approval.max_epoch)
            ),
            None,
        )

    def reference(self) -> Mapping[int, bytes]:
        """PCR values that are allowed, one an index: they explain a difference, they decide nothing."""
        return {index: allowed[-1] for index, allowed in self.values.items() if index in self.selection.pcrs}

    def accepts_tier(self, tier: str) -> bool:
        """Whether evidence rooted like that is strong enough."""
        return tier in TIERS and TIERS.index(tier) >= TIERS.index(self.min_tier)


def parse_platform_policy(
    data: bytes, *, authorities: Authorities, revoked_keys: Collection[str]
) -> PlatformPolicy:
    """Parses a platform policy and verifies each approval in it.

    Does not check `valid_until`: the caller knows the time. Approvals by revoked keys, of platform or root, are left
    out.

    Raises:
        MalformedError: Not that file, approvals over different PCRs, a platform key twice, boot rules of another bank
            or that evaluate nothing, a window twice or of a state that is not approved.
        VerificationError: A policy digest that is not what its members say, a key that is no platform authority
            or that the root does not approve, a signature that fails.
    """
    file = parse_canonical(data, PlatformFile, max_bytes=MAX_PLATFORM_BYTES, what="platform policy")
    what = f"platform policy {file.name!r}"
    selections = {_selection(approval, what) for approval in file.approvals}
    if len(selections) != 1:
        raise MalformedError(f"{what}: all approvals must be over the same PCRs")
    (selection,) = selections
    if len({entry.key_id for entry in file.platform_keys}) != len(file.platform_keys):
        raise MalformedError(f"{what}: the same platform key twice")
    windows = _windows(file, what)
    quoted = _quoted(file, selection, what)
    root_revoked = authorities.root.key_id in revoked_keys
    keys = {
        entry.key_id: _verify_key(entry, authorities, what)
        for entry in file.platform_keys
        if entry.key_id not in revoked_keys and not root_revoked
    }
    approvals = tuple(
        _verify(item, keys, authorities, what)
        for item in file.approvals
        if item.key_id not in revoked_keys and not root_revoked
    )
    return PlatformPolicy(
        name=file.name,
        version=file.version,
        digest=hashlib.sha256(data).hexdigest(),
        selection=selection,
        quoted=quoted,
        approvals=approvals,
        boot=file.reference.boot,
        ima=file.reference.ima,
        windows=windows,
        min_tier=file.reference.min_tier,
        userspace=tuple(file.reference.userspace),
        values=_values(file),
        verifier_quorum=file.reference.quorums.verifiers,
        witness_quorum=file.reference.quorums.witnesses,
        valid_until=None if file.lifecycle.valid_until is None else parse_time(file.lifecycle.valid_until),
        writable=file.writable,
    )


@dataclass(frozen=True)
class _PlatformKey:
    """A platform key that the root approved."""

    authority: TpmAuthority
    max_epoch: int
    root_sig: bytes


def _verify_key(entry: _KeyApproval, authorities: Authorities, what: str) -> _PlatformKey:
    authority = authorities.platform.get(entry.key_id)
    if authority is None:
        raise VerificationError(f"{what}: key {entry.key_id} is no platform authority")
    policy = root_policy(
        platform_name=authority.name, epoch_name=authorities.epoch_name, max_epoch=entry.max_epoch
    )
    root_sig = _verify_approval(
        authorities.root, policy, REF_ROOT, policy_digest=entry.policy_digest, sig=entry.sig, what=what
    )
    return _PlatformKey(authority=authority, max_epoch=entry.max_epoch, root_sig=root_sig)


def _verify(
    item: _Approval, keys: Mapping[str, _PlatformKey], authorities: Authorities, what: str
) -> Approval:
    key = keys.get(item.key_id)
    if key is None:
        raise VerificationError(f"{what}: the root does not approve the platform key {item.key_id}")
    selection = _selection(item, what)
    pcr_digest = bytes.fromhex(item.pcr_digest)
    policy = platform_policy(
        epoch_name=authorities.epoch_name, epoch=item.epoch, selection=selection, pcr_digest=pcr_digest
    )
    platform_sig = _verify_approval(
        key.authority, policy, REF_PLATFORM, policy_digest=item.policy_digest, sig=item.sig, what=what
    )
    return Approval(
        selection=selection,
        pcr_digest=pcr_digest,
        epoch=item.epoch,
        policy_digest=policy,
        platform=key.authority,
        platform_sig=platform_sig,
        max_epoch=key.max_epoch,
        root=authorities.root,
        root_sig=key.root_sig,
    )


def _windows(file: PlatformFile, what: str) -> Mapping[bytes, datetime]:
    windows = file.lifecycle.windows
    named = {window.pcr_digest for window in windows}
    if len(named) != len(windows) or not named <= {item.pcr_digest for item in file.approvals}:
        raise MalformedError(f"{what}: each window must be of a state that is approved, once")
    return {bytes.fromhex(window.pcr_digest): parse_time(window.not_after) for window in windows}


def _quoted(file: PlatformFile, selection: PcrSelection, what: str) -> PcrSelection:
    boot = file.reference.boot
    pcrs = set(selection.pcrs) | ({IMA_PCR} if file.reference.ima is not None else set())
    if boot is not None:
        require_sound_rules(boot)
        if boot.bank != selection.bank:
            raise MalformedError(
                f"{what}: boot rules of bank {boot.bank}, expected {selection.bank}, the approvals'"
            )
        pcrs |= boot.pcrs
    return PcrSelection(selection.bank, tuple(sorted(pcrs)))


def _values(file: PlatformFile) -> dict[int, tuple[bytes, ...]]:
    by_index = file.reference.pcrs.get("sha256", {})
    return {int(index): tuple(map(bytes.fromhex, allowed)) for index, allowed in by_index.items()}


def _selection(item: _Approval, what: str) -> PcrSelection:
    try:
        return PcrSelection(item.bank, tuple(item.pcrs))
    except UsageError as error:
        raise MalformedError(f"{what}: {error}") from error


def _verify_approval(
    authority: TpmAuthority, policy: bytes, policy_ref: bytes, *, policy_digest: str, sig: str, what: str
) -> bytes:
    if policy.hex() != policy_digest:
        raise VerificationError(f"{what}: a policy digest is not the one its approval describes")
    signature = decode_base64(sig, what=what)
    try:
        authority.key.verify(signature, approval_message(policy, policy_ref), ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise VerificationError(
            f"{what}: the signature of an approval by {authority.key_id} does not verify"
        ) from error
    return signature
