"""Boots as the command line looks at them: this one, kept ones, those in files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from attestd.agent.ask import AgentSocket
from attestd.agent.boot_logs import NOW, KeptBoot, fetch_boots, fetch_log
from attestd.agent.measured_logs import BootReader, read_part
from attestd.appraisal.boot import BootFinding, appraise_boot
from attestd.appraisal.boot_rules import BootRules
from attestd.errors import AgentError, MalformedError, UsageError, VerificationError
from attestd.paths import Configuration, LogPaths
from attestd.tcg.eventlog.meaning import Meaning, read_events
from attestd.tcg.eventlog.parse import MAX_EVENTLOG_BYTES, UntrustedEventLog, parse_event_log
from attestd.tcg.eventlog.reading import UKI_PCR, Kind
from attestd.tcg.eventlog.replay import initial_value, replay, verify_events
from attestd.tcg.eventlog.userspace import known_phases, parse_userspace_log, with_events, with_phases

__all__ = [
    "APPROVED",
    "NOW",
    "BootView",
    "appraise_view",
    "find_boot",
    "parse_boot_view",
    "present_boot",
    "with_replayed",
]

APPROVED: Final = "approved"
_BANK: Final = "sha256"
_NO_LOG: Final = "no event log is configured (eventlog in attestd.toml)"


@dataclass(frozen=True)
class BootView:
    """A boot.

    Attributes:
        title: Which one, in words.
        eventlog, userspace: The logs' bytes.
        log: Both, parsed: the firmware's events, then user space's; where that kept no log, the phases that the value of
            PCR 11 shows.
        command_line: The kernel's; None: it is not known.
        pcrs: PCR values of the bank SHA-256, as far as they are known otherwise than by the logs.
    """

    title: str
    eventlog: bytes = field(repr=False)
    userspace: bytes = field(repr=False)
    log: UntrustedEventLog = field(repr=False)
    command_line: str | None
    pcrs: Mapping[int, bytes]

    @property
    def command_lines(self) -> tuple[str, ...]:
        """To be recognised in the log by their digests."""
        return () if self.command_line is None else (self.command_line,)

    @property
    def phases(self) -> tuple[str, ...]:
        """What user space measured into PCR 11."""
        events = self.meanings(_BANK)
        return tuple(item.value for item in events if item.event.pcr == UKI_PCR and item.kind == Kind.PHASE)

    def meanings(self, bank: str, *, command_lines: Sequence[str] = ()) -> tuple[Meaning, ...]:
        """What the events mean."""
        return read_events(self.log.events, bank=bank, command_lines=(*self.command_lines, *command_lines))

    def unexplained(self) -> tuple[int, ...]:
        """PCRs whose known values are not those of the logs; none where the logs lack the bank."""
        try:
            replayed = replay(self.log, _BANK)
        except (UsageError, VerificationError):
            return ()
        return tuple(
            pcr
            for pcr, value in sorted(self.pcrs.items())
            if value != replayed.get(pcr, initial_value(_BANK, pcr, locality=self.log.locality))
        )


def appraise_view(view: BootView, rules: BootRules | None) -> tuple[BootFinding, ...]:
    """What boot rules find wrong with a boot; a PCR whose value the logs do not explain is a finding.

    Raises:
        MalformedError: The rules are of another bank than the values.
    """
    if rules is None:
        return ()
    if rules.bank != _BANK:
        raise MalformedError(f"boot rules of bank {rules.bank}: known are values of bank {_BANK}")
    unexplained = view.unexplained()
    values = {pcr: value for pcr, value in view.pcrs.items() if pcr in rules.pcrs and pcr not in unexplained}
    hidden = tuple(
        BootFinding("events", None, f"PCR {pcr}", "a value that the logs explain", "none")
        for pcr in unexplained
        if pcr in rules.pcrs
    )
    if not values:
        return hidden
    return hidden + appraise_boot(verify_events(view.log, bank=_BANK, values=values), rules=rules).findings


def with_replayed(view: BootView, pcrs: Iterable[int]) -> BootView:
    """A boot in which PCRs have what the logs replay to, where their values are not known otherwise."""
    replayed = replay(view.log, _BANK)
    values = {pcr: replayed.get(pcr, initial_value(_BANK, pcr, locality=view.log.locality)) for pcr in pcrs}
    return replace(view, pcrs={**values, **view.pcrs})


def parse_boot_view(
    title: str,
    eventlog: bytes,
    userspace: bytes,
    *,
    command_line: str | None,
    pcrs: Mapping[int, bytes],
) -> BootView:
    """Takes a boot's logs together.

    Raises:
        MalformedError: A log does not parse.
    """
    log = parse_event_log(eventlog)
    log = with_events(log, parse_userspace_log(userspace, first=len(log.events)))
    view = BootView(title, eventlog, userspace, log, command_line, pcrs)
    if UKI_PCR in view.unexplained():
        phases = known_phases(log, bank=_BANK, value=pcrs[UKI_PCR])
        view = view if phases is None else replace(view, log=with_phases(log, phases))
    return view


def present_boot(
    agent: AgentSocket | None, configuration: Configuration, *, pcrs: Mapping[int, bytes]
) -> BootView | None:
    """This boot; None: no event log is configured.

    Args:
        agent: Asked first, if there may be one.
        configuration: Where the logs are; read here if no agent answers.
        pcrs: The present PCR values, as far as they are known.

    Raises:
        AgentError, ForbiddenError: The agent does not tell.
        StoreError, MalformedError: A log cannot be read or does not parse.
    """
    paths = configuration.log_paths()
    if agent is None:
        return _read(paths, pcrs)
    try:
        _, now = fetch_boots(agent)
    except AgentError:
        return _read(paths, pcrs)
    if now.problem is not None:
        raise AgentError(now.problem)
    if now.digest is None:
        return None
    logs = [fetch_log(agent, NOW, name) for name in ("eventlog", "userspace")]
    return parse_boot_view("this boot", *logs, command_line=now.command_line, pcrs=pcrs)


def _read(paths: LogPaths, pcrs: Mapping[int, bytes]) -> BootView | None:
    logs = BootReader(paths).read()
    if logs is None:
        return None
    return parse_boot_view(
        "this boot", logs.eventlog, logs.userspace, command_line=logs.command_line, pcrs=pcrs
    )


def find_boot(name: str, *, agent: AgentSocket, present: BootView | None, platform: str | None) -> BootView:
    """Finds a boot by what a person calls it.

    Args:
        name: `now`; `approved`, the last whose state was approved; a number, 1 for the one seen last; or a file with an
            event log.
        agent: Asked for kept boots.
        present: This boot.
        platform: Approved by this platform policy; None: by any.

    Raises:
        UsageError: There is none.
        AgentError, ForbiddenError: The agent does not tell.
        StoreError, MalformedError: A log cannot be read or does not parse.
    """
    if name == NOW:
        if present is None:
            raise UsageError(f"there is no boot {name!r}: {_NO_LOG}")
        return present
    if name != APPROVED and not name.isdigit():
        data = read_part(Path(name), max_bytes=MAX_EVENTLOG_BYTES + 1)
        return parse_boot_view(name, data, b"", command_line=None, pcrs={})
    kept, now = fetch_boots(agent)
    if name == APPROVED:
        numbers = [
            n for n, boot in enumerate(kept, 1) if (platform in boot.approved if platform else boot.approved)
        ]
    else:
        numbers = [n for n in range(1, len(kept) + 1) if n == int(name)]
    if not numbers:
        why = f"attestd platform boots lists the {len(kept)} that are kept" if kept or now.digest else _NO_LOG
        raise UsageError(f"there is no boot {name!r}: {why}")
    return _fetch(kept[numbers[0] - 1], numbers[0], agent)


def _fetch(boot: KeptBoot, number: int, agent: AgentSocket) -> BootView:
    logs = [fetch_log(agent, boot.digest, name) for name in ("eventlog", "userspace")]
    pcrs = boot.pcrs if boot.bank == _BANK else {}
    try:
        return parse_boot_view(f"boot {number}", *logs, command_line=boot.command_line, pcrs=pcrs)
    except MalformedError as error:
        raise MalformedError(f"boot {number}: {error}") from error
