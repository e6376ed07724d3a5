"""Verifies JSON Web Signatures in compact form, by one algorithm: that of the key."""

from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey
from joserfc.jws import JWSRegistry, deserialize_compact

from attestd.errors import VerificationError

__all__ = ["OneAlgorithm", "verify_compact"]

_WHAT: Final = "attestation result"


class OneAlgorithm(JWSRegistry):
    """Knows the algorithm of one key, and no other that a header could name."""

    def __init__(self, name: str) -> None:
        """Names it."""
        super().__init__(algorithms=[name])
        self._name = name

    def get_alg(self, name: str) -> Any:
        """The algorithm; RFC 9864 has another name for EdDSA with this curve, which fewer libraries know."""
        if name != self._name:
            raise VerificationError(f"{_WHAT}: algorithm {name!r}, expected {self._name}, which is its key's")
        return self.algorithms[name]


def verify_compact(
    token: str, key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey, *, algorithm: str
) -> None:
    """Verifies the signature.

    Raises:
        VerificationError: It is not that key's, or by another algorithm.
    """
    jwk: ECKey | OKPKey = (
        OKPKey.import_key(key) if isinstance(key, ed25519.Ed25519PublicKey) else ECKey.import_key(key)
    )
    try:
        deserialize_compact(token, jwk, registry=OneAlgorithm(algorithm))
    except JoseError as error:
        raise VerificationError(f"{_WHAT}: its signature is not that of the key it names") from error
