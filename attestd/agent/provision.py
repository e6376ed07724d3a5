"""`attestd init --standalone`: keys, NV indices, local authorities, trust directory, log. Idempotent; never overwrites."""

import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestd.account import Account, acting_as, agent_account
from attestd.agent.exclusive import exclusive
from attestd.agent.keystore import load_keys, save_keys
from attestd.agent.tpm_access import EMBEDDED, TpmAccess
from attestd.agent.tpm_port import TpmPort
from attestd.audit.schema import create
from attestd.audit.seal import Pending, Sealer
from attestd.audit.store import LogStore
from attestd.distribution.local import load_trust, write_atomic
from attestd.distribution.signer import Authority, generate, load_authority
from attestd.errors import StoreError, TpmError, UsageError
from attestd.governance.authorities import parse_authorities
from attestd.governance.issue import (
    approve_platform_key,
    approve_state,
    draft_authorities,
    draft_host_record,
    draft_platform_policy,
    draft_revocations,
)
from attestd.governance.policy_schema import DEFAULT_POLICY, EMPTY_ENTITIES, SCHEMA
from attestd.governance.trust import Trust
from attestd.lineage.checkpoint import LogKeys
from attestd.lineage.entry import EntryType
from attestd.paths import Configuration, Layout, load_configuration, make_directory
from attestd.strict import canonical, format_time
from attestd.system import boot_id
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.nv import EPOCH_INDEX, epoch_public, nv_name
from attestd.tcg.pcr import PcrSelection, selection_from_text
from attestd.tcg.public import authority_public, host_id, parse_public
from attestd.tlog.checkpoint import origin
from attestd.tpm.device import Tpm
from attestd.tpm.endorsement import EndorsementKey
from attestd.tpm.keys import AuthValues, KeyBlobs
from attestd.tpm.owner import Priority, TpmOwner

__all__ = [
    "AUTHORITY_KINDS",
    "ChosenTpm",
    "Provisioned",
    "choose_tpm",
    "provision_standalone",
    "trust_owners",
]

_T = TypeVar("_T")

AUTHORITY_KINDS: Final = {"root": "p256", "platform": "p256", "epoch": "p256", "local": "ed25519"}
PLATFORM: Final = "local"
EMBEDDED_PCRS: Final = "sha256:0,2,4,7,11,12"
DEVICE: Final = "/dev/tpmrm0"
FIRST_EPOCH: Final = 1
# The root lets the platform key approve states for this many epochs; a bump that revokes only approvals is usual.
MAX_EPOCH: Final = 1_000_000
RECORD_LIFETIME: Final = timedelta(days=3650)
# A host record is valid from a little before now, for the clocks of a fleet differ.
BACKDATE: Final = timedelta(minutes=5)


@dataclass(frozen=True)
class Provisioned:
    """What `init` made, or found.

    Attributes:
        fresh: Whether this call made it.
        notes: What a person should read.
    """

    fresh: bool
    host: str
    log_origin: str
    tier: str
    platform: str
    selection: PcrSelection
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ChosenTpm:
    """A TPM, as the configuration names it, and why it is not the host's own, if `auto` had to do without."""

    tpm: str
    fallback: str | None


def trust_owners(layout: Layout) -> frozenset[int]:
    """Who may own the trust directory: root; in a state directory of one's own, oneself too."""
    return frozenset({0} if layout.system else {0, os.geteuid()})


def provision_standalone(
    layout: Layout, configuration: Configuration, *, pcrs: str | None, labels: Mapping[str, str]
) -> Provisioned:
    """Provisions a host that stands alone.

    Each step looks whether it was done: a run that was cut off is finished by the next. When all is done nothing is
    touched, least of all the TPM: the agent may be running. As a service, what is the agent's is made as the agent's
    user, which also shows that this user may use the TPM.

    Args:
        layout: Where.
        configuration: Which TPM.
        pcrs: The PCRs to approve, such as `0,2,4,7`; None for the embedded software TPM's default.
        labels: For the host record.

    Raises:
        UsageError: PCRs are needed, or other ones are approved already; a socket path is too long.
        TpmError: The TPM is not usable, or holds another installation's indices.
        StoreError: Files cannot be written.
    """
    layout.require_short_sockets()
    account = agent_account(layout)
    _migrate(layout, account)
    if (found := _find_provisioned(layout, account)) is not None:
        _require_same(found, pcrs=pcrs)
        return found
    embedded = configuration.tpm == EMBEDDED
    if pcrs is None and not embedded:
        raise UsageError(
            "--pcrs is needed for this TPM: which PCRs hold what you boot (for example 0,2,4,7,8,9)"
        )
    selection = selection_from_text(pcrs or EMBEDDED_PCRS)
    _make_directories(layout, account)
    access = TpmAccess(configuration, layout)
    with acting_as(account):
        started = access.embedded.start() if access.embedded else False
        owner = TpmOwner(access.opener())
    try:
        return _Steps(layout, configuration, owner, selection, labels).run()
    finally:
        with acting_as(account):
            owner.close()
            if access.embedded and started:
                access.embedded.stop()


