"""Enrolment over HTTP: two requests, between which nothing is kept."""

import asyncio
import contextlib
import hashlib
import logging
import os
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, TypeVar

import msgspec

from attestd.controller.background import in_background
from attestd.controller.enroller.example import EXAMPLE
from attestd.controller.enroller.keys import EnrollerKeys
from attestd.controller.enroller.office import Office
from attestd.controller.enroller.operators import Operators
from attestd.controller.enroller.records import decided_event
from attestd.controller.http.metrics import Gauge
from attestd.controller.http.operation import Answer, Body, Call, Operation, Response
from attestd.controller.http.problem import MEDIA_TYPE, Problem
from attestd.errors import MalformedError, StoreError, VerificationError
from attestd.governance.admission import (
    BACKDATED,
    ActivatedEnrolment,
    challenge_enrolment,
    verify_activation,
    verify_enrolment,
)
from attestd.governance.enrolment import (
    MAX_ACTIVATION_BYTES,
    MAX_ENROLMENT_BYTES,
    Activation,
    Challenge,
    EnrolmentRequest,
    EpochSignature,
    Outcome,
    Pending,
    Signed,
    epoch_message,
)
from attestd.governance.host_records import record_name
from attestd.governance.issue import sign_host_request
from attestd.governance.known_hosts import KnownHosts
from attestd.governance.succession import draft_ended_record, ended_keys, ends_late, warn_of_succession
from attestd.governance.trust import Trust
from attestd.journal import event
from attestd.prometheus import Labels
from attestd.strict import canonical, decode_base64

__all__ = ["Enroller"]

CHALLENGE_LIFETIME: Final = timedelta(minutes=10)
# A record that waits for a person may be this old when it is signed; then the host begins with another.
WAITING_LIFETIME: Final = timedelta(days=30)
# Each walks certificate chains and signs: more at a time would only keep the other roles waiting.
AT_A_TIME: Final = 4
PREPARE_S: Final = 1.0
KNOWING_S: Final = 5.0
_MAX_REASON: Final = 512

_T = TypeVar("_T")


