"""TLS: 1.3 alone, a certificate that is read again when it changed, and operators known by their certificates."""

import os
import ssl
from pathlib import Path
from typing import Final

from attestd.errors import StoreError, UsageError

__all__ = ["Certificate"]

_Stamps = tuple[tuple[int, int, int], ...]
_HINT: Final = "name a PEM file in the configuration"


class Certificate:
    """The server's certificate.

    Attributes:
        context: For the server; connections made after a reload have the new certificate.
    """

    def __init__(self, certificate: Path, key: Path, *, operator_ca: Path | None) -> None:
        """Loads it.

        Args:
            certificate: PEM: the certificate, then its intermediates.
            key: PEM: its key, not encrypted.
            operator_ca: PEM: the authorities whose certificates operators present; None: there are no operators.

        Raises:
            UsageError: A file that is none of these.
            StoreError: A file that cannot be read.
        """
        self._certificate, self._key = certificate, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.set_alpn_protocols(["http/1.1"])
        if operator_ca is not None:
            self.context.verify_mode = (
                ssl.CERT_OPTIONAL
            )  # hosts have none: what they send authenticates itself
            try:
                self.context.load_verify_locations(operator_ca)
            except ssl.SSLError as error:
                raise UsageError(f"{operator_ca}: no certificates in PEM; {_HINT}") from error
            except OSError as error:
                raise StoreError(f"{operator_ca}: {error.strerror}; {_HINT}") from error
        self._stamps = self._look()
        self._load(self.context)

    def reload(self) -> bool:
        """Reads the files again, if they changed.

        A pair that does not fit together, as while one of the files is being replaced, changes nothing.

        Returns:
            Whether there is a new certificate.

        Raises:
            UsageError: A file that is none, or another key's.
            StoreError: A file that cannot be read.
        """
        stamps = self._look()
        if stamps == self._stamps:
            return False
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))  # A failure would leave the other half changed.
        self._load(self.context)
        self._stamps = stamps
        return True

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            # No password: without this, OpenSSL would ask the terminal for one.
            context.load_cert_chain(self._certificate, self._key, password="")
        except ssl.SSLError as error:
            raise UsageError(
                f"{self._certificate}, {self._key}: no certificate with its unencrypted key in PEM: {error.reason}"
            ) from error
        except OSError as error:
            raise StoreError(f"{self._certificate}, {self._key}: {error.strerror}; {_HINT}") from error

    def _look(self) -> _Stamps:
        try:
            found = [os.stat(path) for path in (self._certificate, self._key)]
        except OSError as error:
            raise StoreError(f"{error.filename}: {error.strerror}; {_HINT}") from error
        return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)
