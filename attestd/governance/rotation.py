"""Replaces a key wherever governance names it, and signs again what rested on the old one. Pure; keys come as values.

What was sealed under the old key goes on verifying: earlier platform policies and host records stay in the history, and
TPM authorities that were replaced stay in `authorities.json` as former ones, which verify and allow nothing.
"""

from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from attestd.authorization.dsse import (
    EnvelopeSignature,
    PublicKey,
    UntrustedEnvelope,
    format_envelope,
    pae,
    parse_envelope,
)
from attestd.errors import UsageError
from attestd.governance.amend import windows_of
from attestd.governance.authorities import (
    MAX_AUTHORITIES_BYTES,
    Authorities,
    AuthoritiesFile,
    TeamFile,
    parse_authorities,
)
from attestd.governance.edits import without_bump
from attestd.governance.host import HOST_RECORD_TYPE, MAX_HOST_RECORD_BYTES
from attestd.governance.issue import Sign, approve_digest, approve_platform_key
from attestd.governance.platform import MAX_PLATFORM_BYTES, PlatformFile
from attestd.governance.succession import past_name, retire_host_record
from attestd.plain import counted
from attestd.strict import canonical, parse_canonical
from attestd.tcg.pcr import PcrSelection

__all__ = ["ROLES", "Rotation", "replace_key"]

AUTHORITIES: Final = "authorities.json"
ROLES: Final = ("authorizations", "enrollers", "platform", "root", "epoch")
_EPOCHS: Final = 1_000_000
_TPM_ROLES: Final = frozenset({"platform", "root", "epoch"})
_REKEY: Final = (
    "every host needs new TPM keys under the new {role} authority before it releases anything again: attestd rekey on"
    " each"
)


@dataclass(frozen=True)
class Rotation:
    """What a replacement changes.

    Attributes:
        files: The targets that change, by name; None: it goes.
        places: Where the key was replaced, in words.
        signed_again: The targets that were signed again because they rested on the old key.
        notes: What follows from it that governance cannot do.
    """

    files: Mapping[str, bytes | None]
    places: tuple[str, ...]
    signed_again: tuple[str, ...]
    notes: tuple[str, ...]


def replace_key(
    files: Mapping[str, bytes],
    *,
    old: str,
    new: PublicKey,
    signers: Mapping[str, Sign],
    revoked_keys: Collection[str],
    now: datetime,
    roles: Collection[str] = ROLES,
    epoch: int = 0,
) -> Rotation:
    """Replaces a key by another.

    Args:
        files: The targets as they are, verified.
        old: The id of the key that goes.
        new: The key that comes.
        signers: Keys that sign again what rested on the old one, by key id: for an enroller the new key; for a platform
            key the new key and the root; for the root the new root; for the epoch authority root and platform keys. For
            the last two also enrollers, as many as the threshold asks for: they end the host records.
        revoked_keys: Approvals by these are not made again.
        now: When host records end that rest on the old key.
        roles: In which roles; all that the old key has.
        epoch: States that are approved again hold until this epoch at least.

    Raises:
        UsageError: The old key has none of these roles, or the new one has it already; a key that has to sign is
            missing; a TPM authority that is not P-256.
        MalformedError: A file does not parse.
    """
    unknown = set(roles) - set(ROLES)
    if unknown:
        raise UsageError(f"role {min(unknown)!r}: expected one of {', '.join(ROLES)}")
    present = parse_canonical(
        files[AUTHORITIES], AuthoritiesFile, max_bytes=MAX_AUTHORITIES_BYTES, what=AUTHORITIES
    )
    swap = _Swap(old, new, frozenset(roles))
    changed = _teams(files, swap)
    amended = swap.authorities(present)
    if amended is not None:
        changed[AUTHORITIES] = amended
    if not swap.places:
        raise UsageError(f"key {old} has none of these roles here: {', '.join(sorted(roles))}")
    authorities = parse_authorities(changed.get(AUTHORITIES, files[AUTHORITIES]))
    again: dict[str, bytes | None] = {}
    if "enrollers" in swap.replaced:
        again |= _host_records(files, old=old, new=new, signers=signers)
    tpm = swap.replaced & _TPM_ROLES
    if tpm:
        again |= _platform_policies(files, authorities, swap, signers, revoked_keys, epoch=epoch)
    if swap.replaced & {"root", "epoch"}:
        again |= _end_host_records({**files, **again}, authorities, signers, now)
    if "epoch" in swap.replaced and b'"bump":null' not in files["revocations.json"]:
        # It is by the old authority, for an index of another Name; rekey makes each TPM's at the present epoch.
        changed["revocations.json"] = without_bump(files["revocations.json"])
    notes = [_REKEY.format(role=role) for role in ("root", "epoch") if role in swap.replaced]
    if "authorizations" in swap.replaced:
        notes.append("what the old key alone authorized is denied from now on: issue it anew")
    return Rotation({**changed, **again}, tuple(swap.places), tuple(sorted(again)), tuple(notes))


