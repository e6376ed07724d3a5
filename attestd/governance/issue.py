"""Writes trust files: what `attestd init --standalone` and `attestd platform approve` sign. Pure; keys come as values."""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from attestd.appraisal.boot_rules import BootRules
from attestd.authorization.dsse import (
    EnvelopeSignature,
    PublicKey,
    UntrustedEnvelope,
    format_envelope,
    pae,
)
from attestd.governance.authorities import Authorities
from attestd.governance.host import HOST_RECORD_TYPE, MAX_HOST_RECORD_BYTES, HostRecord
from attestd.governance.platform import ImaReference
from attestd.strict import canonical, convert, format_time, parse_canonical
from attestd.tcg.nv import counter_public, nv_name
from attestd.tcg.pcr import PcrSelection, composite
from attestd.tcg.policy import REF_PLATFORM, REF_ROOT, approval_message, platform_policy, root_policy
from attestd.tcg.public import host_id

__all__ = [
    "Sign",
    "approve_digest",
    "approve_platform_key",
    "approve_state",
    "draft_authorities",
    "draft_host_request",
    "draft_platform_policy",
    "draft_revocations",
    "sign_host_request",
]

# How often in a row what the local authority lets be delegated may be: enough for a team and its member.
LOCAL_DEPTH: Final = 2

Sign = Callable[[bytes], tuple[PublicKey, bytes]]


def draft_authorities(
    *,
    name: str,
    authorization: PublicKey,
    enroller: PublicKey,
    root: PublicKey,
    platform: PublicKey,
    epoch: PublicKey,
) -> bytes:
    """`authorities.json` of a standalone host: one local authority for everything that software checks."""
    keys = {
        key.key_id: {"spki": _base64(key.spki_der)}
        for key in (authorization, enroller, root, platform, epoch)
    }
    return canonical(
        {
            "v": 1,
            "version": 1,
            "keys": keys,
            "authorizations": [
                {
                    "name": name,
                    "paths": ["/"],
                    "uids": None,
                    "keys": [authorization.key_id],
                    "threshold": 1,
                    "max_depth": LOCAL_DEPTH,
                }
            ],
            "teams": {},
            "enrollers": {"keys": [enroller.key_id], "threshold": 1},
            "tpm": {"root": root.key_id, "platform": [platform.key_id], "epoch": epoch.key_id},
        }
    )


def draft_revocations(*, version: int = 1, epoch: int) -> bytes:
    """`revocations.json` that revokes nothing but approvals below an epoch."""
    empty: list[str] = []
    return canonical(
        {
            "v": 1,
            "version": version,
            "artifacts": empty,
            "keys": empty,
            "hosts": empty,
            "subjects": empty,
            "requesters": empty,
            "epoch": epoch,
            "bump": None,
        }
    )


def approve_platform_key(
    authorities: Authorities, *, platform: str, max_epoch: int, sign_root: Sign
) -> dict[str, Any]:
    """The root's approval of a platform key, as a member of `platform_keys`.

    Args:
        authorities: Verified authorities.
        platform: The platform key's id.
        max_epoch: It may approve states while the epoch is at most this.
        sign_root: Signs with the root key.
    """
    policy = root_policy(
        platform_name=authorities.platform[platform].name,
        epoch_name=authorities.epoch_name,
        max_epoch=max_epoch,
    )
    _, signature = sign_root(approval_message(policy, REF_ROOT))
    return {
        "key_id": platform,
        "max_epoch": max_epoch,
        "policy_digest": policy.hex(),
        "sig": _base64(signature),
    }


def approve_state(
    authorities: Authorities,
    *,
    selection: PcrSelection,
    values: Mapping[int, bytes],
    epoch: int,
    sign_platform: Sign,
) -> dict[str, Any]:
    """A platform key's approval of one state, as a member of `approvals`.

    Args:
        authorities: Verified authorities.
        selection: The PCRs.
        values: Their values.
        epoch: Approved while the epoch is at most this.
        sign_platform: Signs with a platform key.
    """
    return approve_digest(
        authorities,
        selection=selection,
        pcr_digest=composite(selection, values),
        epoch=epoch,
        sign_platform=sign_platform,
    )


def approve_digest(
    authorities: Authorities,
    *,
    selection: PcrSelection,
    pcr_digest: bytes,
    epoch: int,
    sign_platform: Sign,
) -> dict[str, Any]:
    """As `approve_state`, of a state that is known by its composite only."""
    policy = platform_policy(
        epoch_name=authorities.epoch_name, epoch=epoch, selection=selection, pcr_digest=pcr_digest
    )
    key, signature = sign_platform(approval_message(policy, REF_PLATFORM))
    return {
        "bank": selection.bank,
        "pcrs": list(selection.pcrs),
        "pcr_digest": pcr_digest.hex(),
        "epoch": epoch,
        "lease_key": None,
        "policy_digest": policy.hex(),
        "key_id": key.key_id,
        "sig": _base64(signature),
    }


