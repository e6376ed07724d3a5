"""What an appraisal comes to in words that others know: the trustworthiness vector of AR4SI (draft-ietf-rats-ar4si)."""

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from attestd.appraisal.verifier import VerifiedEvidence
from attestd.strict import Strict

__all__ = ["Status", "TrustVector", "status_of", "trust_vector"]

# draft-ietf-rats-ar4si, "Specific Claims": 2 to 31 affirm, 32 to 95 warn, from 96 on they contraindicate; 0 says nothing.
NO_CLAIM: Final = 0
TRUSTWORTHY_INSTANCE: Final = 2
APPROVED_CONFIG: Final = 2
UNSUPPORTABLE_CONFIG: Final = 96
APPROVED_RUNTIME: Final = 2
APPROVED_BOOT: Final = 3
UNRECOGNIZED_RUNTIME: Final = 33
GENUINE_HARDWARE: Final = 2
UNRECOGNIZED_HARDWARE: Final = 97

_Claim = Annotated[int, msgspec.Meta(ge=-128, le=127)]


class Status(StrEnum):
    """The trustworthiness tiers that results here have (draft-ietf-rats-ear, `ear.status`)."""

    AFFIRMING = "affirming"
    CONTRAINDICATED = "contraindicated"


class TrustVector(Strict, frozen=True, rename="kebab"):
    """The claims that are made; of the vector's other four (file system, runtime and storage, sourced data) none is.

    Attributes:
        instance_identity: 2: the attestation key of an enrolled host.
        configuration: 2: an approved state, under the boot rules; else 96.
        executables: 2: approved ones alone since the TPM was reset, as IMA tells; 3: at boot; 33: one that is not known.
        hardware: 2: a TPM that a manufacturer vouches for; 0: nobody says so; 97: the platform policy asks for a stronger root.
    """

    instance_identity: _Claim
    configuration: _Claim
    executables: _Claim
    hardware: _Claim


def trust_vector(evidence: VerifiedEvidence) -> TrustVector:
    """What evidence shows. It is never rounded up: what was not looked at is not affirmed."""
    found, host = evidence.appraisal, evidence.host
    booted = found.approval is not None and (found.boot is None or not found.boot.count)
    if not booted or (found.ima is not None and found.ima.count):
        executables = UNRECOGNIZED_RUNTIME
    else:
        executables = APPROVED_BOOT if found.ima is None else APPROVED_RUNTIME
    if not found.policy.accepts_tier(host.tier):
        hardware = UNRECOGNIZED_HARDWARE
    else:
        hardware = GENUINE_HARDWARE if host.tier == "hardware" else NO_CLAIM
    return TrustVector(
        instance_identity=TRUSTWORTHY_INSTANCE,
        configuration=APPROVED_CONFIG if booted else UNSUPPORTABLE_CONFIG,
        executables=executables,
        hardware=hardware,
    )


def status_of(evidence: VerifiedEvidence) -> Status:
    """The verdict: whatever is found speaks against the host, however the vector calls it."""
    return Status.CONTRAINDICATED if evidence.count else Status.AFFIRMING
