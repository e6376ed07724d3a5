"""`attestd backup`."""

from pathlib import Path

import click

from attestd.agent.backup import write_backup
from attestd.cli.base import Command, json_option, state_dir_option
from attestd.cli.output import Output
from attestd.paths import find_layout
from attestd.plain import counted

__all__ = ["backup_command"]


@click.command("backup", cls=Command, example="attestd backup /tmp/attestd-backup.tar")
@state_dir_option
@json_option
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup_command(*, state_dir: str | None, as_json: bool, file: Path) -> None:
    """Copy log, trust and configuration to a tar file.

    The agent may be running: the log is copied as it is at one moment. Only you can read the file. Keys are not in it: those
    of the TPM work on this TPM only, and those of authorities belong elsewhere. How to restore: docs/operations.md.
    """
    found = write_backup(find_layout(state_dir), file)
    output = Output(as_json=as_json)
    if as_json:
        output.json({"file": str(file), "log": found.origin, "size": found.size, "files": list(found.files)})
    else:
        output.line(
            f"{file}: {counted(found.size, 'entry')} of {found.origin}, {counted(len(found.files), 'file')}"
        )
