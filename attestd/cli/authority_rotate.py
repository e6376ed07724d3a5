"""`attestd authority rotate`."""

from datetime import UTC, datetime
from pathlib import Path

import click

from attestd.cli.base import Command, confirm, json_option
from attestd.cli.governance import open_repository, public_key, repository_option, say_changes
from attestd.cli.keys import ask_secret, open_key, passphrase_option
from attestd.cli.output import Output, say
from attestd.distribution.handover import usual_handover
from attestd.distribution.keyring import Keyring
from attestd.distribution.repository import Repository
from attestd.distribution.rotate import install_key, plan_rotation
from attestd.distribution.standalone import publish_local
from attestd.errors import UsageError
from attestd.governance.rotation import ROLES, Rotation
from attestd.paths import find_client_layout

__all__ = ["rotate_command"]


@click.command(
    "rotate",
    cls=Command,
    example="""
attestd init --tpm embedded --state-dir /tmp/attestd-rotate
attestd authority keygen --kind p256 --no-passphrase platform2
attestd authority rotate --yes --role platform platform2.pem --state-dir /tmp/attestd-rotate
""",
)
@click.option(
    "--role", "roles", multiple=True, type=click.Choice(ROLES), help="Default: all that the old key has."
)
@click.option("--old", metavar="KEY|ID", help="The key that goes (default: the only one that has the role).")
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="KEY",
    help="A key that must sign again what rests on the old one, and is not in this host's authority/.",
)
@click.option(
    "--compromised",
    is_flag=True,
    help="The old key may be in other hands: for a platform key, the epoch is raised beyond what it may approve.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@passphrase_option
@repository_option
@json_option
@click.argument("new", metavar="KEY")
def rotate_command(
    *,
    roles: tuple[str, ...],
    old: str | None,
    others: tuple[str, ...],
    compromised: bool,
    yes: bool,
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
    new: str,
) -> None:
    """Replace a key by KEY wherever governance names it.

    What rests on the old one is signed again: host records by an enroller, platform states by a platform key, platform
    keys by the root. In a host's own repository it is published at once, elsewhere staged: diff, sign and publish it.
    Keys of the TUF roles are replaced with attestd governance role.
    """
    repository = open_repository(directory, state_dir)
    layout = find_client_layout(state_dir)
    is_own = repository.path == layout.repository
    keyring = Keyring(layout.authority if is_own else repository.path, ask=ask_secret)
    chosen, signs = public_key(new), not new.endswith(".pub")
    for uri in (*others, *([new] if signs else [])):
        keyring.add(open_key(uri))
    files = repository.plan().files
    now = datetime.now(UTC).replace(microsecond=0)
    rotation = plan_rotation(
        files,
        keyring,
        old=_key_id(old),
        new=chosen,
        roles=roles,
        now=now,
        compromised=compromised,
        published=repository.published.files,
        handover=now + usual_handover(repository.settings),
    )
    if rotation is not None:
        repository.stage(rotation.files, seen=files)
        if not as_json:
            say_changes(repository.diff())
        if is_own:
            _confirm(repository, rotation, yes=yes)
            publish_local(repository, layout.authority, {}, ask=ask_secret)
    placed = (
        install_key(layout.authority, roles or ROLES, Path(new), repository.plan().files)
        if is_own and signs
        else []
    )
    _show(rotation, placed, is_own=is_own, output=Output(as_json=as_json))


def _confirm(repository: Repository, rotation: Rotation, *, yes: bool) -> None:
    try:
        confirm("Sign and publish this?", yes=yes)
    except BaseException:
        repository.unstage(list(rotation.files))
        raise


def _show(rotation: Rotation | None, placed: list[Path], *, is_own: bool, output: Output) -> None:
    places = [] if rotation is None else list(rotation.places)
    again = [] if rotation is None else list(rotation.signed_again)
    notes = [] if rotation is None else list(rotation.notes)
    if output.as_json:
        files = [str(path) for path in placed]
        output.json(
            {"replaced": places, "signed_again": again, "published": is_own, "files": files, "notes": notes}
        )
        return
    output.title("Replaced" if rotation is not None else "Replaced before")
    output.facts([("as", places or None), ("signed again", again or None), ("key files", placed or None)])
    for note in notes:
        say(note)
    if not is_own and rotation is not None:
        say("staged: attestd governance diff, sign and publish")


def _key_id(old: str | None) -> str | None:
    if old is None or (len(old) == 64 and not Path(old).exists()):
        return old
    if not Path(old).exists():
        raise UsageError(f"--old {old}: expected a key file, or a key id of 64 hex digits")
    return public_key(old).key_id