class _Swap:
    """One key for another, in whatever names it; remembers where."""

    def __init__(self, old: str, new: PublicKey, roles: frozenset[str]) -> None:
        self._old, self._new, self._roles = old, new, roles
        self.places: list[str] = []
        self.replaced: set[str] = set()

    def authorities(self, file: AuthoritiesFile) -> bytes | None:
        before = len(self.places)
        tpm = msgspec.structs.replace(
            file.tpm,
            root=self._ids([file.tpm.root], "root", "TPM: root")[0],
            platform=self._ids(file.tpm.platform, "platform", "TPM: platform states"),
            epoch=self._ids([file.tpm.epoch], "epoch", "TPM: epoch")[0],
        )
        if self.replaced & _TPM_ROLES:
            former = {name: getattr(file.tpm, name) for name in ("root", "platform", "epoch")}
            tpm = msgspec.structs.replace(tpm, former=[former, *map(_plain, file.tpm.former or [])])
        amended = msgspec.structs.replace(
            file,
            authorizations=self._rules(file.authorizations, "rule"),
            enrollers=msgspec.structs.replace(
                file.enrollers, keys=self._ids(file.enrollers.keys, "enrollers", "enrolling hosts")
            ),
            tpm=tpm,
            version=file.version + 1,
        )
        if len(self.places) == before:
            return None
        return canonical({**_plain(amended), "keys": self._named(_plain(amended), file.keys)})

    def team(self, name: str, data: bytes) -> bytes | None:
        file = parse_canonical(data, TeamFile, max_bytes=MAX_AUTHORITIES_BYTES, what=name)
        before = len(self.places)
        rules = self._rules(file.authorizations, f"{name}: rule")
        if len(self.places) == before:
            return None
        amended = _plain(msgspec.structs.replace(file, authorizations=rules, version=file.version + 1))
        return canonical({**amended, "keys": self._named(amended, file.keys)})

    def heir(self, key_id: str) -> str:
        """Which platform key stands in a key's place now."""
        return self._new.key_id if key_id == self._old and "platform" in self.replaced else key_id

    def _rules(self, rules: Sequence[Any], what: str) -> list[Any]:
        return [
            msgspec.structs.replace(
                rule, keys=self._ids(rule.keys, "authorizations", f"{what} {rule.name!r}")
            )
            for rule in rules
        ]

    def _ids(self, ids: Sequence[str], role: str, place: str) -> list[str]:
        if role not in self._roles or self._old not in ids:
            return list(ids)
        if self._new.key_id in ids:
            raise UsageError(f"{place}: key {self._new.key_id} is there already: each key counts once")
        self.places.append(place)
        self.replaced.add(role)
        return [self._new.key_id if key_id == self._old else key_id for key_id in ids]

    def _named(self, file: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
        """Only keys that are named, the new one among them: the old one goes, if nothing needs it any more."""
        spki = {"spki": b64encode(self._new.spki_der).decode("ascii")}
        known: dict[str, Any] = {
            **{key_id: _plain(key) for key_id, key in keys.items()},
            self._new.key_id: spki,
        }
        named = set(_strings({name: value for name, value in file.items() if name != "keys"}))
        return {key_id: key for key_id, key in known.items() if key_id in named}


def _teams(files: Mapping[str, bytes], swap: _Swap) -> dict[str, bytes]:
    found = {
        name: swap.team(name, data)
        for name, data in files.items()
        if name.startswith("teams/") and name.endswith("/authorities.json")
    }
    return {name: data for name, data in found.items() if data is not None}


def _host_records(
    files: Mapping[str, bytes], *, old: str, new: PublicKey, signers: Mapping[str, Sign]
) -> dict[str, bytes]:
    """Each record that the old enroller signed: the other enrollers' signatures stay, the new one's comes."""
    found: dict[str, bytes] = {}
    for name, data in files.items():
        if not name.startswith("hosts/"):
            continue
        envelope = parse_envelope(data, payload_type=HOST_RECORD_TYPE, max_bytes=MAX_HOST_RECORD_BYTES)
        kept = [signature for signature in envelope.signatures if signature.key_id not in (old, new.key_id)]
        if len(kept) == len(envelope.signatures):
            continue
        sign = _signer(signers, new.key_id, "the new enroller signs each host record")
        key, signature = sign(pae(HOST_RECORD_TYPE, envelope.payload))
        signatures = (*kept, EnvelopeSignature(key.key_id, signature))
        found[name] = format_envelope(UntrustedEnvelope(HOST_RECORD_TYPE, envelope.payload, signatures))
    return found


def _end_host_records(
    files: Mapping[str, bytes | None], authorities: Authorities, signers: Mapping[str, Sign], now: datetime
) -> dict[str, bytes | None]:
    """No host's TPM keys are under the new authority: until it has new ones, it has no record."""
    here = [key.key_id for key in authorities.enroller_keys if key.key_id in signers]
    found: dict[str, bytes | None] = {}
    for name, data in files.items():
        parts = name.split("/")
        if parts[0] != "hosts" or len(parts) != 2 or data is None:
            continue
        if len(here) < authorities.enroller_threshold:
            raise UsageError(
                f"{counted(authorities.enroller_threshold, 'enroller')} must sign that host records end;"
                f" {len(here)} of their keys are here"
            )
        enrollers = [signers[key_id] for key_id in here[: authorities.enroller_threshold]]
        past = past_name(files, parts[1].removesuffix(".json"))
        found |= {name: None, past: retire_host_record(data, not_after=now, signers=enrollers)}
    return found


def _platform_policies(
    files: Mapping[str, bytes],
    authorities: Authorities,
    swap: _Swap,
    signers: Mapping[str, Sign],
    revoked_keys: Collection[str],
    *,
    epoch: int,
) -> dict[str, bytes]:
    """Each platform policy anew: the same states, by the keys that are trusted now. The one before goes to the history."""
    found: dict[str, bytes] = {}
    for name, data in files.items():
        parts = name.split("/")
        if parts[0] != "platform" or len(parts) != 2:
            continue
        file = parse_canonical(data, PlatformFile, max_bytes=MAX_PLATFORM_BYTES, what=name)
        gone = {key for key in revoked_keys if swap.heir(key) == key}
        approvals = [
            approve_digest(
                authorities,
                selection=PcrSelection(item.bank, tuple(item.pcrs)),
                pcr_digest=bytes.fromhex(item.pcr_digest),
                epoch=max(item.epoch, epoch),
                sign_platform=_signer(
                    signers, swap.heir(item.key_id), f"a platform key approves the states of {name}"
                ),
            )
            if "epoch" in swap.replaced or swap.heir(item.key_id) != item.key_id or item.epoch < epoch
            else _plain(item)
            for item in file.approvals
            if item.key_id not in gone
        ]
        keys = [
            approve_platform_key(
                authorities,
                platform=swap.heir(key.key_id),
                # Beyond what the old key was approved for: a bump to there ends the old one alone, in every TPM.
                max_epoch=max(epoch, key.max_epoch + (_EPOCHS if swap.heir(key.key_id) != key.key_id else 0)),
                sign_root=_signer(
                    signers, authorities.root.key_id, f"the root approves the platform keys of {name}"
                ),
            )
            for key in file.platform_keys
            if swap.heir(key.key_id) in authorities.platform and key.key_id not in gone
        ]
        if not approvals:
            continue  # Nothing that could be signed again: it allowed nothing before.
        windows = windows_of(file, {str(item["pcr_digest"]) for item in approvals})
        found[f"platform/history/{file.name}-{file.version}.json"] = data
        found[name] = canonical(
            {
                **_plain(file),
                "version": file.version + 1,
                "approvals": approvals,
                "platform_keys": keys,
                "lifecycle": {**_plain(file.lifecycle), "windows": list(map(_plain, windows))},
            }
        )
    return found


def _signer(signers: Mapping[str, Sign], key_id: str, why: str) -> Sign:
    if key_id not in signers:
        raise UsageError(f"key {key_id} is needed: {why}")
    return signers[key_id]


def _plain(value: Any) -> dict[str, Any]:
    """A struct as JSON values."""
    return dict(msgspec.to_builtins(value))


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []
