"""`ek-roots/` and `ek-allow.json`: whose endorsement keys are believed, and how strong that makes a host's evidence."""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from attestd.errors import MalformedError
from attestd.governance.platform import Tier
from attestd.strict import HostId, Strict, parse_canonical
from attestd.tcg.ek_anchors import EkAnchors, require_authority
from attestd.tcg.ek_certificate import EkCertificate, parse_ek_certificate

__all__ = ["EkAllow", "EkFile", "EkIndex", "EkTrust", "join_ek_trust", "parse_ek_file"]

_DIRECTORY: Final = "ek-roots/"
_INDEX: Final = "ek-roots/index.json"
_ALLOW: Final = "ek-allow.json"
MAX_INDEX_BYTES: Final = 256 * 1024
MAX_ALLOW_BYTES: Final = 16 << 20
MAX_FILE_BYTES: Final = 1 << 20
_MAX_CERTIFICATES: Final = 512  # in one file

# What a root can vouch for: that there is hardware, a platform's virtual TPM, or software that somebody keeps.
_RootTier = Literal["hardware", "vtpm", "software"]
_AllowedTier = Literal["uncertified", "software"]
_FileName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,63}\Z")]
_PEM: Final = re.compile(rb"\s*-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*")


class EkIndex(Strict, frozen=True):
    """`ek-roots/index.json`.

    Attributes:
        roots: `ek-roots/<name>.pem` by name: the tier of the hosts whose chains end there.
        intermediates: Names of files with what TPMs do not hold of their chains themselves.
    """

    v: Literal[1]
    roots: Annotated[dict[_FileName, _RootTier], msgspec.Meta(max_length=1024)]
    intermediates: Annotated[frozenset[_FileName], msgspec.Meta(max_length=1024)]


class EkAllow(Strict, frozen=True):
    """`ek-allow.json`: endorsement keys that are believed one by one, by host-id, which is the hash of their public area."""

    v: Literal[1]
    hosts: dict[HostId, _AllowedTier]


@dataclass(frozen=True)
class EkTrust:
    """Whose endorsement keys are believed.

    Attributes:
        anchors: Roots and intermediates.
        tiers: What a root vouches for, by its name in `anchors`.
        allowed: Host-ids of keys that are believed without a chain, with their tier.
    """

    anchors: EkAnchors
    tiers: Mapping[str, Tier]
    allowed: Mapping[str, Tier]


EkFile = EkIndex | EkAllow | tuple[EkCertificate, ...]


def parse_ek_file(name: str, data: bytes) -> EkFile:
    """One of the files.

    Args:
        name: `ek-allow.json`, `ek-roots/index.json` or `ek-roots/<name>.pem`.
        data: Its contents.

    Raises:
        MalformedError: There is no file of such a name, or it is not of its form.
        VerificationError: A certificate is not a CA's.
    """
    if name == _ALLOW:
        return parse_canonical(data, EkAllow, max_bytes=MAX_ALLOW_BYTES, what=name)
    if name.endswith(".pem"):
        return _parse_pem(data, what=name)
    if name != _INDEX:
        raise MalformedError(f"{name}: expected {_INDEX} or {_DIRECTORY}NAME.pem")
    index = parse_canonical(data, EkIndex, max_bytes=MAX_INDEX_BYTES, what=name)
    both = sorted(index.roots.keys() & index.intermediates)
    if both:
        raise MalformedError(f"{name}: {both[0]!r} is named as roots and as intermediates")
    return index


def _parse_pem(data: bytes, *, what: str) -> tuple[EkCertificate, ...]:
    if len(data) > MAX_FILE_BYTES:
        raise MalformedError(f"{what}: {len(data)} bytes, the limit is {MAX_FILE_BYTES}")
    found: list[EkCertificate] = []
    place = 0
    while place < len(data):
        match = _PEM.match(data, place)
        if match is None or len(found) == _MAX_CERTIFICATES:
            raise MalformedError(
                f"{what}: at byte {place}: expected a certificate in PEM, at most {_MAX_CERTIFICATES} of them"
            )
        try:
            der = b64decode(b"".join(match[1].split()), validate=True)
        except Base64Error as error:
            raise MalformedError(f"{what}: certificate {len(found)} is not PEM: {error}") from error
        found.append(parse_ek_certificate(der))
        require_authority(found[-1], f"{what}: certificate {len(found) - 1}")
        place = match.end()
    if not found:
        raise MalformedError(f"{what}: expected certificates in PEM, found none")
    return tuple(found)


def join_ek_trust(files: Mapping[str, EkFile]) -> tuple[EkTrust, dict[str, str]]:
    """What the files come to, and why some of them do not count.

    Args:
        files: Those that parse, by name.

    Returns:
        The trust; reasons by file name.
    """
    index, allow = files.get(_INDEX), files.get(_ALLOW)
    tiers = index.roots if isinstance(index, EkIndex) else {}
    helping = index.intermediates if isinstance(index, EkIndex) else frozenset()
    roots: dict[str, tuple[EkCertificate, ...]] = {}
    intermediates: list[EkCertificate] = []
    unusable: dict[str, str] = {}
    for file, certificates in files.items():
        name = file.removeprefix(_DIRECTORY).removesuffix(".pem")
        if not isinstance(certificates, tuple):
            continue
        if name in helping:
            intermediates += certificates
        elif name in tiers and any(certificate.issuer != certificate.subject for certificate in certificates):
            unusable[file] = "a certificate in it is no root: another one issued it"
        elif name in tiers:
            roots[name] = certificates
    missing = sorted(name for name in tiers.keys() | helping if f"{_DIRECTORY}{name}.pem" not in files)
    if missing:
        unusable[_INDEX] = (
            f"it names {missing[0]!r}: expected a {_DIRECTORY}{missing[0]}.pem that can be used"
        )
    allowed = allow.hosts if isinstance(allow, EkAllow) else {}
    return EkTrust(EkAnchors(roots, tuple(intermediates)), tiers, allowed), unusable
