"""The next version of one role: of root with other keys, of targets or a team with other files or delegations. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from attestd.distribution.documents import keys_of
from attestd.distribution.next_version import Next
from attestd.distribution.settings import Expiry
from attestd.distribution.staging import role_of, team_role
from attestd.errors import UsageError
from attestd.governance.draft import Delegation, RoleKeys, draft_root, draft_targets

__all__ = ["ONLINE", "next_role", "next_root", "roles_of", "team_delegation"]

# Snapshot and timestamp are signed by the same keys: both are made by whoever publishes.
ONLINE: Final = "online"
_KEPT_BY_ROOT: Final = {"root": ("root",), "targets": ("targets",), ONLINE: ("snapshot", "timestamp")}


def roles_of(role: str) -> tuple[str, ...]:
    """The TUF roles of `root`, `targets` or `online`.

    Raises:
        UsageError: It is none of them.
    """
    if role not in _KEPT_BY_ROOT:
        raise UsageError(f"role {role!r}: expected one of {', '.join(_KEPT_BY_ROOT)}")
    return _KEPT_BY_ROOT[role]


def next_root(plan: Next, changed: Mapping[str, RoleKeys], *, expiry: Expiry, now: datetime) -> bytes:
    """A root after the published one, unsigned.

    Args:
        plan: What is staged; its root is what is changed.
        changed: Who signs, by TUF role; the others stay.
        expiry: How long it holds.
        now: From when.
    """
    names = ("root", "targets", "snapshot", "timestamp")
    present = plan.published.root
    return draft_root(
        version=(present.version if present else 0) + 1,
        expires=now + expiry.of("root"),
        **{**{name: keys_of(plan.root.content, name) for name in names}, **changed},
    )


def next_role(
    plan: Next,
    role: str,
    files: Mapping[str, bytes],
    delegations: Mapping[str, Delegation],
    *,
    expiry: Expiry,
    now: datetime,
) -> bytes:
    """A version of targets or of a team's role after the published one, unsigned.

    Args:
        plan: What is staged.
        role: Its TUF role.
        files: All targets; those of the role are taken.
        delegations: By role.
        expiry: How long it holds.
        now: From when.
    """
    base = plan.published.roles.get(role)
    return draft_targets(
        version=(base.version if base else 0) + 1,
        expires=now + expiry.of("targets"),
        targets={name: data for name, data in sorted(files.items()) if role_of(name) == role},
        delegations=[delegations[name] for name in sorted(delegations)],
    )


def team_delegation(team: str, keys: RoleKeys) -> Delegation:
    """What is delegated to a team: its own files, and nothing below them."""
    return Delegation(team_role(team), keys, (f"teams/{team}/*", f"teams/{team}/policy/*"), terminating=True)
