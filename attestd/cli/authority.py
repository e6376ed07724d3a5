"""`attestd authority`: keys."""

from pathlib import Path
from typing import Any

import click

from attestd.cli.base import NounGroup, json_option, state_dir_option
from attestd.cli.output import Output, text
from attestd.distribution.local import load_own_trust
from attestd.distribution.roles import KeyInUse, keys_in_use, public_of
from attestd.distribution.signer import KINDS, generate
from attestd.paths import find_client_layout

__all__ = ["authority_command"]


@click.group(
    "authority",
    cls=NounGroup,
    example="""
attestd authority keygen second
attestd authority show second.pub
""",
)
def authority_command() -> None:
    """Keys that sign authorizations and governance."""


@authority_command.command(
    "keygen",
    example="""
attestd authority keygen second
attestd authority keygen --kind p256 keys/platform2.pem
""",
)
@click.option("--kind", type=click.Choice(sorted(KINDS)), default="ed25519", show_default=True)
@json_option
@click.argument("name", metavar="NAME|PATH")
def keygen_command(*, kind: str, as_json: bool, name: str) -> None:
    """Make a key pair, NAME.pem and NAME.pub.

    Only you can read NAME.pem. Nothing is overwritten. TPM authorities must be p256.
    """
    path = Path(name if name.endswith(".pem") else f"{name}.pem")
    made = generate(kind, path)
    output = Output(as_json=as_json)
    public = path.with_suffix(".pub")
    if as_json:
        output.json({"key": str(path), "public": str(public), "key_id": made.public.key_id, "kind": kind})
        return
    output.facts([("private key", path), ("public key", public), ("key id", made.public.key_id)], indent=0)


@authority_command.command(
    "show",
    example="""
attestd authority show
attestd authority show /etc/attestd/authority/local.pub
""",
)
@click.option(
    "--public-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="PEM of the public key, for keys that are no files.",
)
@state_dir_option
@json_option
@click.argument("key", required=False, metavar="[FILE|URI]")
def show_command(*, public_key: Path | None, state_dir: str | None, as_json: bool, key: str | None) -> None:
    """Show a key, or all that are trusted here.

    A key: its id and public half. Without one: whom this host trusts, and for what.
    """
    output = Output(as_json=as_json)
    if key is None:
        layout = find_client_layout(state_dir)
        _show_trusted(output, keys_in_use(load_own_trust(layout)))
        return
    found = public_of(key, public_key=public_key)
    if as_json:
        output.json({"key_id": found.key_id, "kind": found.kind, "pem": found.pem})
        return
    output.facts([("key id", found.key_id), ("kind", found.kind)], indent=0)
    output.raw(found.pem)


def _show_trusted(output: Output, keys: list[KeyInUse]) -> None:
    if output.as_json:
        output.json({"keys": [_key_json(key) for key in keys]})
        return
    rows = [(role, key.kind, text(key.key_id)) for key in keys for role in key.roles]
    output.table(("trusted for", "kind", "key id"), rows)


def _key_json(key: KeyInUse) -> dict[str, Any]:
    return {"key_id": key.key_id, "kind": key.kind, "roles": list(key.roles), "revoked": key.revoked}
