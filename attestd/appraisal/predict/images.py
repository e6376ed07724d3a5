"""Images that the firmware or a boot loader starts (PCR 4), and the certificates that verify them (PCR 7)."""

from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.appraisal.predict.draft import Draft, unpredictable
from attestd.tcg.eventlog.efi import certificate_of, parse_signature_lists, parse_variable, subject_of
from attestd.tcg.eventlog.meaning import Meaning
from attestd.tcg.eventlog.reading import Kind
from attestd.tcg.pe import PeImage, certificates_of

__all__ = ["FROM_MEMORY", "IMAGE_PCR", "KEYS_PCR", "replace_image", "replace_named", "secure_boot_is_on"]

IMAGE_PCR: Final = 4
KEYS_PCR: Final = 7
FROM_MEMORY: Final = "from memory"


def replace_image(draft: Draft, items: Sequence[Meaning], image: PeImage, *, what: str) -> None:
    """Has a new image started in the place of one.

    Args:
        draft: The log.
        items: Its events; several where each loader measures it once more.
        image: The new image.
        what: What to call it.

    Raises:
        VerificationError: It is not signed, and Secure Boot is on.
        MalformedError: Its signature is no signature.
    """
    for item in items:
        draft.replace(item, image.digest(draft.bank))
    _require_signer(draft, image, what)


def replace_named(draft: Draft, name: str, image: PeImage) -> None:
    """Has a new image started in the place of one whose path in the log ends with a name.

    Raises:
        VerificationError: There is none, or there are several; as `replace_image`.
        MalformedError: As `replace_image`.
    """
    ending = name.replace("/", "\\").lower()
    found = [item for item in draft.of(IMAGE_PCR, Kind.IMAGE) if item.subject.lower().endswith(ending)]
    if len({item.subject for item in found}) != 1:
        started = ", ".join(item.subject for item in draft.of(IMAGE_PCR, Kind.IMAGE)) or "none"
        raise unpredictable(f"{name}: expected one image of that name in this boot's log, found {started}")
    replace_image(draft, found, image, what=name)


def secure_boot_is_on(draft: Draft) -> bool:
    """Whether the log says so."""
    return any(
        item.subject == "SecureBoot" and item.value == "on" for item in draft.of(KEYS_PCR, Kind.VARIABLE)
    )


def _require_signer(draft: Draft, image: PeImage, what: str) -> None:
    """Another certificate that verifies the chain is another event in PCR 7."""
    if not secure_boot_is_on(draft):
        return
    if not image.signatures:
        raise unpredictable(f"{what} is not signed, and Secure Boot is on: the firmware would not start it")
    used = _used(draft)
    for signature in image.signatures:  # firmware tries them in this order
        carried = certificates_of(signature)
        found = next((issuer for issuer in (*_database(draft), *used) if _covers(issuer, carried)), None)
        if found in used:
            return
        if found is not None:
            break
    draft.cannot(
        KEYS_PCR,
        f"{what} is signed by {_names(image.certificates())}: what verified this boot does not verify it"
        f" ({_names(used) or 'none'})",
    )


def _names(certificates: Sequence[x509.Certificate]) -> str:
    """With digests, for names repeat."""
    return "; ".join(
        f"{subject_of(item.public_bytes(Encoding.DER)) or '?'} (SHA-256 {item.fingerprint(SHA256()).hex()})"
        for item in certificates
    )


def _used(draft: Draft) -> list[x509.Certificate]:
    items = draft.of(KEYS_PCR, Kind.AUTHORITY)
    variables = [parse_variable(item.content or b"") for item in items]
    found = [certificate_of(variable.value) for variable in variables if variable is not None]
    return [x509.load_der_x509_certificate(der) for der in found if der is not None]


def _database(draft: Draft) -> list[x509.Certificate]:
    items = [item for item in draft.of(KEYS_PCR, Kind.VARIABLE) if item.subject == "db"]
    variables = [parse_variable(item.content or b"") for item in items]
    lists = [parse_signature_lists(variable.value) or () for variable in variables if variable is not None]
    entries = [entry.data for found in lists for entry in found if entry.kind == "certificate"]
    return [x509.load_der_x509_certificate(der) for der in entries if subject_of(der) is not None]


def _covers(issuer: x509.Certificate, carried: Sequence[x509.Certificate]) -> bool:
    return any(certificate == issuer or _issued(certificate, issuer) for certificate in carried)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
