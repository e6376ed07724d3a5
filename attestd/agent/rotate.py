"""`attestd audit rotate`: closes the log, exports it, and goes on in a new one."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from attestd.account import acting_as, agent_account
from attestd.agent.clock import TrustedClock
from attestd.agent.exclusive import exclusive
from attestd.agent.governance import last_seen
from attestd.agent.identity import selection_of
from attestd.agent.tpm_access import TpmAccess
from attestd.agent.tpm_port import TpmPort
from attestd.audit.export import export_log
from attestd.audit.recover import recover, unsettled_allows
from attestd.audit.rotate import draft_next, finish_rotation, previous_of
from attestd.audit.seal import Pending, Sealer
from attestd.audit.store import LogStore
from attestd.distribution.local import load_own_trust
from attestd.errors import StoreError, UsageError
from attestd.governance.trust import Trust
from attestd.lineage.checkpoint import LogKeys
from attestd.lineage.entry import EntryType, parse_entry
from attestd.paths import Configuration, Layout
from attestd.strict import format_time, format_time_us, parse_time
from attestd.system import boot_id
from attestd.tpm.owner import TpmOwner

__all__ = ["Rotated", "require_settled", "rotate", "seal_first_leaf"]

# No receipt older than this is accepted by the runner: older allows without an outcome are past.
_UNSETTLED: Final = timedelta(minutes=10)


@dataclass(frozen=True)
class Rotated:
    """What was done.

    Attributes:
        closed: The log that was closed, `size` its entries, `shard` where it is kept.
        origin: The log that continues it.
    """

    closed: str
    size: int
    shard: Path
    origin: str


def rotate(layout: Layout, configuration: Configuration, export: Path) -> Rotated:
    """Closes the log and starts the one that continues it; the agent is stopped, for it has the log open.

    Args:
        layout: The installation.
        configuration: Which TPM.
        export: Where the closed log is exported to (C2SP tlog-tiles); must not exist.

    Raises:
        UsageError: The agent is running, or left something unsettled; the directory exists; the clock is not trusted.
        RollbackError: The log contradicts its TPM.
        StoreError, TpmError, VerificationError, MalformedError: It cannot be done; the log is as it was.
    """
    account = agent_account(layout)
    with exclusive(layout):
        trust = load_own_trust(layout)
        with acting_as(account):
            access = TpmAccess(configuration, layout)
            owner = TpmOwner(access.open_loaded)
            store = LogStore.open(str(layout.log))
        try:
            port = TpmPort(
                owner,
                host=store.host_id,
                selection=selection_of(trust),
                deadline_s=float(configuration.tpm_deadline_s),
            )
            closed, size = store.origin, store.size
            clock = require_settled(store, port, _keys(store, trust))
            export_log(store, str(export))
            with acting_as(account):
                origin = seal_first_leaf(
                    store, layout.log, port, keys=lambda new: _keys(new, trust), now=clock.read().now
                )
        finally:
            with acting_as(account):
                store.close()
                owner.close()
                if access.embedded is not None:
                    access.embedded.stop()
        with acting_as(account):
            shard = finish_rotation(layout.log)
    if shard is None:
        raise StoreError("the new log has no leaf")
    return Rotated(closed, size, shard, origin)


def _keys(store: LogStore, trust: Trust) -> LogKeys:
    host = trust.hosts.get(store.host_id)
    if host is None:
        raise StoreError(
            f"the trust directory has no record of host {store.host_id}, whose log this is{trust.why_none(store.host_id)}"
        )
    return LogKeys(store.origin, host.release_spki, host.ak_spki)


def require_settled(store: LogStore, port: TpmPort, keys: LogKeys) -> TrustedClock:
    """What a start of the agent checks; but what is to be made void takes a runner, and so a start.

    Returns:
        Trusted time.

    Raises:
        UsageError: Something is left for the agent to settle, or the wall clock is not trusted.
        RollbackError, StoreError, TpmError, VerificationError: As `recover`.
    """
    recovery = recover(store, port, keys, clock=port.clock())
    clock = TrustedClock(parse_time(parse_entry(store.entry(store.size - 1)).time))
    moment = clock.read()
    if moment.denial is not None:
        raise UsageError(f"{moment.denial.sentence}: {moment.denial.hint}")
    unsettled = unsettled_allows(store, since=format_time_us(moment.now - _UNSETTLED))
    if recovery.voids or unsettled:
        raise UsageError(
            "the agent stopped between sealing and release: start it, and stop it in order (SIGTERM); it settles that"
        )
    return clock


def seal_first_leaf(
    old: LogStore, log: Path, port: TpmPort, *, keys: Callable[[LogStore], LogKeys], now: datetime
) -> str:
    """Makes the log that continues another, and seals its first leaf; `finish_rotation` puts it in its place.

    Args:
        old: The log that is closed: it has a checkpoint.
        log: Its file.
        port: The TPM.
        keys: Those that seal the new log.
        now: Trusted time.

    Returns:
        The new log's origin.

    Raises:
        StoreError, RollbackError, TpmError, VerificationError: It cannot be made, or not be sealed.
    """
    path = draft_next(old, log, log_id=secrets.token_hex(16), created=format_time(now))
    new = LogStore.open(str(path))
    try:
        sealer = Sealer(new, port, keys(new), counter=port.read_counter())
        # The floor of governance goes with it: older metadata is not believed because the log is a new one.
        body = {
            "governance": last_seen(old),
            "host": new.host_id,
            "log": new.log_id,
            "previous": dict(previous_of(old)),
        }
        sealer.seal([Pending(EntryType.LOG_START, body)], now=now, boot=boot_id())
        return new.origin
    finally:
        new.close()
