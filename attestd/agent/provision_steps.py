"""The steps of `attestd init` on the host itself: directories, TPM, keys, log. Each finds itself done if it was."""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from attestd.account import Account, acting_as, agent_account
from attestd.agent.exclusive import exclusive
from attestd.agent.keystore import load_keys, save_keys
from attestd.agent.tpm_access import TpmAccess
from attestd.agent.tpm_port import TpmPort
from attestd.audit.files import create
from attestd.audit.seal import Pending, Sealer
from attestd.audit.store import LogStore
from attestd.authorization.dsse import PublicKey
from attestd.durable import make_directory, write_atomic
from attestd.errors import StoreError, TpmRefusedError, UsageError
from attestd.governance.authorities import Authorities
from attestd.governance.issue import draft_host_request
from attestd.governance.succession import HANDOVER
from attestd.lineage.checkpoint import LogKeys
from attestd.lineage.entry import EntryType
from attestd.paths import Configuration, Layout
from attestd.strict import canonical, format_time
from attestd.system import boot_id
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.nv import COUNTER_INDEX, EPOCH_INDEX, epoch_public, nv_name
from attestd.tcg.pcr import PcrSelection
from attestd.tcg.public import authority_public, host_id, parse_public
from attestd.tlog.checkpoint import origin
from attestd.tpm.device import Tpm
from attestd.tpm.endorsement import EndorsementKey
from attestd.tpm.keys import AuthValues, KeyBlobs
from attestd.tpm.owner import Priority, TpmOwner

__all__ = [
    "HostSteps",
    "Signs",
    "log_keys_of",
    "make_directories",
    "migrate_log",
    "opened_tpm",
    "reenrolment",
    "replace_counter",
    "tpm_public",
]

_T = TypeVar("_T")

RECORD_LIFETIME: Final = timedelta(days=3650)

# What `init` was told, or found in the environment: the agent is to find it again.
_WRITTEN: Final = (
    *("governance_url", "governance_ca", "controller_ca"),
    *("eventlog", "ima_list", "userspace_log", "command_line"),
)


class Signs(Protocol):
    """A key that signs here, or at somebody else's."""

    def sign(self, message: bytes) -> tuple[PublicKey, bytes]:
        """The key, and its signature."""


