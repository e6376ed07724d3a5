"""The artifact file in its two forms: one envelope, or the chain of envelopes down to one that was issued under others.

A chain carries the public keys of its delegates. They need no other word for them: a delegate is named by its key id,
which is the SHA-256 of the key.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from attestd.authorization.dsse import (
    MAX_ENVELOPE_BYTES,
    PAYLOAD_TYPE,
    PublicKey,
    UntrustedEnvelope,
    format_envelope,
    read_envelope,
    write_envelope,
)
from attestd.errors import MalformedError
from attestd.strict import Base64Bytes, Sha256Hex, Strict, canonical, convert, decode_base64, parse_json

__all__ = ["MAX_ARTIFACT_BYTES", "MAX_DEPTH", "format_file", "parse_file"]

MAX_ARTIFACT_BYTES: Final = MAX_ENVELOPE_BYTES
MAX_DEPTH: Final = 8  # links below the first
_MAX_KEYS: Final = 16 * MAX_DEPTH  # of the most keys that each link may name


class _ChainJson(Strict, frozen=True):
    v: Literal[1]
    # Two at least: an artifact that stands alone has one form, and only one.
    chain: Annotated[list[Any], msgspec.Meta(min_length=2, max_length=MAX_DEPTH + 1)]
    keys: Annotated[dict[Sha256Hex, Base64Bytes], msgspec.Meta(max_length=_MAX_KEYS)]


def parse_file(data: bytes) -> tuple[tuple[UntrustedEnvelope, ...], Mapping[str, PublicKey]]:
    """Parses an `.auth.json` file into envelopes and keys; verifies nothing.

    Args:
        data: The file.

    Returns:
        The envelopes, root first, and the keys that the file carries, by id.

    Raises:
        MalformedError: Neither form, over 256 KiB, a chain of more than 9 envelopes, or a key whose id is not its own.
    """
    value = parse_json(data, max_bytes=MAX_ARTIFACT_BYTES, what="authorization")
    if not isinstance(value, dict) or "chain" not in value:
        return (read_envelope(value, payload_type=PAYLOAD_TYPE, what="envelope"),), {}
    file = convert(value, _ChainJson, what="chain")
    envelopes = tuple(
        read_envelope(link, payload_type=PAYLOAD_TYPE, what=f"chain: link {number}")
        for number, link in enumerate(file.chain, 1)
    )
    return envelopes, {key_id: _load(key_id, spki) for key_id, spki in file.keys.items()}


def format_file(envelopes: Sequence[UntrustedEnvelope], keys: Mapping[str, PublicKey]) -> bytes:
    """The file of envelopes and keys: what `parse_file` reads back to equal values.

    Raises:
        MalformedError: It is larger than a file may be, or the chain longer.
    """
    if len(envelopes) == 1:
        data = format_envelope(envelopes[0])
    else:
        written = {key_id: b64encode(key.spki_der).decode() for key_id, key in keys.items()}
        data = canonical({"v": 1, "chain": [write_envelope(item) for item in envelopes], "keys": written})
    parse_file(data)
    return data


def _load(key_id: str, spki: str) -> PublicKey:
    key = PublicKey(decode_base64(spki, what="chain: key"))
    if key.key_id != key_id:
        raise MalformedError(f"chain: key {key_id} has the id {key.key_id}")
    return key
