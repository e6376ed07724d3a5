"""How a host that has new TPM keys gets its new host record: signed here, where the enrollers' keys are, or elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from attestd.agent.enrollers import Enroller
from attestd.agent.enrolling import Enrolling
from attestd.agent.provision_steps import HostSteps, Signs
from attestd.authorization.dsse import parse_envelope
from attestd.distribution.keyring import Keyring
from attestd.distribution.signer import Ask
from attestd.distribution.standalone import open_local_repository, publish_local
from attestd.durable import write_atomic
from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.governance.admission import verify_endorsement_key
from attestd.governance.authorities import parse_authorities
from attestd.governance.host import HOST_RECORD_TYPE, MAX_HOST_RECORD_BYTES, HostRecord
from attestd.governance.issue import sign_host_request
from attestd.governance.platform import Tier
from attestd.governance.succession import replace_host_record
from attestd.governance.trust import Trust
from attestd.paths import Layout
from attestd.strict import parse_canonical
from attestd.tcg.public import host_id, parse_public
from attestd.tpm.endorsement import EndorsementKey
from attestd.tpm.keys import KeyBlobs

__all__ = ["Enrol", "EnrolElsewhere", "EnrolHere", "NewKeys", "labels_of", "vouched_tier"]

# Times of records are whole seconds: what the old keys sealed within the last one is theirs.
_LAST_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True)
class NewKeys:
    """A host that has new keys in its TPM, loaded.

    Attributes:
        steps: What is done on the host.
        trust: What is published.
        ek: Its endorsement key.
        blobs: Its new keys.
    """

    steps: HostSteps
    trust: Trust
    ek: EndorsementKey
    blobs: KeyBlobs

    @property
    def host(self) -> str:
        """The host-id."""
        return host_id(self.ek.public)

    def draft(self, now: datetime) -> bytes:
        """The record, unsigned. The one before ends `HANDOVER` after it begins: what the old keys sealed within this second is theirs."""
        return self.steps.draft_request(
            self.trust.authorities,
            self.ek,
            self.blobs,
            labels=labels_of(self.host, self.trust),
            now=now + _LAST_SECOND,
            tier=vouched_tier(self.ek, self.trust, now),
        )


class Enrol(Protocol):
    """Has a host record signed and published."""

    def __call__(self, keys: NewKeys, *, now: datetime) -> tuple[Path, ...]:
        """Enrols.

        Args:
            keys: Whose record.
            now: When the record before ends.

        Returns:
            Nothing: it is published. Otherwise, what waits to be signed, or to be published.
        """

    def epoch_signer(self, keys: NewKeys) -> Signs:
        """Gives the epoch authority's key: it signs once for a TPM, and is asked for only then."""


class EnrolHere:
    """Enrolment by the local authorities of a host that stands alone; cut off, it is done again."""

    def __init__(self, layout: Layout, keyring: Keyring, *, ask: Ask | None) -> None:
        """Takes the authorities' keys."""
        self._layout, self._keyring, self._ask = layout, keyring, ask

    def __call__(self, keys: NewKeys, *, now: datetime) -> tuple[Path, ...]:
        """Signs and publishes."""
        repository = open_local_repository(self._layout.authority)
        files, request = repository.plan().files, keys.draft(now)
        staged = files.get(f"hosts/{keys.host}.json")
        changes: Mapping[str, bytes] = {}
        if staged is None or _keys_of(_payload(staged)) != _keys_of(request):
            signers = self._keyring.enrollers(parse_authorities(files["authorities.json"]))
            record = sign_host_request(request, signers=signers)
            changes = replace_host_record(
                files, record, host=keys.host, now=now + _LAST_SECOND, signers=signers
            )
        publish_local(repository, self._layout.authority, changes, ask=self._ask)
        return ()

    def epoch_signer(self, keys: NewKeys) -> Signs:
        """The local epoch authority's key."""
        return self._keyring.open(keys.trust.authorities.epoch.key_id)


class EnrolElsewhere:
    """Enrolment by others: controllers sign, where some are named, else whoever is given the request."""

    def __init__(
        self,
        layout: Layout,
        keyring: Keyring,
        *,
        urls: Sequence[str],
        ca: str,
        wait_s: float,
        say: Callable[[str], None],
    ) -> None:
        """Takes whom to ask.

        Args:
            layout: Where things are put.
            keyring: Keys that were named, for the epoch's first write.
            urls: The enrollers; none: those of `mesh.json`.
            ca: Who may vouch for them.
            wait_s: How long to wait for what operators decide.
            say: Is told what is waited for.
        """
        self._layout, self._keyring, self._urls, self._ca = layout, keyring, tuple(urls), ca
        self._wait_s, self._say = wait_s, say

    def __call__(self, keys: NewKeys, *, now: datetime) -> tuple[Path, ...]:
        """Has it signed by controllers, or leaves the request."""
        layout, enrolling = self._layout, self._enrolling(keys, now)
        if enrolling is None:
            # The enrollers end the record before, when they publish the new one.
            write_atomic(layout.host_request, keys.draft(now), mode=0o644)
            return (layout.host_request,)
        enrolled = enrolling.run(wait_s=self._wait_s, say=self._say)
        enrolled.write(layout)
        return (layout.host_record, *(() if enrolled.ended is None else (layout.host_record_ended,)))

    def epoch_signer(self, keys: NewKeys) -> Signs:
        """A key that was named, else an enroller that has it."""
        key_id, enrolling = keys.trust.authorities.epoch.key_id, None
        try:
            return self._keyring.open(key_id)
        except UsageError:
            enrolling = self._enrolling(keys, datetime.now(UTC).replace(microsecond=0))
            if enrolling is None:
                raise
        return enrolling.epoch_signer()

    def _enrolling(self, keys: NewKeys, now: datetime) -> Enrolling | None:
        trust = keys.trust
        urls = self._urls or tuple(sorted({node.url for node in trust.mesh.enrollers.values()}))
        if not urls:
            return None
        return Enrolling(
            keys.steps,
            [Enroller(url, ca=self._ca) for url in urls],
            trust.authorities,
            ek=keys.ek,
            blobs=keys.blobs,
            labels=labels_of(keys.host, trust),
            now=now + _LAST_SECOND,
        )


def vouched_tier(ek: EndorsementKey, trust: Trust, now: datetime) -> Tier | None:
    """What governance takes this TPM's evidence to be rooted in, as an enroller would; None: nobody vouches for it."""
    try:
        public = parse_public(ek.public)
        return verify_endorsement_key(public, ek.certificate_chain, trust=trust.ek, now=now).tier
    except (VerificationError, MalformedError):
        return None


def labels_of(host: str, trust: Trust) -> Mapping[str, str]:
    """The labels of a host, which its new record keeps; also of a record that ended.

    Raises:
        StoreError: A record of it cannot be read now.
    """
    return next((record.labels for record in trust.known_records(host).usable), {})


def _payload(record: bytes) -> bytes:
    return parse_envelope(record, payload_type=HOST_RECORD_TYPE, max_bytes=MAX_HOST_RECORD_BYTES).payload


def _record(payload: bytes) -> HostRecord:
    return parse_canonical(payload, HostRecord, max_bytes=MAX_HOST_RECORD_BYTES, what="host record")


def _keys_of(payload: bytes) -> tuple[str, str]:
    record = _record(payload)
    return record.ak.public, record.release_key.public