def draft_platform_policy(
    *,
    name: str,
    version: int,
    values: Mapping[str, Mapping[int, Sequence[bytes]]],
    approvals: Sequence[Mapping[str, Any]],
    platform_keys: Sequence[Mapping[str, Any]],
    min_tier: str,
    userspace: Sequence[str],
    valid_until: datetime | None = None,
    writable: str = "copy",
    boot: BootRules | None = None,
    ima: ImaReference | None = None,
) -> bytes:
    """`platform/<name>.json`.

    Args:
        name: The policy's name.
        version: One more than the last.
        values: Allowed PCR values by bank and index: they explain a difference.
        approvals: From `approve_state`.
        platform_keys: From `approve_platform_key`.
        min_tier: The weakest evidence that is accepted.
        userspace: The kinds of user space protection that are accepted.
        valid_until: When it ends; None: it does not.
        writable: `copy` or `refuse` files that others than root can write.
        boot: Rules over what was measured in a boot.
        ima: The IMA policy.
    """
    pcrs = {
        bank: {str(index): [value.hex() for value in allowed] for index, allowed in by_index.items()}
        for bank, by_index in values.items()
    }
    return canonical(
        {
            "v": 1,
            "name": name,
            "version": version,
            "reference": {
                "boot": None if boot is None else _plain(boot),
                "ima": None if ima is None else _plain(ima),
                "min_tier": min_tier,
                "pcrs": pcrs,
                "quorums": {"verifiers": 0, "witnesses": 0},
                "userspace": list(userspace),
            },
            "approvals": [dict(approval) for approval in approvals],
            "platform_keys": [dict(key) for key in platform_keys],
            "lifecycle": {
                "valid_until": None if valid_until is None else format_time(valid_until),
                "windows": [],
            },
            "writable": writable,
        }
    )


def _plain(value: msgspec.Struct) -> dict[str, Any]:
    """A struct as JSON values."""
    return dict(msgspec.to_builtins(value))


def draft_host_request(
    authorities: Authorities,
    *,
    ek_public: bytes,
    ek_chain_digest: str | None,
    ak_public: bytes,
    release_public: bytes,
    certify: tuple[bytes, bytes],
    tier: str,
    userspace: str,
    labels: Mapping[str, str],
    not_before: datetime,
    not_after: datetime,
) -> bytes:
    """What a host asks the enrollers to sign: its host record, unsigned.

    Args:
        authorities: Verified authorities: they imply the NV Names.
        ek_public: TPMT_PUBLIC of the endorsement key; `ak_public`, `release_public` likewise.
        ek_chain_digest: SHA-256 of its certificate chain, hex; None: no certificate.
        certify: TPMS_ATTEST and TPMT_SIGNATURE of the release key's certification by the AK.
        tier: How strong the root of its evidence is.
        userspace: How user space is protected.
        labels: For artifacts bound to labels.
        not_before: Validity.
        not_after: Validity.
    """
    attest, signature = certify
    record = convert(
        {
            "v": 1,
            "host": host_id(ek_public),
            "ek": {"public": _base64(ek_public), "chain_digest": ek_chain_digest},
            "ak": {"public": _base64(ak_public)},
            "release_key": {
                "public": _base64(release_public),
                "certify": {"attest": _base64(attest), "signature": _base64(signature)},
            },
            "nv": {
                "epoch": authorities.epoch_name.hex(),
                "log_counter": nv_name(counter_public(written=True)).hex(),
            },
            "tier": tier,
            "userspace": userspace,
            "labels": dict(labels),
            "not_before": format_time(not_before),
            "not_after": format_time(not_after),
        },
        HostRecord,
        what="host record",
    )
    return canonical(record)


def sign_host_request(request: bytes, *, signers: Sequence[Sign]) -> bytes:
    """`hosts/<host-id>.json`: a host record in its DSSE envelope, signed by enrollers.

    Args:
        request: As the host drafted it; what it says of the host is for the enrollers to compare with what they know.
        signers: Sign with enrollers' keys.

    Raises:
        MalformedError: It is no host record.
    """
    parse_canonical(request, HostRecord, max_bytes=MAX_HOST_RECORD_BYTES, what="host record request")
    signed = [sign(pae(HOST_RECORD_TYPE, request)) for sign in signers]
    return format_envelope(
        UntrustedEnvelope(
            HOST_RECORD_TYPE, request, tuple(EnvelopeSignature(key.key_id, data) for key, data in signed)
        )
    )


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")
