"""Puts an agent together: TPM, log, trust, sealing; with the start-up checks, before anything is served."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from attestd.agent.attesting import Attestation
from attestd.agent.boots import Boots
from attestd.agent.clock import TrustedClock
from attestd.agent.controllers import CallThreads
from attestd.agent.core import Core
from attestd.agent.cosigning import Cosigning
from attestd.agent.epoch import EpochKeeper
from attestd.agent.evidence import EvidenceKeeper
from attestd.agent.governance import Updater, sealed_floor
from attestd.agent.health import Health
from attestd.agent.identity import is_record_of, selection_of
from attestd.agent.installed import InstalledArtifacts
from attestd.agent.keystore import load_keys
from attestd.agent.log_appraisal import LogAppraiser
from attestd.agent.measured_logs import BootReader
from attestd.agent.mesh import Verifiers
from attestd.agent.metrics import Metrics
from attestd.agent.other_records import OtherRecords
from attestd.agent.runner_link import RunnerLink
from attestd.agent.salt import ensure_salt_key
from attestd.agent.sealing import SealService
from attestd.agent.tpm_access import TpmAccess
from attestd.agent.tpm_port import TpmPort
from attestd.agent.verification import LogVerification
from attestd.audit.cosignatures import CosignedLog
from attestd.audit.recover import Recovery, recover
from attestd.audit.seal import Pending, Sealer, SealResult
from attestd.audit.store import LogStore
from attestd.distribution.local import TrustDirectory, load_trust
from attestd.errors import MalformedError, StoreError, VerificationError
from attestd.governance.floor import Floor
from attestd.governance.host import VerifiedHost
from attestd.governance.mesh import MeshTrust
from attestd.governance.trust import Trust
from attestd.lineage.checkpoint import LogKeys
from attestd.lineage.entry import EntryType, parse_entry
from attestd.paths import Configuration, Layout, TrustSource
from attestd.strict import parse_time
from attestd.system import boot_id
from attestd.tcg.attest import parse_attest
from attestd.tpm.keys import KeyBlobs
from attestd.tpm.owner import TpmOwner

__all__ = ["Assembled", "assembled"]


@dataclass(frozen=True)
class Assembled:
    """An agent that could serve.

    Attributes:
        core: Its parts.
        recovery: What the start-up checks found; its voids are still to be made.
    """

    core: Core
    recovery: Recovery


@contextlib.asynccontextmanager
async def assembled(
    layout: Layout,
    configuration: Configuration,
    log: logging.Logger,
    *,
    on_unreleased: Callable[[int], None] = lambda _: None,
) -> AsyncIterator[Assembled]:
    """Opens everything, checks the log against its TPM, and closes everything again in order.

    Args:
        layout: Where.
        configuration: Which TPM, which limits.
        log: For people.
        on_unreleased: Gets the seq of each allow whose sealing failed after its commit.

    Raises:
        RollbackError: The log contradicts its TPM; nothing was changed.
        StoreError, TpmError, UsageError, VerificationError, MalformedError: It cannot start.
    """
    metrics = Metrics()
    access = TpmAccess(configuration, layout, observe=metrics.tpm_command)
    owner = TpmOwner(access.open_loaded)  # Blocks the loop for a moment: nothing is served yet.
    try:
        async with _opened(
            layout, configuration, log, owner, metrics=metrics, on_unreleased=on_unreleased
        ) as agent:
            yield agent
    finally:
        owner.close()
        if access.embedded is not None:
            await asyncio.to_thread(access.embedded.stop)


@dataclass(frozen=True)
class _Checked:
    """The log, found to be what its TPM says, and what everything else goes by."""

    store: LogStore
    reader: CosignedLog
    trusted: TrustDirectory
    updater: Updater
    port: TpmPort
    keys: LogKeys
    recovery: Recovery
    clock: TrustedClock

    def now(self) -> datetime:
        """Trusted time."""
        return self.clock.read().now


async def _checked(
    layout: Layout,
    configuration: Configuration,
    log: logging.Logger,
    owner: TpmOwner,
    stack: contextlib.AsyncExitStack,
) -> _Checked:
    store = LogStore.open(str(layout.log))
    stack.callback(store.close)
    reader = CosignedLog.open(str(layout.log), readonly=True)
    stack.callback(reader.close)
    source, floor = layout.trust_source(configuration), sealed_floor(store)
    updater = Updater(source, configuration, host=store.host_id, log=log)
    blobs, _ = load_keys(layout.keys)
    trust, host = await _first_trust(source, updater, floor, host=store.host_id, blobs=blobs)
    port = TpmPort(
        owner,
        host=store.host_id,
        selection=selection_of(trust),
        deadline_s=float(configuration.tpm_deadline_s),
    )
    keys = LogKeys(store.origin, host.release_spki, host.ak_spki)
    return _Checked(
        store=store,
        reader=reader,
        trusted=TrustDirectory(source, floor=floor),
        updater=updater,
        port=port,
        keys=keys,
        recovery=recover(store, port, keys, clock=port.clock()),
        clock=TrustedClock(parse_time(parse_entry(store.entry(store.size - 1)).time)),
    )


@contextlib.asynccontextmanager
async def _opened(
    layout: Layout,
    configuration: Configuration,
    log: logging.Logger,
    owner: TpmOwner,
    *,
    metrics: Metrics,
    on_unreleased: Callable[[int], None],
) -> AsyncIterator[Assembled]:
    async with contextlib.AsyncExitStack() as stack:
        checked = await _checked(layout, configuration, log, owner, stack)
        port, clock = checked.port, checked.clock
        boots, boot_reader = Boots(layout.boots), BootReader(configuration.log_paths())
        logs = LogAppraiser(boot_reader, boots, log=log)
        stack.callback(logs.close)
        evidence = EvidenceKeeper(port, logs, now=checked.now)
        seals, cosigning = _sealing(
            checked, layout, configuration, evidence, metrics=metrics, on_unreleased=on_unreleased, log=log
        )
        stack.push_async_callback(cosigning.stop)
        core = Core(
            layout=layout,
            host=port.host,
            boot=boot_id(),
            trust_directory=checked.trusted,
            port=port,
            store=checked.reader,
            seals=seals,
            cosigning=cosigning,
            evidence=evidence,
            boots=boots,
            boot_reader=boot_reader,
            health=Health(port, directory=layout.agent, reserve=configuration.disk_reserve_mb << 20),
            verification=LogVerification(
                str(layout.log),
                checked.keys,
                interval_s=float(configuration.verify_interval_s),
                now=checked.now,
                log=log,
            ),
            verifiers=_verifiers(checked, configuration, boot_reader, evidence, seals, log=log),
            metrics=metrics,
            clock=clock,
            runner=RunnerLink(layout.runner_socket),
            installed=InstalledArtifacts(layout.authorizations),
            updater=checked.updater,
            other_records=OtherRecords(port.host, checked.updater),
            epoch=EpochKeeper(port, log=log),
            grace=timedelta(seconds=configuration.governance_grace_s),
            salt_key=ensure_salt_key(layout.salt_key),
            log=log,
        )
        seals.start()
        stack.push_async_callback(asyncio.to_thread, seals.stop)
        yield Assembled(core, checked.recovery)


def _sealing(
    checked: _Checked,
    layout: Layout,
    configuration: Configuration,
    evidence: EvidenceKeeper,
    *,
    metrics: Metrics,
    on_unreleased: Callable[[int], None],
    log: logging.Logger,
) -> tuple[SealService, Cosigning]:
    """What seals, and what has witnesses cosign it: each tells the other, in the loop."""
    loop, recovery = asyncio.get_running_loop(), checked.recovery

    def on_sealed(result: SealResult, quorum: int) -> None:
        _later(loop, cosigning.sealed, result.checkpoint.size, result.note, quorum)
        _later(loop, evidence.sealed, parse_attest(result.quote.attest))
        for seq in result.unreleased:
            _later(loop, on_unreleased, seq)

    seals = SealService(
        Sealer(checked.store, checked.port, checked.keys, counter=recovery.counter, resets=recovery.resets),
        checked.port,
        max_batch=configuration.max_batch,
        now=checked.now,
        boot=boot_id(),
        on_sealed=on_sealed,
        metrics=metrics,
    )
    cosigning = Cosigning(
        CosignedLog.open(str(layout.log)),
        checked.reader,
        mesh=lambda: _mesh(checked.trusted),
        round_over=seals.round_over,
        now=checked.now,
        ca=configuration.mesh_ca,
        wait_s=float(configuration.witness_wait_s),
        interval_s=float(configuration.witness_interval_s),
        metrics=metrics,
        log=log,
    )
    return seals, cosigning


def _verifiers(
    checked: _Checked,
    configuration: Configuration,
    boot_reader: BootReader,
    evidence: EvidenceKeeper,
    seals: SealService,
    *,
    log: logging.Logger,
) -> Verifiers:
    return Verifiers(
        Attestation(checked.port, boot_reader, CallThreads(), now=checked.clock.latest),
        ca=configuration.mesh_ca,
        wait_s=float(configuration.mesh_wait_s),
        appraisals=evidence.latest,
        contradicted=evidence.contradicted,
        heard=checked.clock.heard,
        seal=lambda body: asyncio.wrap_future(seals.submit(Pending(EntryType.ATTESTATION, body), lazy=True)),
        log=log,
    )


def _mesh(trusted: TrustDirectory) -> MeshTrust | None:
    """Whom governance names now; None: it does not verify, and nothing is released under it."""
    try:
        return trusted.current().mesh
    except (StoreError, VerificationError, MalformedError):
        return None


async def _first_trust(
    source: TrustSource, updater: Updater, floor: Floor | None, *, host: str, blobs: KeyBlobs
) -> tuple[Trust, VerifiedHost]:
    """Whose log this is, by governance that may be older than the log tells: what is decided by is looked at later.

    So an agent starts on restored older metadata: it denies everything, records that, and can be asked why.
    """
    try:
        trust = load_trust(source)
    except (StoreError, VerificationError, MalformedError):
        if not updater.url:
            raise
        trust = None
    if updater.url and (trust is None or not is_record_of(trust.hosts.get(host), blobs)):
        await asyncio.to_thread(updater.update, floor)  # It may have been enrolled since it was initialised.
        trust = load_trust(source)
    record = None if trust is None else trust.hosts.get(host)
    if trust is None or record is None or not is_record_of(record, blobs):
        reason = "" if trust is None else trust.unusable.get(f"hosts/{host}.json", "")
        if record is not None:
            reason = "the one there is of other keys than this host has now"
        raise StoreError(
            f"governance at {source.mirror} has no record of host {host}, whose log this is{reason and f': {reason}'};"
            " have it enrolled: attestd governance enroll, with the file that attestd init wrote"
        )
    return trust, record


def _later(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: Any) -> None:
    with contextlib.suppress(RuntimeError):  # The loop is closed: the last batch of a stopping agent.
        loop.call_soon_threadsafe(call, *arguments)
