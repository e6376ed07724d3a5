"""All targets."""

from tests.fuzz import files, formats, governance, logs, policies, processes, repository, tpm
from tests.fuzz.target import TARGETS, Target

__all__ = ["TARGETS", "Target"]

MODULES = (files, formats, governance, logs, policies, processes, repository, tpm)
