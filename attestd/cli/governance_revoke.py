"""`attestd governance revoke` and `attestd authorization revoke`: what is no longer trusted, whoever signed for it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import click

from attestd.authorization.artifact import MAX_ARTIFACT_BYTES, parse_artifact
from attestd.cli.base import Command, json_option, read_input
from attestd.cli.governance import open_repository, repository_option, say_changes, say_staged, staged_file
from attestd.cli.keys import ask_secret, open_key, passphrase_option
from attestd.cli.output import WARN, Output, mark, say
from attestd.cli.params import DIGEST, HEX, MESH_KEY_IDS, STEP, USER
from attestd.distribution.repository import Repository
from attestd.distribution.standalone import publish_local
from attestd.errors import UsageError
from attestd.governance.authorities import parse_authorities
from attestd.governance.edits import Reapproved, with_epoch, with_revoked, with_states
from attestd.governance.issue import Sign
from attestd.governance.trust import parse_revocations
from attestd.paths import Layout, find_client_layout

__all__ = ["revoke_artifacts_command", "revoke_command"]

NAME: Final = "revocations.json"
ID_DIGITS: Final = 64
ALL, NONE = "all", "none"


@dataclass(frozen=True)
class _Place:
    """Where revocations are staged.

    Attributes:
        is_own: It is this host's own repository: its keys are here, and what is staged is published at once.
    """

    repository: Repository
    layout: Layout
    is_own: bool

    def key(self, uri: str | None, name: str) -> str | None:
        """The key that was named, else the host's own."""
        own = self.layout.authority / f"{name}.pem"
        return uri or (str(own) if self.is_own and own.exists() else None)


def _place(directory: Path | None, state_dir: str | None) -> _Place:
    repository, layout = open_repository(directory, state_dir), find_client_layout(state_dir)
    return _Place(repository, layout, repository.path == layout.repository)


@click.command(
    "revoke",
    cls=Command,
    example="""
attestd governance revoke --repository governance --requester nobody
attestd governance revoke --repository governance --subject /usr/bin/false
attestd governance revoke --repository governance --epoch +1 --keep all --epoch-key /etc/attestd/authority/epoch.pem
""",
)
@click.option("--artifact", "artifacts", type=HEX, multiple=True, help="An authorization's id.")
@click.option(
    "--key",
    "keys",
    type=MESH_KEY_IDS,
    multiple=True,
    callback=lambda _, __, values: tuple(chain.from_iterable(values)),
    help="A key of an authority or a verifier; of a witness its witness.vkeys, all of them.",
)
@click.option("--host", "hosts", type=HEX, multiple=True, help="A host-id.")
@click.option(
    "--subject", "subjects", type=DIGEST, multiple=True, help="An executable, interpreter or input."
)
@click.option("--requester", "requesters", type=USER, multiple=True, help="A user.")
@click.option("--epoch", type=STEP, help="End every approval of a platform state for a lower epoch, in TPMs.")
@click.option("--epoch-key", metavar="URI", help="The epoch authority's key (default: this host's own).")
@click.option(
    "--keep",
    multiple=True,
    metavar="STATE",
    help="With --epoch: a state that stays approved: its composite's first digits, all, or none.",
)
@click.option("--platform-key", metavar="URI", help="Approves what is kept again (default: this host's own).")
@passphrase_option
@repository_option
@json_option
def revoke_command(
    *,
    epoch: tuple[int, bool] | None,
    epoch_key: str | None,
    keep: tuple[str, ...],
    platform_key: str | None,
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
    **revoked: tuple[Any, ...],
) -> None:
    """Revoke artifacts, keys, hosts, files, users, or platform states.

    It cannot be taken back. In a host's own repository it is published at once, elsewhere staged: diff, sign, publish.
    """
    place = _place(directory, state_dir)
    named = {
        member: [item.hex() if isinstance(item, bytes) else item for item in items]
        for member, items in revoked.items()
        if items
    }
    files = place.repository.plan().files
    changes = {NAME: staged_file(place.repository, NAME)}
    if named or epoch is None:
        changes[NAME] = with_revoked(changes[NAME], named)
    found: dict[str, Reapproved] = {}
    if epoch is not None:
        number = epoch[0] + (parse_revocations(changes[NAME]).epoch if epoch[1] else 0)
        uri = place.key(epoch_key, "epoch")
        if uri is None:
            raise UsageError(
                "--epoch-key is needed: TPMs move to another epoch only as the epoch authority signed"
            )
        # First: that is refused where the number is wrong.
        bumped = with_epoch(
            changes[NAME], authorities=files["authorities.json"], epoch=number, sign=open_key(uri).sign
        )
        found = _reapprove({**files, **changes}, number, keep, key=place.key(platform_key, "platform"))
        changes |= {NAME: bumped, **{name: item.data for name, item in found.items() if item.data}}
    elif keep:
        raise UsageError("--keep goes with --epoch")
    _finish(place, changes, found, Output(as_json=as_json), seen=files)


