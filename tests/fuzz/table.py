"""All targets."""

from tests.fuzz import files, formats, governance, logs, policies, processes, tpm
from tests.fuzz.target import TARGETS, Target

__all__ = ["TARGETS", "Target"]

MODULES = (files, formats, governance, logs, policies, processes, tpm)
