"""Published repositories for tests of mirrors: real metadata over targets that nobody parses."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attestd.authorization.dsse import PublicKey
from attestd.governance.draft import (
    RoleKeys,
    add_signature,
    draft_root,
    draft_snapshot,
    draft_targets,
    draft_timestamp,
)
from attestd.governance.metadata import target_path
from tests.world import AnyKey, digest, ed25519_key, signer, spki

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=3650)


class Published:
    """A repository: `files` is what a web server would serve, `root` what a host is given."""

    def __init__(self, targets: Mapping[str, bytes], *, name: str = "repository") -> None:
        self.keys = {
            role: ed25519_key(f"{name} {role}") for role in ("root", "timestamp", "snapshot", "targets")
        }
        self.version = self.root_version = 0
        self.files: dict[str, bytes] = {}
        self.add_root()
        self.root = self.files["metadata/1.root.json"]
        self.publish(targets)

    def add_root(self, **replaced: AnyKey) -> None:
        """The next root, by which keys of roles are others."""
        before = self.keys
        self.keys = {**before, **replaced}  # type: ignore[dict-item]
        self.root_version += 1
        data = draft_root(
            version=self.root_version,
            expires=LATER,
            **{role: RoleKeys((PublicKey(spki(key)),)) for role, key in self.keys.items()},
        )
        for key in {id(key): key for key in (before["root"], self.keys["root"])}.values():
            data = add_signature(data, signer(key))
        self.files[f"metadata/{self.root_version}.root.json"] = data

    def publish(self, targets: Mapping[str, bytes], *, version: int | None = None) -> None:
        """The next version of everything; what only the last one needed is gone, as on a tidy server."""
        self.version = version or self.version + 1
        roots = {name: data for name, data in self.files.items() if name.endswith(".root.json")}
        role = self._sign("targets", draft_targets(version=self.version, expires=LATER, targets=targets))
        snapshot = self._sign(
            "snapshot", draft_snapshot(version=self.version, expires=LATER, roles={"targets": role})
        )
        timestamp = draft_timestamp(version=self.version, expires=LATER, issued=NOW, snapshot=snapshot)
        self.files = {
            **roots,
            f"metadata/{self.version}.targets.json": role,
            f"metadata/{self.version}.snapshot.json": snapshot,
            "metadata/timestamp.json": self._sign("timestamp", timestamp),
            **{f"targets/{target_path(name, digest(data))}": data for name, data in targets.items()},
        }

    def write(self, directory: Path) -> Path:
        """What is published, as files."""
        for name, data in self.files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return directory

    def _sign(self, role: str, data: bytes) -> bytes:
        return add_signature(data, signer(self.keys[role]))


def files_below(directory: Path) -> dict[str, bytes]:
    """All regular files by relative name."""
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}
