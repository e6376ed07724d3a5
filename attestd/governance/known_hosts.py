"""Which hosts a version of governance knows, by their keys; and why a person may have to decide about one that comes. Pure."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum

from attestd.errors import MalformedError, StoreError, VerificationError
from attestd.governance.admission import ActivatedEnrolment
from attestd.governance.host import HostKeys, VerifiedHost, ek_digest
from attestd.governance.trust import Trust
from attestd.strict import format_time

__all__ = ["KnownHosts", "Standing"]


class Standing(StrEnum):
    """What the fleet knows of a host.

    Attributes:
        NEW: Nothing.
        SAME: It has a record with these very keys.
        REENROLMENT: It had other keys: its TPM was cleared, it was installed again, or somebody else has its TPM; or it has
            records none of which verifies, so that nobody knows which keys it had.
    """

    NEW = "new"
    SAME = "same"
    REENROLMENT = "re-enrolment"


class KnownHosts:
    """The hosts of one version of governance, to be asked by any of their keys; made once a version.

    It holds which keys each record, present or earlier, says that it is about: some hundred bytes each. That a record verifies
    is found out when it matters: when somebody shows a key that it is about.

    One thread at a time reads (`read`); then any number ask.
    """

    def __init__(self, trust: Trust, previous: "KnownHosts | None" = None) -> None:
        """Takes what `previous` knows of the same files, and reads none."""
        self._trust = trust
        before = {} if previous is None else previous._claims  # noqa: SLF001 - its own
        self._claims: dict[str, tuple[bytes, ...]] = {}  # what the metadata says of the file, then the keys
        self._by_key: dict[bytes, tuple[str, ...] | str] = {}
        self._unread: dict[str, bytes] = {}
        for name, packed in trust.host_files:
            known = before.get(name)
            if known is not None and known[0] == packed:
                self._add(name, known)
            else:
                self._unread[name] = packed

    def read(self) -> None:
        """Reads the records that it does not know yet; after an error it goes on where it was.

        Raises:
            StoreError: One cannot be read, or is not the file that the metadata names: nobody can say whose keys it is about.
        """
        while self._unread:
            name, packed = next(iter(self._unread.items()))
            try:
                claimed = _claimed(self._trust, name)
            except (VerificationError, MalformedError) as error:  # of the files here, not of who asks
                raise StoreError(f"governance: {error}") from error
            self._add(name, (packed, *claimed))
            del self._unread[name]

    def _add(self, name: str, claims: tuple[bytes, ...]) -> None:
        self._claims[name] = claims
        for key in claims[1:]:
            others = self._by_key.get(key)
            # Nearly always one: no tuple for each of three hundred thousand.
            self._by_key[key] = name if others is None else (*_names(others), name)

    def standing(self, activated: ActivatedEnrolment) -> Standing:
        """What the fleet knows of a host, and that it is no other one in disguise.

        1. The host is not revoked.
        2. Its EK is of no other host-id: the same key in another public area would be a second host in one TPM.
        3. Its attestation key and release key are no other host's, now or ever.

        Raises:
            VerificationError: One of these does not hold.
            StoreError: A record of this host, or any whose keys are not known yet, cannot be read now.
        """
        self.read()
        enrolment = activated.enrolment
        host, keys = enrolment.ek.host, enrolment.keys
        if host in self._trust.revocations.hosts:  # 1
            raise VerificationError(f"host {host} is revoked: what was revoked is not enrolled again")
        for other in self._others(ek_digest(enrolment.ek.public), host):  # 2
            raise VerificationError(
                f"the EK of host {host} is that of host {other} already: one TPM is one host"
            )
        for name in (keys.ak.name, keys.release_key.name):  # 3
            for other in self._others(name, host):
                raise VerificationError(f"host {host} shows a key of host {other}: a key is of one host")
        records = self._trust.known_records(host)
        if not records.usable and not records.refused:
            return Standing.NEW
        present = records.present
        return Standing.SAME if present is not None and _has(present, keys) else Standing.REENROLMENT

    def _others(self, key: bytes, host: str) -> Iterator[str]:
        """Other hosts that have a record about a key which verifies, or which nobody can read now."""
        for name in _names(self._by_key.get(key, ())):
            other = _host_of(name)
            if other != host and not self._trust.is_refused(name):
                yield other

    def reasons(self, activated: ActivatedEnrolment, *, now: datetime) -> tuple[str, ...]:
        """What an operator has to decide before the record is signed, in words; empty: nothing.

        A chain to a manufacturer says that there is a TPM, not that it is one of ours: any laptop's has one. A host that stands
        in `ek-allow.json` was admitted by whoever wrote that, and one that has a record may have it again.

        Raises:
            VerificationError, StoreError: As `standing`.
        """
        standing = self.standing(activated)
        enrolment = activated.enrolment
        records = self._trust.known_records(enrolment.ek.host)
        present = records.present
        found: list[str] = []
        if standing is Standing.NEW and enrolment.ek.chain is not None:
            found.append(f"a new host, vouched for by {enrolment.ek.chain.root} as {enrolment.ek.tier}")
        if standing is Standing.REENROLMENT and records.usable:
            found.append("other keys than before: its TPM was cleared or it was installed again")
        if present is None and records.refused:
            found.append(
                f"its record does not verify, so that nobody knows which keys it had: {records.refused[0]}"
            )
        if standing is Standing.SAME and present is not None and present.not_after <= now:
            found.append(f"its record ended at {format_time(present.not_after)}")
        labels = {} if present is None else present.labels
        if activated.labels != labels:
            found.append(f"labels {_words(activated.labels)}, before {_words(labels)}")
        userspace = "none" if present is None else present.userspace
        if activated.userspace != userspace:
            found.append(f"userspace {activated.userspace}, before {userspace}")
        return tuple(found)


def _claimed(trust: Trust, name: str) -> tuple[bytes, ...]:
    claimed = trust.claimed_keys(name)
    # One that lies under another host's name is nobody's.
    return () if claimed is None or claimed.host != _host_of(name) else (claimed.ek, *claimed.names)


def _names(names: tuple[str, ...] | str) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _host_of(name: str) -> str:
    return name.rpartition("/")[2][:64]


def _has(record: VerifiedHost, keys: HostKeys) -> bool:
    return (record.ak_name, record.release_name) == (keys.ak.name, keys.release_key.name)


def _words(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))[:200] or "none"
