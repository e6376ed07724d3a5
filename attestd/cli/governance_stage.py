"""`attestd governance add`, `remove`, `stage`, `enroll`: what the next version will hold."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from attestd.authorization.dsse import EnvelopeSignature, format_envelope, parse_envelope
from attestd.cli.base import Command, confirm, json_option, read_input, write_output
from attestd.cli.governance import open_repository, repository_option, say_staged
from attestd.cli.keys import key_options, open_key
from attestd.cli.output import Output, say
from attestd.cli.params import FILE
from attestd.errors import MalformedError, UsageError
from attestd.governance.host import HOST_RECORD_TYPE, MAX_HOST_RECORD_BYTES, HostRecord
from attestd.governance.issue import sign_host_request
from attestd.governance.rotation import replace_host_record
from attestd.governance.signed import MAX_TARGET_BYTES
from attestd.strict import parse_canonical

__all__ = ["add_command", "enroll_command", "remove_command", "stage_command"]


@click.command(
    "add",
    cls=Command,
    example="""
attestd governance add --repository governance policy/night.cedar night.cedar
""",
)
@repository_option
@json_option
@click.argument("name")
@click.argument("file", type=FILE)
def add_command(
    *, directory: Path | None, state_dir: str | None, as_json: bool, name: str, file: Path
) -> None:
    """Stage FILE as the target NAME.

    If hosts would accept it.

    NAME is authorities.json, revocations.json, platform/NAME.json, ima/NAME.json, hosts/HOST-ID.json,
    policy/NAME.cedar, policy/entities.json, ek-roots/index.json, ek-roots/NAME.pem, ek-allow.json, mesh.json, or below
    teams/TEAM/ authorities.json or policy/NAME.cedar.
    """
    repository = open_repository(directory, state_dir)
    repository.stage({name: read_input(file, max_bytes=MAX_TARGET_BYTES)})
    say_staged(repository, Output(as_json=as_json))


@click.command(
    "remove", cls=Command, example="attestd governance remove --repository governance policy/exec.cedar"
)
@repository_option
@json_option
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def remove_command(
    *, directory: Path | None, state_dir: str | None, as_json: bool, names: tuple[str, ...]
) -> None:
    """Stage a version without these targets."""
    repository = open_repository(directory, state_dir)
    repository.stage(dict.fromkeys(names))
    say_staged(repository, Output(as_json=as_json))


@click.command(
    "stage",
    cls=Command,
    example="""
attestd governance stage --repository governance
attestd governance stage --repository governance --renew targets
attestd governance stage --repository governance --reset
""",
)
@click.option("--reset", is_flag=True, help="Take changes back: of these targets, or all.")
@click.option(
    "--renew",
    "renewed",
    multiple=True,
    metavar="ROLE",
    help="A version of root, targets or team-NAME that holds longer.",
)
@repository_option
@json_option
@click.argument("names", nargs=-1, metavar="[NAME...]")
def stage_command(
    *,
    reset: bool,
    renewed: tuple[str, ...],
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
    names: tuple[str, ...],
) -> None:
    """Take up what was edited in staged/targets.

    If hosts would accept it. JSON is put in the form that hosts read.
    """
    repository = open_repository(directory, state_dir)
    if names and not reset:
        raise click.UsageError(
            "names go with --reset: without it all that lies in staged/targets is taken up"
        )
    if reset:
        repository.unstage(names or None)
    else:
        repository.stage({})
    for role in renewed:
        repository.renew(role)
    say_staged(repository, Output(as_json=as_json))


@click.command(
    "enroll",
    cls=Command,
    example="attestd governance enroll --repository governance web1.request.json --key second.pem --yes",
)
@key_options("none: it must be named, unless enough enrollers signed")
@click.option(
    "-o",
    "--output",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Sign only, for the next enroller, who enrolls FILE: where it takes several.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@repository_option
@json_option
@click.argument("request", type=FILE)
def enroll_command(
    *,
    key: str | None,
    public_key: Path | None,
    path: Path | None,
    yes: bool,
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
    request: Path,
) -> None:
    """Admit a host: sign its request, stage its record.

    Compare what is shown with what you know of that host: its host-id stands on its own screen (attestd init).
    """
    repository = open_repository(directory, state_dir)
    given = read_input(request, max_bytes=MAX_HOST_RECORD_BYTES)
    data, earlier = _request(given)
    if key is None and not earlier:
        raise UsageError("--key is needed: the enroller's")
    record = parse_canonical(data, HostRecord, max_bytes=MAX_HOST_RECORD_BYTES, what=str(request))
    labels = ", ".join(f"{name}={value}" for name, value in record.labels.items()) or "none"
    for name, value in (
        ("host", record.host),
        ("tier", f"{record.tier}, user space {record.userspace}"),
        ("labels", labels),
        ("valid", f"{record.not_before} to {record.not_after}"),
    ):
        say(f"  {name:<7} {value}", prefix="")
    confirm("Admit this host?", yes=yes)
    signers = [open_key(key, public_key=public_key).sign] if key is not None else []
    signed = _with(earlier, sign_host_request(data, signers=signers)) if signers else given
    if path is not None:
        write_output(path, signed)
        say(f"signed; next: another enroller, attestd governance enroll {path}")
        return
    # A host that has other keys now: what the ones before sealed goes on verifying.
    files, now = repository.plan().published.files, datetime.now(UTC).replace(microsecond=0)
    repository.stage(replace_host_record(files, signed, host=record.host, now=now, signers=signers))
    say_staged(repository, Output(as_json=as_json))


def _request(data: bytes) -> tuple[bytes, tuple[EnvelopeSignature, ...]]:
    """A host's request, and the signatures of enrollers who signed it already."""
    try:
        envelope = parse_envelope(data, payload_type=HOST_RECORD_TYPE, max_bytes=MAX_HOST_RECORD_BYTES)
    except MalformedError:
        return data, ()
    return envelope.payload, envelope.signatures


def _with(earlier: tuple[EnvelopeSignature, ...], signed: bytes) -> bytes:
    envelope = parse_envelope(signed, payload_type=HOST_RECORD_TYPE, max_bytes=MAX_HOST_RECORD_BYTES)
    new = {signature.key_id for signature in envelope.signatures}
    kept = tuple(signature for signature in earlier if signature.key_id not in new)
    return format_envelope(replace(envelope, signatures=(*kept, *envelope.signatures)))
