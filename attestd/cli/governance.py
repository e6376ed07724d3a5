"""`attestd governance`: who may approve what, staged, signed and published. Its commands stand in modules of their own."""

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from attestd.authorization.dsse import PublicKey
from attestd.cli.base import LazyGroup
from attestd.cli.keys import ask_secret
from attestd.cli.output import WARN, Output, mark, say, text
from attestd.distribution.handover import find_short_handover
from attestd.distribution.next_version import Next
from attestd.distribution.repository import Repository
from attestd.distribution.roles import public_of
from attestd.distribution.settings import FILE
from attestd.distribution.standalone import open_local_repository
from attestd.errors import UsageError
from attestd.governance.changes import Change
from attestd.governance.draft import RoleKeys
from attestd.paths import find_client_layout
from attestd.plain import counted
from attestd.strict import format_time

__all__ = [
    "SOON",
    "governance_command",
    "open_repository",
    "public_key",
    "repository_option",
    "role_keys",
    "say_changes",
    "say_staged",
    "short_handover_option",
    "show_changes",
    "staged_file",
    "warn_of_expiry",
    "warn_of_handover",
]

_F = TypeVar("_F", bound=Callable[..., Any])
SOON: Final = timedelta(days=30)
_MODULES: Final = {
    name: f"attestd.cli.{module}"
    for name, module in (
        ("init", "governance_init"),
        ("show", "governance_show"),
        ("diff", "governance_show"),
        ("add", "governance_stage"),
        ("remove", "governance_stage"),
        ("stage", "governance_stage"),
        ("enroll", "governance_enroll"),
        ("revoke", "governance_revoke"),
        ("platform", "governance_platform"),
        ("delegate", "governance_roles"),
        ("rule", "governance_roles"),
        ("mesh", "governance_mesh"),
        ("allow", "governance_mesh"),
        ("role", "governance_roles"),
        ("sign", "governance_publish"),
        ("publish", "governance_publish"),
        ("refresh", "governance_publish"),
        ("update", "governance_update"),
        ("replay", "governance_replay"),
    )
}


@click.command(
    "governance",
    cls=LazyGroup,
    modules=_MODULES,
    example="""
attestd governance diff --repository governance
attestd governance publish --repository governance
""",
)
def governance_command() -> None:
    """Who may approve what: staged, signed, published.

    The repository is the directory of --repository, of ATTESTD_REPOSITORY, the current one, or this host's own.
    """


def repository_option(command: _F) -> _F:
    """`--repository` and `--state-dir`; `open_repository` takes both."""
    state = click.option(
        "--state-dir", metavar="DIR", type=click.Path(file_okay=False), help="Of the host's own repository."
    )
    return click.option(
        "--repository",
        "directory",
        envvar="ATTESTD_REPOSITORY",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        metavar="DIR",
        help="The repository (default: ATTESTD_REPOSITORY, the current directory, this host's own).",
    )(state(command))


def open_repository(directory: Path | None, state_dir: str | None) -> Repository:
    """The repository that a command is about.

    Raises:
        UsageError, StoreError: There is none.
    """
    if directory is not None:
        return Repository(directory)
    if state_dir is None and os.path.exists(FILE) and os.path.isdir("staged"):
        return Repository(Path.cwd())
    return open_local_repository(find_client_layout(state_dir).authority)


def public_key(uri: str) -> PublicKey:
    """The public half of a key that was named on the command line: of a PEM file, private or public, or a URI."""
    return PublicKey.from_pem(public_of(uri, ask=ask_secret).pem.encode())


def short_handover_option(command: _F) -> _F:
    """`--short-handover`."""
    return click.option(
        "--short-handover",
        is_flag=True,
        help="It is meant that hosts may go by the mesh.json before for longer than its handover says: a key was stolen.",
    )(command)


def role_keys(uris: Sequence[str], threshold: int | None) -> RoleKeys:
    """Who signs: these keys; as many as the threshold says, or all."""
    return RoleKeys(tuple(public_key(uri) for uri in uris), len(uris) if threshold is None else threshold)


def say_changes(changes: Sequence[Change]) -> None:
    """What changes, a line each, on stderr: a person reads it before they sign."""
    if not changes:
        say("nothing changes", prefix="")
    for change in changes:
        say(
            f"{'!' if change.is_weaker else ' '} {change.target}: {change.words}",
            style=WARN if change.is_weaker else "",
            prefix="",
        )
    if any(change.is_weaker for change in changes):
        say("! more is possible afterwards than before: look twice", style=WARN, prefix="")


def show_changes(changes: Sequence[Change], output: Output) -> None:
    """The same as a result."""
    if output.as_json:
        output.json({"changes": changes_json(changes)})
        return
    if not changes:
        output.line("nothing changes")
    for change in changes:
        output.line(
            text("! " if change.is_weaker else "  ", WARN), text(f"{change.target}: ", "dim"), change.words
        )


def changes_json(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """As JSON."""
    return [
        {"target": change.target, "words": change.words, "weaker": change.is_weaker} for change in changes
    ]


def say_staged(repository: Repository, output: Output) -> None:
    """What is staged now, and what is to be done next: how every command that stages ends."""
    plan = repository.plan()
    status = [item for item in plan.evaluate() if item.is_staged]
    missing = repository.missing(plan.files)
    warn_of_handover(repository, plan)
    if output.as_json:
        output.json(
            {
                "staged": [
                    {"role": item.role, "version": item.version, "lacking": item.lacking} for item in status
                ],
                "missing": missing,
            }
        )
        return
    for item in status:
        output.line(
            mark(item.lacking == 0),
            f" {item.role} version {item.version} is staged"
            + (f", {counted(item.lacking, 'signature')} missing" if item.lacking else " and signed"),
        )
    if missing:
        say(f"a first version needs {', '.join(missing)} as well: attestd governance add", style=WARN)
    elif status:
        say("next: attestd governance diff, sign, publish")
    else:
        say("nothing is staged: all is as published")


def warn_of_handover(repository: Repository, plan: Next) -> None:
    """What hosts may do by the `mesh.json` before that will not verify: whoever stages, signs or publishes is to know."""
    words = find_short_handover(plan, repository.settings)
    if words is not None:
        say(f"WARNING: {words}", style=WARN)


def warn_of_expiry(repository: Repository) -> None:
    """Roles that offline keys sign, and that will have expired before long: one of them makes the whole set stale."""
    try:
        roles = repository.status()
    except (
        UsageError
    ) as error:  # What is staged was overtaken, and what is published is published all the same.
        say(f"WARNING: {error}", style=WARN)
        return
    for item in roles:
        if not item.is_staged and item.expires - datetime.now(UTC) < SOON:
            say(
                f"{item.role} holds until {format_time(item.expires)}: attestd governance stage --renew {item.role}, then"
                " sign and publish",
                style=WARN,
            )


def staged_file(repository: Repository, name: str) -> bytes:
    """A target as it is staged.

    Raises:
        UsageError: It is not.
    """
    data = repository.plan().files.get(name)
    if data is None:
        raise UsageError(f"{repository.path}: {name} is not staged: attestd governance add {name} FILE")
    return data
