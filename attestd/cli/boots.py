"""What commands about boots share: where this boot is found, and how events and changes look as JSON."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attestd.agent.ask import AgentSocket
from attestd.agent.boot_view import BootView, parse_boot_view, present_boot
from attestd.agent.measured_logs import MAX_LINE_BYTES
from attestd.cli.base import read_input
from attestd.paths import Configuration, find_client_layout, load_configuration
from attestd.tcg.eventlog.diff import Change
from attestd.tcg.eventlog.meaning import Meaning
from attestd.tcg.eventlog.parse import MAX_EVENTLOG_BYTES
from attestd.tcg.eventlog.types import type_name

__all__ = ["boot_in_files", "change_json", "event_json", "present", "read_lines"]

MACHINE: Final = "device:/dev/tpmrm0"


def present(state_dir: str | None, *, pcrs: Mapping[int, bytes]) -> BootView | None:
    """This boot: of the installation's host, or, where there is none, of the machine.

    Raises:
        AttestdError: As `present_boot`.
    """
    layout = find_client_layout(state_dir)
    if not os.path.lexists(layout.configuration):
        return present_boot(None, Configuration(tpm=MACHINE), pcrs=pcrs)
    configuration = load_configuration(layout.configuration, os.environ)
    return present_boot(AgentSocket.find(state_dir), configuration, pcrs=pcrs)


def boot_in_files(eventlog: Path, userspace: Path | None) -> BootView:
    """A boot by its logs alone: no PCR value of it is known.

    Raises:
        MalformedError: A log does not parse.
    """
    logs = [
        b"" if path is None else read_input(path, max_bytes=MAX_EVENTLOG_BYTES)
        for path in (eventlog, userspace)
    ]
    return parse_boot_view(str(eventlog), *logs, command_line=None, pcrs={})


def read_lines(paths: Sequence[Path]) -> list[str]:
    """Kernel command lines in files."""
    texts = [read_input(path, max_bytes=MAX_LINE_BYTES).decode("utf-8", "surrogateescape") for path in paths]
    return [text.rstrip("\n\0") for text in texts]


def event_json(item: Meaning) -> dict[str, Any]:
    """An event."""
    return {
        "event": item.event.number,
        "pcr": item.event.pcr,
        "type": type_name(item.event.type),
        "what": item.name,
        "value": item.value,
        "proved": item.proved,
        "digest": item.digest.hex(),
    }


def change_json(change: Change) -> dict[str, Any]:
    """What two logs differ in."""
    return {
        "pcr": change.pcr,
        "before": None if change.before is None else event_json(change.before),
        "after": None if change.after is None else event_json(change.after),
        "text": str(change),
    }
