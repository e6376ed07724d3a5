"""The authorities of a host that stands alone: their keys, and their repository, below one directory."""

from collections.abc import Mapping
from typing import Final

from attestd.distribution.signer import Authority, generate, load_authority
from attestd.distribution.standalone import LOCAL_KEYS, local_repository, publish_local
from attestd.paths import Layout

__all__ = ["AUTHORITY_KINDS", "LocalAuthorities"]

# What the TPM verifies are P-256 keys. The last three are of the repository: who may sign what is published.
AUTHORITY_KINDS: Final = {
    "root": "p256",
    "platform": "p256",
    "epoch": "p256",
    "local": "ed25519",
    **dict.fromkeys(LOCAL_KEYS, "ed25519"),
}


class LocalAuthorities:
    """Keys and repository."""

    def __init__(self, layout: Layout) -> None:
        """Makes what is not there."""
        self._layout = layout
        self.keys = {name: self._key(name, kind) for name, kind in AUTHORITY_KINDS.items()}
        self.repository = local_repository(layout.authority, trust=layout.trust)

    def __getitem__(self, name: str) -> Authority:
        """A key."""
        return self.keys[name]

    def files(self) -> Mapping[str, bytes]:
        """What is staged, by target name."""
        return self.repository.plan().files

    def publish(self, files: Mapping[str, bytes | None]) -> None:
        """Stages, signs and publishes; and gives the host its root of trust.

        Raises:
            UsageError, MalformedError, VerificationError: A host would not accept it.
            StoreError: It cannot be written; doing it again completes it.
        """
        publish_local(self.repository, self._layout.authority, files)

    def _key(self, name: str, kind: str) -> Authority:
        path = self._layout.authority / f"{name}.pem"
        return load_authority(str(path)) if path.exists() else generate(kind, path)