def _migrate(layout: Layout, account: Account | None) -> None:
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


def choose_tpm(requested: str, layout: Layout, environ: Mapping[str, str]) -> ChosenTpm:
    """Which TPM `init` provisions.

    Args:
        requested: `auto`, `embedded`, or a TCTI string.
        layout: What was configured before stays: keys of one TPM are of no use on another.
        environ: `ATTESTD_TPM` overrides the configuration.

    Raises:
        UsageError: Another TPM is configured.
        StoreError: The configuration cannot be read.
    """
    if layout.configuration.exists() or "ATTESTD_TPM" in environ:
        configured = load_configuration(layout.configuration, environ).tpm
        if requested not in ("auto", configured):
            raise UsageError(
                f"this installation uses the TPM {configured!r} ({layout.configuration}), not {requested!r}: choose"
                " another --state-dir for another TPM"
            )
        return ChosenTpm(configured, None)
    if requested != "auto":
        return ChosenTpm(requested, None)
    if not Path(DEVICE).exists():
        return ChosenTpm(EMBEDDED, f"this host has no TPM ({DEVICE} does not exist)")
    try:
        with Tpm(f"device:{DEVICE}") as tpm:
            tpm.properties()
    except TpmError as error:
        return ChosenTpm(EMBEDDED, f"the TPM of this host cannot be used: {error}")
    return ChosenTpm(f"device:{DEVICE}", None)


def _find_provisioned(layout: Layout, account: Account | None) -> Provisioned | None:
    """What is there, if all of it is; None if something is missing and the steps must be taken."""
    trusted = [
        layout.trust / name for name in ("authorities.json", "revocations.json", f"platform/{PLATFORM}.json")
    ]
    if not all(
        path.exists() for path in (layout.configuration, layout.log, layout.keys, layout.host, *trusted)
    ):
        return None
    with acting_as(account):
        store = LogStore.open(str(layout.log), readonly=True)
        try:
            host, log_origin, size = store.host_id, store.origin, store.size
        finally:
            store.close()
    if not size or not (layout.trust / "hosts" / f"{host}.json").exists():
        return None
    trust = load_trust(layout.trust, owners=trust_owners(layout))
    return _provisioned(trust, host, log_origin, fresh=False)


def _require_same(found: Provisioned, *, pcrs: str | None) -> None:
    if pcrs is not None and selection_from_text(pcrs) != found.selection:
        raise UsageError(
            f"this host is initialised with {found.selection}: init changes nothing that is there; attestd platform"
            " approve approves new states of these PCRs"
        )


def _provisioned(trust: Trust, host: str, log_origin: str, *, fresh: bool) -> Provisioned:
    platform, tier = trust.platforms[PLATFORM], trust.hosts[host].tier
    return Provisioned(
        fresh=fresh,
        host=host,
        log_origin=log_origin,
        tier=tier,
        platform=f"{platform.name} version {platform.version}",
        selection=platform.selection,
        notes=_notes(tier),
    )


