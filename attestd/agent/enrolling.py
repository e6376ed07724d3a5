"""A host's side of enrolment: its own activation with each enroller, and one host record of what they signed."""

import contextlib
import hashlib
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.account import acting_as
from attestd.agent.provision_steps import HostSteps
from attestd.authorization.dsse import PublicKey, parse_envelope, verify_threshold
from attestd.durable import write_atomic
from attestd.errors import AgentError, MalformedError, StoreError, UsageError, VerificationError
from attestd.governance.ak_certificate import parse_ak_certificate
from attestd.governance.authorities import Authorities
from attestd.governance.enrolment import (
    Activation,
    Challenge,
    EnrolmentRequest,
    Outcome,
    Pending,
    draft_enrolment,
    join_host_records,
    nonce_of_epoch_message,
)
from attestd.governance.host import HOST_RECORD_TYPE, MAX_HOST_RECORD_BYTES, HostRecord, parse_host_record
from attestd.paths import Layout
from attestd.plain import counted
from attestd.strict import decode_base64, parse_canonical, parse_time
from attestd.tcg.public import host_id, parse_public
from attestd.tpm.endorsement import EndorsementKey
from attestd.tpm.keys import KeyBlobs

__all__ = ["Asked", "Enrolled", "Enrolling"]

FIRST_WAIT_S: Final = 2.0
LONGEST_WAIT_S: Final = 30.0
# Enrollers sign a record that waited, but not for ever; then it is drafted anew.
KEEP_DRAFT: Final = timedelta(days=7)


class Asked(Protocol):
    """An enroller, as `enrollers.Enroller` is one."""

    url: str

    def begin(self, request: EnrolmentRequest) -> Challenge:
        """Its challenge."""

    def activate(self, challenge: Challenge, activation: Activation) -> Outcome:
        """What it came to."""


@dataclass(frozen=True)
class _Activated:
    """An enroller that signed, and what it needs to be asked once more."""

    enroller: Asked
    challenge: Challenge
    activation: Activation
    envelope: bytes
    ended: bytes | None
    ak_certificate: str | None


@dataclass(frozen=True)
class Enrolled:
    """What enough enrollers signed.

    Attributes:
        record: The host record, which verifies.
        ended: The end of the record that the host had before, which verifies; None: it had none.
        ak_certificates: The attestation key's certificates in PEM, of those enrollers that issue any.
    """

    record: bytes
    ended: bytes | None
    ak_certificates: tuple[str, ...]

    def write(self, layout: Layout) -> None:
        """Puts them where people find them; what an earlier enrolment left goes.

        Raises:
            StoreError: They cannot be written.
        """
        write_atomic(layout.host_record, self.record, mode=0o644)
        certificates = "".join(self.ak_certificates).encode() or None
        for path, data in ((layout.host_record_ended, self.ended), (layout.ak_certificates, certificates)):
            if data is None:
                path.unlink(missing_ok=True)
            else:
                write_atomic(path, data, mode=0o644)


