"""`attestd governance init`."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

import click
import msgspec

from attestd.cli.base import Command, json_option
from attestd.cli.governance import public_key, role_keys
from attestd.cli.output import Output, say
from attestd.cli.params import name_values
from attestd.distribution.creation import create_repository
from attestd.distribution.settings import Expiry, Settings
from attestd.errors import UsageError
from attestd.governance.cedar import DEFAULT_POLICY
from attestd.governance.edits import draft_shared_authorities
from attestd.governance.issue import draft_revocations
from attestd.plain import counted

__all__ = ["init_command"]

_FIRST_FILES: Final = {
    "revocations.json": draft_revocations(epoch=1),
    "policy/exec.cedar": DEFAULT_POLICY,
}


@click.command(
    "init",
    cls=Command,
    example="""
attestd governance init new --root second.pub --targets second.pub --targets third.pub --online second.pem
""",
)
@click.option(
    "--root", "roots", multiple=True, required=True, metavar="KEY", help="May change all keys; kept offline."
)
@click.option("--root-threshold", type=int, metavar="N", help="How many of them must sign (default: all).")
@click.option("--targets", multiple=True, required=True, metavar="KEY", help="Signs what hosts believe.")
@click.option("--targets-threshold", type=int, metavar="N", help="How many of them must sign (default: all).")
@click.option(
    "--online",
    required=True,
    metavar="KEY",
    help="Signs snapshot and timestamp, wherever it is published from.",
)
@click.option(
    "--publish-to",
    default="",
    metavar="DIR",
    help="Where the static files go, for example a web server's directory.",
)
@click.option(
    "--expiry",
    "expiry",
    multiple=True,
    metavar="ROLE=DAYS",
    callback=name_values,
    help="root, targets (365), snapshot (30) or timestamp (7).",
)
@click.option(
    "--authorization",
    multiple=True,
    metavar="KEY",
    help="Authorizes commands: the first rule of authorities.json.",
)
@click.option("--authorization-threshold", type=int, metavar="N", help="How many of them (default: all).")
@click.option("--enroller", "enrollers", multiple=True, metavar="KEY", help="Admits hosts.")
@click.option("--enroller-threshold", type=int, metavar="N", help="How many of them (default: all).")
@click.option("--tpm-root", metavar="KEY", help="P-256: approves platform keys.")
@click.option("--tpm-platform", multiple=True, metavar="KEY", help="P-256: approves platform states.")
@click.option("--tpm-epoch", metavar="KEY", help="P-256: moves the epoch.")
@json_option
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
def init_command(
    *,
    roots: tuple[str, ...],
    root_threshold: int | None,
    targets: tuple[str, ...],
    targets_threshold: int | None,
    online: str,
    publish_to: str,
    expiry: dict[str, str],
    authorization: tuple[str, ...],
    authorization_threshold: int | None,
    enrollers: tuple[str, ...],
    enroller_threshold: int | None,
    tpm_root: str | None,
    tpm_platform: tuple[str, ...],
    tpm_epoch: str | None,
    as_json: bool,
    directory: Path,
) -> None:
    """Make a repository of governance in DIR.

    A KEY is a PEM file, public or private, or a URI. With the keys of a fleet the first authorities.json is staged
    as well, with empty revocations and a policy that permits everything.
    """
    fleet = (authorization, enrollers, tpm_root, tpm_platform, tpm_epoch)
    if any(fleet) and not all(fleet):
        raise UsageError(
            "the keys of a fleet go together: --authorization, --enroller, --tpm-root, --tpm-platform, --tpm-epoch"
        )
    online_key = public_key(online)
    repository = create_repository(
        directory,
        root=role_keys(roots, root_threshold),
        targets=role_keys(targets, targets_threshold),
        online=role_keys([online], None),
        settings=Settings(
            online=_signing(online),
            publish_to=str(Path(publish_to).absolute()) if publish_to else "",
            expiry_days=_expiry(expiry),
        ),
    )
    if tpm_root is not None and tpm_epoch is not None:
        authorities = draft_shared_authorities(
            authorization=role_keys(authorization, authorization_threshold),
            enrollers=role_keys(enrollers, enroller_threshold),
            root=public_key(tpm_root),
            platform=[public_key(key) for key in tpm_platform],
            epoch=public_key(tpm_epoch),
        )
        repository.stage({"authorities.json": authorities, **_FIRST_FILES})
    staged = sorted(repository.plan().drafts)
    if as_json:
        facts = {"repository": str(directory), "staged": staged, "online": online_key.key_id}
        Output(as_json=True).json(facts)
        return
    _say_made(directory, roots, targets, staged)


def _say_made(
    directory: Path, roots: Collection[str], targets: Collection[str], staged: Collection[str]
) -> None:
    output = Output(as_json=False)
    output.title(f"Repository {directory}")
    output.facts(
        [
            ("root", counted(len(roots), "key")),
            ("targets", counted(len(targets), "key")),
            ("staged", ", ".join(staged)),
        ]
    )
    say(
        f"next: in {directory}, attestd governance sign --key KEY for each who signs, then attestd governance publish"
    )


def _signing(online: str) -> str:
    """What the settings remember: a file by its whole path, so that it is found from anywhere."""
    path = Path(online.removeprefix("file:"))
    return str(path.absolute()) if path.exists() else online


def _expiry(chosen: dict[str, str]) -> Expiry:
    roles = Expiry.__struct_fields__
    for role, days in chosen.items():
        if role not in roles or not (days.isascii() and days.isdigit()):
            raise UsageError(
                f"--expiry {role}={days}: expected ROLE=DAYS, such as timestamp=7, with a role of {', '.join(roles)}"
            )
    try:
        return msgspec.convert({role: int(days) for role, days in chosen.items()}, Expiry, strict=True)
    except (ValueError, msgspec.ValidationError) as error:
        raise UsageError(f"--expiry: expected ROLE=DAYS, such as timestamp=7: {error}") from error
