"""`attestd governance enroll`: admits a host; the record that it had before ends."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click

from attestd.authorization.dsse import EnvelopeSignature, UntrustedEnvelope, format_envelope, parse_envelope
from attestd.cli.base import Command, confirm, json_option, read_input, write_output
from attestd.cli.governance import open_repository, repository_option, say_staged
from attestd.cli.keys import open_key, passphrase_option
from attestd.cli.output import WARN, Output, say
from attestd.cli.params import FILE
from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.governance.authorities import Authorities, parse_authorities
from attestd.governance.host import (
    HOST_RECORD_TYPE,
    MAX_HOST_RECORD_BYTES,
    HostRecord,
    VerifiedHost,
    parse_host_record,
)
from attestd.governance.issue import Sign, sign_host_request
from attestd.governance.succession import (
    draft_ended_record,
    place_host_record,
    verify_ended_record,
    warn_of_succession,
)
from attestd.governance.trust import parse_revocations
from attestd.strict import parse_canonical

__all__ = ["enroll_command"]


class _Succession(NamedTuple):
    """What a record would end: the one before, what is signed of that, and what somebody is warned of."""

    before: bytes | None
    payload: bytes | None
    warnings: tuple[str, ...]


@click.command(
    "enroll",
    cls=Command,
    example="""
attestd governance enroll --repository governance web1.request.json --key second.pem --yes
attestd governance enroll --repository governance host-record.json --ended host-record.ended.json
""",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="URI",
    help="An enroller's key: a file, or hsm:, awskms:, ...; once for each. None where enough enrollers signed.",
)
@click.option(
    "--public-key", type=FILE, metavar="FILE", help="PEM of the public key, for one key that is no file."
)
@passphrase_option
@click.option(
    "--ended",
    "ended_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The end of the record that the host has, as enrollers signed it; with -o it is written there, for the next one.",
)
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
    keys: tuple[str, ...],
    public_key: Path | None,
    ended_path: Path | None,
    path: Path | None,
    yes: bool,
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
    request: Path,
) -> None:
    """Admit a host: sign its request, stage its record.

    Compare what is shown with what you know of that host: its host-id stands on its own screen (attestd init). The record
    that it has, if it has one, ends when the new one begins, and goes to the history: that is signed as well.
    """
    if public_key is not None and len(keys) != 1:
        raise UsageError("--public-key goes with one --key")
    repository = open_repository(directory, state_dir)
    given = read_input(request, max_bytes=MAX_HOST_RECORD_BYTES)
    data, earlier = _parts(given)
    if not keys and not earlier:
        raise UsageError("--key is needed: the enroller's")
    record = parse_canonical(data, HostRecord, max_bytes=MAX_HOST_RECORD_BYTES, what=str(request))
    files = repository.plan().published.files
    seen = _succession(files, record.host, data)
    before, payload = seen.before, seen.payload
    _show(record, ends=payload is not None)
    for words in seen.warnings:
        say(f"WARNING: {words}", style=WARN)
    confirm("Admit this host?", yes=yes)
    files = repository.plan().published.files
    if _succession(files, record.host, data) != seen:
        raise UsageError(
            "what it ends, or what there is to know of it, has changed meanwhile: do it again, and look again"
        )
    if path is not None and payload is not None and ended_path is None:
        raise UsageError(
            "--ended FILE is needed: there the next enroller finds the end of the record that the host has"
        )
    signers = [open_key(key, public_key=public_key).sign for key in keys]
    signed, ended = _signed(data, earlier, signers), None
    if payload is not None:
        ended = _signed(payload, _signatures(ended_path, payload), signers)
    if path is not None:
        _hand_on(path, signed, ended_path, ended)
        return
    if before is not None and ended is not None:
        _require_ended(ended, before, files)
    repository.stage(place_host_record(files, signed, host=record.host, ended=ended))
    say_staged(repository, Output(as_json=as_json))


def _hand_on(path: Path, signed: bytes, ended_path: Path | None, ended: bytes | None) -> None:
    write_output(path, signed)
    option = ""
    if ended is not None and ended_path is not None:
        write_output(ended_path, ended, force=True)
        option = f" --ended {ended_path}"
    say(f"signed; next: another enroller, attestd governance enroll {path}{option}")


def _succession(files: Mapping[str, bytes], host: str, successor: bytes) -> _Succession:
    before, present = _before(files, host)
    return _Succession(
        before,
        None if before is None else draft_ended_record(before, successor=successor),
        warn_of_succession(successor, present=present, seen=None, now=datetime.now(UTC)),
    )


def _before(files: Mapping[str, bytes], host: str) -> tuple[bytes, VerifiedHost] | tuple[None, None]:
    """The record that the host has; one that nobody believes any more ends by itself."""
    present = files.get(f"hosts/{host}.json")
    if present is None:
        return None, None
    authorities, revoked = _trusted(files)
    try:
        return present, parse_host_record(present, authorities=authorities, revoked_keys=revoked)
    except VerificationError:
        return None, None


def _trusted(files: Mapping[str, bytes]) -> tuple[Authorities, Collection[str]]:
    """Whose signatures count, and whose do not."""
    return parse_authorities(files["authorities.json"]), parse_revocations(files["revocations.json"]).keys


def _require_ended(ended: bytes, before: bytes, files: Mapping[str, bytes]) -> None:
    authorities, revoked = _trusted(files)
    try:
        verify_ended_record(ended, previous=before, authorities=authorities, revoked_keys=revoked)
    except (VerificationError, MalformedError) as error:
        raise VerificationError(
            f"the end of the record before: {error}: name the file that the enrollers signed (--ended), or their keys"
        ) from error


def _show(record: HostRecord, *, ends: bool) -> None:
    labels = ", ".join(f"{name}={value}" for name, value in record.labels.items()) or "none"
    rows = [
        ("host", record.host),
        ("tier", f"{record.tier}, user space {record.userspace}"),
        ("labels", labels),
        ("valid", f"{record.not_before} to {record.not_after}"),
    ]
    if ends:
        rows.append(("before", "it has a record: that one ends"))
    for name, value in rows:
        say(f"  {name:<7} {value}", prefix="")


def _signatures(path: Path | None, payload: bytes) -> tuple[EnvelopeSignature, ...]:
    """What enrollers signed already of a record's end."""
    if path is None or not path.exists():
        return ()
    found, signatures = _parts(read_input(path, max_bytes=MAX_HOST_RECORD_BYTES))
    if found != payload:
        raise UsageError(
            f"{path}: it is not the end of the record that this host has in this repository: expected a file that was"
            " signed together with the new record"
        )
    return signatures


def _parts(data: bytes) -> tuple[bytes, tuple[EnvelopeSignature, ...]]:
    """A record, and the signatures of enrollers who signed it already."""
    try:
        envelope = parse_envelope(data, payload_type=HOST_RECORD_TYPE, max_bytes=MAX_HOST_RECORD_BYTES)
    except MalformedError:
        return data, ()
    return envelope.payload, envelope.signatures


def _signed(data: bytes, earlier: tuple[EnvelopeSignature, ...], signers: Sequence[Sign]) -> bytes:
    """A record with the signatures that it has, and those of these keys."""
    new = _parts(sign_host_request(data, signers=signers))[1] if signers else ()
    fresh = {signature.key_id for signature in new}
    kept = (signature for signature in earlier if signature.key_id not in fresh)
    return format_envelope(UntrustedEnvelope(HOST_RECORD_TYPE, data, (*kept, *new)))
