"""How a host that has new TPM keys gets its new host record: signed here, where the enrollers' keys are, or elsewhere."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from attestd.authorization.dsse import parse_envelope
from attestd.distribution.keyring import Keyring
from attestd.distribution.signer import Ask
from attestd.distribution.standalone import open_local_repository, publish_local
from attestd.durable import write_atomic
from attestd.governance.authorities import parse_authorities
from attestd.governance.host import HOST_RECORD_TYPE, MAX_HOST_RECORD_BYTES, HostRecord
from attestd.governance.issue import sign_host_request
from attestd.governance.succession import replace_host_record
from attestd.governance.trust import Trust
from attestd.paths import Layout
from attestd.strict import parse_canonical

__all__ = ["Enrol", "enrol_elsewhere", "enrol_here", "labels_of"]

# Times of records are whole seconds: what the old keys sealed within the last one is theirs.
_LAST_SECOND: Final = timedelta(seconds=1)


class Enrol(Protocol):
    """Has a host record signed and published."""

    def __call__(self, request: bytes, *, host: str, now: datetime) -> Path | None:
        """Enrols.

        Args:
            request: The record, unsigned.
            host: Whose it is.
            now: When the record before ends.

        Returns:
            None: it is published. Otherwise, where the request waits for the enrollers.
        """


def enrol_here(layout: Layout, keyring: Keyring, *, ask: Ask | None) -> Enrol:
    """Enrolment by the local authorities of a host that stands alone; cut off, it is done again."""

    def enrol(request: bytes, *, host: str, now: datetime) -> None:
        repository = open_local_repository(layout.authority)
        files = repository.plan().files
        staged = files.get(f"hosts/{host}.json")
        changes: Mapping[str, bytes] = {}
        if staged is None or _keys_of(_payload(staged)) != _keys_of(request):
            signers = keyring.enrollers(parse_authorities(files["authorities.json"]))
            record = sign_host_request(request, signers=signers)
            changes = replace_host_record(files, record, host=host, now=now + _LAST_SECOND, signers=signers)
        publish_local(repository, layout.authority, changes, ask=ask)

    return enrol


def enrol_elsewhere(layout: Layout) -> Enrol:
    """Enrolment by others: the request is written for them."""

    def enrol(request: bytes, *, host: str, now: datetime) -> Path:
        del host, now  # The enrollers end the record before, when they publish the new one.
        write_atomic(layout.host_request, request, mode=0o644)
        return layout.host_request

    return enrol


def labels_of(host: str, trust: Trust) -> Mapping[str, str]:
    """The labels of a host, which its new record keeps; also of a record that ended."""
    return next((record.labels for record in trust.records(host)), {})


def _payload(record: bytes) -> bytes:
    return parse_envelope(record, payload_type=HOST_RECORD_TYPE, max_bytes=MAX_HOST_RECORD_BYTES).payload


def _record(payload: bytes) -> HostRecord:
    return parse_canonical(payload, HostRecord, max_bytes=MAX_HOST_RECORD_BYTES, what="host record")


def _keys_of(payload: bytes) -> tuple[str, str]:
    record = _record(payload)
    return record.ak.public, record.release_key.public
