"""`attestd governance platform`: the first version of a platform policy."""

from pathlib import Path
from typing import get_args

import click

from attestd.appraisal.selection import require_sound_pcrs
from attestd.cli.base import Command, confirm, json_option, read_input
from attestd.cli.governance import open_repository, repository_option, say_staged
from attestd.cli.keys import open_key, passphrase_option
from attestd.cli.output import Output, say
from attestd.cli.params import FILE
from attestd.distribution.approve import MAX_VALUES_BYTES, first_policy, parse_pcr_values
from attestd.errors import UsageError
from attestd.governance.platform import TIERS, Userspace
from attestd.tcg.pcr import selection_from_text

__all__ = ["platform_command"]


@click.command(
    "platform",
    cls=Command,
    example="""
attestd governance platform --repository governance prod --values pcrs.txt --yes \
--root-key /etc/attestd/authority/root.pem --key /etc/attestd/authority/platform.pem
""",
)
@click.option(
    "--values",
    "file",
    type=FILE,
    required=True,
    metavar="FILE",
    help="PCR values: of tpm2_pcrread sha256:..., or of attestd platform show, measure or predict --json.",
)
@click.option("--pcrs", metavar="LIST", help="Which of them, for example 0,2,4,7,11,12 (default: all).")
@click.option("--root-key", required=True, metavar="URI", help="The TPM root: approves the platform key.")
@click.option("--key", required=True, metavar="URI", help="The platform key: approves the state.")
@click.option("--min-tier", type=click.Choice(TIERS), default="hardware", show_default=True)
@click.option("--userspace", type=click.Choice(get_args(Userspace)), multiple=True, default=("none",))
@click.option("--writable", type=click.Choice(["copy", "refuse"]), default="copy", show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@passphrase_option
@repository_option
@json_option
@click.argument("name")
def platform_command(
    *,
    file: Path,
    pcrs: str | None,
    root_key: str,
    key: str,
    min_tier: str,
    userspace: tuple[str, ...],
    writable: str,
    yes: bool,
    directory: Path | None,
    state_dir: str | None,
    as_json: bool,
    name: str,
) -> None:
    """Make a platform policy from a state's PCR values.

    Further states are approved on a host that is in them: attestd platform approve.
    """
    repository = open_repository(directory, state_dir)
    values = parse_pcr_values(read_input(file, max_bytes=MAX_VALUES_BYTES))
    if pcrs is not None:
        chosen = selection_from_text(pcrs).pcrs
        if missing := [pcr for pcr in chosen if pcr not in values]:
            raise UsageError(f"{file}: no value of PCR {missing[0]}")
        values = {pcr: values[pcr] for pcr in chosen}
    require_sound_pcrs(tuple(values))
    for index, value in values.items():
        say(f"  {index:>2}  {value.hex()}", prefix="")
    confirm(f"Approve this state, as the first of platform policy {name!r}?", yes=yes)
    policy = first_policy(
        repository,
        name=name,
        values=values,
        root=open_key(root_key),
        platform=open_key(key),
        min_tier=min_tier,
        userspace=userspace,
        writable=writable,
    )
    repository.stage({f"platform/{name}.json": policy})
    say_staged(repository, Output(as_json=as_json))
