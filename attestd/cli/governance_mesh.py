"""`attestd governance mesh`, `allow`: a fleet's controllers, how many of them it takes, and TPMs that they believe."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import click

from attestd.cli.base import Command, json_option, read_input
from attestd.cli.governance import (
    open_repository,
    public_key,
    repository_option,
    say_staged,
    short_handover_option,
)
from attestd.cli.keys import passphrase_option
from attestd.cli.output import Output
from attestd.cli.params import DURATION, FILE
from attestd.distribution.handover import require_handover, usual_handover
from attestd.distribution.repository import utc_now
from attestd.errors import MalformedError, UsageError
from attestd.governance.edits import with_allowed_eks
from attestd.governance.mesh import MESH
from attestd.governance.mesh_edits import MeshNode, amend_mesh

__all__ = ["allow_command", "mesh_command"]

_ALLOW: Final = "ek-allow.json"
_MAX_VKEYS_BYTES: Final = 64 * 1024


@click.command(
    "mesh",
    cls=Command,
    example="""
attestd governance mesh --repository governance one --url https://one.example:8440 --verifier second.pub --verifiers 1
attestd governance mesh --repository governance --verifiers 0 --witnesses 0
""",
)
@click.option("--url", metavar="URL", help="Where it is: https://HOST:PORT.")
@click.option("--enroller", metavar="KEY", help="It enrols hosts: the key that signs host records.")
@click.option("--verifier", metavar="KEY", help="It verifies: the key that signs attestation results.")
@click.option(
    "--witness",
    type=FILE,
    metavar="FILE",
    help="It witnesses: its witness.vkeys; the first key in it counts.",
)
@click.option("--remove", is_flag=True, help="Remove it.")
@click.option(
    "--verifiers", "verifier_quorum", type=int, metavar="N", help="How many verifiers every decision takes."
)
@click.option(
    "--witnesses", "witness_quorum", type=int, metavar="N", help="How many witnesses every decision takes."
)
@click.option(
    "--handover",
    type=DURATION,
    metavar="TIME",
    help="For how long hosts may still go by the version before (30m, 8h, 14d); default: while a timestamp holds, and 7d.",
)
@short_handover_option
@passphrase_option
@repository_option
@json_option
@click.argument("name", required=False)
def mesh_command(
    *,
    url: str | None,
    enroller: str | None,
    verifier: str | None,
    witness: Path | None,
    remove: bool,
    verifier_quorum: int | None,
    witness_quorum: int | None,
    handover: int | None,
    short_handover: bool,
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
    name: str | None,
) -> None:
    """Say which controllers hosts ask, and how many it takes.

    What is not named stays as it is. Authorizations and platform policies may ask for more of them, never for fewer.

    The version before goes to mesh/history: receipts and results of its time verify by it for good, with the keys that stand in it,
    unless these are revoked. What hosts make after the handover, and still names it, does not. So a handover is refused that
    is over before the published timestamp expires: until then hosts may go by the version before.
    """
    node = MeshNode(
        url=url,
        enroller=None if enroller is None else public_key(enroller),
        verifier=None if verifier is None else public_key(verifier),
        witness=None if witness is None else _vkey(witness),
    )
    is_named = node != MeshNode()
    if (name is None) != (not is_named and not remove):
        raise UsageError("a controller's NAME goes with --url and its keys, or with --remove")
    if is_named and remove:
        raise UsageError("--remove goes with no --url and no key")
    if name is None and verifier_quorum is None and witness_quorum is None and handover is None:
        raise UsageError("nothing would change: name a controller, --verifiers, --witnesses or --handover")
    repository = open_repository(directory, state_dir)
    plan, settings, now = repository.plan(), repository.settings, utc_now()
    until = usual_handover(settings) if handover is None else timedelta(seconds=handover)
    changed = amend_mesh(
        plan.files.get(MESH),
        published=plan.published.files.get(MESH),
        handover=now + until,
        name=name,
        node=None if remove else node,
        verifier_quorum=verifier_quorum,
        witness_quorum=witness_quorum,
    )
    staged = replace(plan, files={**plan.files, MESH: changed})
    require_handover(staged, settings, now=now, is_short_meant=short_handover)
    repository.stage({MESH: changed}, seen=plan.files)
    say_staged(repository, Output(as_json=as_json))


@click.command(
    "allow",
    cls=Command,
    example="""
attestd governance allow --repository governance 81f0c3a2b4d581f0c3a2b4d581f0c3a2b4d581f0c3a2b4d581f0c3a2b4d581f0 --tier uncertified
""",
)
@click.option(
    "--tier",
    type=click.Choice(["uncertified", "software"]),
    help="What its evidence is rooted in from then on.",
)
@click.option("--remove", is_flag=True, help="Believe them no more.")
@repository_option
@json_option
@click.argument("hosts", nargs=-1, required=True, metavar="HOST-ID...")
def allow_command(
    *,
    tier: str | None,
    remove: bool,
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
    hosts: tuple[str, ...],
) -> None:
    """Believe TPMs that no manufacturer vouches for, one by one.

    HOST-ID stands on the host's own screen: attestd init says it, also where it is refused. Controllers then enrol the
    host without a decision of an operator.
    """
    if (tier is None) != remove:
        raise UsageError("either --tier, or --remove")
    repository = open_repository(directory, state_dir)
    seen = repository.plan().files
    repository.stage({_ALLOW: with_allowed_eks(seen.get(_ALLOW), hosts, tier=tier)}, seen=seen)
    say_staged(repository, Output(as_json=as_json))


def _vkey(path: Path) -> str:
    try:
        lines = read_input(path, max_bytes=_MAX_VKEYS_BYTES).decode("utf-8").split()
    except UnicodeDecodeError as error:
        raise MalformedError(f"{path}: expected a vkey a line") from error
    if not lines:
        raise MalformedError(f"{path}: expected a vkey a line, found nothing")
    return lines[0]
