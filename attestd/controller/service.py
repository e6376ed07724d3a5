"""`attestd controller init` and `serve`: makes what a controller needs; runs its roles until it is told to stop."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tuf.api.metadata import Root

from attestd.account import account_named, acting_as, become
from attestd.controller.configuration import ControllerConfiguration, ControllerLayout, Role
from attestd.controller.enroller.keys import create_enroller_files, load_enroller_keys
from attestd.controller.enroller.office import Office
from attestd.controller.enroller.operators import Operators
from attestd.controller.enroller.role import Enroller
from attestd.controller.http.application import Application
from attestd.controller.http.limits import RateLimit
from attestd.controller.http.metrics import Metrics
from attestd.controller.http.operation import Operation
from attestd.controller.http.server import bind, serving
from attestd.controller.http.tls import Certificate
from attestd.controller.lineage.receipts import Receipts, bounds_of
from attestd.controller.lineage.role import Lineage
from attestd.controller.published import governance_operations
from attestd.controller.service_operations import service_operations
from attestd.controller.store.engine import Store, migrate
from attestd.controller.trust import TrustWatch
from attestd.controller.verifier.keys import create_verifier_keys, load_verifier_keys
from attestd.controller.verifier.role import verifier_running
from attestd.controller.verifier.rows import Rows, last_said
from attestd.controller.witness.anchor import create_anchor, has_anchors, has_history
from attestd.controller.witness.keys import create_keys, load_cosigners
from attestd.controller.witness.logs import KnownLogs, load_log_list
from attestd.controller.witness.role import witness_running
from attestd.distribution.mirror import ROOT
from attestd.durable import make_directory, write_atomic
from attestd.errors import UsageError
from attestd.governance.signed import parse_signed
from attestd.journal import event
from attestd.paths import TrustSource
from attestd.service_manager import notify, watchdog_interval_s
from attestd.tlog.vkey import format_vkey

__all__ = ["Initialised", "MeshEntry", "initialise", "install_root", "serve"]

VERIFIER_PUBLIC: Final = "verifier.pub"
WITNESS_KEYS: Final = "witness.json"
WITNESS_VKEYS: Final = "witness.vkeys"


@dataclass(frozen=True)
class MeshEntry:
    """A controller in `mesh.json`.

    Attributes:
        key: SPKI DER, base64.
    """

    name: str
    url: str
    key: str


@dataclass(frozen=True)
class Initialised:
    """What `initialise` did.

    Attributes:
        migrated: Whether the database's schema was made, or changed.
        made_keys: Whether the witness's keys were made.
        witness_keys: The witness's keys for others' policies, as vkeys; also in the file `witness.vkeys`.
        verifier: What `mesh.json` is to say of the verifier; None: it is none. Its key is also in `verifier.pub`.
        ak_authority: The certificate of the authority for attestation keys, for relying parties; None: there is none.
    """

    migrated: bool
    made_keys: bool
    witness_keys: tuple[str, ...] = ()
    verifier: MeshEntry | None = None
    ak_authority: Path | None = None


def initialise(
    layout: ControllerLayout, configuration: ControllerConfiguration, *, join: bool = False
) -> Initialised:
    """Makes the directory, the database, and what the roles need; what is there stays as it is.

    Args:
        layout: Where.
        configuration: Which roles.
        join: A database that a witness has used is to be used from here as well: the operator knows that it is the newest.

    Raises:
        UsageError: The configuration is not usable, or the database was used and `join` was not said.
        StoreError, MalformedError, VerificationError: Something cannot be made or read.
    """
    configuration.require_roles()
    account = account_named(layout.user)
    if make_directory(layout.state, 0o700) and account is not None:
        os.chown(layout.state, account.uid, account.gid)
    with acting_as(account):
        url = configuration.database_url(layout)
        migrated, ak_authority = migrate(url), None
        if Role.ENROLLER in configuration.roles:
            ak_authority = create_enroller_files(layout.state, configuration)
        done = Initialised(migrated, made_keys=False, ak_authority=ak_authority)
        if Role.VERIFIER in configuration.roles:
            done = replace(done, verifier=_make_verifier(layout, configuration, url, join=join))
        if Role.WITNESS in configuration.roles:
            made_keys, vkeys = _make_witness(layout, configuration, url, join=join)
            done = replace(done, made_keys=made_keys, witness_keys=vkeys)
        return done


def _make_verifier(
    layout: ControllerLayout, configuration: ControllerConfiguration, url: str, *, join: bool
) -> MeshEntry:
    with contextlib.closing(Store.open(url)) as store:
        join = join or bool(last_said(store, limit=1))
    create_verifier_keys(layout.state, configuration, join=join)
    public = load_verifier_keys(layout.state, configuration).public
    write_atomic(
        layout.state / VERIFIER_PUBLIC,
        public.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        mode=0o644,
    )
    scheme = "https" if configuration.tls_certificate else "http"
    return MeshEntry(
        name=configuration.verifier_name,
        url=configuration.url or f"{scheme}://{configuration.listen}",
        key=b64encode(public.spki_der).decode(),
    )


def _make_witness(
    layout: ControllerLayout, configuration: ControllerConfiguration, url: str, *, join: bool
) -> tuple[bool, tuple[str, ...]]:
    keys = layout.state / WITNESS_KEYS
    made_keys = create_keys(keys, configuration.witness_name)
    with contextlib.closing(Store.open(url)) as store:
        anchors = configuration.anchors(layout)
        if has_history(store) and not has_anchors(anchors) and not join:
            raise UsageError(
                f"{anchors}: no anchor of this database, which a witness has used: --join makes one, if you are sure"
                " that it is the newest there is"
            )
        create_anchor(anchors, store)
    cosigners = load_cosigners(keys, configuration.witness_name, mldsa=configuration.witness_mldsa)
    vkeys = tuple(format_vkey(cosigner.key) for cosigner in cosigners)
    write_atomic(layout.state / WITNESS_VKEYS, "".join(f"{vkey}\n" for vkey in vkeys).encode(), mode=0o644)
    return made_keys, vkeys


def install_root(layout: ControllerLayout, data: bytes) -> None:
    """Puts the root of trust in its place, unless it is there.

    Raises:
        UsageError: Another is there.
        MalformedError: It is no root of governance.
        StoreError: It cannot be written.
    """
    parse_signed(data, Root, what="root.json")
    path = layout.trust / ROOT
    make_directory(layout.trust, 0o755)
    if os.path.lexists(path):
        if path.read_bytes() != data:
            raise UsageError(f"{path}: another root of trust is there")
        return
    write_atomic(path, data, mode=0o644)


def serve(layout: ControllerLayout, configuration: ControllerConfiguration, log: logging.Logger) -> None:
    """Runs the controller until SIGTERM or SIGINT.

    Raises:
        RollbackError: The witness's database is older than what it has cosigned.
        UsageError, StoreError, VerificationError, MalformedError: It cannot start; the message says why.
    """
    configuration.require_roles()
    _require_tls(configuration)
    certificate = _certificate(configuration)
    with contextlib.closing(bind(configuration.listen)) as listener:
        account = account_named(layout.user)
        if account is not None:
            become(account)
        asyncio.run(_Service(layout, configuration, log).run(listener, certificate))


def _require_tls(configuration: ControllerConfiguration) -> None:
    host = configuration.listen.rpartition(":")[0].strip("[]")
    try:
        own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        own = host == "localhost"
    if not own and not configuration.tls_certificate and not configuration.insecure_http:
        raise UsageError(
            f"listen {configuration.listen}: without TLS only this host's own addresses: name tls_certificate and"
            " tls_key, or say insecure_http = true where something before it does TLS"
        )


def _certificate(configuration: ControllerConfiguration) -> Certificate | None:
    if not configuration.tls_certificate:
        return None
    operator_ca = Path(configuration.operator_ca) if configuration.operator_ca else None
    return Certificate(
        Path(configuration.tls_certificate), Path(configuration.tls_key), operator_ca=operator_ca
    )


class _Service:
    """The running controller."""

    def __init__(
        self, layout: ControllerLayout, configuration: ControllerConfiguration, log: logging.Logger
    ) -> None:
        self._layout, self._configuration, self._log = layout, configuration, log
        self._metrics = Metrics()
        self._operations: list[Operation] = []
        self._troubles: dict[str, Callable[[], str | None]] = {}

    async def run(self, listener: socket.socket, certificate: Certificate | None) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        configuration = self._configuration
        async with contextlib.AsyncExitStack() as stack:
            await self._start_roles(stack)
            rate = (
                RateLimit(configuration.requests_per_s, configuration.burst)
                if configuration.requests_per_s
                else None
            )
            self._operations += service_operations(metrics=self._metrics, troubles=self._troubles)
            application = Application(self._operations, metrics=self._metrics, log=self._log, rate=rate)
            await stack.enter_async_context(
                serving(
                    application,
                    listener,
                    certificate=certificate,
                    metrics=self._metrics,
                    log=self._log,
                    connections_of_a_peer=configuration.connections_per_peer,
                )
            )
            host, port = listener.getsockname()[:2]
            scheme = "http" if certificate is None else "https"
            self._log.info(
                event(
                    "controller.ready",
                    url=f"{scheme}://{_host(host)}:{port}",
                    roles=",".join(configuration.roles),
                )
            )
            notify("READY=1")
            watchdog = asyncio.create_task(_watchdog())
            await stop.wait()
            watchdog.cancel()
            self._log.info(event("controller.stopping"))
            notify("STOPPING=1")

    async def _start_roles(self, stack: contextlib.AsyncExitStack) -> None:
        configuration, layout = self._configuration, self._layout
        trust = await self._watch_trust(stack)
        if Role.GOVERNANCE in configuration.roles:
            self._operations += governance_operations(Path(configuration.governance))
        if set(configuration.roles) - {Role.GOVERNANCE}:
            store = stack.enter_context(contextlib.closing(Store.open(configuration.database_url(layout))))
            if Role.WITNESS in configuration.roles:
                await self._start_witness(stack, store, trust)
            if trust is not None:  # The others have it: `require_roles`.
                await self._start_governed(stack, store, trust)

    async def _start_governed(
        self, stack: contextlib.AsyncExitStack, store: Store, trust: TrustWatch
    ) -> None:
        roles = self._configuration.roles
        if Role.ENROLLER in roles:
            await self._start_enroller(stack, store, trust)
        if Role.VERIFIER in roles:
            await self._start_verifier(stack, store, trust)
        if Role.LINEAGE in roles:
            self._start_lineage(store, trust)

    async def _start_enroller(
        self, stack: contextlib.AsyncExitStack, store: Store, trust: TrustWatch
    ) -> None:
        enroller = Enroller(
            trust=trust.current,
            office=Office(store),
            keys=load_enroller_keys(self._layout.state, self._configuration),
            max_validity=timedelta(days=self._configuration.enroller_max_days),
            log=self._log,
            now=_now,
        )
        await stack.enter_async_context(enroller.running())
        self._operations += enroller.operations()
        self._troubles["enroller"] = enroller.trouble
        self._metrics.add_source(enroller.gauges)

    async def _start_verifier(
        self, stack: contextlib.AsyncExitStack, store: Store, trust: TrustWatch
    ) -> None:
        configuration = self._configuration
        verifier = await stack.enter_async_context(
            verifier_running(
                name=configuration.verifier_name,
                trust=trust.current,
                rows=Rows(store, max_log_bytes=configuration.verifier_logs_mb << 20),
                keys=load_verifier_keys(self._layout.state, configuration),
                lifetime=timedelta(seconds=configuration.verifier_result_s),
                log=self._log,
                now=_now,
            )
        )
        self._operations += verifier.operations()
        if Role.ENROLLER not in configuration.roles:
            operators = Operators(office=Office(store), trust=trust.current, log=self._log, now=_now)
            self._operations += operators.reading()
        self._troubles["verifier"] = verifier.trouble
        self._metrics.add_source(verifier.gauges)

    def _start_lineage(self, store: Store, trust: TrustWatch) -> None:
        lineage = Lineage(
            trust=trust.current,
            receipts=Receipts(store, bounds_of(self._configuration)),
            now=_now,
            log=self._log,
        )
        self._operations += lineage.operations()
        self._metrics.add_source(lineage.gauges)

    async def _start_witness(
        self, stack: contextlib.AsyncExitStack, store: Store, trust: TrustWatch | None
    ) -> None:
        configuration, layout = self._configuration, self._layout
        listed = load_log_list(Path(configuration.witness_logs)) if configuration.witness_logs else {}
        if not listed and trust is None:
            raise UsageError("the witness knows no log: name governance, witness_logs, or both")
        witness = await stack.enter_async_context(
            witness_running(
                store=store,
                anchors=configuration.anchors(layout),
                cosigners=load_cosigners(
                    layout.state / WITNESS_KEYS,
                    configuration.witness_name,
                    mldsa=configuration.witness_mldsa,
                ),
                logs=KnownLogs(listed, trust=trust.current if trust is not None else None, now=_now),
                log=self._log,
                now=lambda: int(time.time()),
            )
        )
        self._operations += witness.operations()
        self._troubles["witness"] = witness.trouble
        self._metrics.add_source(witness.gauges)

    async def _watch_trust(self, stack: contextlib.AsyncExitStack) -> TrustWatch | None:
        """Governance is read where a role goes by it; the role that hands it out need not understand it."""
        if not self._configuration.governance or set(self._configuration.roles) <= {Role.GOVERNANCE}:
            return None
        owners = frozenset({0} if self._layout.system else {0, os.geteuid()})
        source = TrustSource(self._layout.trust, Path(self._configuration.governance), owners)
        watch = TrustWatch(source, now=_now, log=self._log)
        await stack.enter_async_context(watch.watching())
        self._troubles["governance"] = watch.trouble
        self._metrics.add_source(watch.gauges)
        return watch


async def _watchdog() -> None:
    interval_s = watchdog_interval_s()
    while interval_s is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)


def _now() -> datetime:
    return datetime.now(UTC)


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
