"""Signatures that were made on another machine: on a copy of the repository's directory, or of one draft."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Root, Targets

from attestd.distribution.documents import digests, parse_document
from attestd.distribution.next_version import Next
from attestd.distribution.published import read_file
from attestd.distribution.staging import Staging, role_of, role_of_draft
from attestd.errors import UsageError, VerificationError
from attestd.governance.draft import merge_signatures, read_draft

__all__ = ["Merged", "merge_copy", "require_next", "require_valid_signatures"]


@dataclass(frozen=True)
class Merged:
    """What a copy brings.

    Attributes:
        files: Targets that change with it; None: removed.
        drafts: All drafts, by role.
        theirs: The roles whose drafts the copy holds.
    """

    files: Mapping[str, bytes | None]
    drafts: Mapping[str, bytes]
    theirs: tuple[str, ...]


def merge_copy(plan: Next, source: Path) -> Merged:
    """Takes over signatures; drafts that only the copy has come with their targets.

    Args:
        plan: What is staged here.
        source: A repository's directory, or the file of a draft.

    Raises:
        UsageError: A draft says something else than ours, or is not whole.
        VerificationError: A signature in it is not what it claims to be.
        StoreError, MalformedError: The copy cannot be read.
    """
    theirs = (
        Staging(source / "staged").drafts() if source.is_dir() else {role_of_draft(source): read_file(source)}
    )
    drafts = plan.documents()
    files: dict[str, bytes | None] = {}
    for role, data in theirs.items():
        if role in drafts:
            _require_same(role, drafts[role], data, source)
            drafts[role] = merge_signatures(drafts[role], data)
        else:
            drafts[role] = data
            files |= _files_of(role, data, source, present=plan.files)
    return Merged(files, drafts, tuple(theirs))


def require_next(merged: Next, copy: Merged, source: Path) -> None:
    """Refuses a copy whose drafts do not follow what is published here.

    Raises:
        UsageError: One does not.
    """
    for role in copy.theirs:
        if merged.documents().get(role) != copy.drafts[role]:
            raise UsageError(
                f"{source}: its {role} is not the next version here: it was made from another published one"
            )


def require_valid_signatures(merged: Next, roles: Iterable[str], source: Path) -> None:
    """Refuses signatures that claim to be by a key of the role, and are not: one could stand in a true one's place.

    Raises:
        VerificationError: There is one.
    """
    for item in merged.evaluate():
        claimed = merged.claimed(item.role)
        for approvals in item.approvals if item.role in roles else ():
            false = claimed & set(approvals.missing)
            if false:
                raise VerificationError(
                    f"{source}: {item.role}: the signature by key {min(false)} does not verify"
                )


def _require_same(role: str, ours: bytes, theirs: bytes, source: Path) -> None:
    if read_draft(ours).signed_bytes != read_draft(theirs).signed_bytes:
        raise UsageError(
            f"{source}: its {role} is another draft than ours: sign ours, or take ours back (attestd governance stage"
            " --reset) and merge again"
        )


def _files_of(
    role: str, data: bytes, source: Path, *, present: Mapping[str, bytes]
) -> dict[str, bytes | None]:
    """The targets of a draft that comes with its files; they replace what the role had."""
    if role == Root.type:
        return {}
    wanted = parse_document(data, Targets, what=f"{role}.json").content.targets
    files: dict[str, bytes | None] = {name: None for name in present if role_of(name) == role}
    theirs = Staging(source / "staged").files() if source.is_dir() else dict(present)
    sha256 = digests(theirs)
    for name, file in wanted.items():
        if sha256.get(name) != file.hashes["sha256"]:
            raise UsageError(f"{source}: its {role} names a target {name} that it does not hold")
        files[name] = theirs[name]
    return files