class Enrolling:
    """One enrolment. Cut off anywhere, the next one goes on with the record that this one drafted."""

    def __init__(
        self,
        steps: HostSteps,
        enrollers: Sequence[Asked],
        authorities: Authorities,
        *,
        ek: EndorsementKey,
        blobs: KeyBlobs,
        labels: Mapping[str, str],
        now: datetime,
    ) -> None:
        """Takes what it is about.

        Args:
            steps: The host; its keys are loaded.
            enrollers: Whom to ask.
            authorities: How many of them must sign, and with which keys.
            ek: The endorsement key.
            blobs: The other keys.
            labels: For the record.
            now: The time.
        """
        self._steps, self._enrollers, self._authorities = steps, enrollers, authorities
        self._ek, self._blobs, self._labels, self._now = ek, blobs, labels, now
        self._draft: Path = steps.layout.host_request
        self._signed: dict[str, _Activated] = {}
        self._refused: dict[str, str] = {}
        self._waits: dict[str, str] = {}
        self._record = self._kept()
        certify = _certify(self._record) if self._record else steps.certify(host_id(ek.public), blobs)
        self._certify = certify
        self._request = draft_enrolment(
            ek_public=ek.public,
            certificates=ek.certificate_chain,
            ak_public=blobs.ak_public,
            release_public=blobs.release_public,
            certify=certify,
        )

    def run(
        self, *, wait_s: float, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
    ) -> Enrolled:
        """Asks until enough of them signed.

        Args:
            wait_s: How long to wait for operators, and for enrollers that do not answer.
            say: Is told what it waits for, whenever that changes.
            sleep: Waits.

        Returns:
            What they signed.

        Raises:
            AgentError: The time is over, or they read different governance; to begin again goes on where this stopped.
            VerificationError: So many refused that the others are too few.
            UsageError: Fewer enrollers were named than must sign.
        """
        threshold = self._authorities.enroller_threshold
        if len(self._enrollers) < threshold:
            raise UsageError(
                f"{counted(threshold, 'enroller')} must sign a host record, and {len(self._enrollers)} are named: --controller URL for"
                " each"
            )
        late, pause, said = time.monotonic() + wait_s, FIRST_WAIT_S, ""
        while True:
            self._ask_everybody()
            if len(self._signed) >= threshold:
                return self._joined()
            words = "; ".join(_said_once({**self._refused, **self._waits}))
            if len(self._enrollers) - len(self._refused) < threshold:
                raise VerificationError(
                    f"{counted(threshold, 'enroller')} must sign, {len(self._signed)} did: {words}"
                )
            if time.monotonic() + pause > late:
                raise AgentError(
                    f"{counted(threshold, 'enroller')} must sign, {len(self._signed)} did: {words}: run this again, it goes on where it"
                    " stopped"
                )
            if words != said:
                say(f"waiting: {words}")
                said = words
            sleep(pause * (0.75 + secrets.randbelow(500) / 1000))
            pause = min(LONGEST_WAIT_S, pause * 1.5)

    def epoch_signer(self) -> "_EpochByEnrollers":
        """Has the epoch's first write signed by an enroller that has the epoch authority's key."""
        if not self._signed:
            self._ask_everybody()
        return _EpochByEnrollers(tuple(self._signed.values()), self._authorities)

    def _ask_everybody(self) -> None:
        self._waits = {}
        for enroller in self._enrollers:
            if enroller.url in self._refused or any(
                item.enroller.url == enroller.url for item in self._signed.values()
            ):
                continue
            try:
                with acting_as(self._steps.account):
                    challenge = enroller.begin(self._request)
                self._ask(enroller, challenge)
            except StoreError as error:
                self._waits[enroller.url] = str(error)
            except (VerificationError, MalformedError) as error:
                self._refused[enroller.url] = str(error)

    def _ask(self, enroller: Asked, challenge: Challenge) -> None:
        record = self._record_for(enroller, challenge)
        credential = challenge.credential
        secret = self._steps.tpm(
            lambda tpm: tpm.activate_credential(
                ek_public=self._ek.public,
                id_object=b64decode(credential.id_object),
                encrypted_secret=b64decode(credential.encrypted_secret),
            )
        )
        activation = Activation(
            v=1,
            enrolment=self._request,
            secret=b64encode(secret).decode(),
            record=b64encode(record).decode(),
            epoch_nonce=None,
        )
        with acting_as(self._steps.account):
            outcome = enroller.activate(challenge, activation)
        digest = hashlib.sha256(record).hexdigest()
        if isinstance(outcome, Pending):
            self._waits[enroller.url] = (
                f"{enroller.url}: an operator decides about the record {digest}: {', '.join(outcome.reasons)}"
            )
            return
        envelope = decode_base64(outcome.record, what=enroller.url)
        key_id = self._signer_of(enroller, envelope, record)
        ended = None if outcome.ended is None else decode_base64(outcome.ended, what=enroller.url)
        if outcome.ak_certificate is not None:
            ak = parse_public(self._blobs.ak_public).public_key()
            parse_ak_certificate(outcome.ak_certificate, ak=ak, host=challenge.host)
        self._signed[key_id] = _Activated(
            enroller, challenge, activation, envelope, ended, outcome.ak_certificate
        )

    def _record_for(self, enroller: Asked, challenge: Challenge) -> bytes:
        """The record, which is drafted when the first enroller says of which tier the host is."""
        host = host_id(self._ek.public)
        if challenge.host != host:
            raise VerificationError(
                f"{enroller.url}: it takes this host for {challenge.host}, this is {host}"
            )
        record = self._record
        if record is not None and (tier := _parsed(record).tier) != challenge.tier:
            if self._signed or self._waits:
                raise VerificationError(
                    f"{enroller.url}: it takes this host's tier to be {challenge.tier}, another enroller {tier}: they read"
                    " different governance"
                )
            record = None
        if record is None:
            record = self._record = self._steps.draft_request(
                self._authorities,
                self._ek,
                self._blobs,
                labels=self._labels,
                now=self._now,
                certify=self._certify,
                tier=challenge.tier,
            )
            write_atomic(self._draft, record, mode=0o644)
        return record

    def _signer_of(self, enroller: Asked, envelope: bytes, record: bytes) -> str:
        parsed = parse_envelope(envelope, payload_type=HOST_RECORD_TYPE, max_bytes=MAX_HOST_RECORD_BYTES)
        if parsed.payload != record:
            raise VerificationError(f"{enroller.url}: it signed another record than the one that it was sent")
        [key_id, *_] = verify_threshold(parsed, keys=self._authorities.enroller_keys, threshold=1)
        if key_id in self._signed:
            raise VerificationError(
                f"{enroller.url}: it signs with the key of {self._signed[key_id].enroller.url}: a key counts once"
            )
        return key_id

    def _joined(self) -> Enrolled:
        signed = list(self._signed.values())
        joined = join_host_records([item.envelope for item in signed])
        parse_host_record(joined, authorities=self._authorities, revoked_keys=frozenset())
        certificates = tuple(item.ak_certificate for item in signed if item.ak_certificate is not None)
        return Enrolled(joined, self._ended(signed), certificates)

    def _ended(self, signed: Sequence[_Activated]) -> bytes | None:
        found = [item.ended for item in signed if item.ended is not None]
        if not found:
            return None
        try:
            joined = join_host_records(found)
            parse_host_record(joined, authorities=self._authorities, revoked_keys=frozenset())
        except (UsageError, VerificationError) as error:
            raise AgentError(
                f"the enrollers do not agree on which record of this host ends; one of them reads older governance: {error}:"
                " run this again, it goes on where it stopped"
            ) from error
        return joined

    def _kept(self) -> bytes | None:
        """The record that was drafted before, if it is still what would be drafted."""
        try:
            data = self._draft.read_bytes()
            record = _parsed(data)
        except (OSError, MalformedError):
            return None
        keys = b64encode(self._blobs.ak_public).decode(), b64encode(self._blobs.release_public).decode()
        same = (record.ak.public, record.release_key.public) == keys and record.labels == self._labels
        fresh = timedelta() <= self._now - parse_time(record.not_before) + timedelta(minutes=5) <= KEEP_DRAFT
        epoch = record.nv.epoch == self._authorities.epoch_name.hex()
        chain = self._ek.certificate_chain
        digest = hashlib.sha256(b"".join(chain)).hexdigest() if chain else None
        ek = b64encode(self._ek.public).decode()
        return (
            data
            if same and fresh and epoch and (record.ek.public, record.ek.chain_digest) == (ek, digest)
            else None
        )


