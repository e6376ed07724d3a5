"""Release signatures: the nested policy of the release key, satisfied command by command (architecture.md)."""

import hashlib
import itertools
import random
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from attestd.errors import MalformedError, UsageError
from attestd.tcg.nv import EPOCH_INDEX
from attestd.tcg.pcr import PcrSelection
from attestd.tcg.policy import REF_PLATFORM, REF_ROOT, Eo, approval_message, platform_policy, root_policy
from attestd.tcg.public import parse_public
from attestd.tpm._channel import Channel, Session
from attestd.tpm._codes import Rc, base, error_of
from attestd.tpm._commands import HEADER_SIZE, Answer, Cc, Hierarchy, build, password, sized, u16, u32
from attestd.tpm.held import HeldKey
from attestd.tpm.keys import LoadedKey, read_ecdsa

__all__ = ["Armed", "ReleaseApproval", "arm", "ecdsa_signature", "sign_release", "verify_approval"]

_MAX_DOUBLINGS: Final = 3
_PAUSE_S: Final = 0.001
_SIGN_TAIL: Final = bytes.fromhex("00108024400000070000")  # scheme NULL; NULL ticket: key is unrestricted
_POLICY_REFUSALS: Final = frozenset({Rc.VALUE})


Step = tuple[bytes, bytes]  # a policy command: what comes before the session's handle, and after


@dataclass(frozen=True, slots=True)
class ReleaseApproval:
    """One approved state of the platform: what authorities signed, for the TPM to check.

    Attributes:
        epoch: The last epoch in which the platform key's approval holds.
        selection: The PCRs of the state.
        pcr_digest: Their composite, SHA-256.
        platform_public: TPMT_PUBLIC of the platform key (`tcg.authority_public`).
        platform_sig: Its DER ECDSA-SHA256 signature over `approval_message(platform_policy(...), REF_PLATFORM)`.
        max_epoch: The last epoch in which the root's approval of the platform key holds.
        root_public: TPMT_PUBLIC of the root.
        root_sig: Its signature over `approval_message(root_policy(...), REF_ROOT)`.
    """

    epoch: int
    selection: PcrSelection
    pcr_digest: bytes
    platform_public: bytes
    platform_sig: bytes
    max_epoch: int
    root_public: bytes
    root_sig: bytes


@dataclass(frozen=True, slots=True)
class Armed:
    """An approval that the TPM has verified: the policy commands, complete but for the session's handle.

    Holds nothing of the TPM: the tickets stay good until the owner hierarchy is cleared, and the epoch and the
    PCRs are compared anew in every session.
    """

    steps: tuple[tuple[str, bytes, bytes], ...]


def arm(channel: Channel, approval: ReleaseApproval, *, epoch_name: bytes) -> Armed:
    """Has the TPM verify an approval's two signatures, and builds the commands of its policy.

    Raises:
        TpmRefusedError: A signature is not that authority's, over that policy.
        MalformedError: A signature is not DER, a public area does not parse.
    """
    platform_name, root_name = (
        parse_public(approval.platform_public).name,
        parse_public(approval.root_public).name,
    )
    state = platform_policy(
        epoch_name=epoch_name,
        epoch=approval.epoch,
        selection=approval.selection,
        pcr_digest=approval.pcr_digest,
    )
    key = root_policy(platform_name=platform_name, epoch_name=epoch_name, max_epoch=approval.max_epoch)
    state_ticket = verify_approval(
        channel, approval.platform_public, state, REF_PLATFORM, approval.platform_sig
    )
    key_ticket = verify_approval(channel, approval.root_public, key, REF_ROOT, approval.root_sig)
    return Armed(
        (
            ("the epoch is past that of the approval", *epoch_step(approval.epoch, Eo.UNSIGNED_LE)),
            ("command code", *_step(Cc.POLICY_COMMAND_CODE, params=u32(Cc.SIGN))),
            ("auth value", *_step(Cc.POLICY_AUTH_VALUE)),
            (f"PCRs {approval.selection} are not as approved", *_pcr_step(approval)),
            ("platform key's approval", *authorize_step(state, REF_PLATFORM, platform_name, state_ticket)),
            ("the epoch is past that of the platform key", *epoch_step(approval.max_epoch, Eo.UNSIGNED_LE)),
            ("root's approval", *authorize_step(key, REF_ROOT, root_name, key_ticket)),
        )
    )


def verify_approval(
    channel: Channel, public: bytes, policy: bytes, policy_ref: bytes, signature: bytes
) -> bytes:
    """TPM2_VerifySignature (Part 3, 20.1) of an approval, by a key of the outside.

    Returns:
        The TPMT_TK_VERIFIED that TPM2_PolicyAuthorize takes.
    """
    message = hashlib.sha256(approval_message(policy, policy_ref)).digest()
    external = sized(b"") + sized(public) + u32(Hierarchy.OWNER)
    with channel.object(Cc.LOAD_EXTERNAL, params=external) as (handle, _):
        answer = channel.run(
            Cc.VERIFY_SIGNATURE,
            handles=u32(handle),
            params=sized(message) + ecdsa_signature(signature),
        )
    return answer.rest()


