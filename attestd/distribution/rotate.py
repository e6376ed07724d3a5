"""`attestd authority rotate`: a key replaced wherever governance names it; and its file, where a host's own tools look."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from attestd.authorization.dsse import PublicKey
from attestd.distribution.keyring import Keyring
from attestd.distribution.signer import load_public, read_key_file
from attestd.durable import make_directory, write_atomic
from attestd.errors import UsageError
from attestd.governance.authorities import Authorities, parse_authorities
from attestd.governance.edits import with_epoch
from attestd.governance.mesh import MESH
from attestd.governance.mesh_edits import with_enroller_key
from attestd.governance.platform import MAX_PLATFORM_BYTES, PlatformFile
from attestd.governance.rotation import ROLES, Rotation, replace_key
from attestd.governance.trust import parse_revocations
from attestd.strict import parse_canonical

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
    compromised: bool,
    published: Mapping[str, bytes],
    handover: datetime,
) -> Rotation | None:
    """What replacing a key changes.

    Args:
        files: The targets as they are.
        keyring: Keys that sign again what rests on the old one.
        old: The id of the key that goes; None: the only one that has the roles.
        new: The key that comes.
        roles: In which roles; none named: all that the old key has.
        now: When host records end that rest on the old key.
        compromised: The old key may be in other hands. What it could still sign is worth nothing once governance does
            not name it, but for a platform key: TPMs take its approvals until the epoch is beyond those that the root
            approved it for. So the epoch is raised to there.
        published: The targets as hosts have them.
        handover: Until when hosts may go by the published `mesh.json`, where that names the old key.

    Returns:
        None: the new key has these roles already, and the old one does not.

    Raises:
        UsageError: Which key goes is not clear, or a key that must sign is not here.
        MalformedError: A file does not parse.
    """
    named = roles or ROLES
    present = {key_id for role in named for key_id in holders(files, role)}
    if old is None:
        if not roles:
            raise UsageError("which key? Name its role (--role), or the key that goes (--old)")
        if (old := _only_other(present, new)) is None:
            return None
    epoch = _beyond(files, old) if compromised and "platform" in named else 0
    revocations = parse_revocations(files["revocations.json"])
    rotation = replace_key(
        files,
        old=old,
        new=new,
        signers=keyring.signers(),
        revoked_keys=revocations.keys,
        now=now,
        roles=named,
        epoch=epoch,
    )
    if (mesh := _mesh(rotation, files, published, handover, old=old, new=new)) is not None:
        rotation = replace(
            rotation,
            files={**rotation.files, MESH: mesh},
            places=(*rotation.places, f"{MESH}: enroller"),
        )
    return _with_epoch(rotation, files, keyring, epoch) if epoch else rotation


def _only_other(present: Collection[str], new: PublicKey) -> str | None:
    others = {*present} - {new.key_id}
    if len(others) > 1:
        raise UsageError(f"which of {', '.join(sorted(others))}? Name it: --old ID")
    return next(iter(others), None)


def _with_epoch(rotation: Rotation, files: Mapping[str, bytes], keyring: Keyring, epoch: int) -> Rotation:
    authorities = rotation.files["authorities.json"] or files["authorities.json"]
    bumped = with_epoch(
        files["revocations.json"],
        authorities=authorities,
        epoch=epoch,
        sign=keyring.open(parse_authorities(authorities).epoch.key_id).sign,
    )
    return replace(
        rotation,
        files={**rotation.files, "revocations.json": bumped},
        notes=(
            *rotation.notes,
            f"epoch {epoch}: each TPM ends what the old key approved, once its agent has seen this",
        ),
    )


def _mesh(
    rotation: Rotation,
    files: Mapping[str, bytes],
    published: Mapping[str, bytes],
    handover: datetime,
    *,
    old: str,
    new: PublicKey,
) -> bytes | None:
    """`mesh.json` with the new key for an enroller's old one, if `authorities.json` names that as an enroller's no longer."""
    authorities = rotation.files.get("authorities.json")
    if (
        authorities is None
        or MESH not in files
        or old in _holders(parse_authorities(authorities))["enrollers"]
    ):
        return None
    return with_enroller_key(
        files[MESH], published=published.get(MESH), handover=handover, old=old, new=new.key_id
    )


def _beyond(files: Mapping[str, bytes], key_id: str) -> int:
    """The first epoch in which no approval by a platform key holds; 0: the root approved it nowhere."""
    limits = [
        entry.max_epoch
        for name, data in files.items()
        if name.startswith("platform/")
        for entry in parse_canonical(
            data, PlatformFile, max_bytes=MAX_PLATFORM_BYTES, what=name
        ).platform_keys
        if entry.key_id == key_id
    ]
    return max(limits) + 1 if limits else 0


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
        write_atomic(private, read_key_file(new), mode=0o600)
        write_atomic(public, read_key_file(new.with_suffix(".pub")), mode=0o644)
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
        write_atomic(kept, read_key_file(private), mode=0o600)
        write_atomic(kept.with_suffix(".pub"), read_key_file(public), mode=0o644)


def _holders(authorities: Authorities) -> dict[str, list[str]]:
    rules = [key.key_id for rule in authorities.rules for key in rule.keys]
    return {
        "authorizations": list(dict.fromkeys(rules)),
        "enrollers": [key.key_id for key in authorities.enroller_keys],
        "platform": list(authorities.platform),
        "root": [authorities.root.key_id],
        "epoch": [authorities.epoch.key_id],
    }