class _Steps:
    """The steps, each of which can find itself done."""

    def __init__(
        self,
        layout: Layout,
        configuration: Configuration,
        owner: TpmOwner,
        selection: PcrSelection,
        labels: Mapping[str, str],
    ) -> None:
        self.layout, self.configuration, self.owner = layout, configuration, owner
        self.selection, self.labels, self.account = selection, labels, agent_account(layout)
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.deadline_s = float(configuration.tpm_deadline_s) * 3  # key creation is slow on real TPMs

    def run(self) -> Provisioned:
        fresh = not self.layout.log.exists()
        authorities = {name: self._authority(name, kind) for name, kind in AUTHORITY_KINDS.items()}
        self._write_authorities(authorities)
        ek = self._tpm(lambda tpm: tpm.endorsement_key())
        self._keys(authorities)
        self._indices(authorities)
        tier = self._tier()
        host = host_id(ek.public)
        self._host_record(ek, tier, authorities)
        self._platform_policy(authorities)
        trust = load_trust(self.layout.trust, owners=trust_owners(self.layout))
        if host not in trust.hosts:
            raise StoreError(f"{self.layout.trust} is of another host: this TPM's host id is {host}")
        self._pin_host(host)
        with acting_as(self.account):
            log_origin = self._log(host, trust)
        if not self.layout.configuration.exists():
            text = f'# attestd configuration; see docs/operations.md\ntpm = "{self.configuration.tpm}"\n'
            write_atomic(self.layout.configuration, text.encode(), mode=0o644)
        return _provisioned(trust, host, log_origin, fresh=fresh)

    def _tpm(self, call: Callable[[Tpm], _T]) -> _T:
        with acting_as(self.account):
            return self.owner.submit(Priority.OTHER, call, self.deadline_s).result()

    def _authority(self, name: str, kind: str) -> Authority:
        path = self.layout.authority / f"{name}.pem"
        return load_authority(str(path)) if path.exists() else generate(kind, path)

    def _write_authorities(self, authorities: Mapping[str, Authority]) -> None:
        path = self.layout.trust / "authorities.json"
        if not path.exists():
            data = draft_authorities(
                name="local",
                authorization=authorities["local"].public,
                enroller=authorities["local"].public,
                root=authorities["root"].public,
                platform=authorities["platform"].public,
                epoch=authorities["epoch"].public,
            )
            write_atomic(path, data, mode=0o644)
        revocations = self.layout.trust / "revocations.json"
        if not revocations.exists():
            write_atomic(revocations, draft_revocations(epoch=FIRST_EPOCH), mode=0o644)

        policy = self.layout.trust / "policy"
        for name, data in (
            ("exec.cedar", DEFAULT_POLICY),
            ("schema.cedarschema", SCHEMA),
            ("entities.json", EMPTY_ENTITIES),
        ):
            if not (policy / name).exists():
                write_atomic(policy / name, data, mode=0o644)

    def _keys(self, authorities: Mapping[str, Authority]) -> None:
        if not self.layout.keys.exists():
            auth = AuthValues.generate()
            root = _tpm_public(authorities["root"])
            blobs = self._tpm(
                lambda tpm: tpm.create_keys(root_name=parse_public(root).name, auth_values=auth)
            )
            with acting_as(self.account):
                save_keys(self.layout.keys, blobs, auth)
        blobs, auth = self._load_keys()
        self._tpm(lambda tpm: tpm.load_keys(blobs, auth))

    def _load_keys(self) -> tuple[KeyBlobs, AuthValues]:
        with acting_as(self.account):
            return load_keys(self.layout.keys)

    def _indices(self, authorities: Mapping[str, Authority]) -> None:
        epoch = authorities["epoch"]
        public = _tpm_public(epoch)
        _, auth = self._load_keys()

        def define(tpm: Tpm) -> None:
            tpm.define_epoch(public)
            if tpm.nv_name(EPOCH_INDEX) != nv_name(epoch_public(parse_public(public).name, written=True)):
                tpm.init_epoch(
                    FIRST_EPOCH, authority_public=public, sign=lambda message: epoch.sign(message)[1]
                )
            tpm.define_counter(auth.counter)

        self._tpm(define)

    def _tier(self) -> str:
        # No manufacturer's root is trusted before governance names some: what a certificate would prove is not
        # counted. A software TPM says so itself; one that lies about it is still no more than uncertified.
        properties = self._tpm(lambda tpm: tpm.properties())
        return "software" if "SW" in properties.vendor else "uncertified"

    def _host_record(self, ek: EndorsementKey, tier: str, authorities: Mapping[str, Authority]) -> None:
        path = self.layout.trust / "hosts" / f"{host_id(ek.public)}.json"
        if path.exists():
            return
        blobs, _ = self._load_keys()
        name = parse_public(blobs.release_public).name
        bound = extra_data(Purpose.ENROLL, host_id=host_id(ek.public), data=name)
        certify = self._tpm(lambda tpm: tpm.certify_release_key(bound))
        chain = hashlib.sha256(b"".join(ek.certificate_chain)).hexdigest() if ek.certificate_chain else None
        record = draft_host_record(
            parse_authorities((self.layout.trust / "authorities.json").read_bytes()),
            ek_public=ek.public,
            ek_chain_digest=chain,
            ak_public=blobs.ak_public,
            release_public=blobs.release_public,
            certify=certify,
            tier=tier,
            userspace="none",
            labels=self.labels,
            not_before=self.now - BACKDATE,
            not_after=self.now + RECORD_LIFETIME,
            sign=authorities["local"].sign,
        )
        write_atomic(path, record, mode=0o644)

    def _platform_policy(self, authorities: Mapping[str, Authority]) -> None:
        path = self.layout.trust / "platform" / f"{PLATFORM}.json"
        if path.exists():
            return
        values = self._tpm(lambda tpm: tpm.read_pcrs(self.selection))
        known = parse_authorities((self.layout.trust / "authorities.json").read_bytes())
        policy = draft_platform_policy(
            name=PLATFORM,
            version=1,
            values={self.selection.bank: {index: [value] for index, value in values.items()}},
            approvals=[
                approve_state(
                    known,
                    selection=self.selection,
                    values=values,
                    epoch=FIRST_EPOCH,
                    sign_platform=authorities["platform"].sign,
                )
            ],
            platform_keys=[
                approve_platform_key(
                    known,
                    platform=authorities["platform"].public.key_id,
                    max_epoch=MAX_EPOCH,
                    sign_root=authorities["root"].sign,
                )
            ],
            min_tier=self._tier(),
            userspace=["none"],
        )
        write_atomic(path, policy, mode=0o644)

    def _pin_host(self, host: str) -> None:
        if not self.layout.host.exists():
            write_atomic(self.layout.host, canonical({"v": 1, "host": host}), mode=0o600)

    def _log(self, host: str, trust: Trust) -> str:
        path = str(self.layout.log)
        if not self.layout.log.exists():
            log_id = secrets.token_hex(16)
            create(
                path,
                origin=origin(host, log_id),
                host_id=host,
                log_id=log_id,
                created=format_time(self.now),
            )
        store = LogStore.open(path)
        try:
            if store.size == 0:
                self._first_entry(store, trust.hosts[host].release_spki, trust.hosts[host].ak_spki)
            return store.origin
        finally:
            store.close()

    def _first_entry(self, store: LogStore, release_spki: bytes, ak_spki: bytes) -> None:
        port = TpmPort(self.owner, host=store.host_id, selection=self.selection, deadline_s=self.deadline_s)
        keys = LogKeys(store.origin, release_spki, ak_spki)
        sealer = Sealer(store, port, keys, counter=port.read_counter())
        body = {"host": store.host_id, "log": store.log_id, "previous": None}
        sealer.seal([Pending(EntryType.LOG_START, body)], now=datetime.now(UTC), boot=boot_id())


def _tpm_public(authority: Authority) -> bytes:
    key = load_der_public_key(authority.public.spki_der)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UsageError(f"authority key {authority.public.key_id}: a TPM takes ECDSA P-256 keys only")
    return authority_public(key)


def _make_directories(layout: Layout, account: Account | None) -> None:
    """What is the agent's is made as its user, below the one directory that root makes for it."""
    private, public = 0o700, 0o755
    top = [] if layout.system else [(layout.agent.parent, private)]
    _require_agents(layout.agent, account)
    for path, mode in (
        *top,
        (layout.configuration.parent, public if layout.system else private),
        (layout.trust, public),
        (layout.trust / "hosts", public),
        (layout.trust / "policy", public),
        (layout.trust / "platform", public),
        (layout.trust / "platform" / "history", public),
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


def _notes(tier: str) -> tuple[str, ...]:
    software = (
        "this is a software TPM: it protects nothing from root, and every receipt says so (tier software);"
        " for development and tests only"
    )
    return (software,) if tier == "software" else ()
