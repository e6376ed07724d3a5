"""Targets: the files that are read from disk."""

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

from attestd.agent.boots import Boot, parse_boot
from attestd.agent.keystore import load_keys, save_keys
from attestd.agent.log_appraisal import kept_state
from attestd.appraisal.state import state_changes
from attestd.audit.offline import verify_stored
from attestd.distribution.signer import generate, load_authority
from attestd.errors import (
    MalformedError,
    RollbackError,
    StoreError,
    UsageError,
    VerificationError,
)
from attestd.paths import load_configuration, read_pinned_host
from attestd.strict import canonical
from attestd.tlog.checkpoint import BatchMode
from attestd.tlog.tiles import format_bundle
from swtpm.daemon import Daemon
from tests.fuzz import valid
from tests.fuzz.target import target
from tests.fuzz.tpm import AUTH, BLOBS
from tests.fuzz.valid import TRUST, WORLD
from tests.tcg.eventlog.build import event, log, separators
from tests.world import NOW, SELECTION, Log

TOML = (
    b'# attestd\ntpm = "device:/dev/tpmrm0"\ntpm_deadline_s = 5\nevidence_interval_s = 30\nmax_batch = 128\n'
)
KEPT = Boot(
    log(event(4, 1, b"x"), *separators()),
    b"",
    "quiet",
    "6.1",
    "sha256",
    {4: bytes(32), 7: bytes(32)},
    ("local",),
    NOW,
    NOW,
)


@target(UsageError, seeds=lambda: [TOML, b"", b"[a.b]\nc = [1, {d = 1979-05-27T07:32:00Z}]\n"])
def configuration(data: bytes) -> None:
    path = Path("attestd.toml")
    path.write_bytes(data)
    assert 1 <= load_configuration(path, {}).max_batch <= 4096


def _keys() -> list[bytes]:
    path = Path("keys-seed.json")
    save_keys(path, BLOBS, AUTH)
    return [path.read_bytes()]


@target(MalformedError, UsageError, seeds=_keys, is_json=True)
def keys_file(data: bytes) -> None:
    path = Path("keys.json")
    path.touch(mode=0o600)
    path.write_bytes(data)
    assert load_keys(path)


@target(MalformedError, seeds=lambda: [KEPT.to_bytes()], is_json=True)
def kept_boot(data: bytes) -> None:
    """Whoever has the disk can edit it: it explains another boot, or is none."""
    boot = parse_boot(data)
    state = kept_state(boot)
    found = replace(state, values={**state.values, 4: b"\1" * 32})
    assert state_changes(state, found, pcrs=(4,))


@target(MalformedError, seeds=lambda: [canonical({"v": 1, "host": WORLD.host.id})], is_json=True)
def pinned_host(data: bytes) -> None:
    Path("host.json").write_bytes(data)
    assert len(read_pinned_host(Path("host.json"))) == 64


@target(seeds=lambda: [b"%d\n" % os.getpid(), b"1\n", b"-1", "\u0661".encode()])
def swtpm_pid(data: bytes) -> None:
    Path("swtpm.pid").write_bytes(data)
    assert Daemon(Path()).pid() is None, "no process here is a software TPM of this directory"


def _private_keys() -> list[bytes]:
    for kind in ("ed25519", "p256"):
        for path in (Path(f"{kind}.pem"), Path(f"{kind}.pub")):
            path.unlink(missing_ok=True)
        generate(kind, Path(f"{kind}.pem"))
    return [Path(f"{kind}.pem").read_bytes() for kind in ("ed25519", "p256")]


@target(MalformedError, UsageError, StoreError, seeds=_private_keys, max_bytes=8192)
def private_key(data: bytes) -> None:
    path = Path("key.pem")
    path.touch(mode=0o600)
    path.write_bytes(data)
    authority = load_authority(str(path))
    public, signature = authority.sign(b"x")
    public.verify(b"x", signature)


NOT_A_LOG = (MalformedError, VerificationError, RollbackError, StoreError)


def _database() -> list[bytes]:
    from attestd.audit import files

    path = Path("seed.db")
    path.unlink(missing_ok=True)
    log = Log(WORLD.host)
    files.create(
        str(path), origin=log.origin, host_id=WORLD.host.id, log_id=log.log_id, created="2026-01-31T12:00:00Z"
    )
    return [path.read_bytes()]


@target(*NOT_A_LOG, seeds=_database, max_bytes=1 << 20)
def log_database(data: bytes) -> None:
    for path in (Path("log.db"), Path("log.db-wal"), Path("log.db-shm")):
        path.unlink(missing_ok=True)
    Path("log.db").write_bytes(data)
    verify_stored(Path("log.db"), trust=TRUST, processes=1, progress=lambda *_: None)


@cache
def _export(directory: str) -> Path:
    """An export but for its entries."""
    log = Log(WORLD.host)
    log.entries, log.frontier, log.nodes = list(WORLD.log.entries), WORLD.log.frontier, WORLD.log.nodes
    top = Path(directory) / "export"
    size = len(log.entries)
    for name in (f"tile/0/000.p/{size}", f"tile/entries/000.p/{size}"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
    (top / "checkpoint").write_bytes(
        log.seal(mode=BatchMode.RECORD, pcr_digest=WORLD.pcr_digest, selection=SELECTION)
    )
    (top / f"tile/0/000.p/{size}").write_bytes(b"".join(log.nodes[0, index] for index in range(size)))
    return top


@target(*NOT_A_LOG, seeds=lambda: [format_bundle(valid.ENTRIES)])
def exported_entries(data: bytes) -> None:
    top = _export(os.getcwd())
    (top / f"tile/entries/000.p/{len(valid.ENTRIES)}").write_bytes(data)
    found = verify_stored(top, trust=TRUST, processes=1, progress=lambda *_: None)
    assert found.size == len(valid.ENTRIES)
    json.dumps(found.time)
