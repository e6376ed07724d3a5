"""What attacks on TUF metadata are made of, and python-tuf's client, which judges the same files."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import SSlibKey
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from attestd.errors import AttestdError, VerificationError
from attestd.governance.metadata import Metadata, Versions, verify_metadata
from tests.repository import Repository, public

FILES = {
    "authorities.json": b"{}",
    "platform/local.json": b"local",
    "teams/a/authorities.json": b"team a",
    "teams/a/policy/exec.cedar": b"permit",
}
Edit = Callable[[dict[str, Any]], None]


def verify(repository: Repository, floor: Versions | None = None) -> Metadata:
    """As a host with the first root as its anchor."""
    return verify_metadata(repository.fetch, root=repository.root, floor=floor)


def publish_two(repository: Repository) -> None:
    """The next version of every role."""
    repository.publish({**FILES, "platform/local.json": b"newer", "teams/a/authorities.json": b"newer"})


def refused(
    repository: Repository, floor: Versions | None = None, *, error: type[AttestdError] = VerificationError
) -> str:
    with pytest.raises(error) as raised:
        verify(repository, floor)
    assert type(raised.value) is error
    return str(raised.value)


# --- files that no publisher would write ---------------------------------------------------------------------------


def tuf_id(repository: Repository, name: str) -> str:
    """TUF's id of the key of that name."""
    return str(tuf_public(repository, name).keyid)


def tuf_public(repository: Repository, name: str) -> SSlibKey:
    """The key of that name as metadata holds it."""
    return SSlibKey.from_crypto(load_der_public_key(public(repository.key(name)).spki_der))


def signed_file(repository: Repository, signed: Any, *names: str) -> bytes:
    """Any value, signed: also one that python-tuf would not write."""
    payload = str(encode_canonical(signed)).encode()
    signatures = [
        {"keyid": tuf_id(repository, name), "sig": repository.key(name).sign(payload).hex()} for name in names
    ]
    return json.dumps({"signatures": signatures, "signed": signed}).encode()


def edit(repository: Repository, name: str, change: Edit, *signers: str) -> None:
    """Changes what a published file says and signs it again, by default with the keys of its role."""
    signed = json.loads(repository.metadata[name])["signed"]
    change(signed)
    role = name.removesuffix(".json").rpartition(".")[2]
    repository.metadata[name] = signed_file(repository, signed, *(signers or repository.signers[role]))


def relink(repository: Repository) -> None:
    """Snapshot and timestamp of the same versions over the files as they are now, as the holder of online keys could."""

    def describe(name: str, meta: dict[str, Any]) -> None:
        data = repository.metadata[name]
        meta |= {"length": len(data), "hashes": {"sha256": sha256(data).hexdigest()}}

    snapshot = f"{repository.versions['snapshot']}.snapshot.json"
    edit(
        repository,
        snapshot,
        lambda signed: [describe(f"{meta['version']}.{role}", meta) for role, meta in signed["meta"].items()],
    )
    edit(repository, "timestamp.json", lambda signed: describe(snapshot, signed["meta"]["snapshot.json"]))


def drop_hashes(meta: dict[str, Any]) -> None:
    """What a snapshot need not say of a file (TUF 4.4)."""
    del meta["length"], meta["hashes"]


# --- the oracle ----------------------------------------------------------------------------------------------------


class _Fetcher(FetcherInterface):
    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        if name not in self._files:
            raise DownloadHTTPError("not found", 404)
        yield self._files[name]


class Oracle:
    """python-tuf's client, with the cache of what it saw before."""

    def __init__(self, repository: Repository, directory: Path) -> None:
        self._repository, self._directory = repository, directory
        directory.mkdir(exist_ok=True)

    def update(self, *names: str) -> dict[str, str]:
        """Looks targets up; digests by name.

        Raises:
            Exception: Whatever it makes of the files.
        """
        updater = Updater(
            str(self._directory),
            "http://localhost/metadata/",
            fetcher=_Fetcher(self._repository.metadata),
            bootstrap=self._repository.root,
            config=UpdaterConfig(max_delegations=80),
        )
        updater.refresh()
        found = {name: updater.get_targetinfo(name) for name in names}
        return {name: info.hashes["sha256"] for name, info in found.items() if info is not None}


def pem(der: bytes, width: int = 64) -> str:
    """A PEM of any line width: one key in many spellings."""
    text = b64encode(der).decode()
    lines = "\n".join(text[at : at + width] for at in range(0, len(text), width))
    return f"-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n"
