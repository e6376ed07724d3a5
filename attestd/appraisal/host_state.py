"""What a verifier keeps of a host between two pieces of evidence: where the TPM's clock and its logs had got to.

No verdict is kept: each is made anew from a fresh quote. What was found in the IMA list is, for the entries are not sent
again; it can only speak against the host.
"""

from typing import Annotated, Final, Literal

import msgspec

from attestd.appraisal.logs import MAX_TOLD, LogAppraisal
from attestd.errors import MalformedError
from attestd.strict import (
    MAX_SAFE_INTEGER,
    Sha256Hex,
    Strict,
    encode_own_form,
    parse_canonical,
    parse_own_form,
)
from attestd.tcg.attest import ClockInfo
from attestd.tcg.ima.replay import ImaPosition

__all__ = ["MAX_STATE_BYTES", "HostState", "ImaState", "parse_host_state"]

MAX_STATE_BYTES: Final = 4 << 20
# IMA policies of one host: one for each platform policy that it attests under.
MAX_POLICIES: Final = 16
_BANK: Final = "sha256"
# Of `in_words`: 1024 characters.
_MAX_WORDS: Final = 1024

_Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_Finding = Annotated[str, msgspec.Meta(max_length=_MAX_WORDS)]


class _Clock(Strict, frozen=True):
    clock: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]
    reset_count: _Count
    restart_count: _Count
    safe: bool


class ImaState(Strict, frozen=True):
    """How far an IMA list is proved, and what was found in it.

    Attributes:
        entries, offset, value, padded: As in `tcg.ima.replay.ImaPosition`.
        findings: In words: up to 100 of `count`.
    """

    entries: _Number
    offset: _Number
    value: Sha256Hex
    padded: bool
    findings: Annotated[tuple[_Finding, ...], msgspec.Meta(max_length=MAX_TOLD)]
    count: _Number

    @classmethod
    def of(cls, position: ImaPosition, measured: LogAppraisal) -> "ImaState":
        """From the end of what a quote proved, and all that was found up to there."""
        return cls(
            entries=position.entries,
            offset=position.offset,
            value=position.value.hex(),
            padded=bool(position.padded),
            findings=measured.findings,
            count=measured.count,
        )

    @property
    def position(self) -> ImaPosition:
        """Where to go on."""
        return ImaPosition(_BANK, self.entries, self.offset, bytes.fromhex(self.value), self.padded)


class HostState(Strict, frozen=True):
    """A host's row: a value, replaced as a whole and only if it is still the one that evidence was verified against.

    Attributes:
        last: The TPM's clock in the last accepted quote.
        eventlog: The digest of the last boot's logs (`evidence.log_digest`), which are kept under it; None: there are none.
        ima: By the digest of the IMA policy that the list was held against.
    """

    v: Literal[1]
    last: _Clock
    eventlog: Sha256Hex | None
    ima: Annotated[dict[Sha256Hex, ImaState], msgspec.Meta(max_length=MAX_POLICIES)]

    @classmethod
    def of(cls, clock: ClockInfo, *, eventlog: str | None, ima: dict[str, ImaState]) -> "HostState":
        """What is kept after evidence was accepted."""
        last = _Clock(
            clock=f"{clock.clock:016x}",
            reset_count=clock.reset_count,
            restart_count=clock.restart_count,
            safe=clock.safe,
        )
        return cls(v=1, last=last, eventlog=eventlog, ima=ima)

    @property
    def clock(self) -> ClockInfo:
        """The TPM's clock in the last accepted quote."""
        last = self.last
        return ClockInfo(int(last.clock, 16), last.reset_count, last.restart_count, last.safe)

    def is_boot_of(self, clock: ClockInfo) -> bool:
        """Whether the TPM was neither reset nor restarted since: the logs only grew."""
        return (self.last.reset_count, self.last.restart_count) == (clock.reset_count, clock.restart_count)

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return encode_own_form(self)


def parse_host_state(data: bytes) -> HostState:
    """Reads a row.

    Raises:
        MalformedError: It is not one.
    """
    state = parse_own_form(data, HostState, max_bytes=MAX_STATE_BYTES)
    if state is None:
        state = parse_canonical(data, HostState, max_bytes=MAX_STATE_BYTES, what="host state")
    for ima in state.ima.values():
        if ima.count < len(ima.findings):
            raise MalformedError("host state: fewer findings counted than told")
    return state
