"""The authorities of a host that stands alone: their keys, and their repository, below one directory."""

import shutil
from collections.abc import Mapping
from typing import Final

from attestd.distribution.local import write_atomic
from attestd.distribution.mirror import METADATA, ROOT
from attestd.distribution.repository import Repository
from attestd.distribution.settings import STANDALONE_DAYS, Expiry, Settings
from attestd.distribution.signer import Authority, generate, load_authority
from attestd.errors import StoreError
from attestd.governance.draft import RoleKeys
from attestd.paths import Layout

__all__ = ["AUTHORITY_KINDS", "LocalAuthorities"]

# What the TPM verifies are P-256 keys. The last three are of the repository: who may sign what is published.
AUTHORITY_KINDS: Final = {
    "root": "p256",
    "platform": "p256",
    "epoch": "p256",
    "local": "ed25519",
    "governance-root": "ed25519",
    "governance": "ed25519",
    "online": "ed25519",
}


class LocalAuthorities:
    """Keys and repository."""

    def __init__(self, layout: Layout) -> None:
        """Makes what is not there."""
        self._layout = layout
        self.keys = {name: self._key(name, kind) for name, kind in AUTHORITY_KINDS.items()}
        self.repository = self._open()

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
        if files:
            self.repository.stage(files)
        if self.repository.plan().drafts:
            for name in ("governance-root", "governance"):
                if name == "governance" or "root" in self.repository.plan().drafts:
                    self.repository.sign(self.keys[name])
        self.repository.publish([self.keys["online"]])
        anchor = self._layout.trust / ROOT
        if not anchor.exists():
            path = self.repository.published_path / METADATA / f"1.{ROOT}"
            try:
                data = path.read_bytes()
            except OSError as error:
                raise StoreError(f"{path}: {error.strerror}") from error
            write_atomic(anchor, data, mode=0o644)

    def _key(self, name: str, kind: str) -> Authority:
        path = self._layout.authority / f"{name}.pem"
        return load_authority(str(path)) if path.exists() else generate(kind, path)

    def _open(self) -> Repository:
        path = self._layout.repository
        if not path.exists():
            draft = path.with_name(f".{path.name}.new")
            if draft.exists():  # left by a crash
                shutil.rmtree(draft)
            Repository.create(
                draft,
                root=RoleKeys((self.keys["governance-root"].public,)),
                targets=RoleKeys((self.keys["governance"].public,)),
                online=RoleKeys((self.keys["online"].public,)),
                settings=Settings(
                    online=str(self._layout.authority / "online.pem"),
                    publish_to=str(self._layout.trust),
                    expiry_days=Expiry(
                        root=STANDALONE_DAYS,
                        targets=STANDALONE_DAYS,
                        snapshot=STANDALONE_DAYS,
                        timestamp=STANDALONE_DAYS,
                    ),
                ),
            )
            draft.rename(path)
        return Repository(path)
