"""Endorsement keys by their templates (TCG EK Credential Profile for TPM Family 2.0, 2.6, annex B).

A TPM makes its EK anew from a seed and a template, always the same key. Activating a credential proves the key alone, not what
its public area says: so only areas that are a template's are admitted, and each of them says "stays in its TPM".
"""

from dataclasses import dataclass
from typing import Final

from attestd.errors import VerificationError
from attestd.tcg._reader import sized
from attestd.tcg.public import Public

__all__ = ["TEMPLATES", "EkTemplate", "require_endorsement_key"]

# fixedTPM fixedParent sensitiveDataOrigin adminWithPolicy restricted decrypt; the high range is used with its auth value too.
_LOW_SHA256, _HIGH_SHA256 = bytes.fromhex("000b000300b2"), bytes.fromhex("000b000300f2")
_HIGH_SHA384: Final = bytes.fromhex("000c000300f2")
# PolicyA: PolicySecret(endorsement). PolicyB: PolicyA, or PolicyAuthorizeNV of the profile's index for that hash.
_POLICY_A: Final = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
_POLICY_B_SHA256: Final = bytes.fromhex("ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0")
_POLICY_B_SHA384: Final = bytes.fromhex(
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)
_AES_128, _AES_256 = bytes.fromhex("000600800043"), bytes.fromhex("000601000043")  # in CFB mode
_P256, _P384 = bytes.fromhex("001000030010"), bytes.fromhex("001000040010")  # no scheme, the curve, no kdf
_RSA: Final = {bits: b"\x00\x10" + bits.to_bytes(2, "big") + bytes(4) for bits in (2048, 3072, 4096)}
_TYPE_RSA, _TYPE_ECC = b"\x00\x01", b"\x00\x23"


@dataclass(frozen=True, slots=True)
class EkTemplate:
    """One template of the profile.

    Attributes:
        name: Its name there, for example `L-2`.
        certificate: The NV index of its certificate.
        area: The TPMT_PUBLIC up to `unique`.
        unique_size: Octets of each number in the `unique` that the key is created from.
        unique_count: How many there are.
        is_low: Of the low range: used under PolicyA; a nonce and a template of the manufacturer may follow its certificate.
    """

    name: str
    certificate: int
    area: bytes
    unique_size: int
    unique_count: int
    is_low: bool

    def public(self, nonce: bytes = b"") -> bytes:
        """The TPMT_PUBLIC that the key is created from.

        Args:
            nonce: The manufacturer's, in place of the first number's zeros.
        """
        numbers = [nonce.ljust(self.unique_size, b"\0"), *[bytes(self.unique_size)] * (self.unique_count - 1)]
        return self.area + b"".join(map(sized, numbers))


def _low(name: str, certificate: int, area: bytes, unique: tuple[int, int]) -> EkTemplate:
    kind, parameters = area[:2], area[2:]
    return EkTemplate(
        name, certificate, kind + _LOW_SHA256 + sized(_POLICY_A) + _AES_128 + parameters, *unique, is_low=True
    )


def _high(name: str, certificate: int, area: bytes, numbers: int) -> EkTemplate:
    return EkTemplate(name, certificate, area, 0, numbers, is_low=False)


_HEAD_256: Final = _HIGH_SHA256 + sized(_POLICY_B_SHA256) + _AES_128
_HEAD_384: Final = _HIGH_SHA384 + sized(_POLICY_B_SHA384) + _AES_256

# In the order in which a host looks for a certificate: its host-id is of the first that has one.
TEMPLATES: Final = (
    _low("L-2", 0x01C0000A, _TYPE_ECC + _P256, (32, 2)),
    _low("L-1", 0x01C00002, _TYPE_RSA + _RSA[2048], (256, 1)),
    _high("H-3", 0x01C00016, _TYPE_ECC + _HEAD_384 + _P384, 2),
    _high("H-2", 0x01C00014, _TYPE_ECC + _HEAD_256 + _P256, 2),
    _high("H-1", 0x01C00012, _TYPE_RSA + _HEAD_256 + _RSA[2048], 1),
    _high("H-6", 0x01C0001C, _TYPE_RSA + _HEAD_384 + _RSA[3072], 1),
    _high("H-7", 0x01C0001E, _TYPE_RSA + _HEAD_384 + _RSA[4096], 1),
)


def require_endorsement_key(public: Public) -> EkTemplate:
    """Checks that a public area is an endorsement key's: one of the profile's templates, with a key in it.

    Does not check that a TPM has the key: that is its certificate, or its hash in an allow-list, and credential activation.

    Returns:
        The template.

    Raises:
        VerificationError: It is of no template: its type, nameAlg, attributes, policy or parameters differ.
    """
    for template in TEMPLATES:
        if public.raw.startswith(template.area):
            return template
    known = ", ".join(template.name for template in TEMPLATES)
    raise VerificationError(
        f"not an endorsement key: its public area is of none of the TCG's templates {known}"
    )