class HostSteps:
    """What every kind of `init` does.

    Attributes:
        account: The agent's user, as whom everything of the agent's is done; None: this one.
    """

    def __init__(self, layout: Layout, configuration: Configuration, owner: TpmOwner) -> None:
        """Takes the TPM."""
        self.layout, self.configuration, self._owner = layout, configuration, owner
        self.account = agent_account(layout)
        self._deadline_s = float(configuration.tpm_deadline_s) * 3  # key creation is slow on real TPMs

    def tpm(self, call: Callable[[Tpm], _T]) -> _T:
        """Does something with the TPM."""
        with acting_as(self.account):
            return self._owner.submit(Priority.OTHER, call, self._deadline_s).result()

    def make_keys(self, root: PublicKey) -> KeyBlobs:
        """AK and release key, under the root of the TPM's policy; loaded."""
        if not self.layout.keys.exists():
            auth = AuthValues.generate()
            name = parse_public(tpm_public(root)).name
            blobs = self.tpm(lambda tpm: tpm.create_keys(root_name=name, auth_values=auth))
            with acting_as(self.account):
                save_keys(self.layout.keys, blobs, auth)
        blobs, auth = self._load_keys()
        self.tpm(lambda tpm: tpm.load_keys(blobs, auth))
        return blobs

    def define_counter(self, *, replaces: bool = False) -> None:
        """The log counter.

        Args:
            replaces: One that answers to other keys makes room.
        """
        _, auth = self._load_keys()
        define = replace_counter if replaces else Tpm.define_counter
        self.tpm(lambda tpm: define(tpm, auth.counter))

    def define_epoch(self, epoch: int, authority: PublicKey, sign: Callable[[], Signs]) -> None:
        """The epoch index.

        Args:
            epoch: What the epoch starts with.
            authority: Who may raise it.
            sign: Gives that authority's key, which signs for this TPM alone: asked only if it is needed.
        """
        public = tpm_public(authority)
        name = nv_name(epoch_public(parse_public(public).name, written=True))
        self.tpm(lambda tpm: tpm.define_epoch(public))
        if self.tpm(lambda tpm: tpm.nv_name(EPOCH_INDEX)) != name:
            key = sign()
            self.tpm(
                lambda tpm: tpm.init_epoch(
                    epoch, authority_public=public, sign=lambda message: key.sign(message)[1]
                )
            )

    def tier(self) -> str:
        """What this host's evidence is rooted in."""
        # No manufacturer's root is trusted before governance names some: what a certificate would prove is not
        # counted. A software TPM says so itself; one that lies about it is still no more than uncertified.
        properties = self.tpm(lambda tpm: tpm.properties())
        return "software" if "SW" in properties.vendor else "uncertified"

    def draft_request(
        self,
        authorities: Authorities,
        ek: EndorsementKey,
        blobs: KeyBlobs,
        *,
        labels: Mapping[str, str],
        now: datetime,
        certify: tuple[bytes, bytes] | None = None,
        tier: str | None = None,
    ) -> bytes:
        """The host record that the enrollers are to sign.

        Args:
            authorities: They imply the NV Names.
            ek: The endorsement key.
            blobs: The other keys.
            labels: What the host calls itself.
            now: The time.
            certify: The AK's word on the release key; None: it is asked for.
            tier: What the enrollers take the host's evidence to be rooted in; None: what it would say itself.
        """
        chain = hashlib.sha256(b"".join(ek.certificate_chain)).hexdigest() if ek.certificate_chain else None
        return draft_host_request(
            authorities,
            ek_public=ek.public,
            ek_chain_digest=chain,
            ak_public=blobs.ak_public,
            release_public=blobs.release_public,
            certify=certify or self.certify(host_id(ek.public), blobs),
            tier=tier or self.tier(),
            userspace="none",
            labels=labels,
            not_before=now - HANDOVER,
            not_after=now + RECORD_LIFETIME,
        )

    def certify(self, host: str, blobs: KeyBlobs) -> tuple[bytes, bytes]:
        """The AK's word that the release key is in this TPM: TPMS_ATTEST and TPMT_SIGNATURE."""
        bound = extra_data(Purpose.ENROLL, host_id=host, data=parse_public(blobs.release_public).name)
        return self.tpm(lambda tpm: tpm.certify_release_key(bound))

    def pin_host(self, host: str) -> None:
        """Tells the runner which host this is."""
        if not self.layout.host.exists():
            write_atomic(self.layout.host, canonical({"v": 1, "host": host}), mode=0o600)

    def make_log(
        self,
        host: str,
        blobs: KeyBlobs,
        selection: PcrSelection,
        *,
        seen: Mapping[str, object],
        now: datetime,
        reenrolled: bool = False,
    ) -> str:
        """The log with its first entry, which tells what governance was seen; returns its origin.

        Args:
            host: Whose.
            blobs: The keys that seal it.
            selection: The PCRs that they are quoted with.
            seen: What of governance was seen.
            now: The time.
            reenrolled: The host had other keys before, whose log is not here: the second entry says so.
        """
        with acting_as(self.account):
            path = str(self.layout.log)
            if not self.layout.log.exists():
                log_id = secrets.token_hex(16)
                create(
                    path,
                    origin=origin(host, log_id),
                    host_id=host,
                    log_id=log_id,
                    created=format_time(now),
                )
            store = LogStore.open(path)
            try:
                if store.size == 0:
                    self._seal_first(store, blobs, selection, seen, reenrolled=reenrolled)
                return store.origin
            finally:
                store.close()

    def write_configuration(self) -> None:
        """`attestd.toml`, if there is none."""
        if self.layout.configuration.exists():
            return
        lines = ["# attestd configuration; see docs/operations.md", f'tpm = "{self.configuration.tpm}"']
        default = Configuration()
        named = {name: getattr(self.configuration, name) for name in _WRITTEN}
        lines += [f'{name} = "{value}"' for name, value in named.items() if value != getattr(default, name)]
        write_atomic(self.layout.configuration, "\n".join([*lines, ""]).encode(), mode=0o644)

    def _load_keys(self) -> tuple[KeyBlobs, AuthValues]:
        with acting_as(self.account):
            return load_keys(self.layout.keys)

    def _seal_first(
        self,
        store: LogStore,
        blobs: KeyBlobs,
        selection: PcrSelection,
        seen: Mapping[str, object],
        *,
        reenrolled: bool,
    ) -> None:
        port = TpmPort(self._owner, host=store.host_id, selection=selection, deadline_s=self._deadline_s)
        keys = log_keys_of(store, blobs)
        sealer = Sealer(store, port, keys, counter=port.read_counter())
        body = {"governance": dict(seen), "host": store.host_id, "log": store.log_id, "previous": None}
        entries = [Pending(EntryType.LOG_START, body)]
        if reenrolled:
            entries.append(Pending(EntryType.HOST_REENROLL, reenrolment(store.host_id, blobs)))
        sealer.seal(entries, now=datetime.now(UTC), boot=boot_id())


