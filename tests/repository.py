"""A TUF repository in memory, as an authority publishes it: real metadata, real signatures, the same in every run.

    repository = Repository("world", now=NOW)
    repository.publish({"authorities.json": b"..."})           # the next version of whatever changed
    verify_metadata(repository.fetch, root=repository.root, floor=None)

What a test wants different it changes before the next `publish`: `expires`, `signers`, `thresholds`, `delegations`; or it
edits what is there: `metadata` and `targets` are the published files by name.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.authorization.dsse import PublicKey
from attestd.governance.draft import (
    Delegation,
    RoleKeys,
    add_signature,
    draft_root,
    draft_snapshot,
    draft_targets,
    draft_timestamp,
)
from attestd.governance.metadata import target_path

TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")
LIFETIME = timedelta(days=3650)


class Repository:
    """Roles, their keys and what they signed. A target `teams/<team>/...` is signed by the role `team-<team>`.

    Attributes:
        root: The first root: the anchor of whoever trusts this repository.
        metadata: Published metadata files by name.
        targets: Published target files by path.
        versions: The last version of each role; 0: none yet.
        expires: When the next file of a role expires.
        signers: Names of the keys of each role. Another name is another key.
        thresholds: How many of them must sign; 1 where there is none.
    """

    def __init__(self, name: str, *, now: datetime) -> None:
        self.name, self.now = name, now
        self.metadata: dict[str, bytes] = {}
        self.targets: dict[str, bytes] = {}
        self.versions: dict[str, int] = {}
        self.expires: dict[str, datetime] = {}
        self.signers: dict[str, list[str]] = {role: [role] for role in TOP_LEVEL}
        self.thresholds: dict[str, int] = {}
        self.delegations: dict[str, Delegation] = {}
        self._contents: dict[str, Mapping[str, bytes]] = {}
        self._root_signers: list[str] = []
        self.publish_root()
        self.root = self.metadata["1.root.json"]

    def fetch(self, name: str, max_bytes: int) -> bytes | None:
        """What a mirror gives: no more than asked for and one byte, by which the reader sees that there is more."""
        data = self.metadata.get(name)
        return None if data is None else data[: max_bytes + 1]

    def key(self, name: str) -> Ed25519PrivateKey:
        """The key of that name."""
        return Ed25519PrivateKey.from_private_bytes(sha256(f"{self.name} tuf {name}".encode()).digest())

    def role_keys(self, role: str) -> RoleKeys:
        """Who signs for a role."""
        keys = tuple(public(self.key(name)) for name in self.signers[role])
        return RoleKeys(keys, self.thresholds.get(role, 1))

    def sign(self, data: bytes, *names: str) -> bytes:
        """Adds the signatures of keys by name."""
        for name in names:
            key = self.key(name)
            data = add_signature(data, lambda message, key=key: (public(key), key.sign(message)))
        return data

    def publish_root(self) -> None:
        """The next root, signed by its keys and by those of the one before."""
        draft = draft_root(
            version=self._next("root"),
            expires=self._expiry("root"),
            **{role: self.role_keys(role) for role in TOP_LEVEL},
        )
        names = dict.fromkeys([*self._root_signers, *self.signers["root"]])
        self.metadata[f"{self.versions['root']}.root.json"] = self.sign(draft, *names)
        self._root_signers = list(self.signers["root"])

    def contents(self, role: str) -> dict[str, bytes]:
        """The targets of a role, as they were published last."""
        return {name: data for name, data in self._contents.get(role, {}).items() if name}

    def rotate(self, role: str, *names: str) -> None:
        """Gives a role other keys; the files that it signs are signed again with the next `publish`."""
        self.signers[role] = list(names) or [f"{role} {self.versions['root'] + 1}"]
        self._contents.pop(role, None)
        if role in TOP_LEVEL:
            self.publish_root()

    def publish(self, files: Mapping[str, bytes]) -> None:
        """Publishes these targets and no others: new versions of the roles whose files changed, snapshot, timestamp."""
        roles: dict[str, dict[str, bytes]] = {role: {} for role in ("targets", *self.delegations)}
        for name, data in files.items():
            roles.setdefault(self._delegate(name), {})[name] = data
            self.targets[target_path(name, sha256(data).hexdigest())] = data
        for role in [*self.delegations, "targets"]:  # `targets` last: it names who signs for the others
            self.publish_role(role, roles[role])
        self.publish_snapshot()

    def publish_role(self, role: str, files: Mapping[str, bytes]) -> None:
        """The next version of one targets role, if it says anything new."""
        delegations = tuple(self.delegations.values()) if role == "targets" else ()
        content = {**files, "": repr((delegations, self._expiry(role))).encode()}
        if self._contents.get(role) == content:
            return
        self._contents[role] = content
        draft = draft_targets(
            version=self._next(role), expires=self._expiry(role), targets=files, delegations=delegations
        )
        self.metadata[f"{self.versions[role]}.{role}.json"] = self.sign(draft, *self.signers[role])

    def publish_snapshot(self) -> None:
        """The next snapshot of what is there, and the next timestamp."""
        roles = {
            role: self.metadata[f"{version}.{role}.json"]
            for role, version in self.versions.items()
            if role not in ("root", "snapshot", "timestamp")
        }
        draft = draft_snapshot(version=self._next("snapshot"), expires=self._expiry("snapshot"), roles=roles)
        self.metadata[f"{self.versions['snapshot']}.snapshot.json"] = self.sign(
            draft, *self.signers["snapshot"]
        )
        self.publish_timestamp()

    def publish_timestamp(self) -> None:
        """The next timestamp over the last snapshot."""
        draft = draft_timestamp(
            version=self._next("timestamp"),
            expires=self._expiry("timestamp"),
            issued=self.now,
            snapshot=self.metadata[f"{self.versions['snapshot']}.snapshot.json"],
        )
        self.metadata["timestamp.json"] = self.sign(draft, *self.signers["timestamp"])

    def files(self) -> dict[str, bytes]:
        """A trust directory: anchor and mirror. In the order in which they are written, the timestamp last."""
        metadata = sorted(self.metadata, key=lambda name: (name == "timestamp.json", name))
        return {
            "root.json": self.root,
            **{f"targets/{path}": data for path, data in self.targets.items()},
            **{f"metadata/{name}": self.metadata[name] for name in metadata},
        }

    def write(self, directory: Path) -> Path:
        """Writes a trust directory as `attestd init` does: nobody else can write to it."""
        for name, data in self.files().items():
            _write(directory / name, data)
        for path in (directory, *(item for item in directory.rglob("*") if item.is_dir())):
            path.chmod(0o755)
        return directory

    def _delegate(self, name: str) -> str:
        """The role that signs a target; a team gets one with its first."""
        match name.split("/"):
            case ["teams", team, _, *_]:
                role = f"team-{team}"
            case _:
                return "targets"
        self.signers.setdefault(role, [role])
        self.delegations[role] = Delegation(
            role, self.role_keys(role), (f"teams/{team}/*", f"teams/{team}/policy/*")
        )
        return role

    def _next(self, role: str) -> int:
        self.versions[role] = self.versions.get(role, 0) + 1
        return self.versions[role]

    def _expiry(self, role: str) -> datetime:
        return self.expires.get(role, self.now + LIFETIME)


def public(key: Ed25519PrivateKey) -> PublicKey:
    """The public half."""
    return PublicKey(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _write(path: Path, data: bytes) -> None:
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    # Another file in its place, as `write_atomic` does: a reader sees the old or the new one.
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(data)
    temporary.chmod(0o644)
    temporary.replace(path)
