"""New Secure Boot variables: PCR 7."""

import hashlib
from collections.abc import Sequence
from typing import Final

from attestd.appraisal.predict.draft import Draft, unpredictable
from attestd.appraisal.predict.images import IMAGE_PCR, KEYS_PCR
from attestd.tcg.eventlog.covered import split_variable
from attestd.tcg.eventlog.efi import Signature, certificate_of, parse_signature_lists, parse_variable
from attestd.tcg.eventlog.reading import Kind

__all__ = ["DATABASES", "replace_variable"]

DATABASES: Final = ("PK", "KEK", "db", "dbx", "dbt", "dbr")
_ATTRIBUTES: Final = 4


def replace_variable(draft: Draft, name: str, data: bytes) -> None:
    """Has the firmware measure another key database.

    Args:
        draft: The log.
        name: One of `DATABASES`.
        data: Its signature lists, or the variable as efivarfs shows it, with its attributes before them.

    Raises:
        VerificationError: Another name; no such variable in the log; not signature lists; what verified this boot would
            not any more.
    """
    if name not in DATABASES:
        raise unpredictable(
            f"{name}: expected one of {', '.join(DATABASES)}; what else Secure Boot is made of changes which events come"
        )
    value, entries = _parse(data, name)
    found = [item for item in draft.of(KEYS_PCR, Kind.VARIABLE) if item.subject == name and item.content]
    if len(found) != 1:
        raise unpredictable(f"this boot's log has {len(found)} variables {name}, expected one")
    [item] = found
    content = item.content or b""
    guid, text, _ = split_variable(content) or (b"", b"", b"")
    head = guid + (len(text) // 2).to_bytes(8, "little") + len(value).to_bytes(8, "little")
    new = head + text + value
    draft.replace(item, draft.hash(new), data=new)
    if name in ("db", "dbx"):
        _require_booting(draft, name, entries)


def _parse(data: bytes, name: str) -> tuple[bytes, Sequence[Signature]]:
    for value in (data, data[_ATTRIBUTES:]):
        entries = parse_signature_lists(value)
        if entries is not None:
            return value, entries
    raise unpredictable(f"{name}: no EFI signature lists")


def _require_booting(draft: Draft, name: str, entries: Sequence[Signature]) -> None:
    """The firmware would verify by another certificate, or not start what this boot was made of."""
    listed = {entry.digest for entry in entries}
    if name == "dbx":
        images = {item.digest.hex() for item in draft.of(IMAGE_PCR, Kind.IMAGE, Kind.DRIVER)}
        if images & listed:
            raise unpredictable("the new dbx forbids an image of this boot")
    for item in draft.of(KEYS_PCR, Kind.AUTHORITY):
        variable = parse_variable(item.content or b"")
        certificate = None if variable is None else certificate_of(variable.value)
        digest = hashlib.sha256(certificate or b"").hexdigest()
        if (name == "dbx") == (digest in listed) and (name == "dbx" or item.subject == "from db"):
            words = "forbids" if name == "dbx" else "lacks"
            raise unpredictable(f"the new {name} {words} what verified this boot: {item.value}")
