"""attestd: seal every decision in a TPM-signed transparency log, then release the execution."""

__version__ = "0.1.0"
