"""The private keys in one directory, found by their key id: those that a host that stands alone signs with."""

from collections.abc import Sequence
from pathlib import Path

from attestd.authorization.dsse import PublicKey
from attestd.distribution.signer import Ask, Authority, load_authority, load_public
from attestd.errors import UsageError
from attestd.governance.authorities import Authorities
from attestd.governance.issue import Sign
from attestd.plain import counted

__all__ = ["Keyring"]


class Keyring:
    """Keys `NAME.pem` with their public halves `NAME.pub` beside them; each is opened when it has to sign."""

    def __init__(self, directory: Path, *, others: Sequence[Authority] = (), ask: Ask | None = None) -> None:
        """Looks at public halves only.

        Args:
            directory: Where; it may be missing.
            others: Keys from elsewhere.
            ask: For passphrases.

        Raises:
            StoreError, MalformedError: A public half cannot be read.
        """
        self._ask = ask
        self._opened = {key.public.key_id: key for key in others}
        self._paths = {
            load_public(path).key_id: path.with_suffix(".pem")
            for path in sorted(directory.glob("*.pub"))
            if path.with_suffix(".pem").exists()
        }

    def add(self, key: Authority) -> None:
        """One more key."""
        self._opened[key.public.key_id] = key

    def __contains__(self, key_id: object) -> bool:
        """Whether it can sign with that key."""
        return key_id in self._opened or key_id in self._paths

    def open(self, key_id: str) -> Authority:
        """The key; its passphrase is asked for the first time.

        Raises:
            UsageError, StoreError, MalformedError: As `load_authority`; there is no such key.
        """
        if key_id not in self._opened:
            if key_id not in self._paths:
                raise UsageError(f"key {key_id} is not here: name it with --with KEY")
            self._opened[key_id] = load_authority(str(self._paths[key_id]), ask=self._ask)
        return self._opened[key_id]

    def signers(self) -> dict[str, Sign]:
        """Each key by its id, opened when it signs."""
        return {key_id: self._sign_with(key_id) for key_id in {*self._opened, *self._paths}}

    def enrollers(self, authorities: Authorities) -> list[Sign]:
        """As many enrollers as the threshold asks for.

        Raises:
            UsageError: They are not all here.
        """
        here = [key.key_id for key in authorities.enroller_keys if key.key_id in self]
        if len(here) < authorities.enroller_threshold:
            raise UsageError(
                f"{counted(authorities.enroller_threshold, 'enroller')} must sign, {len(here)} of their keys are here: name them with"
                " --with KEY"
            )
        return [self._sign_with(key_id) for key_id in here[: authorities.enroller_threshold]]

    def _sign_with(self, key_id: str) -> Sign:
        def sign(message: bytes) -> tuple[PublicKey, bytes]:
            return self.open(key_id).sign(message)

        return sign
