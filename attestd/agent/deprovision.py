"""`attestd deprovision`: takes a host out of service. Its log stays, as evidence, unless all is to go."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestd.account import acting_as, agent_account
from attestd.agent.exclusive import exclusive
from attestd.agent.tpm_access import TpmAccess
from attestd.audit.files import settle
from attestd.audit.store import LogStore
from attestd.distribution.local import load_own_trust, read_verified_files
from attestd.durable import write_atomic
from attestd.errors import StoreError
from attestd.governance.trust import Trust
from attestd.paths import Configuration, Layout
from attestd.tcg.nv import COUNTER_INDEX, EPOCH_INDEX, counter_public, nv_name
from attestd.tpm.device import Tpm

__all__ = ["Deprovisioned", "deprovision"]

_OURS: Final = {EPOCH_INDEX: "epoch", COUNTER_INDEX: "log counter"}


@dataclass(frozen=True)
class Deprovisioned:
    """What was done.

    Attributes:
        undefined: The NV indices that were removed.
        evidence: Where log and trust are kept; None: they were purged.
        notes: What a person should read.
    """

    undefined: tuple[str, ...]
    evidence: Path | None
    notes: tuple[str, ...]


def deprovision(layout: Layout, configuration: Configuration, *, purge: bool) -> Deprovisioned:
    """Undefines our NV indices and removes the keys: nothing can be released here again before a new `init`.

    What is in the TPM goes first: if that fails, everything stays as it was. An index that is not what our authorities
    imply is somebody else's, and stays.

    Args:
        layout: The installation; its agent is stopped.
        configuration: Which TPM.
        purge: Remove log, trust, authorities and all else too; otherwise log and trust are kept below the agent's
            directory, in one of their own, where `verify log` reads them.

    Raises:
        UsageError: The agent is running.
        TpmError: The TPM is not usable.
        StoreError, VerificationError, MalformedError: Files cannot be read or written.
    """
    account = agent_account(layout)
    with exclusive(layout):
        trust = load_own_trust(layout)
        published = read_verified_files(layout.trust_source(configuration))
        access = TpmAccess(configuration, layout)
        with acting_as(account):
            undefined, notes = _undefine(access, trust)
        try:
            if purge:
                _purge(layout)
                return Deprovisioned(undefined, None, notes)
            with acting_as(account):
                evidence = _keep(layout)
                _write(published, evidence / "trust")
                layout.keys.unlink(missing_ok=True)
            layout.host.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{error.filename}: {error.strerror}") from error
    return Deprovisioned(undefined, evidence, notes)


def _undefine(access: TpmAccess, trust: Trust) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if access.embedded is not None:
        access.embedded.start()
    undefined, notes = [], []
    with access.open() as tpm:
        ours = {
            EPOCH_INDEX: trust.authorities.epoch_name,
            COUNTER_INDEX: nv_name(counter_public(written=True)),
        }
        for index, name in ours.items():
            what = f"{_OURS[index]} {index:#010x}"
            if _remove(tpm, index, name):
                undefined.append(what)
            elif tpm.nv_name(index) is not None:
                notes.append(f"{what} is not what our authorities imply: left as it is")
    if access.embedded is not None:
        access.embedded.stop()
    return tuple(undefined), tuple(notes)


def _remove(tpm: Tpm, index: int, name: bytes) -> bool:
    if tpm.nv_name(index) != name:
        return False
    tpm.undefine(index)
    return True


def _keep(layout: Layout) -> Path:
    store = LogStore.open(str(layout.log), readonly=True)
    try:
        evidence = layout.agent / f"deprovisioned-{store.log_id}"
    finally:
        store.close()
    settle(str(layout.log))
    evidence.mkdir(mode=0o700)
    layout.log.rename(evidence / layout.log.name)
    return evidence


def _write(published: Mapping[str, bytes], directory: Path) -> None:
    for name, data in published.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data, mode=0o644)


def _purge(layout: Layout) -> None:
    for path in (layout.agent, layout.runner, layout.trust, layout.authority, layout.tpm):
        if path.exists():
            shutil.rmtree(path)
    layout.configuration.unlink(missing_ok=True)
