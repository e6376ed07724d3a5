"""All targets."""

from tests.fuzz import formats, processes, tpm
from tests.fuzz.target import TARGETS, Target

__all__ = ["TARGETS", "Target"]

MODULES = (formats, processes, tpm)
