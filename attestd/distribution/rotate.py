"""`attestd authority rotate`: a key replaced wherever governance names it; and its file, where a host's own tools look."""

import os
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from attestd.authorization.dsse import PublicKey
from attestd.distribution.keyring import Keyring
from attestd.distribution.local import write_atomic
from attestd.distribution.signer import load_public
from attestd.errors import StoreError, UsageError
from attestd.governance.authorities import Authorities, parse_authorities
from attestd.governance.rotation import ROLES, Rotation, replace_key
from attestd.governance.trust import parse_revocations
from attestd.paths import make_directory

__all__ = ["holders", "install_key", "plan_rotation"]

# Which file of a host's own authorities the keys of a role lie in.
_FILES: Final = {
    "authorizations": "local",
    "enrollers": "local",
    "platform": "platform",
    "root": "root",
    "epoch": "epoch",
}
FORMER: Final = "former"


def holders(files: Mapping[str, bytes], role: str) -> list[str]:
    """The ids of the keys that have a role.

    Raises:
        UsageError: No such role.
        MalformedError: `authorities.json` does not parse.
    """
    if role not in ROLES:
        raise UsageError(f"role {role!r}: expected one of {', '.join(ROLES)}")
    return _holders(parse_authorities(files["authorities.json"]))[role]


def plan_rotation(
    files: Mapping[str, bytes],
    keyring: Keyring,
    *,
    old: str | None,
    new: PublicKey,
    roles: Collection[str],
    now: datetime,
    epoch: int,
) -> Rotation | None:
    """What replacing a key changes.

    Args:
        files: The targets as they are.
        keyring: Keys that sign again what rests on the old one.
        old: The id of the key that goes; None: the only one that has the roles.
        new: The key that comes.
        roles: In which roles; none named: all that the old key has.
        now: When host records end that rest on the old key.
        epoch: States that are approved again hold until this epoch at least.

    Returns:
        None: the new key has these roles already, and the old one does not.

    Raises:
        UsageError: Which key goes is not clear, or a key that must sign is not here.
        MalformedError: A file does not parse.
    """
    named = roles or ROLES
    present = {role: holders(files, role) for role in named}
    if old is None:
        if not roles:
            raise UsageError("which key? Name its role (--role), or the key that goes (--old)")
        others = {key_id for ids in present.values() for key_id in ids} - {new.key_id}
        if not others:
            return None
        if len(others) > 1:
            raise UsageError(f"which of {', '.join(sorted(others))}? Name it: --old ID")
        (old,) = others
    revocations = parse_revocations(files["revocations.json"])
    return replace_key(
        files,
        old=old,
        new=new,
        signers=keyring.signers(),
        revoked_keys=revocations.keys,
        now=now,
        roles=named,
        epoch=epoch,
    )


def install_key(directory: Path, roles: Collection[str], new: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Puts a key where this host's own commands look for the keys of a role, if the one there has no role any more.

    That one goes to `former/`: it signs nothing, but it is not lost. Cut off, it is done again by the next call.

    Args:
        directory: Of the local authorities' keys.
        roles: What the new key has.
        new: Its file, `.pem`; the public half beside it.
        files: The targets as they are now.

    Returns:
        The files that hold the new key now.

    Raises:
        StoreError, MalformedError: It cannot be read or written.
    """
    named = {
        key_id for ids in _holders(parse_authorities(files["authorities.json"])).values() for key_id in ids
    }
    placed = []
    for name in sorted({_FILES[role] for role in roles}):
        private, public = directory / f"{name}.pem", directory / f"{name}.pub"
        if private == new or not public.exists() or load_public(public).key_id in named:
            continue
        _keep(private, public)
        # The private half first: by the public one it shows whether this was done.
        write_atomic(private, _read(new), mode=0o600)
        write_atomic(public, _read(new.with_suffix(".pub")), mode=0o644)
        placed.append(private)
    if placed and new.parent == directory:
        new.unlink()
        new.with_suffix(".pub").unlink()
    return placed


def _keep(private: Path, public: Path) -> None:
    former = private.parent / FORMER
    make_directory(former, 0o700)
    kept = former / f"{private.stem}-{load_public(public).key_id[:16]}.pem"
    if not kept.exists() and private.exists():
        write_atomic(kept, _read(private), mode=0o600)
        write_atomic(kept.with_suffix(".pub"), _read(public), mode=0o644)


def _holders(authorities: Authorities) -> dict[str, list[str]]:
    rules = [key.key_id for rule in authorities.rules for key in rule.keys]
    return {
        "authorizations": list(dict.fromkeys(rules)),
        "enrollers": [key.key_id for key in authorities.enroller_keys],
        "platform": list(authorities.platform),
        "root": [authorities.root.key_id],
        "epoch": [authorities.epoch.key_id],
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"key {path}: {os.strerror(error.errno or 0)}") from error
