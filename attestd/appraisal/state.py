"""A boot's logs beside its PCR values: do they comply with rules, and what do they say that another boot did not."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Final

from attestd.appraisal.boot import appraise_boot
from attestd.appraisal.boot_rules import BootRules
from attestd.appraisal.logs import MAX_TOLD, LogAppraisal, in_words
from attestd.errors import UsageError, VerificationError
from attestd.governance.platform import PlatformPolicy
from attestd.plain import counted
from attestd.tcg.eventlog.diff import diff_events
from attestd.tcg.eventlog.meaning import Meaning, read_events
from attestd.tcg.eventlog.parse import UntrustedEvent, UntrustedEventLog
from attestd.tcg.eventlog.reading import UKI_PCR
from attestd.tcg.eventlog.replay import VerifiedEvents, verify_events
from attestd.tcg.eventlog.userspace import known_phases, with_events, with_phases

__all__ = ["BootAppraiser", "BootState", "appraise_state", "state_changes"]

_ROOM_BYTES: Final = 256
_UNGUARDED: Final = contextlib.nullcontext()


@dataclass(frozen=True)
class BootState:
    """A boot: what its logs say, and what its PCRs held.

    Attributes:
        firmware: The firmware's log.
        userspace: What systemd says it measured later.
        command_line: The kernel's, by which a UKI's is recognised.
        bank: The bank of `values`.
        values: PCR values, quoted.
    """

    firmware: UntrustedEventLog
    userspace: tuple[UntrustedEvent, ...]
    command_line: str
    bank: str
    values: Mapping[int, bytes]

    @cached_property
    def log(self) -> UntrustedEventLog:
        """The whole log: with systemd's boot phases, where it keeps no log of them."""
        log = with_events(self.firmware, self.userspace)
        if UKI_PCR not in self.values or any(event.pcr == UKI_PCR for event in self.userspace):
            return log
        try:
            phases = known_phases(log, bank=self.bank, value=self.values[UKI_PCR])
        except (UsageError, VerificationError):
            return log  # It cannot be replayed in this bank: who asks for its events is told so.
        return with_phases(log, phases or ())

    def verify(self, pcrs: Iterable[int]) -> VerifiedEvents:
        """The events of some PCRs, which their values prove.

        Raises:
            VerificationError: The log is not that of these values.
            UsageError: The log has no such bank.
        """
        return verify_events(self.log, bank=self.bank, values={pcr: self.values[pcr] for pcr in pcrs})

    def events(self, pcr: int) -> Sequence[Meaning] | None:
        """What was measured into a PCR; None: the log does not lead to its value."""
        try:
            verified = self.verify([pcr])
        except (UsageError, VerificationError):
            return None
        return read_events(verified.events, bank=self.bank, command_lines=(self.command_line,))


def appraise_state(state: BootState, *, rules: BootRules) -> LogAppraisal:
    """Measures a boot against rules; that its log does not lead to the quoted values is a finding like others.

    Args:
        state: With values of the PCRs that the rules look at.
        rules: In the bank of the values.
    """
    try:
        verified = state.verify(rules.pcrs)
    except UsageError as error:
        return LogAppraisal.of(0, [error])
    except VerificationError as error:
        hidden = [_unexplained(pcr) for pcr in sorted(rules.pcrs) if state.events(pcr) is None]
        return LogAppraisal.of(0, hidden or [error])
    found = appraise_boot(verified, rules=rules, command_lines=(state.command_line,))
    return LogAppraisal.of(len(verified.events), found.findings)


class BootAppraiser:
    """Appraises boots, and remembers what came of it: for the same log, values and rules it is the same."""

    def __init__(
        self, *, room: int = 64, guard: contextlib.AbstractContextManager[object] = _UNGUARDED
    ) -> None:
        """Remembers nothing yet.

        Args:
            room: How many appraisals are remembered, of which one with many findings counts as several: one for each
                platform policy and state in use is enough.
            guard: A lock, where several threads appraise: held while what is remembered changes, not while a log is read.
        """
        self._room, self._guard = room, guard
        self._used = 0
        self._found: dict[bytes, LogAppraisal] = {}

    def remembers(
        self, log: str, *, policy: PlatformPolicy, rules: BootRules, values: Mapping[int, bytes]
    ) -> bool:
        """Whether `appraise` would not have to look."""
        return _key(log, policy, rules, values) in self._found

    def appraise(
        self,
        log: str,
        *,
        policy: PlatformPolicy,
        rules: BootRules,
        values: Mapping[int, bytes],
        load: Callable[[Mapping[int, bytes]], BootState],
    ) -> LogAppraisal:
        """Measures a boot against a policy's rules.

        Args:
            log: A digest of the boot's logs, and of all else that `load` reads.
            policy: The policy.
            rules: Its boot rules.
            values: Quoted PCR values, with those that the rules look at.
            load: Gives the boot with the values that the rules look at; called only where nothing is remembered.
        """
        key = _key(log, policy, rules, values)
        found = self._found.get(key)
        if found is None:
            looked_at = {pcr: values[pcr] for pcr in sorted(rules.pcrs)}
            found = appraise_state(load(looked_at), rules=rules)
            with self._guard:
                self._remember(key, found)
        return found

    def _remember(self, key: bytes, found: LogAppraisal) -> None:
        if key in self._found:  # Another thread was as fast.
            return
        self._used += _weight(found)
        while self._found and self._used > self._room:
            self._used -= _weight(self._found.pop(next(iter(self._found))))
        self._found[key] = found


def _key(log: str, policy: PlatformPolicy, rules: BootRules, values: Mapping[int, bytes]) -> bytes:
    """Short, for there may be one for each host of a fleet."""
    pcrs = sorted(rules.pcrs)
    named = b"".join([values[pcr] for pcr in pcrs])  # all of one bank, so of one length
    return sha256(f"{log},{policy.digest},{pcrs},".encode() + named).digest()


def _weight(found: LogAppraisal) -> int:
    """In units of the room that a boot without findings takes."""
    return 1 + sum(map(len, found.findings)) // _ROOM_BYTES


def state_changes(before: BootState, after: BootState, *, pcrs: Iterable[int]) -> tuple[str, ...]:
    """What is different in a boot, in words, by those PCRs whose values differ; the first 100 differences.

    Args:
        before: The boot to compare with.
        after: The boot that differs.
        pcrs: Those that count, each with a value in `after`.
    """
    changes = [change for pcr in pcrs for change in _changes(before, after, pcr)]
    more = len(changes) - MAX_TOLD
    # Each decision takes them along, and a log may differ in 32,768 events.
    return tuple(map(in_words, changes[:MAX_TOLD])) + (
        (f"and {counted(more, 'more difference')}",) if more > 0 else ()
    )


def _changes(before: BootState, after: BootState, pcr: int) -> Iterator[object]:
    was, value = before.values.get(pcr), after.values[pcr]
    if was == value:
        return
    now = after.events(pcr)
    if now is None:
        yield _unexplained(pcr)
        return
    then = None if was is None else before.events(pcr)
    if then is None:
        yield f"PCR {pcr}: {value.hex()}, where it was {'not recorded' if was is None else was.hex()}"
        return
    yield from diff_events(then, now)


def _unexplained(pcr: int) -> str:
    return f"PCR {pcr}: extended after the boot, by nothing that a log tells"
