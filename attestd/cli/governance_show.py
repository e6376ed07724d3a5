"""`attestd governance show` and `diff`."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from attestd.cli.base import Command, json_option
from attestd.cli.governance import (
    SOON,
    open_repository,
    repository_option,
    show_changes,
    warn_of_expiry,
    warn_of_handover,
)
from attestd.cli.output import BAD, DIM, WARN, Output, say, text
from attestd.distribution.next_version import RoleApprovals
from attestd.distribution.published import Published
from attestd.distribution.repository import Repository
from attestd.governance.trust import REVOCABLE, parse_revocations
from attestd.plain import counted
from attestd.strict import format_time

__all__ = ["diff_command", "show_command"]


@click.command(
    "show",
    cls=Command,
    example="""
attestd governance show
attestd governance show --repository governance --json
""",
)
@repository_option
@json_option
def show_command(*, directory: Path | None, state_dir: str | None, as_json: bool) -> None:
    """Show roles, signatures, expiries, targets, and what is revoked."""
    repository = open_repository(directory, state_dir)
    published, status = repository.published, repository.status()
    output = Output(as_json=as_json)
    if as_json:
        output.json(_json(repository, published, status))
        return
    version = published.snapshot.version if published.snapshot else None
    output.title(
        f"Governance {repository.path}: " + (f"version {version}" if version else "nothing is published yet")
    )
    rows = [(item.role, item.version, _state(item), _expires(item.expires), _signed(item)) for item in status]
    for document, role in ((published.snapshot, "snapshot"), (published.timestamp, "timestamp")):
        if document is not None:
            rows.append(
                (role, document.version, text("published", DIM), _expires(document.content.expires), text(""))
            )
    output.table(("role", "version", "", "expires", "signed"), rows)
    output.line("")
    files = repository.plan().files
    output.table(("target", "bytes"), [(name, len(data)) for name, data in sorted(files.items())])
    revoked = _revoked(files)
    if any(revoked.values()):
        output.line("")
        output.table(
            ("revoked", ""),
            [(what.removesuffix("s"), item) for what, items in revoked.items() for item in items],
        )
    warn_of_expiry(repository)


@click.command(
    "diff",
    cls=Command,
    example="""
attestd governance diff
attestd governance diff --repository governance --json
""",
)
@repository_option
@json_option
def diff_command(*, directory: Path | None, state_dir: str | None, as_json: bool) -> None:
    """Say in words what publishing would change.

    What makes more possible than before has a `!`.
    """
    repository = open_repository(directory, state_dir)
    changes = repository.diff()
    show_changes(changes, Output(as_json=as_json))
    warn_of_handover(repository, repository.plan())
    if repository.missing():
        return
    for name, why in repository.validate().lost.items():
        say(f"{name} will no longer be accepted by any host: {why}", style=BAD)


def _revoked(files: Mapping[str, bytes]) -> dict[str, list[str]]:
    if "revocations.json" not in files:
        return {}
    revocations = parse_revocations(files["revocations.json"])
    return {what: sorted(map(str, getattr(revocations, what))) for what in REVOCABLE}


def _state(item: RoleApprovals) -> Any:
    if not item.is_staged:
        return text("published", DIM)
    return text(
        f"staged, lacks {counted(item.lacking, 'signature')}" if item.lacking else "staged, signed", WARN
    )


def _signed(item: RoleApprovals) -> Any:
    return [
        f"{len(approvals.signed)} of {approvals.threshold}: {', '.join(key[:16] for key in approvals.signed)}"
        for approvals in item.approvals
    ]


def _expires(moment: datetime) -> Any:
    left = moment - datetime.now(UTC)
    return text(format_time(moment), BAD if left < timedelta() else WARN if left < SOON else "")


def _json(repository: Repository, published: Published, status: list[RoleApprovals]) -> dict[str, Any]:
    return {
        "repository": str(repository.path),
        "version": published.snapshot.version if published.snapshot else None,
        "roles": [
            {
                "role": item.role,
                "version": item.version,
                "staged": item.is_staged,
                "lacking": item.lacking,
                "expires": format_time(item.expires),
                "signed": sorted({key for approvals in item.approvals for key in approvals.signed}),
                "missing": sorted({key for approvals in item.approvals for key in approvals.missing}),
            }
            for item in status
        ],
        "timestamp": None
        if published.timestamp is None
        else {
            "version": published.timestamp.version,
            "expires": format_time(published.timestamp.content.expires),
        },
        "targets": sorted(repository.plan().files),
        "revoked": _revoked(repository.plan().files),
    }
