"""Our keys, in the TPM's slots or out of them, and when they are in.

The kernel's resource manager (/dev/tpmrm0) takes whatever a client has loaded out of the TPM after each of its commands,
and back in before the next: with two keys and a session nine commands are sent for one, with a session alone three. So a
key is in the TPM only while it is used, where there is a resource manager, and also where others use the TPM through
one (docs/adr/0030-slots.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from attestd.tpm._channel import Channel
from attestd.tpm._commands import Cc, u32
from attestd.tpm.keys import AuthValues, KeyBlobs, LoadedKey, load_keys

__all__ = ["HeldKey", "Slots", "hold_keys", "slots_of"]


class Slots(Enum):
    """Whose the TPM's slots are."""

    OURS = "nobody else needs them: keys stay in"
    SHARED = "others get at the TPM between our commands: keys are in for one operation"
    MANAGED = "a resource manager moves what is in, at each command: keys are in for one command"


def slots_of(tcti: str) -> Slots:
    """How a TCTI string's TPM is shared.

    Args:
        tcti: As tpm2-tss takes it. `device` alone is its default, the resource manager.
    """
    name, _, path = tcti.partition(":")
    if name == "tabrmd" or (name == "device" and (not path or "tpmrm" in path)):
        return Slots.MANAGED
    return Slots.SHARED if name == "device" else Slots.OURS


class HeldKey:
    """A key that was loaded once; in the TPM, or out of it as a saved context (TPM 2.0 Part 1, 30)."""

    def __init__(self, channel: Channel, key: LoadedKey, slots: Slots) -> None:
        """Takes over a loaded key.

        Raises:
            TpmError: Its context cannot be saved.
        """
        self._channel, self._key, self._slots = channel, key, slots
        self._is_in = True
        # TPM2_ContextSave (Part 3, 28.2). The context can be loaded any number of times, until the TPM is reset.
        self._context = b""
        if slots is not Slots.OURS:
            self._context = channel.run(Cc.CONTEXT_SAVE, params=u32(key.handle)).rest()
            self.flush()

    @property
    def name(self) -> bytes:
        """Its Name."""
        return self._key.name

    @property
    def auth_value(self) -> bytes:
        """What its HMAC is keyed with."""
        return self._key.auth_value

    @property
    def is_late(self) -> bool:
        """Whether each command is slower while it is in: then it is to be used for one, and no more."""
        return self._slots is Slots.MANAGED

    @contextmanager
    def used(self) -> Iterator[LoadedKey]:
        """The key with the handle that it has now, for the block: TPM2_ContextLoad (Part 3, 28.3) if it is out.

        Raises:
            TpmUnavailableError: The TPM was reset since: only a new connection will do.
            TpmError: Any other response code.
        """
        if not self._is_in:
            self._key = LoadedKey(self._channel.load_saved(self._context), self.name, self.auth_value)
            self._is_in = True
        try:
            yield self._key
        finally:
            if self._slots is not Slots.OURS:
                self.flush()

    def flush(self) -> None:
        """Flushes it, if it is in."""
        if self._is_in:
            self._channel.flush(self._key.handle)
            self._is_in = False


def hold_keys(
    channel: Channel, blobs: KeyBlobs, auth_values: AuthValues, slots: Slots
) -> tuple[HeldKey, HeldKey]:
    """Loads attestation key and release key, or neither. See `Tpm.load_keys`."""
    loaded = load_keys(channel, blobs, auth_values)
    try:
        ak, release = (HeldKey(channel, key, slots) for key in loaded)
    except BaseException:
        for key in loaded:
            channel.flush(key.handle)
        raise
    return ak, release
