"""`attestd authority`: keys."""

from pathlib import Path
from typing import Any

import click

from attestd.authorization.dsse import PublicKey
from attestd.cli.base import LazyGroup, json_option, state_dir_option
from attestd.cli.keys import ask_secret, new_passphrase, passphrase_option
from attestd.cli.output import Output, text
from attestd.cli.params import FILE
from attestd.distribution.local import load_own_trust
from attestd.distribution.roles import KeyInUse, keys_in_use, public_of
from attestd.distribution.signer import (
    KINDS,
    generate,
    generate_in_token,
    import_from_token,
    is_encrypted_file,
    protect,
)
from attestd.errors import UsageError
from attestd.paths import find_client_layout

__all__ = ["authority_command"]


@click.group(
    "authority",
    cls=LazyGroup,
    modules={"rotate": "attestd.cli.authority_rotate"},
    example="""
attestd authority keygen --no-passphrase second
attestd authority show second.pub
""",
)
def authority_command() -> None:
    """Keys that sign authorizations and governance."""


@authority_command.command(
    "keygen",
    example="""
attestd authority keygen --passphrase-file secret second
attestd authority keygen --kind p256 --no-passphrase keys/platform2.pem
attestd authority keygen --kind p256 --hsm "hsm:7?label=attestd" --passphrase-file pin seventh
""",
)
@click.option("--kind", type=click.Choice(sorted(KINDS)), default="ed25519", show_default=True)
@click.option(
    "--no-passphrase", is_flag=True, help="Store the key in the clear: who can read NAME.pem can sign."
)
@click.option(
    "--hsm", metavar="URI", help="Make it inside a PKCS#11 token (library: PYKCS11LIB): hsm:ID?label=TOKEN."
)
@passphrase_option
@json_option
@click.argument("name", metavar="NAME|PATH")
def keygen_command(*, kind: str, no_passphrase: bool, hsm: str | None, as_json: bool, name: str) -> None:
    """Make a key pair, NAME.pem and NAME.pub.

    NAME.pem is encrypted with a passphrase, and only you can read it. Nothing is overwritten. TPM authorities must be
    p256. With --hsm there is no NAME.pem: the private key never leaves the token.
    """
    path = Path(name if name.endswith(".pem") else f"{name}.pem")
    public = path.with_suffix(".pub")
    if hsm is not None:
        uri, key = generate_in_token(kind, hsm, public, ask=ask_secret)
        _show_made(Output(as_json=as_json), uri, public, key, kind)
        return
    if path.exists():  # Said before anybody is asked for a passphrase.
        raise UsageError(f"{path} exists: keys are never overwritten; choose another name")
    passphrase = None if no_passphrase else new_passphrase(f"key {path}")
    made = generate(kind, path, passphrase=passphrase)
    _show_made(Output(as_json=as_json), str(path), public, made.public, kind)


@authority_command.command(
    "import",
    example="""
attestd authority import "hsm:7?label=attestd" seventh
""",
)
@passphrase_option
@json_option
@click.argument("uri", metavar="URI")
@click.argument("name", metavar="NAME|PATH")
def import_command(*, uri: str, as_json: bool, name: str) -> None:
    """Use a key of a PKCS#11 token: write its public half to NAME.pub.

    It signs as --key URI --public-key NAME.pub. The library for the token is named by PYKCS11LIB.
    """
    public = Path(name if name.endswith(".pub") else f"{name}.pub")
    complete, key = import_from_token(uri, public, ask=ask_secret)
    _show_made(Output(as_json=as_json), complete, public, key, public_of(str(public)).kind)


@authority_command.command(
    "protect",
    example="""
attestd authority protect --new-passphrase-file secret second.pem
""",
)
@click.option("--no-passphrase", is_flag=True, help="Remove the passphrase.")
@click.option(
    "--new-passphrase-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File with the new passphrase (default: asked for).",
)
@passphrase_option
@json_option
@click.argument("key", metavar="FILE", type=FILE)
def protect_command(
    *, no_passphrase: bool, new_passphrase_file: Path | None, as_json: bool, key: Path
) -> None:
    """Encrypt a private key, or change its passphrase.

    The key stays the same. A key that others may have read meanwhile is to be replaced, not protected.
    """
    encrypted = is_encrypted_file(key)
    # The present one first: a person knows then which of the two is asked for.
    present = ask_secret(f"passphrase of key {key}") if encrypted else ""
    if no_passphrase:
        passphrase = None
    elif encrypted and new_passphrase_file is None:
        passphrase = new_passphrase(f"key {key}", only_terminal=True)
    else:
        passphrase = new_passphrase(f"key {key}", file=new_passphrase_file)
    made = protect(key, ask=lambda _: present, passphrase=passphrase)
    output = Output(as_json=as_json)
    if as_json:
        output.json({"key": str(key), "key_id": made.public.key_id, "encrypted": passphrase is not None})
        return
    stored = "encrypted" if passphrase is not None else "in the clear: who can read the file can sign"
    output.facts([("private key", key), ("stored", stored), ("key id", made.public.key_id)], indent=0)


def _show_made(output: Output, private: str, public: Path, key: PublicKey, kind: str) -> None:
    if output.as_json:
        output.json({"key": private, "public": str(public), "key_id": key.key_id, "kind": kind})
        return
    output.facts([("private key", private), ("public key", public), ("key id", key.key_id)], indent=0)


@authority_command.command(
    "show",
    example="""
attestd authority show
attestd authority show /etc/attestd/authority/local.pub
""",
)
@click.option(
    "--public-key",
    type=FILE,
    metavar="FILE",
    help="PEM of the public key, for keys that are no files.",
)
@passphrase_option
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
    found = public_of(key, public_key=public_key, ask=ask_secret)
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
