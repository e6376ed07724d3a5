"""What logs add to a quote: do boot and files comply with a policy's rules, and what changed since an approved boot."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from attestd.agent.boots import Boot, Boots
from attestd.agent.ima_watch import ImaWatch
from attestd.agent.measured_logs import BootLogs, BootReader
from attestd.appraisal.ima import ImaPolicy, parse_ima_policy
from attestd.appraisal.logs import LogAppraisal
from attestd.appraisal.quote import Appraisal
from attestd.appraisal.state import BootAppraiser, BootState, state_changes
from attestd.codes import Code, Denial, Denied
from attestd.errors import AttestdError, MalformedError, StoreError
from attestd.governance.platform import ImaReference, PlatformPolicy
from attestd.governance.trust import Trust
from attestd.journal import event
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tcg.eventlog.userspace import parse_userspace_log
from attestd.tcg.ima.replay import IMA_PCR

__all__ = ["LogAppraiser", "kept_state"]

# Appraisals that are remembered: one a platform policy and state is in use, and states change seldom.
MAX_REMEMBERED: Final = 64
_HINT: Final = "docs/operations.md, Measured boot, says how the agent reads it; see attestd doctor"


class LogAppraiser:
    """Appraises a host's own logs. Used from the agent's loop only."""

    def __init__(self, reader: BootReader, boots: Boots, *, log: logging.Logger) -> None:
        """Takes the logs of this boot and the boots that are kept."""
        self._reader, self._boots, self._log = reader, boots, log
        self._boot_appraiser = BootAppraiser(room=MAX_REMEMBERED)
        self._remembered: dict[tuple[object, ...], tuple[str, ...]] = {}
        self._noted: dict[str, tuple[object, ...]] = {}
        self._unusable: dict[str, str] = {}
        self._watches: dict[str, ImaWatch] = {}

    def close(self) -> None:
        """Closes the lists that are followed."""
        for watch in self._watches.values():
            watch.close()

    def boot(self, policy: PlatformPolicy, values: Mapping[int, bytes]) -> LogAppraisal | None:
        """What the boot's log shows under the policy's boot rules; None: it has none.

        Raises:
            Denied: `evidence_invalid`: there is no log, or it cannot be read.
        """
        rules = policy.boot
        if rules is None:
            return None
        try:
            logs = self._reader.read()
        except (StoreError, MalformedError) as error:
            raise Denied(
                Code.EVIDENCE_INVALID, f"the event log cannot be appraised: {error}", _HINT
            ) from error
        if logs is None:
            raise Denied(
                Code.EVIDENCE_INVALID,
                f"platform policy {policy.name!r} has boot rules, and this host has no event log configured (eventlog)",
                _HINT,
            )
        return self._boot_appraiser.appraise(
            logs.whole,
            policy=policy,
            rules=rules,
            values=values,
            load=lambda values: _state(logs, policy, values),
        )

    async def watch(self, policy: PlatformPolicy, trust: Trust) -> ImaWatch | None:
        """The IMA list under the policy's IMA policy; None: it has none.

        Raises:
            Denied: `evidence_invalid`: there is no list; `governance_mismatch`: the IMA policy is unusable.
        """
        if policy.ima is None:
            return None
        path, name = self._reader.ima_list, policy.ima.sha256
        if path is None:
            raise Denied(
                Code.EVIDENCE_INVALID,
                f"platform policy {policy.name!r} has an IMA policy, and this host has no IMA list configured (ima_list)",
                _HINT,
            )
        in_force = {item.ima.sha256 for item in trust.platforms.values() if item.ima is not None}
        for old in self._watches.keys() - in_force:
            self._watches.pop(old).close()
        for old in self._unusable.keys() - in_force:
            del self._unusable[old]
        if name not in self._watches:
            parsed = await asyncio.to_thread(self._parsed, policy.name, policy.ima, trust)
            self._watches.setdefault(name, ImaWatch(path, parsed, bank=policy.selection.bank))
        return self._watches[name]

    async def look(self, policy: PlatformPolicy) -> None:
        """Looks at what IMA measured since the last call."""
        watch = None if policy.ima is None else self._watches.get(policy.ima.sha256)
        if watch is not None:
            await watch.look()

    def current(self, found: Appraisal | Denial) -> Appraisal | Denial:
        """An appraisal with what the IMA list shows by now."""
        if isinstance(found, Denial) or found.policy.ima is None:
            return found
        watch = self._watches.get(found.policy.ima.sha256)
        if watch is None:
            return found
        state = watch.state
        if isinstance(state, Denial):
            return state
        if not watch.is_quoted:
            return Denial(
                Code.EVIDENCE_INVALID,
                "the IMA list is another one than before, or was read anew, and no quote of PCR 10 has proved it yet",
                "try again; if it persists, find out what replaces the list",
            )
        return replace(found, ima=state)

    def is_quoted(self, policy: PlatformPolicy) -> bool:
        """Whether what the policy's IMA policy looks at was held against a quote: else the quote that is there is not enough."""
        if policy.ima is None:
            return True
        watch = self._watches.get(policy.ima.sha256)
        return watch is not None and watch.is_quoted

    def explain(self, policy: PlatformPolicy, values: Mapping[int, bytes]) -> tuple[str, ...]:
        """What changed since the last boot that the policy approved, in words; nothing, if no log can tell."""
        before = self._boots.last_approved(policy.name)
        try:
            logs = self._reader.read()
            if before is None or logs is None or before.bank != policy.selection.bank:
                return ()
            key = (before.digest, logs.whole, policy.digest, *values.items())
            found = self._remembered.get(key)
            if found is None:
                found = state_changes(
                    kept_state(before), _state(logs, policy, values), pcrs=policy.selection.pcrs
                )
                self._remember(key, found)
        except (StoreError, MalformedError):
            return ()
        return found

    def note(
        self, policy: PlatformPolicy, values: Mapping[int, bytes], *, approved: bool, now: datetime
    ) -> None:
        """Keeps this boot, for others to be compared with. It decides nothing, and so denies nothing if it fails."""
        try:
            logs = self._reader.read()
            if logs is None:
                return
            values = {pcr: value for pcr, value in values.items() if pcr != IMA_PCR}
            key = (logs.whole, approved, *values.items())
            if key == self._noted.get(policy.name):
                return
            self._boots.note(
                Boot(
                    eventlog=logs.eventlog,
                    userspace=logs.userspace,
                    command_line=logs.command_line,
                    kernel=logs.kernel,
                    bank=policy.selection.bank,
                    pcrs=values,
                    approved=(policy.name,) if approved else (),
                    first_seen=now,
                    last_seen=now,
                )
            )
            self._noted[policy.name] = key
        except AttestdError as error:
            self._log.warning(event("boot.not_kept", error=error))

    def _parsed(self, platform: str, ima: ImaReference, trust: Trust) -> ImaPolicy:
        """Megabytes, perhaps: it takes seconds, and a file that is no policy is not tried again."""
        name = ima.sha256
        if name not in self._unusable:
            try:
                return parse_ima_policy(trust.ima[name])
            except MalformedError as error:
                self._unusable[name] = str(error)
        raise Denied(
            Code.GOVERNANCE_MISMATCH,
            f"platform policy {platform!r} goes by {ima.target}, which is unusable: {self._unusable[name]}",
            "have a good one published (attestd platform rules --ima FILE)",
        )

    def _remember(self, key: tuple[object, ...], found: tuple[str, ...]) -> None:
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[key] = found


def _state(logs: BootLogs, policy: PlatformPolicy, values: Mapping[int, bytes]) -> BootState:
    return BootState(logs.log, logs.events, logs.command_line, policy.selection.bank, values)


def kept_state(boot: Boot) -> BootState:
    """A kept boot, to compare with.

    Raises:
        MalformedError: Its logs do not parse.
    """
    firmware = parse_event_log(boot.eventlog)
    events = parse_userspace_log(boot.userspace, first=len(firmware.events))
    return BootState(firmware, events, boot.command_line, boot.bank, boot.pcrs)