def ecdsa_signature(der: bytes) -> bytes:
    """A DER ECDSA signature as TPMT_SIGNATURE, for P-256 and SHA-256.

    Raises:
        MalformedError: Not DER, or not of this curve's size.
    """
    try:
        r, s = (number.to_bytes(32, "big") for number in decode_dss_signature(der))
    except (ValueError, OverflowError) as error:
        raise MalformedError(f"signature {der.hex()[:40]}: not DER ECDSA of P-256: {error}") from error
    return b"\x00\x18\x00\x0b" + sized(r) + sized(s)


def sign_release(channel: Channel, armed: Armed, key: HeldKey, digest: bytes, *, patience_s: float) -> bytes:
    """Signs a digest with the release key. See `Tpm.sign_release`.

    A PCR that is extended between PolicyPCR and Sign fails the session, whichever PCR it is. How often that happens in a
    storm depends on how many commands the TPM runs in between: so Sign is made ready before, and the key is in the TPM
    only when it is not in the way (`held.py`).
    """
    if len(digest) != 32:
        raise UsageError(f"a digest of {len(digest)} bytes, expected SHA-256")
    until = time.monotonic() + patience_s
    with ExitStack() as stack:
        loaded = None if key.is_late else stack.enter_context(key.used())
        session = stack.enter_context(channel.session(policy=True))
        sign = _Sign(session, key, digest)
        for attempt in itertools.count():
            if attempt:
                # Whoever extends PCRs in a rhythm (IMA, at each exec) must not meet us in the same rhythm.
                time.sleep(random.uniform(0, _PAUSE_S * 2 ** min(attempt, _MAX_DOUBLINGS)))  # noqa: S311 (no secret)
                channel.run(Cc.POLICY_RESTART, handles=u32(session.handle))
            _satisfy(channel, armed, session)
            with nullcontext(loaded) if loaded is not None else key.used() as now:
                code, response = channel.attempt(sign.command(now))
            if not code:
                return sign.signature(response)
            if base(code) != Rc.PCR_CHANGED or time.monotonic() > until:
                raise error_of(code, "release refused: TPM2_Sign")
    raise AssertionError("it counts without end")


def _satisfy(channel: Channel, armed: Armed, session: Session) -> None:
    handle = u32(session.handle)
    for what, head, tail in armed.steps:
        code, _ = channel.attempt(head + handle + tail)
        if code:
            raise error_of(code, f"release refused: {what}", refusals=_POLICY_REFUSALS)


class _Sign:
    """TPM2_Sign (Part 3, 20.2), complete but for the key's handle: no more than its Name is in the HMAC.

    The same for each attempt: a command that fails leaves the session's nonces as they are (Part 1, 19.6.3).
    """

    def __init__(self, session: Session, key: HeldKey, digest: bytes) -> None:
        self._session, self._key = session, key
        self._params = sized(digest) + _SIGN_TAIL
        cp_hash = hashlib.sha256(u32(Cc.SIGN) + key.name + self._params).digest()
        self._auth = session.authorize(cp_hash, key.auth_value)

    def command(self, key: LoadedKey) -> bytes:
        return build(Cc.SIGN, handles=u32(key.handle), auth=self._auth, params=self._params)

    def signature(self, response: bytes) -> bytes:
        """The signature of a successful response, DER."""
        answer = Answer(response, HEADER_SIZE + 4)
        signature = read_ecdsa(answer)
        self._session.accept(Cc.SIGN, answer, signature, self._key.auth_value)
        inner = Answer(signature, 4)
        r, s = (int.from_bytes(inner.sized(), "big") for _ in range(2))
        return encode_dss_signature(r, s)


def epoch_step(operand: int, operation: Eo) -> Step:
    """TPM2_PolicyNV (Part 3, 23.9) on the epoch."""
    params = sized(operand.to_bytes(8, "big")) + u16(0) + u16(operation)
    return _step(Cc.POLICY_NV, before=u32(EPOCH_INDEX) * 2, auth=password(), params=params)


def authorize_step(policy: bytes, policy_ref: bytes, key_name: bytes, ticket: bytes) -> Step:
    """TPM2_PolicyAuthorize (Part 3, 23.16)."""
    return _step(Cc.POLICY_AUTHORIZE, params=sized(policy) + sized(policy_ref) + sized(key_name) + ticket)


def _pcr_step(approval: ReleaseApproval) -> Step:
    """TPM2_PolicyPCR (Part 3, 23.7)."""
    return _step(Cc.POLICY_PCR, params=sized(approval.pcr_digest) + approval.selection.marshal())


def _step(code: Cc, *, before: bytes = b"", auth: bytes = b"", params: bytes = b"") -> Step:
    """A policy command, cut where the handle of the session goes."""
    command = build(code, handles=before + bytes(4), auth=auth, params=params)
    cut = HEADER_SIZE + len(before)
    return command[:cut], command[cut + 4 :]
