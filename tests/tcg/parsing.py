"""What tests read of a TPM's structures, and no code of ours needs by itself."""

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestd.tcg._reader import Reader
from attestd.tcg.pcr import PcrSelection, read_selections
from attestd.tcg.signature import EcdsaSignature


def parse_selections(data: bytes) -> tuple[PcrSelection, ...]:
    """A TPML_PCR_SELECTION and nothing after it."""
    reader = Reader(data, "TPML_PCR_SELECTION")
    selections = read_selections(reader)
    reader.end()
    return selections


def ecdsa_from_der(der: bytes) -> EcdsaSignature:
    """A P-256, SHA-256 signature in DER in the TPM's form."""
    r, s = decode_dss_signature(der)
    return EcdsaSignature("sha256", r.to_bytes(32, "big"), s.to_bytes(32, "big"))
