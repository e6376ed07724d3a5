"""What the kernel says about this boot."""

from pathlib import Path

from attestd.errors import StoreError

__all__ = ["boot_id"]


def boot_id() -> str:
    """The kernel's boot id, as it spells it.

    Raises:
        StoreError: The kernel does not say.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError as error:
        raise StoreError(f"the kernel's boot id cannot be read: {error.strerror}") from error
