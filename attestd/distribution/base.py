"""What a stage goes on from: the version of each role that was published when its files were taken up. Pure.

`staged/targets` holds whole sets, not changes. Held against another published version than the one they were made from, files
that were removed there look as if they were added here, and those that came there as if they were removed.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

from attestd.distribution.published import Published
from attestd.distribution.staging import role_of
from attestd.errors import UsageError

__all__ = ["base_of", "overtaken", "require_changeable", "require_not_overtaken"]

_MOST_NAMED: Final = 5


def overtaken(
    files: Mapping[str, bytes], drafts: Mapping[str, bytes], published: Published, base: Mapping[str, str]
) -> dict[str, list[str]]:
    """The roles of which another version is published than the one that the stage goes on from.

    Args:
        files: The targets that are staged.
        drafts: Drafts by role. One that is published as it is was not overtaken: a publication was cut off after it.
        published: What is published.
        base: What the stage goes on from, as `base_of` had it.

    Returns:
        By role, the targets that differ from those that are published; a role in which nothing differs is none of them.
    """
    differing: dict[str, list[str]] = {}
    for name in sorted({*files, *published.files}):
        if files.get(name) != published.files.get(name):
            differing.setdefault(role_of(name), []).append(name)
    return {
        role: names
        for role, names in differing.items()
        if (document := published.roles.get(role)) is not None
        and base.get(role) != _digest(document.data)
        and drafts.get(role) != document.data
    }


def require_not_overtaken(
    files: Mapping[str, bytes], drafts: Mapping[str, bytes], published: Published, base: Mapping[str, str]
) -> None:
    """Refuses a stage that another publication has overtaken.

    Args:
        files: As `overtaken`.
        drafts: As `overtaken`.
        published: As `overtaken`.
        base: As `overtaken`.

    Raises:
        UsageError: It has.
    """
    for role, names in overtaken(files, drafts, published, base).items():
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        raise UsageError(
            f"{role} version {published.roles[role].version} is published, and what is staged was made from another: it would"
            f" undo what was published since ({', '.join(names[:_MOST_NAMED])}{more} differ); begin anew from what is"
            " published: attestd governance stage --reset (what is staged is lost), then make the change again"
        )


def require_changeable(
    files: Mapping[str, bytes | None], present: Mapping[str, bytes], *, seen: Mapping[str, bytes] | None
) -> None:
    """Refuses a change of what is not staged, or what somebody else changed after it was read: that would be undone.

    Args:
        files: What changes; None: not in the next version.
        present: What is staged.
        seen: What was staged when the change was made from it; None: it was made from nothing that is.

    Raises:
        UsageError: It is such a change.
    """
    for name, data in files.items():
        if seen is not None and present.get(name) != seen.get(name):
            raise UsageError(f"{name} was changed by somebody else meanwhile: do it again")
        if data is None and name not in present:
            raise UsageError(f"target {name!r} is not staged; there are: {', '.join(present)}")


def base_of(
    files: Mapping[str, bytes], drafts: Mapping[str, bytes], published: Published, base: Mapping[str, str]
) -> dict[str, str]:
    """What a stage goes on from, from now on: what is published, but for roles that were overtaken.

    Args:
        files: As `overtaken`.
        drafts: As `overtaken`.
        published: As `overtaken`.
        base: What it went on from so far.

    Returns:
        SHA-256 of the metadata, by role.
    """
    kept = overtaken(files, drafts, published, base)
    current = {role: _digest(document.data) for role, document in published.roles.items() if role not in kept}
    return current | {role: base[role] for role in kept if role in base}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
