"""The authority of an enroller for certificates of attestation keys: its key and its certificate."""

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from attestd.controller.configuration import ControllerConfiguration
from attestd.distribution.signer import Ask, generate, load_private_key
from attestd.durable import write_atomic
from attestd.errors import MalformedError, StoreError, UsageError
from attestd.governance.admission import ActivatedEnrolment
from attestd.governance.ak_certificate import (
    IssuerKey,
    issue_ak_authority,
    issue_ak_certificate,
    require_issuer,
)

__all__ = ["AkAuthority", "create_ak_authority", "load_ak_authority"]

_KEY: Final = "ak-ca.key"
_CERTIFICATE: Final = "ak-ca.pem"
_MAX_CERTIFICATE_BYTES: Final = 64 * 1024
_SERIAL_BYTES: Final = 16
_LIFETIME: Final = timedelta(days=3650)
_BACKDATED: Final = timedelta(hours=1)


@dataclass(frozen=True)
class AkAuthority:
    """Issues certificates of attestation keys.

    Attributes:
        trust_domain: Whose hosts it names.
        certificate: Its own, for relying parties.
    """

    trust_domain: str
    certificate: x509.Certificate
    _key: IssuerKey = field(repr=False)

    def certify(self, activated: ActivatedEnrolment) -> str:
        """The certificate, in PEM, of a host's attestation key; it ends with the host's record.

        Raises:
            UsageError: The authority's own certificate has ended.
        """
        enrolment = activated.enrolment
        return issue_ak_certificate(
            enrolment.keys.ak_key,
            host=enrolment.ek.host,
            trust_domain=self.trust_domain,
            authority=self.certificate,
            key=self._key,
            serial=os.urandom(_SERIAL_BYTES),
            not_before=activated.not_before,
            not_after=activated.not_after,
        ).decode("ascii")

    def trouble(self, now: datetime) -> str | None:
        """Why it can issue nothing."""
        end = self.certificate.not_valid_after_utc
        return None if now < end else f"the AK authority's certificate ended at {end.isoformat()}"


def create_ak_authority(state: Path, configuration: ControllerConfiguration, *, ask: Ask) -> Path | None:
    """Makes key and certificate of an authority, where the configuration wants one and names none.

    Args:
        state: Where they are put.
        configuration: Says for which trust domain.
        ask: For the passphrase of a key that is named.

    Returns:
        Where the certificate is; None: no certificates are issued.

    Raises:
        UsageError, StoreError, MalformedError: As `load_ak_authority`.
    """
    if not configuration.ak_trust_domain:
        return None
    key, certificate = _paths(state, configuration)
    if not configuration.ak_ca_key and not os.path.lexists(key):
        generate("p256", key)
    if not configuration.ak_ca_certificate and not os.path.lexists(certificate):
        now = datetime.now(UTC)
        issued = issue_ak_authority(
            _issuer(key, ask),
            trust_domain=configuration.ak_trust_domain,
            serial=os.urandom(_SERIAL_BYTES),
            not_before=now - _BACKDATED,
            not_after=now + _LIFETIME,
        )
        write_atomic(certificate, issued, mode=0o644)
    load_ak_authority(state, configuration, ask=ask)
    return certificate


def load_ak_authority(state: Path, configuration: ControllerConfiguration, *, ask: Ask) -> AkAuthority | None:
    """Opens the authority that the configuration wants.

    Raises:
        UsageError: Key and certificate do not belong together, the key is of a kind that issues nothing, or a wrong passphrase.
        StoreError, MalformedError: One cannot be read.
    """
    if not configuration.ak_trust_domain:
        return None
    key, certificate = _paths(state, configuration)
    try:
        with certificate.open("rb") as file:
            found = x509.load_pem_x509_certificate(file.read(_MAX_CERTIFICATE_BYTES))
    except OSError as error:
        raise StoreError(f"{certificate}: {error.strerror}: attestd controller init makes it") from error
    except ValueError as error:
        raise MalformedError(f"{certificate}: expected a certificate in PEM: {error}") from error
    issuer = _issuer(key, ask)
    require_issuer(found, issuer)
    return AkAuthority(configuration.ak_trust_domain, found, issuer)


def _paths(state: Path, configuration: ControllerConfiguration) -> tuple[Path, Path]:
    return (
        Path(configuration.ak_ca_key) if configuration.ak_ca_key else state / _KEY,
        Path(configuration.ak_ca_certificate) if configuration.ak_ca_certificate else state / _CERTIFICATE,
    )


def _issuer(path: Path, ask: Ask) -> IssuerKey:
    key = load_private_key(path, ask=ask)
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise UsageError(f"ak_ca_key {path}: expected a P-256, P-384 or Ed25519 key")
    return key