@contextmanager
def opened_tpm(layout: Layout, configuration: Configuration) -> Iterator[TpmOwner]:
    """The TPM of a configuration; an embedded one that did not run is stopped again."""
    account = agent_account(layout)
    access = TpmAccess(configuration, layout)
    with acting_as(account):
        started = access.embedded.start() if access.embedded else False
        owner = TpmOwner(access.open)
    try:
        yield owner
    finally:
        with acting_as(account):
            owner.close()
            if access.embedded and started:
                access.embedded.stop()


def reenrolment(host: str, blobs: KeyBlobs) -> dict[str, object]:
    """The body of `host.reenroll`: which keys the host has from here on."""
    names = (("ak", blobs.ak_public), ("release_key", blobs.release_public))
    return {"host": host, **{name: parse_public(public).name.hex() for name, public in names}}


def replace_counter(tpm: Tpm, auth_value: bytes) -> None:
    """A counter that answers to the new auth value. Redefined, it goes on above the old one's last value."""
    try:
        tpm.define_counter(auth_value)
        tpm.read_counter()
    except TpmRefusedError:
        tpm.undefine(COUNTER_INDEX)
        tpm.define_counter(auth_value)


def tpm_public(key: PublicKey) -> bytes:
    """A key as a TPM takes it.

    Raises:
        UsageError: It is no ECDSA P-256 key.
    """
    loaded = load_der_public_key(key.spki_der)
    if not isinstance(loaded, ec.EllipticCurvePublicKey):
        raise UsageError(f"authority key {key.key_id}: a TPM takes ECDSA P-256 keys only")
    return authority_public(loaded)


def log_keys_of(store: LogStore, blobs: KeyBlobs) -> LogKeys:
    """The keys of a log, whatever governance says of them by now."""
    return LogKeys(store.origin, _spki(blobs.release_public), _spki(blobs.ak_public))


def _spki(public: bytes) -> bytes:
    return parse_public(public).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def migrate_log(layout: Layout, account: Account | None) -> None:
    """Brings a log of an earlier attestd to this one's schema; one that can be opened is left alone."""
    with acting_as(account):
        if not os.path.exists(layout.log):  # false also where this account may not look: what follows says so
            return
        try:
            LogStore.open(str(layout.log), readonly=True).close()
        except StoreError:
            behind = True
        else:
            behind = False
    if behind:
        with exclusive(layout):  # which migrates it, or says what is wrong
            pass


def make_directories(layout: Layout, account: Account | None) -> None:
    """What is the agent's is made as its user, below the one directory that root makes for it."""
    private, public = 0o700, 0o755
    top = [] if layout.system else [(layout.agent.parent, private)]
    _require_agents(layout.agent, account)
    for path, mode in (
        *top,
        (layout.configuration.parent, public if layout.system else private),
        (layout.trust, public),
        (layout.authority, private),
        (layout.runner, private),
        (layout.agent_socket.parent, public if layout.system else private),
        (layout.runner_socket.parent, public if layout.system else private),
    ):
        make_directory(path, mode)
    if make_directory(layout.agent, private) and account is not None:
        os.chown(layout.agent, account.uid, account.gid)
    with acting_as(account):
        make_directory(layout.tpm, private)


def _require_agents(path: Path, account: Account | None) -> None:
    if account is None or not path.exists():
        return
    owner = path.lstat().st_uid
    if owner != account.uid:
        raise UsageError(
            f"{path} belongs to uid {owner}, expected {account.name}: chown -R {account.name}: {path}"
        )
