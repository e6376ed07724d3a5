"""What remote verifiers say of this host, now: whose results hold for the state that a quote shows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from attestd.appraisal.result import AttestationResult, verify_result
from attestd.codes import Code, Denied
from attestd.errors import MalformedError, VerificationError
from attestd.gate.environment import said
from attestd.governance.host import VerifiedHost
from attestd.governance.mesh import MeshTrust
from attestd.governance.platform import PlatformPolicy
from attestd.plain import counted
from attestd.tcg.attest import ClockInfo

__all__ = ["MAX_COUNTED", "QuotedState", "Vouched", "require_verifiers", "verify_tokens", "vouched_for"]

# More than any quorum: so many results go with a decision, and into its entry.
MAX_COUNTED: Final = 16


@dataclass(frozen=True)
class QuotedState:
    """What a quote of this host shows: the TPM's clock, and the composite of the policy's PCRs."""

    clock: ClockInfo
    pcr_digest: bytes


@dataclass(frozen=True)
class Vouched:
    """What distinct verifiers say.

    Attributes:
        affirming: The results of those that found nothing, one a verifier's key.
        against: The results of those that found something, likewise.
    """

    affirming: tuple[AttestationResult, ...]
    against: tuple[AttestationResult, ...]

    @property
    def counted(self) -> tuple[AttestationResult, ...]:
        """The results that a release rests on: of those that affirm, by their names in `mesh.json`."""
        return tuple(sorted(self.affirming, key=lambda result: result.verifier)[:MAX_COUNTED])


def vouched_for(
    results: Iterable[AttestationResult],
    *,
    host: str,
    mesh: MeshTrust,
    platform: PlatformPolicy,
    state: QuotedState,
    now: datetime,
) -> Vouched:
    """Which of the results count: of this host, in this state, by this policy, by verifiers that `mesh.json` names now.

    One key counts once, however many results it signed, and a result that speaks against the host outweighs others of its
    key.
    """
    keys = {verifier.key.key_id for verifier in mesh.verifiers.values()}
    found: dict[str, AttestationResult] = {}
    for result in results:
        if (
            result.host == host
            and result.key_id in keys
            and result.holds(
                now=now, clock=state.clock, pcr_digest=state.pcr_digest, platform_digest=platform.digest
            )
            and (result.key_id not in found or not result.is_affirming)
        ):
            found[result.key_id] = result
    return Vouched(
        affirming=tuple(result for result in found.values() if result.is_affirming),
        against=tuple(result for result in found.values() if not result.is_affirming),
    )


def verify_tokens(
    tokens: Sequence[str], *, host: VerifiedHost, mesh: MeshTrust, now: datetime
) -> tuple[tuple[AttestationResult, ...], str]:
    """Verifies results that somebody else handed over: those that do not verify count for nothing.

    Returns:
        Those that do, and in words what is wrong with the first that does not.
    """
    found, wrong = [], ""
    for token in tokens:
        try:
            found.append(verify_result(token, mesh=mesh, host=host, nonce=None, now=now))
        except (MalformedError, VerificationError) as error:
            wrong = wrong or str(error)
    return tuple(found), wrong


def require_verifiers(quorum: int, vouched: Vouched, *, wrong: str = "") -> str:
    """As many verifiers affirm the host as are needed.

    Args:
        quorum: By `required_quorums`.
        vouched: What they say.
        wrong: What was wrong with a result that does not count, if something was.

    Returns:
        Who does, for the record.

    Raises:
        Denied: `environment_untrusted` if enough answered, and found something; `mesh_unavailable` if too few did.
    """
    affirming, against = len(vouched.affirming), vouched.against
    if affirming >= quorum:
        names = ", ".join(result.verifier for result in vouched.counted)
        return f"verifiers: {names}" if quorum else ""
    if affirming + len(against) >= quorum:
        findings = [
            f"{result.verifier}: {said(result.claims.attestd.findings.first, result.claims.attestd.findings.count)}"
            for result in against
        ]
        raise Denied(
            Code.ENVIRONMENT_UNTRUSTED,
            f"{counted(quorum, 'verifier')} must affirm this host, {affirming} do; findings of {'; of '.join(findings)}",
            "boot an approved state that complies with the rules, or have an authority approve this one (attestd platform approve)",
        )
    raise Denied(
        Code.MESH_UNAVAILABLE,
        f"{counted(quorum, 'verifier')} must vouch for this host, {affirming} do"
        + (f": {wrong}" if wrong else ""),
        "attestd status says what each verifier answered; or ask for an authorization that needs none",
    )
