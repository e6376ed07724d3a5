"""The two NV indices of a host: the epoch, which an authority moves, and the log counter, which the agent steps."""

from collections.abc import Callable
from typing import Final

from attestd.errors import TpmError
from attestd.tcg.nv import COUNTER_INDEX, EPOCH_INDEX, epoch_branches, epoch_public, nv_name
from attestd.tcg.policy import (
    REF_EPOCH_INIT,
    REF_EPOCH_SET,
    Eo,
    epoch_set_policy,
    nv_write_cp_hash,
    signed_message,
)
from attestd.tcg.public import parse_public
from attestd.tpm._channel import Channel, Session
from attestd.tpm._codes import Rc, base, error_of
from attestd.tpm._commands import HEADER_SIZE, Answer, Cc, Hierarchy, build, password, sized, u16, u32
from attestd.tpm.release import authorize_step, ecdsa_signature, epoch_step, verify_approval

__all__ = [
    "bump_epoch",
    "define",
    "init_epoch",
    "read_name",
    "read_number",
    "read_whole",
    "step_counter",
    "undefine",
]

_NUMBER_SIZE: Final = 8
_READ_BYTES: Final = 512  # below TPM_PT_NV_BUFFER_MAX of every TPM seen
_REFUSALS: Final = frozenset({Rc.VALUE})  # for a policy command: what is compared is not as approved


def read_public(channel: Channel, index: int) -> tuple[bytes, bytes] | None:
    """TPM2_NV_ReadPublic (Part 3, 31.6): TPMS_NV_PUBLIC and Name, or None where no such index is defined."""
    code, response = channel.attempt(build(Cc.NV_READ_PUBLIC, handles=u32(index)))
    if code:
        if base(code) == Rc.HANDLE:
            return None
        raise error_of(code, f"NV index {index:#010x}")
    answer = Answer(response, HEADER_SIZE)
    return answer.sized(), answer.sized()


def read_name(channel: Channel, index: int) -> bytes | None:
    """The Name of an index; None where it is not defined."""
    public = read_public(channel, index)
    return public and public[1]


def define(channel: Channel, public: bytes, *, auth_value: bytes = b"") -> None:
    """TPM2_NV_DefineSpace (Part 3, 31.3). An index that is there already, and is the same, is left as it is.

    Raises:
        TpmError: There is another index at this handle: somebody else's, or redefined by an attacker.
    """
    index = int.from_bytes(public[:4], "big")
    found = read_public(channel, index)
    if found is None:
        channel.run(
            Cc.NV_DEFINE_SPACE,
            handles=u32(Hierarchy.OWNER),
            auth=password(),
            params=sized(auth_value) + sized(public),
        )
    elif _unwritten(found[0]) != public:
        raise TpmError(
            f"NV index {index:#010x} exists and is not ours: {found[0].hex()}, expected {public.hex()}: "
            "if nothing else uses it, undefine it (tpm2_nvundefine) and try again"
        )


def undefine(channel: Channel, index: int) -> None:
    """TPM2_NV_UndefineSpace (Part 3, 31.4)."""
    channel.run(Cc.NV_UNDEFINE_SPACE, handles=u32(Hierarchy.OWNER) + u32(index), auth=password())


def _unwritten(public: bytes) -> bytes:
    attributes = int.from_bytes(public[6:10], "big") & ~(1 << 29)
    return public[:6] + u32(attributes) + public[10:]


def read_number(channel: Channel, index: int, *, auth_value: bytes = b"") -> int:
    """Reads an index of 8 octets.

    Args:
        channel: The TPM.
        index: Its handle.
        auth_value: What reading it takes.

    Raises:
        TpmError: Not defined, or never written.
    """
    return int.from_bytes(_read(channel, index, _NUMBER_SIZE, 0, auth_value), "big")


def read_whole(channel: Channel, index: int) -> bytes | None:
    """Reads all of an index that anyone may read, such as a certificate; None where it is not defined."""
    public = read_public(channel, index)
    if public is None:
        return None
    size = int.from_bytes(public[0][-2:], "big")
    return b"".join(
        _read(channel, index, min(_READ_BYTES, size - offset), offset)
        for offset in range(0, size, _READ_BYTES)
    )


