"""`attestd governance sign`, `publish`, `refresh`."""

import os
from pathlib import Path
from typing import Any

import click

from attestd.cli.base import Command, confirm, json_option
from attestd.cli.governance import (
    open_repository,
    repository_option,
    say_changes,
    short_handover_option,
    warn_of_expiry,
    warn_of_handover,
)
from attestd.cli.keys import key_options, open_key, passphrase_option
from attestd.cli.output import BAD, HEAD, Output, mark, say
from attestd.cli.params import FILE
from attestd.distribution.published import Published
from attestd.distribution.repository import Repository
from attestd.distribution.signer import Authority
from attestd.errors import UsageError
from attestd.strict import format_time

__all__ = ["publish_command", "refresh_command", "sign_command"]


@click.command(
    "sign",
    cls=Command,
    example="""
attestd governance stage --repository governance --renew targets
attestd governance sign --repository governance --key second.pem --yes
attestd governance sign --repository governance --merge copy
""",
)
@key_options("of this host's own repository, its keys")
@click.option(
    "--merge",
    type=click.Path(exists=True, path_type=Path),
    metavar="DIR|FILE",
    help="Take over signatures from a copy of the repository, or of one draft.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@repository_option
@json_option
def sign_command(
    *,
    key: str | None,
    public_key: Path | None,
    merge: Path | None,
    yes: bool,
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
) -> None:
    """Sign what is staged, shown in words first.

    On a copy of the repository's directory, too: --merge brings the signatures back.
    """
    if key is not None and merge is not None:
        raise click.UsageError("either --key or --merge, not both")
    repository = open_repository(directory, state_dir)
    output = Output(as_json=as_json)
    if merge is not None:
        roles = repository.merge(merge)
    else:
        uris = own_keys(repository) if key is None else [key]
        signers = [open_key(uri, public_key=public_key) for uri in uris]
        shown = [_say_what_is_signed(repository, authority) for authority in signers]
        if any(shown):
            confirm("Sign this?", yes=yes)
        roles = [role for authority in signers for role in repository.sign(authority)]
    status = [item for item in repository.status() if item.is_staged]
    if as_json:
        output.json(
            {
                "signed": roles,
                "staged": [
                    {"role": item.role, "version": item.version, "lacking": item.lacking} for item in status
                ],
            }
        )
        return
    for item in status:
        done = (
            f"{max(len(approvals.signed) for approvals in item.approvals)} of {item.approvals[-1].threshold}"
        )
        output.line(mark(item.lacking == 0), f" {item.role} version {item.version}: {done} signatures")
    if not any(item.lacking for item in status):
        say("next: attestd governance publish")


def _say_what_is_signed(repository: Repository, authority: Authority) -> bool:
    """Shows it; False if this key signs nothing of it."""
    plan = repository.plan()
    roles = plan.signable(authority.public.key_id)
    if not roles:
        return False
    say(f"Key {authority.public.key_id} signs {', '.join(roles)}", style=HEAD, prefix="")
    if plan.published.roots:
        root = plan.published.roots[0]
        say(
            f"  the first root of this repository has SHA-256 {repository.anchor_digest}, version {root.version}",
            prefix="",
        )
    say_changes(repository.diff())
    warn_of_handover(repository, plan)
    if not repository.missing():
        for name, why in repository.validate().lost.items():
            say(f"! {name} will no longer be accepted by any host: {why}", style=BAD, prefix="")
    return True


def own_keys(repository: Repository) -> list[str]:
    """The keys that lie beside the repository of a host that stands alone, as many as are needed."""
    staged = repository.plan().drafts or {"targets"}
    names = sorted({"governance-root" if role == "root" else "governance" for role in staged})
    uris = [str(repository.path.parent / f"{name}.pem") for name in names]
    if not all(map(os.path.exists, uris)):
        raise UsageError("--key is needed: whose signature; or --merge")
    return uris


_online_option = click.option(
    "--online",
    multiple=True,
    metavar="URI",
    help="A key that signs snapshot and timestamp (default: the one of settings.toml).",
)
_public_option = click.option(
    "--public-key",
    type=FILE,
    metavar="FILE",
    help="PEM of the online key's public half, for a key that is no file.",
)
_to_option = click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the static files go besides (default: publish_to of settings.toml).",
)


@click.command(
    "publish",
    cls=Command,
    example="""
attestd governance publish --repository governance
attestd governance publish --repository governance --to web
""",
)
@_online_option
@_public_option
@_to_option
@short_handover_option
@passphrase_option
@repository_option
@json_option
def publish_command(
    *,
    online: tuple[str, ...],
    public_key: Path | None,
    to: Path | None,
    short_handover: bool,
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
) -> None:
    """Publish what is signed, as static files.

    Targets are written first, the timestamp last: readers find the old version or the new one. If it is cut off, do it again.
    """
    repository = open_repository(directory, state_dir)
    plan = repository.plan()
    staged = bool(plan.drafts)
    if short_handover:
        warn_of_handover(repository, plan)
    found = repository.publish(
        _online(repository, online, public_key) if staged else [],
        directory=to,
        is_short_meant=short_handover,
    )
    _show(found, "published" if staged else "nothing was staged", Output(as_json=as_json))
    warn_of_expiry(repository)


@click.command("refresh", cls=Command, example="attestd governance refresh --repository governance")
@_online_option
@_public_option
@_to_option
@passphrase_option
@repository_option
@json_option
def refresh_command(
    *,
    online: tuple[str, ...],
    public_key: Path | None,
    to: Path | None,
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
) -> None:
    """Sign what is published anew: keep it fresh.

    The timestamp, and when half its time is over the snapshot. Let a timer do it daily. What is staged stays staged.
    """
    repository = open_repository(directory, state_dir)
    found = repository.refresh(_online(repository, online, public_key), directory=to)
    _show(found, "refreshed", Output(as_json=as_json))
    warn_of_expiry(repository)


def _online(repository: Repository, named: tuple[str, ...], public_key: Path | None) -> list[Authority]:
    uris = named or ((repository.online_key,) if repository.online_key else ())
    if not uris:
        raise UsageError(f"{repository.path}: settings.toml names no online key: name it with --online")
    return [open_key(uri, public_key=public_key) for uri in uris]


def _show(found: Published, done: str, output: Output) -> None:
    facts: dict[str, Any] = {
        "version": found.snapshot.version if found.snapshot else None,
        "root": found.root.version if found.root else None,
        "timestamp": found.timestamp.version if found.timestamp else None,
        "expires": format_time(found.timestamp.content.expires) if found.timestamp else None,
    }
    if output.as_json:
        output.json(facts)
        return
    output.line(mark(True), f" {done}: version {facts['version']}, fresh until {facts['expires']}")
