"""All targets."""

from tests.fuzz import (
    attestation,
    boots,
    controller,
    enrolment,
    files,
    formats,
    governance,
    logs,
    policies,
    processes,
    repository,
    tpm,
)
from tests.fuzz.target import TARGETS, Target

__all__ = ["TARGETS", "Target"]

MODULES = (
    attestation,
    boots,
    controller,
    enrolment,
    files,
    formats,
    governance,
    logs,
    policies,
    processes,
    repository,
    tpm,
)