@click.command(
    "revoke",
    cls=Command,
    example="""
attestd authorization issue -o id.auth.json -- id -u
attestd authorization revoke id.auth.json
""",
)
@passphrase_option
@repository_option
@json_option
@click.argument("artifacts", nargs=-1, required=True, metavar="FILE|ID...")
def revoke_artifacts_command(
    *, directory: Path | None, state_dir: str | None, as_json: bool, artifacts: tuple[str, ...]
) -> None:
    """Revoke authorizations, and all that was delegated from them.

    It cannot be taken back. In a host's own repository it is published at once, elsewhere staged: diff, sign, publish.
    """
    place = _place(directory, state_dir)
    present = staged_file(place.repository, NAME)
    changes = {NAME: with_revoked(present, {"artifacts": [_artifact_id(item) for item in artifacts]})}
    _finish(place, changes, {}, Output(as_json=as_json), seen={NAME: present})


def _artifact_id(named: str) -> str:
    if len(named) == ID_DIGITS and not Path(named).exists():
        return named
    if not Path(named).is_file():
        raise UsageError(f"{named}: expected an authorization's file, or its id of {ID_DIGITS} hex digits")
    return parse_artifact(read_input(Path(named), max_bytes=MAX_ARTIFACT_BYTES)).id


def _reapprove(
    files: Mapping[str, bytes], epoch: int, keep: Sequence[str], *, key: str | None
) -> dict[str, Reapproved]:
    """Each platform policy for the epoch to come."""
    authorities, revocations = parse_authorities(files["authorities.json"]), parse_revocations(files[NAME])
    opened: list[Sign] = []

    def sign(message: bytes) -> Any:
        if not opened:
            opened.append(open_key(key or "").sign)
        return opened[0](message)

    found = {
        name: with_states(
            data,
            authorities=authorities,
            revocations=revocations,
            epoch=epoch,
            keep=lambda digest: ALL in keep or any(digest.startswith(item) for item in keep),
            sign=None if key is None else sign,
        )
        for name, data in files.items()
        if name.startswith("platform/") and name.count("/") == 1
    }
    _require_clear(found, keep, epoch)
    return found


def _require_clear(found: Mapping[str, Reapproved], keep: Collection[str], epoch: int) -> None:
    """Refuses to end what nobody named, and to keep what is not there."""
    states = [digest for item in found.values() for digest in (*item.kept, *item.ended)]
    for item in set(keep) - {ALL, NONE}:
        if not any(digest.startswith(item) for digest in states):
            raise UsageError(f"--keep {item}: no such state is approved; there are: {', '.join(states)}")
    if not keep and any(item.ended for item in found.values()):
        raise UsageError(
            f"epoch {epoch} ends the approval of {', '.join(states)}: say which stay approved (--keep STATE, --keep all),"
            " or --keep none"
        )


def _finish(
    place: _Place,
    changes: Mapping[str, bytes],
    found: Mapping[str, Reapproved],
    output: Output,
    *,
    seen: Mapping[str, bytes],
) -> None:
    """Stages it; in a host's own repository it is signed and published at once."""
    repository = place.repository
    repository.stage(changes, seen=seen)
    version = None
    if place.is_own:
        if not output.as_json:
            say_changes(repository.diff())
        publish_local(repository, place.layout.authority, {}, ask=ask_secret)
        snapshot = repository.published.snapshot
        version = None if snapshot is None else snapshot.version
    if output.as_json:
        output.json(
            {
                "published": version,
                "staged": sorted(repository.plan().drafts),
                "kept": {name: item.kept for name, item in found.items()},
                "ended": {name: item.ended for name, item in found.items()},
            }
        )
        return
    if version is None:
        say_staged(repository, output)
    else:
        output.line(mark(True), f" published as version {version}: in force on this host at once")
    _show_states(found, output)


def _show_states(found: Mapping[str, Reapproved], output: Output) -> None:
    for name, item in found.items():
        output.line(f"{name}:")
        output.facts(
            [("stay approved", list(item.kept) or "none"), ("approved no longer", list(item.ended) or "none")]
        )
        if not item.kept:
            say(f"{name}: nothing is released in any state until one is approved again", style=WARN)
