"""Runs commands on a TPM; counts what it holds open, so that nothing stays behind."""

import hashlib
import hmac
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from attestd.errors import TpmError, TpmUnavailableError
from attestd.tpm._codes import FORGOTTEN, RESUBMIT, Rc, base, error_of
from attestd.tpm._commands import HEADER_SIZE, Answer, Cc, Hierarchy, build, sized, u16, u32

__all__ = ["Channel", "Session", "Transport"]

_SHA256: Final = 0x000B
_ALG_NULL: Final = 0x0010
_NONCE_SIZE: Final = 16
_FIRST_PAUSE_S: Final = 0.002
_LAST_PAUSE_S: Final = 0.512
_HMAC_SESSION, _POLICY_SESSION = 0x00, 0x01
_ACRONYMS: Final = frozenset({"NV", "PCR", "OR"})
_END_SESSION: Final = b"\0"  # TPMA_SESSION without continueSession: success ends it, no flush needed


class Transport(Protocol):
    """What carries commands to a TPM: `Tcti`, or what tests put before one."""

    @property
    def is_lost(self) -> bool:
        """Whether it has failed: only a new one will work."""

    def exchange(self, command: bytes) -> bytes:
        """Sends a command and waits for its response; raises `TpmUnavailableError`."""

    def close(self) -> None:
        """Disconnects."""


class Channel:
    """A TPM as a function from commands to answers, for one thread."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._is_forgotten = False

    @property
    def is_lost(self) -> bool:
        """Whether the connection has failed, or the TPM was reset behind it: only a new one has its keys loaded."""
        return self._transport.is_lost or self._is_forgotten

    def attempt(self, command: bytes) -> tuple[int, bytes]:
        """Runs a command; again, with growing pauses (1 s in all), while the TPM asks to be asked later.

        Returns:
            The response code, and the whole response.

        Raises:
            TpmUnavailableError: No answer.
            TpmError: The answer is no response.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            response = self._transport.exchange(command)
            # A response without a code would read as success, and so would one that says another size than it has.
            if len(response) < HEADER_SIZE or int.from_bytes(response[2:6], "big") != len(response):
                raise TpmError(
                    f"a response of {len(response)} bytes that is none of a TPM: {response[:10].hex()}"
                )
            code = int.from_bytes(response[6:HEADER_SIZE], "big")
            if not code or base(code) not in RESUBMIT or pause_s > _LAST_PAUSE_S:
                self._is_forgotten |= base(code) in FORGOTTEN
                return code, response
            time.sleep(pause_s)
            pause_s *= 2

    def run(
        self,
        code: Cc,
        *,
        handles: bytes = b"",
        auth: bytes = b"",
        params: bytes = b"",
        refusals: frozenset[Rc] = frozenset(),
    ) -> Answer:
        """Runs a command whose response has no handle.

        Args:
            code: As the other parameters: see `build`.
            handles: The handle area.
            auth: The authorizations.
            params: The parameter area.
            refusals: Response codes that mean a refusal here: see `error_of`.

        Returns:
            The response's parameters. With `auth`, what follows them (the authorizations) is left in.

        Raises:
            TpmRefusedError: The TPM refused.
            TpmUnavailableError: No answer, or not in a state to answer.
            TpmError: Any other response code.
        """
        result, response = self.attempt(build(code, handles=handles, auth=auth, params=params))
        if result:
            raise error_of(result, _name(code), refusals=refusals)
        return Answer(response, HEADER_SIZE + 4 if auth else HEADER_SIZE)

    @contextmanager
    def object(
        self, code: Cc, *, handles: bytes = b"", auth: bytes = b"", params: bytes
    ) -> Iterator[tuple[int, Answer]]:
        """Runs a command that loads an object; yields its handle and the answer's parameters, then flushes it."""
        handle, answer = self.load(code, handles=handles, auth=auth, params=params)
        try:
            yield handle, answer
        finally:
            self.flush(handle)

    def load(self, code: Cc, *, handles: bytes = b"", auth: bytes = b"", params: bytes) -> tuple[int, Answer]:
        """Runs a command that loads an object which the caller keeps, and must flush."""
        result, response = self.attempt(build(code, handles=handles, auth=auth, params=params))
        if result:
            raise error_of(result, _name(code))
        handle = int.from_bytes(response[HEADER_SIZE : HEADER_SIZE + 4], "big")
        return handle, Answer(response, HEADER_SIZE + 8 if auth else HEADER_SIZE + 4)

    def load_saved(self, context: bytes) -> int:
        """Loads an object's saved context (TPM2_ContextLoad); returns its handle, which the caller must flush.

        Raises:
            TpmUnavailableError: The TPM was reset since it was saved: only a new connection will do.
            TpmError: Any other response code.
        """
        code, response = self.attempt(build(Cc.CONTEXT_LOAD, params=context))
        if base(code) == Rc.INTEGRITY:
            self._is_forgotten = True
            raise TpmUnavailableError(f"the TPM was reset: {error_of(code, _name(Cc.CONTEXT_LOAD))}")
        if code:
            raise error_of(code, _name(Cc.CONTEXT_LOAD))
        return Answer(response, HEADER_SIZE).number(4)

    def flush(self, handle: int) -> None:
        """Flushes one of our handles. Its failure is not reported: it would hide why we clean up."""
        with suppress(TpmError):
            self.attempt(build(Cc.FLUSH_CONTEXT, params=u32(handle)))

    @contextmanager
    def session(self, *, policy: bool) -> Iterator["Session"]:
        """A fresh policy or HMAC session (unbound, unsalted); gone at the end, whatever happens."""
        session = Session(self, policy=policy)
        try:
            yield session
        finally:
            if session.is_open:
                self.flush(session.handle)

    def close(self) -> None:
        """Disconnects."""
        self._transport.close()


