"""`attestd rekey`: new TPM keys for a host, on the same TPM, cleared or not. See docs/adr/0019-keys-replaced.md.

Each step finds itself done if it was; cut off anywhere, the next call goes on, and no agent starts in between:

    keys.next.json   the new keys, made inside the TPM
    log.db           its last leaf names them (not if the old keys are lost)
    governance       has the host's new record; the old one ends, and goes to the history
    TPM              log counter with a new auth value; epoch index, if it is not the epoch authority's
    log.db.next      the first leaf of the new log, sealed by the new keys, names the last checkpoint of the old one
    keys.json        is replaced by keys.next.json: from here on these are the keys
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.account import acting_as
from attestd.agent.clock import TrustedClock
from attestd.agent.enrolment import Enrol, NewKeys
from attestd.agent.exclusive import exclusive
from attestd.agent.governance import Updater, first_seen, sealed_floor
from attestd.agent.identity import is_record_of, selection_of
from attestd.agent.keystore import load_keys, save_keys
from attestd.agent.provision_steps import HostSteps, log_keys_of, opened_tpm, reenrolment, replace_counter
from attestd.agent.rotate import require_settled, seal_first_leaf
from attestd.agent.tpm_port import TpmPort
from attestd.audit.rotate import finish_rotation
from attestd.audit.seal import Pending, Sealer
from attestd.audit.store import LogStore
from attestd.authorization.dsse import PublicKey
from attestd.distribution.local import load_trust
from attestd.durable import sync_directory
from attestd.errors import StoreError, UsageError
from attestd.governance.authorities import Authorities
from attestd.governance.floor import Floor
from attestd.lineage.entry import EntryType, parse_entry
from attestd.paths import Configuration, Layout
from attestd.strict import parse_time
from attestd.system import boot_id
from attestd.tcg.nv import EPOCH_INDEX, epoch_public, nv_name
from attestd.tcg.public import host_id
from attestd.tlog.note import parse_note
from attestd.tpm.device import Tpm
from attestd.tpm.keys import AuthValues, KeyBlobs
from attestd.tpm.owner import TpmOwner

__all__ = ["STEPS", "Rekeyed", "rekey"]

STEPS: Final = ("make_keys", "announce", "enrol", "define", "continue_log", "take_over")


@dataclass(frozen=True)
class Rekeyed:
    """What was done.

    Attributes:
        host: The host.
        origin: The log that goes on; None: not yet.
        closed: Where the log before is kept; None: there was none.
        waits: What enrollers are to sign, or signed and is to be published; then it goes on. Empty: it is done.
    """

    host: str
    origin: str | None
    closed: Path | None
    waits: tuple[Path, ...]


def rekey(
    layout: Layout,
    configuration: Configuration,
    *,
    lost: bool,
    enrol: Enrol,
) -> Rekeyed:
    """Gives a host new TPM keys, and a log that they seal.

    Args:
        layout: The installation; its agent is stopped.
        configuration: Which TPM.
        lost: The old keys cannot be used any more, or should not: the old log ends without a word about it.
        enrol: Has the new host record signed and published.

    Raises:
        UsageError: The agent is running, or left something unsettled; the old keys are not there, and `lost` was not
            said; another TPM.
        RollbackError: The old log contradicts the TPM.
        StoreError, TpmError, VerificationError, MalformedError: It cannot be done; the next call goes on.
    """
    with exclusive(layout, rekeying=True), opened_tpm(layout, configuration) as owner:
        work = _Rekey(layout, configuration, owner, lost=lost, enrol=enrol)
        for step in STEPS:
            getattr(work, step)()
            if work.waits:
                break
        return Rekeyed(work.host, work.origin, work.closed, work.waits)


class _Rekey:
    """The steps."""

    def __init__(
        self,
        layout: Layout,
        configuration: Configuration,
        owner: TpmOwner,
        *,
        lost: bool,
        enrol: Enrol,
    ) -> None:
        self._layout, self._owner, self._lost = layout, owner, lost
        self._enrol = enrol
        self._source = layout.trust_source(configuration)
        self._steps = HostSteps(layout, configuration, owner)
        self._deadline_s = float(configuration.tpm_deadline_s) * 3
        self._has_log = layout.log.exists()
        self._ek = self._steps.tpm(lambda tpm: tpm.endorsement_key())
        self.host = host_id(self._ek.public)
        if configuration.governance_url:
            with acting_as(self._steps.account):
                Updater(self._source, configuration, host=self.host).update(self._floor())
        self._trust = load_trust(self._source)
        self.origin: str | None = None
        self.closed: Path | None = None
        self.waits: tuple[Path, ...] = ()
        self._keys: tuple[KeyBlobs, AuthValues]
        self._is_new = False  # The log is sealed by the new keys already.

    def make_keys(self) -> None:
        path, account = self._layout.next_keys, self._steps.account
        self._require_this_host()
        if not path.exists():
            if not self._lost:
                with acting_as(account):
                    self._old_keys()
            auth, root = AuthValues.generate(), self._trust.authorities.root.name
            blobs = self._steps.tpm(lambda tpm: tpm.create_keys(root_name=root, auth_values=auth))
            with acting_as(account):
                save_keys(path, blobs, auth)
        with acting_as(account):
            self._keys = load_keys(path)
            if self._has_log:
                with _opened(self._layout.log) as store:
                    self._is_new = self._is_sealed_by_new(store)

    def announce(self) -> None:
        """The last leaf of the old log names the new keys: whoever holds it knows what comes."""
        if self._lost or self._is_new or not self._has_log:
            return
        body = reenrolment(self.host, self._keys[0])
        account = self._steps.account
        with acting_as(account), _opened(self._layout.log) as store:
            last = parse_entry(store.entry(store.size - 1))
            if last.type is EntryType.HOST_REENROLL and last.body == body:
                return
            blobs, auth = self._old_keys()
        self._steps.tpm(lambda tpm: tpm.load_keys(blobs, auth))
        with acting_as(account), _opened(self._layout.log) as store:
            port, keys = self._port(), log_keys_of(store, blobs)
            now = require_settled(store, port, keys).read().now
            sealer = Sealer(store, port, keys, counter=port.read_counter())
            sealer.seal([Pending(EntryType.HOST_REENROLL, body)], now=now, boot=boot_id())

    def enrol(self) -> None:
        """Governance names the new keys: nothing that the old ones seal from now on is believed."""
        blobs, auth = self._keys
        self._steps.tpm(lambda tpm: tpm.load_keys(blobs, auth))
        if is_record_of(self._trust.hosts.get(self.host), blobs):
            return
        self.waits = self._enrol(self._new_keys(), now=_now())
        if not self.waits:
            self._trust = load_trust(self._source)
            if not is_record_of(self._trust.hosts.get(self.host), blobs):
                reason = self._trust.unusable.get(
                    f"hosts/{self.host}.json", "it is not the one that was asked for"
                )
                raise StoreError(f"governance has no usable record of the new keys: {reason}")

    def define(self) -> None:
        """Whoever knows the old auth values can neither step the counter nor hold it back."""
        authorities, auth = self._trust.authorities, self._keys[1]
        self._steps.tpm(lambda tpm: _free_epoch(tpm, authorities))
        public = PublicKey(
            authorities.epoch.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
        epoch = max(1, self._trust.revocations.epoch)
        self._steps.define_epoch(epoch, public, lambda: self._enrol.epoch_signer(self._new_keys()))
        if not self._is_new:
            self._steps.tpm(lambda tpm: replace_counter(tpm, auth.counter))

    def continue_log(self) -> None:
        blobs, account = self._keys[0], self._steps.account
        if not self._has_log or not self._has_entries():
            _, seen = first_seen(self._source)
            self.origin = self._steps.make_log(
                self.host, blobs, selection_of(self._trust), seen=seen, now=_now()
            )
            return
        with acting_as(account), _opened(self._layout.log) as store:
            if self._is_new:
                self.origin = store.origin
                return
            self.origin = seal_first_leaf(
                store,
                self._layout.log,
                self._port(),
                keys=lambda new: log_keys_of(new, blobs),
                now=_moment(store),
            )
        with acting_as(account):
            self.closed = finish_rotation(self._layout.log)

    def take_over(self) -> None:
        self._steps.pin_host(self.host)
        with acting_as(self._steps.account):
            try:
                os.replace(self._layout.next_keys, self._layout.keys)
                sync_directory(self._layout.agent)
            except OSError as error:
                raise StoreError(f"{error.filename}: {error.strerror}") from error

    def _new_keys(self) -> NewKeys:
        return NewKeys(self._steps, self._trust, self._ek, self._keys[0])

    def _require_this_host(self) -> None:
        if not self._has_log:
            if not self._lost:
                raise UsageError(
                    f"{self._layout.log} is not there: if it is lost, attestd rekey --lost starts a new log"
                )
            return
        with acting_as(self._steps.account), _opened(self._layout.log) as store:
            if store.host_id != self.host:
                raise UsageError(
                    f"the log is of host {store.host_id}, this TPM's host id is {self.host}: with another TPM it is"
                    " another host (attestd deprovision, then attestd init)"
                )

    def _old_keys(self) -> tuple[KeyBlobs, AuthValues]:
        try:
            return load_keys(self._layout.keys)
        except StoreError as error:
            raise UsageError(f"{error}; if the old keys are lost: attestd rekey --lost") from error

    def _has_entries(self) -> bool:
        with acting_as(self._steps.account), _opened(self._layout.log) as store:
            return store.size > 0

    def _is_sealed_by_new(self, store: LogStore) -> bool:
        last = store.last_checkpoint()
        wanted = log_keys_of(store, self._keys[0]).attestation.key_id
        return last is not None and any(
            line.key_id == wanted for line in parse_note(last.note).signatures if line.name == store.origin
        )

    def _floor(self) -> Floor | None:
        if not self._has_log:
            return None
        with _opened(self._layout.log) as store:
            return sealed_floor(store)

    def _port(self) -> TpmPort:
        return TpmPort(
            self._owner, host=self.host, selection=selection_of(self._trust), deadline_s=self._deadline_s
        )


def _free_epoch(tpm: Tpm, authorities: Authorities) -> None:
    """An epoch index of an authority that was replaced makes room; one that is nobody's we know stays."""
    found = tpm.nv_name(EPOCH_INDEX)
    former = {
        nv_name(epoch_public(past.epoch.name, written=written))
        for past in authorities.former
        for written in (False, True)
        if past.epoch.name != authorities.epoch.name
    }
    if found in former:
        tpm.undefine(EPOCH_INDEX)


def _moment(log: LogStore) -> datetime:
    clock = TrustedClock(parse_time(parse_entry(log.entry(log.size - 1)).time))
    moment = clock.read()
    if moment.denial is not None:
        raise UsageError(f"{moment.denial.sentence}: {moment.denial.hint}")
    return moment.now


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@contextmanager
def _opened(path: Path) -> Iterator[LogStore]:
    store = LogStore.open(str(path))
    try:
        yield store
    finally:
        store.close()
