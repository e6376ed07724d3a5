"""The border to tpm2-tss: a transport for command bytes, and the words for response codes.

tpm2_pytss is untyped; here alone do its values appear. Its ESAPI is not used: on OpenSSL 3, libtss2-esys 3.2
makes a new library context for every nonce and every hash (1.2 ms a session), and commands built once and
reused need no object conversions. The transport is called through cffi for the same reason: its Python wrapper
costs as much as half a round trip to a local TPM.
"""

import os
from typing import Any, Final

from attestd.errors import TpmUnavailableError, UsageError

__all__ = ["Tcti", "describe"]

_MAX_RESPONSE: Final = 4096  # TPM2_MAX_RESPONSE_SIZE of tpm2-tss
_WAIT_FOR_EVER: Final = -1  # the deadline is the owner thread's: not every TCTI knows timeouts


def _binding() -> Any:
    # On a refusal, which is a normal outcome here, tpm2-tss would write to stderr on its own.
    os.environ.setdefault("TSS2_LOG", "all+NONE")
    from tpm2_pytss import _libtpm2_pytss  # noqa: PLC0415 (takes 0.1 s: on first use only)

    return _libtpm2_pytss


class Tcti:
    """A connection to a TPM, for one thread.

    Attributes:
        is_lost: Whether it has failed: only a new one will work.
    """

    def __init__(self, tcti: str) -> None:
        """Connects.

        Args:
            tcti: A tpm2-tss TCTI string: `device:/dev/tpmrm0`, `swtpm:path=/run/x/sock`.

        Raises:
            UsageError: Not such a string.
            TpmUnavailableError: There is no TPM at its end.
        """
        name, _, conf = tcti.partition(":")
        if not name or not tcti.isprintable():
            raise UsageError(f"TCTI {tcti!r}: expected a form like device:/dev/tpmrm0 or swtpm:path=SOCKET")
        binding = _binding()
        self._name = tcti
        self._ffi: Any = binding.ffi
        self._lib: Any = binding.lib
        self._holder: Any = self._ffi.new("TSS2_TCTI_CONTEXT **")
        code = self._lib.Tss2_TctiLdr_Initialize_Ex(
            name.encode(), conf.encode() if conf else self._ffi.NULL, self._holder
        )
        if code:
            raise TpmUnavailableError(f"no TPM at {tcti}: {describe(code)}")
        self._context: Any = self._holder[0]
        functions = self._ffi.cast("TSS2_TCTI_CONTEXT_COMMON_V1 *", self._context)
        self._transmit: Any = functions.transmit
        self._receive: Any = functions.receive
        self._response: Any = self._ffi.new(f"uint8_t[{_MAX_RESPONSE}]")
        self._size: Any = self._ffi.new("size_t *")
        self.is_lost = False

    def exchange(self, command: bytes) -> bytes:
        """Sends a command and waits for its response, however long that takes; releases the GIL meanwhile.

        Raises:
            TpmUnavailableError: The connection failed. It stays failed: what a late response answers would
                not be known.
        """
        if self.is_lost:
            raise TpmUnavailableError(f"the connection to the TPM at {self._name} was lost before")
        self.is_lost = True
        code = self._transmit(self._context, len(command), command)
        if not code:
            self._size[0] = _MAX_RESPONSE
            code = self._receive(self._context, self._size, self._response, _WAIT_FOR_EVER)
        if code:
            raise TpmUnavailableError(f"the TPM at {self._name} does not answer: {describe(code)}")
        self.is_lost = False
        return bytes(self._ffi.buffer(self._response, self._size[0]))

    def close(self) -> None:
        """Disconnects; further exchanges fail."""
        if self._holder[0] != self._ffi.NULL:
            self.is_lost = True
            self._lib.Tss2_TctiLdr_Finalize(self._holder)


def describe(code: int) -> str:
    """A response code (TSS2_RC) in words, as tpm2-tss has them."""
    binding = _binding()
    words = bytes(binding.ffi.string(binding.lib.Tss2_RC_Decode(code))).decode("ascii", "replace")
    return f"{words} (rc {code:#x})"