class Session:
    """An authorization session of SHA-256 (TPM 2.0 Part 1, 19.6). Auth values do not pass in the clear."""

    def __init__(self, channel: Channel, *, policy: bool) -> None:
        """Starts it: TPM2_StartAuthSession."""
        self._caller_nonce = os.urandom(_NONCE_SIZE)
        kind = _POLICY_SESSION if policy else _HMAC_SESSION
        code, response = channel.attempt(
            build(
                Cc.START_AUTH_SESSION,
                handles=u32(Hierarchy.NULL) * 2,
                params=sized(self._caller_nonce)
                + sized(b"")
                + kind.to_bytes(1, "big")
                + u16(_ALG_NULL)
                + u16(_SHA256),
            )
        )
        if code:
            raise error_of(code, _name(Cc.START_AUTH_SESSION))
        answer = Answer(response, HEADER_SIZE)
        self.handle = answer.number(4)
        self.nonce_tpm = answer.sized()
        self.is_open = True

    def authorize(self, cp_hash: bytes, auth_value: bytes) -> bytes:
        """The TPMS_AUTH_COMMAND for one last command: on success the TPM ends the session itself.

        Args:
            cp_hash: SHA-256 over command code, Names of the handles, and parameters.
            auth_value: What the HMAC is keyed with; empty where only the policy authorizes.
        """
        self._caller_nonce = os.urandom(_NONCE_SIZE)
        mac = _hmac(auth_value, cp_hash, self._caller_nonce, self.nonce_tpm, _END_SESSION)
        return u32(self.handle) + sized(self._caller_nonce) + _END_SESSION + sized(mac)

    def accept(self, code: Cc, answer: Answer, params: bytes, auth_value: bytes) -> None:
        """Checks the TPM's own HMAC over the response to that command, so that nobody between us made it up.

        Args:
            code: The command.
            answer: Stands at the session's TPMS_AUTH_RESPONSE.
            params: The response's parameters.
            auth_value: As for the command.

        Raises:
            TpmError: The HMAC is not the TPM's.
        """
        self.is_open = False
        nonce_tpm, attributes, found = answer.sized(), answer.take(1), answer.sized()
        rp_hash = hashlib.sha256(u32(0) + u32(code) + params).digest()
        expected = _hmac(auth_value, rp_hash, nonce_tpm, self._caller_nonce, attributes)
        if not hmac.compare_digest(found, expected):
            raise TpmError(f"{_name(code)}: the response was changed on its way from the TPM")


def _hmac(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"".join(parts), "sha256") if key else b""


def _name(code: Cc) -> str:
    """The command as the specification spells it, for example TPM2_NV_Read or TPM2_PolicyPCR."""
    words = code.name.split("_")
    prefix = words.pop(0) + "_" if words[0] in _ACRONYMS else ""
    return "TPM2_" + prefix + "".join(word if word in _ACRONYMS else word.capitalize() for word in words)
