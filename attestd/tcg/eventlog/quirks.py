"""How real logs depart from the specification: each departure that is accepted has a name here, and a reason.

None of them lets anything be hidden: a log still has to replay to the PCR values, and data that its digest does not
cover is still not believed.
"""

from enum import StrEnum
from typing import Final

__all__ = ["QUIRKS", "Quirk"]


class Quirk(StrEnum):
    """A departure that is accepted."""

    ZERO_PADDING = "zero-padding"
    FF_PADDING = "ff-padding"
    STRUCTURE_PADDING = "structure-padding"
    VARIABLE_DATA_ONLY = "variable-data-only"
    WITHOUT_NUL = "without-nul"
    WITHOUT_OWNER = "without-owner"


QUIRKS: Final = {
    Quirk.ZERO_PADDING: (
        "zeros follow the last event: ACPI tables (TCPA, TPM2) tell the size of the log's area, not of the log"
    ),
    Quirk.FF_PADDING: "0xff bytes follow the last event: confidential VMs (CCEL table) fill the log's area with them",
    Quirk.STRUCTURE_PADDING: (
        "bytes follow the variable's value in an EV_EFI_VARIABLE_AUTHORITY event, the last of them not covered by the"
        " digest: older shims counted the padding of a C structure"
    ),
    Quirk.VARIABLE_DATA_ONLY: (
        "the digest of an EV_EFI_VARIABLE_BOOT event covers the variable's data, not its name: so it was in the EFI"
        " profile for TPM 1.2, and edk2 kept it (EV_EFI_VARIABLE_BOOT2 covers both)"
    ),
    Quirk.WITHOUT_NUL: "the digest of a text covers it without its final NUL: GRUB, and some firmware's EV_EFI_ACTION",
    Quirk.WITHOUT_OWNER: (
        "an EV_EFI_VARIABLE_AUTHORITY event holds the bare certificate, without the owner's GUID: older shims"
    ),
}
