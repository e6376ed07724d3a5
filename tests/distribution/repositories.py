"""Repositories for tests: keys that follow from names, a world's trust files in them, and the reference client."""

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tuf.ngclient import Updater

from attestd.distribution.creation import create_repository
from attestd.distribution.repository import Repository
from attestd.distribution.settings import Settings
from attestd.distribution.signer import Authority, load_authority
from attestd.governance.draft import RoleKeys
from tests.world import World, ed25519_key, p256


def write_key(directory: Path, name: str) -> Path:
    """The key of that name as a file; names that begin with `tpm ` are P-256 keys."""
    key = p256(name.removeprefix("tpm ")) if name.startswith("tpm ") else ed25519_key(name)
    path = directory / f"{name}.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return path


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **units: float) -> None:
        self.now += timedelta(**units)


@dataclass
class Office:
    """The authorities' desk: a repository, and keys by name."""

    top: Path
    clock: Clock

    def key(self, name: str) -> Authority:
        path = self.top / f"{name}.pem"
        return load_authority(str(path if path.exists() else write_key(self.top, name)))

    def keys(self, *names: str, threshold: int = 1) -> RoleKeys:
        return RoleKeys(tuple(self.key(name).public for name in names), threshold)

    def create(
        self, *, targets: Sequence[str] = ("alice",), threshold: int = 1, **settings: Any
    ) -> Repository:
        return create_repository(
            self.top / "governance",
            root=self.keys("root"),
            targets=self.keys(*targets, threshold=threshold),
            online=self.keys("online"),
            settings=Settings(**settings),
            clock=self.clock,
        )

    def publish(self, repository: Repository, *signers: str, **options: Any) -> None:
        for name in signers:
            repository.sign(self.key(name))
        repository.publish([self.key("online")], **options)

    def published(self, world: World, **options: Any) -> Repository:
        """A repository with a world's trust files, published once."""
        repository = self.create(**options)
        repository.stage(world.files())
        self.publish(repository, "root", *options.get("targets", ("alice",)))
        return repository


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    """A web server over static files; its URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Reference:
    """The reference client, which keeps what it has seen from one look to the next."""

    def __init__(self, top: Path, url: str, anchor: bytes) -> None:
        self.top, self.url, self.anchor = top, url, anchor
        top.mkdir()

    def download(self, names: Sequence[str]) -> dict[str, bytes]:
        """Refreshes, then downloads targets."""
        updater = Updater(
            str(self.top),
            f"{self.url}/metadata/",
            str(self.top),
            f"{self.url}/targets/",
            bootstrap=self.anchor,
        )
        updater.refresh()
        found = {}
        for name in names:
            info = updater.get_targetinfo(name)
            assert info is not None, name
            found[name] = Path(updater.download_target(info)).read_bytes()
        return found
