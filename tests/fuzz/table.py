"""All targets."""

from tests.fuzz import (
    boots,
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

MODULES = (boots, enrolment, files, formats, governance, logs, policies, processes, repository, tpm)