def _read(channel: Channel, index: int, size: int, offset: int, auth_value: bytes = b"") -> bytes:
    answer = channel.run(
        Cc.NV_READ, handles=u32(index) * 2, auth=password(auth_value), params=u16(size) + u16(offset)
    )
    return answer.sized()


def step_counter(channel: Channel, auth_value: bytes) -> int:
    """TPM2_NV_Increment (Part 3, 31.8) of the log counter, and its value then."""
    channel.run(Cc.NV_INCREMENT, handles=u32(COUNTER_INDEX) * 2, auth=password(auth_value))
    return read_number(channel, COUNTER_INDEX, auth_value=auth_value)


def init_epoch(
    channel: Channel, epoch: int, *, authority_public: bytes, sign: Callable[[bytes], bytes]
) -> None:
    """The epoch's first write, which its authority signs over this session's nonce. See `Tpm.init_epoch`."""
    authority = parse_public(authority_public)
    name = nv_name(epoch_public(authority.name, written=False))
    data = epoch.to_bytes(_NUMBER_SIZE, "big")
    cp_hash = nv_write_cp_hash(nv_name=name, data=data)
    with channel.session(policy=True) as session:
        message = signed_message(
            nonce_tpm=session.nonce_tpm, expiration=0, cp_hash=cp_hash, policy_ref=REF_EPOCH_INIT
        )
        signature = ecdsa_signature(sign(message))
        external = sized(b"") + sized(authority_public) + u32(Hierarchy.OWNER)
        with channel.object(Cc.LOAD_EXTERNAL, params=external) as (key, _):
            channel.run(
                Cc.POLICY_SIGNED,
                handles=u32(key) + u32(session.handle),
                params=sized(session.nonce_tpm) + sized(cp_hash) + sized(REF_EPOCH_INIT) + u32(0) + signature,
            )
        _write_epoch(channel, session, authority.name, data)


def bump_epoch(channel: Channel, epoch: int, *, authority_public: bytes, signature: bytes) -> None:
    """Moves the epoch up, as its authority signed for the whole fleet. See `Tpm.bump_epoch`."""
    authority = parse_public(authority_public)
    name = nv_name(epoch_public(authority.name, written=True))
    data = epoch.to_bytes(_NUMBER_SIZE, "big")
    policy = epoch_set_policy(epoch_name=name, epoch=epoch)
    ticket = verify_approval(channel, authority_public, policy, REF_EPOCH_SET, signature)
    with channel.session(policy=True) as session:
        _policy(channel, session, *epoch_step(epoch, Eo.UNSIGNED_LT))
        cp_hash = nv_write_cp_hash(nv_name=name, data=data)
        channel.run(Cc.POLICY_CP_HASH, handles=u32(session.handle), params=sized(cp_hash))
        _policy(channel, session, *authorize_step(policy, REF_EPOCH_SET, authority.name, ticket))
        _write_epoch(channel, session, authority.name, data)


def _policy(channel: Channel, session: Session, head: bytes, tail: bytes) -> None:
    code, _ = channel.attempt(head + u32(session.handle) + tail)
    if code:
        raise error_of(code, "epoch not moved", refusals=_REFUSALS)


def _write_epoch(channel: Channel, session: Session, authority_name: bytes, data: bytes) -> None:
    branches = epoch_branches(authority_name)
    channel.run(
        Cc.POLICY_OR,
        handles=u32(session.handle),
        params=u32(len(branches)) + b"".join(map(sized, branches)),
        refusals=_REFUSALS,
    )
    params = sized(data) + u16(0)
    auth = session.authorize(b"", b"")  # no HMAC: the policy alone authorizes
    answer = channel.run(Cc.NV_WRITE, handles=u32(EPOCH_INDEX) * 2, auth=auth, params=params)
    session.accept(Cc.NV_WRITE, answer, b"", b"")