class Enroller:
    """The role."""

    def __init__(
        self,
        *,
        trust: Callable[[], Trust],
        office: Office,
        keys: EnrollerKeys,
        max_validity: timedelta,
        log: logging.Logger,
        now: Callable[[], datetime],
    ) -> None:
        """Takes its parts.

        Args:
            trust: Gives what governance says now.
            office: What is remembered.
            keys: Its keys.
            max_validity: For how long it signs records.
            log: The journal.
            now: The time.
        """
        self._trust, self._office, self._keys = trust, office, keys
        self._max_validity, self._log, self._now = max_validity, log, now
        self._slots = asyncio.Semaphore(AT_A_TIME)
        self._known: tuple[str, KnownHosts] | None = None
        self._knowing = threading.Lock()
        self._operators = Operators(office=office, trust=trust, log=log, now=now)
        self._counted = dict.fromkeys(("challenged", "signed", "waiting", "refused"), 0)

    def operations(self) -> list[Operation]:
        """What it offers."""
        refused = Response("Refused: what does not verify, and why.", MEDIA_TYPE)
        return [
            Operation(
                name="beginEnrolment",
                method="POST",
                path="/v1/enrollments",
                summary="Show a host's keys; get a credential for its TPM",
                handler=self.begin,
                body=Body(MAX_ENROLMENT_BYTES, EXAMPLE, EnrolmentRequest),
                responses={
                    200: Response("A credential that this TPM alone can open.", schema=Challenge),
                    403: refused,
                },
            ),
            Operation(
                name="activateEnrolment",
                method="POST",
                path="/v1/enrollments/{id}/activation",
                summary="Show the credential's secret; get the host record signed",
                handler=self.activate,
                parameters={"id": "As the first answer says."},
                body=Body(MAX_ACTIVATION_BYTES, _example(), Activation),
                responses={
                    200: Response("Signed.", schema=Signed),
                    202: Response("An operator decides first: send it again later.", schema=Pending),
                    403: refused,
                },
            ),
            *self._operators.operations(),
        ]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reads host records ahead of who is to be admitted, as long as the context lasts."""
        async with in_background(self._prepare()):
            yield

    async def begin(self, call: Call) -> Answer:
        """`POST /v1/enrollments`."""
        challenge = await self._answer(self._begin, call.value)
        self._counted["challenged"] += 1
        return Answer(canonical(challenge))

    async def activate(self, call: Call) -> Answer:
        """`POST /v1/enrollments/{id}/activation`."""
        found = await self._answer(self._activate, call.parameters["id"], call.value)
        self._counted["waiting" if isinstance(found, Pending) else "signed"] += 1
        return Answer(canonical(found), status=202 if isinstance(found, Pending) else 200)

    def trouble(self) -> str | None:
        """Why it cannot enrol, for `/healthz`."""
        try:
            self._require_enroller(self._trust())
        except StoreError as error:
            return str(error)
        certifier = self._keys.certifier
        return None if certifier is None else certifier.trouble(self._now())

    def gauges(self) -> list[Gauge]:
        """For `/metrics`."""
        values: Mapping[Labels, float] = {
            (("outcome", outcome),): float(count) for outcome, count in self._counted.items()
        }
        return [("attestd_enroller_requests", "What requests of enrolment came to.", values)]

    async def _answer(self, function: Callable[..., _T], *arguments: object) -> _T:
        async with self._slots:
            try:
                return await asyncio.to_thread(function, *arguments)
            except (MalformedError, VerificationError) as error:
                # Its JSON has the right form: what it holds is not believed, whether it parses or not.
                self._counted["refused"] += 1
                raise Problem(403, str(error)) from error

    def _begin(self, request: EnrolmentRequest) -> Challenge:
        trust, now = self._believed(), self._now()
        verified = verify_enrolment(request, authorities=trust.authorities, trust=trust.ek, now=now)
        return challenge_enrolment(
            verified, key=self._keys.secret, expires=now + CHALLENGE_LIFETIME, random=os.urandom
        )

    def _activate(self, id_: str, activation: Activation) -> Outcome:
        trust, now = self._believed(), self._now()
        digest = hashlib.sha256(decode_base64(activation.record, what="activation")).hexdigest()
        activated = verify_activation(
            activation,
            id=id_,
            key=self._keys.secret,
            authorities=trust.authorities,
            trust=trust.ek,
            max_validity=self._max_validity,
            now=now,
            begun_within=WAITING_LIFETIME if self._office.knows(digest) else BACKDATED,
        )
        known, host = self._hosts(trust), activated.enrolment.ek.host
        record, present = activated.record, trust.known_records(host).present
        admission = self._office.admit(
            activated,
            standing=known.standing(activated),
            reasons=[reason[:_MAX_REASON] for reason in known.reasons(activated, now=now)],
            ended=ended_keys(record, present=present),
            warned=bool(warn_of_succession(record, present=present, seen=None, now=now)),
            late=ends_late(record, present=present, now=now),
            now=now,
        )
        if admission.waits:
            self._log.info(event("enrolment.waiting", host=host, digest=digest))
            return Pending(v=1, digest=digest, reasons=admission.waits)
        if (taken := admission.decided) is not None:  # Recorded, whether the record can be signed now or not.
            self._log.info(decided_event(host, taken.decision, digest, operator=taken.operator))
        signed = self._sign(activated, activation.epoch_nonce, trust)
        self._log.info(event("enrolment.signed", host=host, digest=digest))
        return signed

    def _sign(self, activated: ActivatedEnrolment, nonce: str | None, trust: Trust) -> Signed:
        record = sign_host_request(activated.record, signers=[self._keys.signer.sign])
        certifier = self._keys.certifier
        return Signed(
            v=1,
            record=b64encode(record).decode(),
            ended=self._ended(activated, trust),
            ak_certificate=None if certifier is None else certifier.certify(activated),
            epoch=self._epoch(nonce, trust),
        )

    def _ended(self, activated: ActivatedEnrolment, trust: Trust) -> str | None:
        """The end of the record that the host has, for what it sealed until now is to verify after that."""
        host = activated.enrolment.ek.host
        if trust.known_records(host).present is None:
            return None  # Or none that verifies: what it sealed does not either.
        try:
            previous = trust.file(record_name(host))
        except (VerificationError, MalformedError) as error:  # of the file here, not of who asks
            raise StoreError(f"governance: {error}") from error
        payload = None if previous is None else draft_ended_record(previous, successor=activated.record)
        if payload is None:
            return None
        return b64encode(sign_host_request(payload, signers=[self._keys.signer.sign])).decode()

    def _epoch(self, nonce: str | None, trust: Trust) -> EpochSignature | None:
        key, authorities = self._keys.epoch, trust.authorities
        if nonce is None or key is None or key.public.key_id != authorities.epoch.key_id:
            return None
        epoch = max(1, trust.revocations.epoch)
        message = epoch_message(
            authorities.epoch.name, epoch=epoch, nonce=decode_base64(nonce, what="activation")
        )
        return EpochSignature(epoch=epoch, sig=b64encode(key.sign(message)[1]).decode())

    def _believed(self) -> Trust:
        trust = self._trust()
        self._require_enroller(trust)
        return trust

    def _require_enroller(self, trust: Trust) -> None:
        key_id = self._keys.signer.public.key_id
        if key_id in trust.revocations.keys or key_id not in (
            key.key_id for key in trust.authorities.enroller_keys
        ):
            # Of this controller's making, whatever the host says: it is told to ask again.
            raise StoreError(f"enroller_key {key_id}: governance does not name it among the enrollers")

    def _hosts(self, trust: Trust) -> KnownHosts:
        """The index of this version of governance; made once, from the one before: the first takes seconds in a large fleet.

        Where a record cannot be read, what was read before is kept: who asks next goes on there.

        Raises:
            StoreError: A host record cannot be read; or they are being read, and who asks is to ask again.
        """
        if not self._knowing.acquire(timeout=KNOWING_S):
            raise StoreError(
                "the records of all hosts are being read, which takes a while after a start: ask again"
            )
        try:
            found = self._known
            if found is None or found[0] != trust.digest:
                found = self._known = trust.digest, KnownHosts(trust, None if found is None else found[1])
            found[1].read()
            return found[1]
        finally:
            self._knowing.release()

    async def _prepare(self) -> None:
        while True:
            with contextlib.suppress(StoreError):  # Who asks is told.
                await asyncio.to_thread(self._hosts, self._trust())
            await asyncio.sleep(PREPARE_S)


def _example() -> bytes:
    # Of the right form; only a host's own challenge makes one that is accepted.
    return canonical(
        {
            "v": 1,
            "enrolment": msgspec.json.decode(EXAMPLE),
            "secret": b64encode(bytes(32)).decode(),
            "record": b64encode(b"{}").decode(),
            "epoch_nonce": None,
        }
    )
