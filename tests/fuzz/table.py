"""All targets."""

from tests.fuzz import files, formats, logs, processes, tpm
from tests.fuzz.target import TARGETS, Target

__all__ = ["TARGETS", "Target"]

MODULES = (files, formats, logs, processes, tpm)
