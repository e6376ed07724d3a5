"""Which logs a witness knows, and by which keys their checkpoints are believed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from attestd.errors import MalformedError, StoreError, UsageError, VerificationError
from attestd.governance.host import VerifiedHost
from attestd.governance.host_records import record_name
from attestd.governance.trust import Trust
from attestd.lineage.checkpoint import LogKeys
from attestd.tlog.checkpoint import parse_origin
from attestd.tlog.note import NoteSignature, UntrustedNote, verify_ecdsa
from attestd.tlog.vkey import SignatureType, VerifierKey, parse_vkey

__all__ = ["KnownLog", "KnownLogs", "UntrustedLogError", "load_log_list"]

MAX_LIST_BYTES: Final = 1 << 20
MAX_ORIGIN_BYTES: Final = 255
_MAX_CACHED: Final = 16_384
_SIGNING: Final = (SignatureType.ED25519, SignatureType.ECDSA)


class UntrustedLogError(VerificationError):
    """The origin is known, but whose it is is not trusted any more."""


class KnownLog(Protocol):
    """A log whose checkpoints can be verified.

    Attributes:
        host: Whose it is; empty: not a host's.
    """

    @property
    def host(self) -> str: ...  # noqa: D102 - see above

    def verify(self, note: UntrustedNote) -> tuple[NoteSignature, ...]:
        """Verifies the log's own signatures.

        Returns:
            The lines that verified, at least one.

        Raises:
            VerificationError, MalformedError: None by a trusted key, or one that does not verify.
        """


@dataclass(frozen=True)
class _HostLog:
    """A host's: both lines, by the rules of its checkpoints."""

    keys: LogKeys

    @property
    def host(self) -> str:
        return self.keys.host_id

    def verify(self, note: UntrustedNote) -> tuple[NoteSignature, ...]:
        verified = self.keys.verify(note)
        ids = {self.keys.release.key_id, self.keys.attestation.key_id}
        lines = tuple(
            line for line in note.signatures if line.name == self.keys.origin and line.key_id in ids
        )
        if not verified.released and any(line.key_id == self.keys.release.key_id for line in lines):
            verify_ecdsa(
                note, self.keys.release
            )  # mode `record` asks for none; one that is there is still a trusted key's
        return lines


@dataclass(frozen=True)
class _ListedLog:
    """Any other log, by the keys that the configuration lists for its origin."""

    keys: tuple[VerifierKey, ...]
    host = ""

    def verify(self, note: UntrustedNote) -> tuple[NoteSignature, ...]:
        by_id = {(key.name, key.key_id): key for key in self.keys}
        known = [line for line in note.signatures if (line.name, line.key_id) in by_id]
        if not known:
            raise VerificationError("no signature by a key that is trusted for this origin")
        for line in known:
            by_id[line.name, line.key_id].verify(line.payload, note.text)
        # One of each key is kept: a log that signs sixteen times leaves no room for cosignatures.
        return tuple({(line.name, line.key_id): line for line in known}.values())


class KnownLogs:
    """All logs: those of the hosts that governance has now, and those that are listed."""

    def __init__(
        self,
        listed: Mapping[str, tuple[VerifierKey, ...]],
        *,
        trust: Callable[[], Trust] | None,
        now: Callable[[], datetime],
    ) -> None:
        """Takes where they come from.

        Args:
            listed: Keys by origin.
            trust: Gives what governance says now; None: there is none.
            now: The time.
        """
        self._listed = {name: _ListedLog(keys) for name, keys in listed.items()}
        self._trust, self._now = trust, now
        self._cached: dict[str, tuple[VerifiedHost, _HostLog]] = {}

    def find(self, origin: str) -> KnownLog | None:
        """The log of an origin; None: unknown.

        Raises:
            UntrustedLogError: Its host is revoked, or its record does not hold now.
            StoreError, VerificationError, MalformedError: There is no governance that could be believed.
        """
        if origin in self._listed:
            return self._listed[origin]
        if self._trust is None:
            return None
        try:
            host = parse_origin(origin).host_id
        except MalformedError:
            return None
        trust = self._trust()
        record = trust.hosts.get(host)
        if record is None:
            if host not in trust.hosts:
                return None
            words = f"the record of host {host} is not usable{trust.why_none(host)}"
            raise (UntrustedLogError if trust.is_refused(record_name(host)) else StoreError)(words)
        if host in trust.revocations.hosts:
            raise UntrustedLogError(f"host {host} is revoked")
        if not record.not_before <= self._now() <= record.not_after:
            raise UntrustedLogError(f"the record of host {host} does not hold now")
        return self._of_host(origin, record)

    def _of_host(self, origin: str, record: VerifiedHost) -> _HostLog:
        cached = self._cached.get(origin)
        if cached is not None and cached[0] == record:
            return cached[1]
        log = _HostLog(LogKeys(origin, record.release_spki, record.ak_spki))
        if len(self._cached) >= _MAX_CACHED:
            self._cached.clear()
        self._cached[origin] = record, log
        return log


def load_log_list(path: Path) -> dict[str, tuple[VerifierKey, ...]]:
    """Reads a list of logs: `<vkey> [<origin>]` a line; the origin is the key's name unless told; `#` begins a comment.

    Raises:
        UsageError: A line that is none, or a key that signs no checkpoints.
        StoreError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_LIST_BYTES:
        raise UsageError(f"{path}: over {MAX_LIST_BYTES} bytes")
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8: {error}") from error
    found: dict[str, list[VerifierKey]] = {}
    for number, line in _entries(lines):
        text, _, origin = line.partition(" ")
        try:
            key = parse_vkey(text)
        except MalformedError as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
        if key.algorithm not in _SIGNING:
            raise UsageError(
                f"{path}, line {number}: a key of type {key.algorithm.name}: expected ED25519 or ECDSA"
            )
        origin = origin.strip() or key.name
        if len(origin.encode()) > MAX_ORIGIN_BYTES:
            raise UsageError(f"{path}, line {number}: an origin of more than {MAX_ORIGIN_BYTES} bytes")
        found.setdefault(origin, []).append(key)
    return {origin: tuple(keys) for origin, keys in found.items()}


def _entries(lines: Iterable[str]) -> Iterable[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        if (text := line.partition("#")[0].strip()) != "":
            yield number, text