def _said_once(words: Mapping[str, str]) -> Iterator[str]:
    """What enrollers said, by their addresses; of those that said the same, once."""
    by_words: dict[str, list[str]] = {}
    for url, said in words.items():
        # An error begins with what was asked, which has an id of its own at each.
        where, _, rest = said.partition(": ")
        by_words.setdefault(rest if where.startswith(url) else said, []).append(url)
    for said, urls in by_words.items():
        yield f"{', '.join(urls)}: {said}"


class _EpochByEnrollers:
    """The epoch authority's key, where enrollers have it."""

    def __init__(self, activated: Sequence[_Activated], authorities: Authorities) -> None:
        self._activated, self._authorities = activated, authorities

    def sign(self, message: bytes) -> tuple[PublicKey, bytes]:
        """Has a message signed; the TPM verifies what comes back."""
        nonce = b64encode(nonce_of_epoch_message(message)).decode()
        words = []
        for item in self._activated:
            again = Activation(
                v=1,
                enrolment=item.activation.enrolment,
                secret=item.activation.secret,
                record=item.activation.record,
                epoch_nonce=nonce,
            )
            with contextlib.suppress(StoreError, VerificationError, MalformedError):
                outcome = item.enroller.activate(item.challenge, again)
                if isinstance(outcome, Pending) or outcome.epoch is None:
                    words.append(f"{item.enroller.url} has no epoch key")
                    continue
                key = PublicKey(
                    self._authorities.epoch.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
                )
                return key, decode_base64(outcome.epoch.sig, what=item.enroller.url)
        raise UsageError(
            f"no enroller signed the first write of this TPM's epoch ({'; '.join(words) or 'none was there'}): name"
            " epoch_key at one of them, or say --epoch-key KEY here"
        )


def _parsed(data: bytes) -> HostRecord:
    return parse_canonical(data, HostRecord, max_bytes=MAX_HOST_RECORD_BYTES, what="host record")


def _certify(data: bytes) -> tuple[bytes, bytes]:
    certify = _parsed(data).release_key.certify
    what = "host record"
    return decode_base64(certify.attest, what=what), decode_base64(certify.signature, what=what)
