"""Makes the next published set: a snapshot if something changed, a timestamp always, signed online, verified, written."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Root, Snapshot, Timestamp

from attestd.distribution.documents import Document, evaluate_approvals, parse_document
from attestd.distribution.next_version import Next
from attestd.distribution.published import Published, publish_files, read_file
from attestd.distribution.settings import Expiry
from attestd.distribution.signer import Authority
from attestd.errors import UsageError
from attestd.governance.draft import add_signature, draft_snapshot, draft_timestamp

__all__ = ["export", "is_snapshot_due", "publish_set", "require_signed"]


def publish_set(
    plan: Next, online: Sequence[Authority], *, directory: Path, expiry: Expiry, now: datetime, is_new: bool
) -> None:
    """Signs a version's snapshot and timestamp, and writes all of it.

    Args:
        plan: The version.
        online: The keys that sign snapshot and timestamp.
        directory: Of the static files.
        expiry: How long both hold.
        now: From when.
        is_new: The snapshot is a new one; otherwise only the timestamp is.

    Raises:
        UsageError: These are not the online keys.
        VerificationError, MalformedError: Hosts would not accept it.
        StoreError: It cannot be written.
    """
    published = plan.published
    every = {**published.roles, **plan.roles}
    snapshot = published.snapshot
    if is_new or snapshot is None:
        draft = draft_snapshot(
            version=(snapshot.version if snapshot else 0) + 1,
            expires=now + expiry.of("snapshot"),
            # Roles that nothing is delegated to any more stay: readers refuse a snapshot that a role vanished from.
            roles={name: role.data for name, role in every.items()},
        )
        snapshot = parse_document(_signed(draft, online), Snapshot, what="snapshot.json")
    draft = draft_timestamp(
        version=(published.timestamp.version if published.timestamp else 0) + 1,
        expires=now + expiry.of("timestamp"),
        issued=now,
        snapshot=snapshot.data,
    )
    timestamp = parse_document(_signed(draft, online), Timestamp, what="timestamp.json")
    for role, document in (("snapshot", snapshot), ("timestamp", timestamp)):
        _require_online(plan.root.content, role, document)
    roots = (*published.roots, plan.root) if "root" in plan.drafts else published.roots
    made = Published(roots, timestamp, snapshot, every, plan.files)
    made.verify()  # before anybody can see it
    publish_files(directory, made.static(), keep=published.static())


def is_snapshot_due(plan: Next, *, expiry: Expiry, now: datetime) -> bool:
    """Whether the published snapshot is to be signed again: half its time is over, or its keys no longer count."""
    snapshot = plan.published.snapshot
    return (
        snapshot is None
        or snapshot.content.expires - now < expiry.of("snapshot") / 2
        or evaluate_approvals(plan.root.content, "snapshot", snapshot).lacking > 0
    )


def require_signed(plan: Next) -> None:
    """Refuses a version that is not signed by as many as it takes.

    Raises:
        UsageError: A role lacks signatures; it says which, and whose they could be.
    """
    for item in plan.evaluate():
        for approvals in item.approvals:
            if approvals.lacking:
                raise UsageError(
                    f"{item.role} version {item.version} has {len(approvals.signed)} of {approvals.threshold}"
                    f" signatures: attestd governance sign, by {approvals.lacking} of {', '.join(approvals.missing)}"
                )


def export(source: Path, destination: Path) -> None:
    """Brings another directory of static files up to date with what was published.

    Raises:
        StoreError: It cannot be read or written.
    """
    files = {
        str(path.relative_to(source)): read_file(path)
        for path in sorted(source.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
    publish_files(destination, files, keep=())


def _require_online(root: Root, role: str, document: Document[Snapshot] | Document[Timestamp]) -> None:
    found = evaluate_approvals(root, role, document)
    if found.lacking:
        raise UsageError(
            f"{role}: {len(found.signed)} of {found.threshold} signatures by the online keys: give"
            f" {found.lacking} more of {', '.join(found.missing)} with --online"
        )


def _signed(draft: bytes, online: Sequence[Authority]) -> bytes:
    for authority in online:
        draft = add_signature(draft, authority.sign)
    return draft
