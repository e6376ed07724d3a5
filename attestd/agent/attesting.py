"""One attestation to one remote verifier: it asks, the TPM quotes, the logs are read, it answers with a result.

Nothing of it is believed before it verifies; and nothing is quoted but over what binds it to this host and purpose.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

import msgspec

import attestd
from attestd.agent.controllers import CallThreads, Controller
from attestd.agent.measured_logs import BootLogs, BootReader, read_part
from attestd.agent.tpm_port import TpmPort
from attestd.appraisal.evidence import (
    EvidenceChallenge,
    draft_evidence,
    make_boot_logs,
    parse_evidence_challenge,
)
from attestd.appraisal.result import MAX_RESULT_BYTES, AttestationResult, verify_result
from attestd.errors import EvidenceIncompleteError, MalformedError, StoreError, VerificationError
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.strict import canonical, decode_base64url
from attestd.tcg.attest import ClockInfo, parse_attest
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.ima.replay import MAX_IMA_BYTES
from attestd.tcg.pcr import composite

__all__ = ["Attestation"]

CHALLENGE: Final = "/v1/challenge"
EVIDENCE: Final = "/v1/evidence"
MAX_CHALLENGE_BYTES: Final = 4096
# The first time as little as it asks for; then, where it wants more or was asked by others meanwhile, all of it.
_ATTEMPTS: Final = 3
_CONFLICT: Final = 409
_OK: Final = 200


@dataclass(frozen=True)
class _Quoted:
    """A quote over a challenge, and the values behind it."""

    attest: bytes
    signature: bytes
    values: Mapping[int, bytes]

    @property
    def clock(self) -> ClockInfo:
        return parse_attest(self.attest).clock

    def composite(self, policy: PlatformPolicy) -> bytes:
        """Of the policy's own PCRs: more of them may be quoted."""
        return composite(policy.selection, {pcr: self.values[pcr] for pcr in policy.selection.pcrs})


@dataclass(frozen=True)
class Attestation:
    """What it takes to attest.

    Attributes:
        port: The TPM.
        reader: The logs of this boot.
        threads: Where calls, and what is as slow, are made.
        now: The latest time that can be right: the wall clock, unless that lags behind.
    """

    port: TpmPort
    reader: BootReader
    threads: CallThreads
    now: Callable[[], datetime]

    async def attest(
        self, controller: Controller, *, name: str, policy: PlatformPolicy, trust: Trust
    ) -> AttestationResult:
        """Attests to a verifier.

        Args:
            controller: The verifier.
            name: Its name in `mesh.json`.
            policy: The platform policy to be appraised under.
            trust: What is trusted.

        Returns:
            Its result, which verified: about this host, in the state that was just quoted, under this very policy.

        Raises:
            StoreError: It does not answer now, or goes by another version of the policy.
            VerificationError: It refuses, or its result is not what it must be.
            MalformedError: What it answers does not parse, or the logs are over the limits.
            TpmError: The TPM did not quote.
        """
        whole = False
        for _ in range(_ATTEMPTS):
            asked = await self.threads.run(partial(self._ask, controller, policy))
            if whole:
                asked = msgspec.structs.replace(asked, eventlog=None, ima=None)
            quoted = await self._quote(asked, policy)
            # After the quote: the logs may have grown since, and hold all that was quoted.
            logs = self.reader.read() if policy.boot is not None else None
            try:
                token = await self.threads.run(partial(self._send, controller, asked, quoted, policy, logs))
            except EvidenceIncompleteError:
                whole = True
                continue
            host = trust.hosts.get(self.port.host)
            if host is None:
                raise VerificationError(
                    f"governance has no record of this host{trust.why_none(self.port.host)}"
                )
            result = verify_result(
                token,
                mesh=trust.mesh,
                host=host,
                nonce=asked.challenge,
                now=self.now(),
            )
            if result.verifier != name:
                raise VerificationError(
                    f"{controller.url}: it answers with a result of verifier {result.verifier!r}"
                )
            _require_same(result, quoted, policy)
            return result
        raise StoreError(
            f"{controller.url}: it asked {_ATTEMPTS} times for a new challenge or for whole logs"
        )

    def _ask(self, controller: Controller, policy: PlatformPolicy) -> EvidenceChallenge:
        body = canonical({"v": 1, "host": self.port.host, "platform": policy.name})
        asked = parse_evidence_challenge(controller.post(CHALLENGE, body, max_bytes=MAX_CHALLENGE_BYTES).data)
        if (asked.host, asked.platform) != (self.port.host, policy.name):
            raise VerificationError(
                f"{controller.url}: it asks for host {asked.host} under {asked.platform!r}, and was to ask for"
                f" {self.port.host} under {policy.name!r}"
            )
        return asked

    async def _quote(self, asked: EvidenceChallenge, policy: PlatformPolicy) -> _Quoted:
        challenge = decode_base64url(asked.challenge, what="challenge")
        bound = extra_data(Purpose.EVIDENCE, host_id=self.port.host, data=challenge)
        return _Quoted(*await asyncio.wrap_future(self.port.quote_values(policy.quoted, bound)))

    def _send(
        self,
        controller: Controller,
        asked: EvidenceChallenge,
        quoted: _Quoted,
        policy: PlatformPolicy,
        logs: BootLogs | None,
    ) -> str:
        evidence = draft_evidence(
            asked,
            attest=quoted.attest,
            signature=quoted.signature,
            values=quoted.values,
            logs=None
            if logs is None
            else make_boot_logs(
                firmware=logs.eventlog, userspace=logs.userspace, command_line=logs.command_line
            ),
            ima=None if policy.ima is None else self._ima(asked, quoted.clock),
            agent=f"attestd {attestd.__version__}",
        )
        answer = controller.post(EVIDENCE, evidence, max_bytes=MAX_RESULT_BYTES, accepted=(_OK, _CONFLICT))
        if answer.status == _CONFLICT:
            raise EvidenceIncompleteError(f"{controller.url}: it asks once more")
        try:
            return answer.data.decode("ascii")
        except UnicodeDecodeError as error:
            raise MalformedError(f"{controller.url}: its answer is no token") from error

    def _ima(self, asked: EvidenceChallenge, clock: ClockInfo) -> tuple[int, bytes] | None:
        """The list from where the verifier knows it, if that was in this boot; None: this host has none configured."""
        path, known = self.reader.ima_list, asked.ima
        if path is None:
            return None
        counts = clock.reset_count, clock.restart_count
        offset = known.offset if known and (known.reset_count, known.restart_count) == counts else 0
        return offset, read_part(path, max_bytes=MAX_IMA_BYTES, offset=offset)


def _require_same(result: AttestationResult, quoted: _Quoted, policy: PlatformPolicy) -> None:
    """The result is about what was quoted for it."""
    said, clock = result.claims.attestd, quoted.clock
    if said.platform.digest != policy.digest:
        raise StoreError(
            f"verifier {result.verifier!r} goes by version {said.platform.version} of platform policy {said.platform.name!r},"
            f" this host by version {policy.version} of {policy.name!r}: one of them has older governance"
        )
    found = said.state.pcr_digest, said.state.reset_count, said.state.restart_count
    if found != (quoted.composite(policy).hex(), clock.reset_count, clock.restart_count):
        raise VerificationError(
            f"verifier {result.verifier!r}: its result is of another state than was quoted"
        )
