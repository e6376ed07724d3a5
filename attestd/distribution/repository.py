"""The repository of governance, on the authorities' side: stage, validate, sign, publish, re-sign.

A directory that only authorities have: `staged/targets` holds what the next version will hold, under plain names;
`staged/metadata` the drafts that wait for signatures; `published` the static files as they were last published. Copied
to another machine, a draft is signed there, and its signatures are brought back by `merge`.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tuf.api.metadata import Root

from attestd.distribution.acceptance import Accepted, describe_plan, in_form, require_acceptable, with_history
from attestd.distribution.base import base_of, require_changeable, require_not_overtaken
from attestd.distribution.documents import delegations_of, keys_of, require_keys
from attestd.distribution.drafting import ONLINE, next_role, next_root, roles_of, team_delegation
from attestd.distribution.handover import require_handover
from attestd.distribution.merging import merge_copy, require_next, require_valid_signatures
from attestd.distribution.next_version import Next, RoleApprovals, plan_next
from attestd.distribution.published import METADATA, Published, read_file, read_published
from attestd.distribution.publishing import export, is_snapshot_due, publish_set, require_signed
from attestd.distribution.settings import load_settings
from attestd.distribution.signer import Authority
from attestd.distribution.staging import Staging, require_name, role_of, team_role
from attestd.errors import UsageError
from attestd.governance.authorities import parse_authorities
from attestd.governance.changes import Change
from attestd.governance.draft import Delegation, RoleKeys, add_signature
from attestd.governance.edits import with_team, without_team

__all__ = ["ONLINE", "Repository", "utc_now"]

_NEEDED: Final = ("authorities.json", "revocations.json")


def utc_now() -> datetime:
    """The time, in the whole seconds that metadata has."""
    return datetime.now(UTC).replace(microsecond=0)


class Repository:
    """A repository's directory. Every method leaves it whole, whenever it is cut off."""

    def __init__(self, path: Path, *, clock: Callable[[], datetime] = utc_now) -> None:
        """Opens a repository.

        Raises:
            StoreError: The directory is none, or cannot be read.
            UsageError: Its settings make no sense.
        """
        self.path = path
        self.settings = load_settings(path)
        self.published_path = path / "published"
        self._staging = Staging(path / "staged")
        self._clock = clock

    # --- what there is ----------------------------------------------------------------------------------------------

    @property
    def published(self) -> Published:
        """What was last published."""
        return read_published(self.published_path)

    @property
    def online_key(self) -> str:
        """The key that signs snapshot and timestamp here; empty: none."""
        return self.settings.online_key(self.path)

    @property
    def export_path(self) -> Path | None:
        """Where the static files go besides."""
        return self.settings.export_path(self.path)

    @property
    def anchor_digest(self) -> str:
        """SHA-256 of the first root, which hosts are given: it names a repository."""
        return hashlib.sha256(read_file(self.published_path / METADATA / "1.root.json")).hexdigest()

    def plan(self) -> Next:
        """What the next version would be, as the staged files are now.

        Raises:
            UsageError: What is staged was made from another published version than the present one.
            UsageError, StoreError, MalformedError, VerificationError: What is staged or published makes no sense.
        """
        files, drafts, published = self._staged()
        return plan_next(published, files, drafts, **self._when())

    def status(self) -> list[RoleApprovals]:
        """Each role's version, staged or published, and how many signatures it lacks."""
        return self.plan().evaluate()

    def role_keys(self, role: str) -> RoleKeys:
        """Who signs for `root`, `targets` or `online`, as the next root says.

        Raises:
            UsageError: No such role.
        """
        return keys_of(self.plan().root.content, roles_of(role)[0])

    def missing(self, files: Mapping[str, bytes] | None = None) -> list[str]:
        """What no version can do without, and these files (or those that are staged) do not have."""
        found = self._staging.files() if files is None else files
        return [name for name in _NEEDED if name not in found]

    def validate(self) -> Accepted:
        """What hosts would believe if this were published.

        Raises:
            MalformedError, VerificationError, UsageError: As `require_acceptable`.
        """
        return require_acceptable(self.plan())

    def diff(self) -> list[Change]:
        """What the next version changes, in words: keys and thresholds of roles, then each file.

        Raises:
            MalformedError, VerificationError, UsageError: As `validate`: nobody is told what a file says that hosts read
                otherwise, or not at all.
        """
        plan = self.plan()
        if not self.missing(plan.files):
            require_acceptable(plan)
        return describe_plan(plan)

    # --- staging ----------------------------------------------------------------------------------------------------

    def stage(self, files: Mapping[str, bytes | None], *, seen: Mapping[str, bytes] | None = None) -> None:
        """Changes what the next version will hold, if hosts would accept it; signatures of changed roles are void.

        Files that were edited in place are taken up as well: JSON is put in the form that hosts read, and the
        published version of a platform policy that changes, or of `mesh.json`, goes to the history.

        Args:
            files: Contents by target name; None: not in the next version.
            seen: The staged files from which these were made; None: from none.

        Raises:
            MalformedError, VerificationError, UsageError: It would not be accepted; nothing is changed.
            StoreError: It cannot be written.
        """
        for name in files:
            require_name(name)
        with self._staging.locked():
            present, drafts, published = self._staged()
            require_changeable(files, present, seen=seen)
            given = {name: data for name, data in {**present, **files}.items() if data is not None}
            wanted = with_history(in_form(given), published.files)
            self._write(plan_next(published, wanted, drafts, **self._when()), present)

    def unstage(self, names: Sequence[str] | None = None) -> None:
        """Takes changes back: these targets, or everything that is staged, is as published again.

        Raises:
            UsageError, StoreError: As `stage`.
        """
        with self._staging.locked():
            present, published = self._staging.files(), self.published
            chosen = sorted({*present, *published.files}) if names is None else names
            kept = {name: data for name, data in present.items() if name not in chosen}
            wanted = kept | {name: published.files[name] for name in chosen if name in published.files}
            # The first root is no change: without it there would be no repository.
            drafts = {} if names is None and published.root else self._staging.drafts()
            plan = self._plan(with_history(wanted, published.files), drafts)
            self._write(plan, present, is_checked=False)

    def set_keys(self, role: str, keys: RoleKeys) -> None:
        """Stages a new root that says who signs a role: `root`, `targets`, or `online`.

        Raises:
            UsageError: No such role, or nobody could sign for it.
            StoreError: It cannot be written.
        """
        require_keys(keys, role=role)
        changed = dict.fromkeys(roles_of(role), keys)
        with self._staging.locked():
            plan = self.plan()
            self._rewrite(plan, "root", next_root(plan, changed, **self._when()))

    def renew(self, role: str) -> None:
        """Stages a version that says the same and holds longer, of `root`, `targets` or a team's role.

        Raises:
            UsageError: No such role.
            StoreError: It cannot be written.
        """
        with self._staging.locked():
            plan = self.plan()
            if role == "root":
                self._rewrite(plan, "root", next_root(plan, {}, **self._when()))
            elif role in plan.roles:
                delegations = delegations_of(plan.roles[role].content)
                self._rewrite(plan, role, next_role(plan, role, plan.files, delegations, **self._when()))
            else:
                raise UsageError(f"role {role!r}: expected one of root, {', '.join(plan.roles)}")

    def set_team(
        self, team: str, keys: RoleKeys, *, paths: Sequence[str], uids: Collection[int] | None, max_depth: int
    ) -> None:
        """Stages that a team signs what is below `teams/<team>/`, and about which executables it may speak.

        Raises:
            UsageError: Nobody could sign for it.
            MalformedError, VerificationError: Hosts would not accept it.
            StoreError: It cannot be written.
        """
        role = team_role(team)
        require_keys(keys, role=role)
        with self._staging.locked():
            plan = self.plan()
            present = _file(plan, "authorities.json")
            authorities = with_team(present, team=team, paths=paths, uids=uids, max_depth=max_depth)
            delegations = {
                **delegations_of(plan.roles["targets"].content),
                role: team_delegation(team, keys),
            }
            self._delegate(plan, {**plan.files, "authorities.json": authorities}, delegations)

    def remove_team(self, team: str) -> None:
        """Stages that a team is gone, with its rules and policies.

        Raises:
            UsageError: There is no such team.
            MalformedError, VerificationError: Hosts would not accept it.
            StoreError: It cannot be written.
        """
        role = team_role(team)
        with self._staging.locked():
            plan = self.plan()
            authorities = without_team(_file(plan, "authorities.json"), team=team)
            delegations = delegations_of(plan.roles["targets"].content)
            delegations.pop(role, None)
            files = {name: data for name, data in plan.files.items() if role_of(name) != role}
            self._delegate(plan, {**files, "authorities.json": authorities}, delegations)

    # --- signing ----------------------------------------------------------------------------------------------------

    def sign(self, authority: Authority) -> list[str]:
        """Signs each draft that this key may sign.

        Returns:
            The roles that were signed.

        Raises:
            UsageError: Nothing is staged that this key signs.
            MalformedError, VerificationError: Hosts would not accept what is staged: nobody should sign it.
            StoreError: The key does not sign, or it cannot be written.
        """
        with self._staging.locked():
            plan = self.plan()
            roles = plan.signable(authority.public.key_id)
            if not roles:
                raise UsageError(
                    f"key {authority.public.key_id} signs nothing of what is staged: "
                    + (", ".join(sorted(plan.drafts)) or "nothing is")
                )
            # A root says nothing of targets: the first one is signed before there are any.
            if roles != [Root.type]:
                require_acceptable(plan)
            drafts = plan.documents()
            for role in roles:
                drafts[role] = add_signature(drafts[role], authority.sign)
            self._staging.write_drafts(drafts)
            return roles

    def merge(self, source: Path) -> list[str]:
        """Takes over signatures that were made on a copy: of this directory, or of one draft.

        Drafts that are only in the copy are taken over with their targets; a draft that says something else than ours
        is refused.

        Returns:
            The roles that have more signatures, or are new here.

        Raises:
            UsageError: Ours and theirs say different things.
            StoreError, MalformedError, VerificationError: The copy cannot be read, or hosts would not accept it.
        """
        with self._staging.locked():
            plan = self.plan()
            copy = merge_copy(plan, source)
            wanted = {name: data for name, data in {**plan.files, **copy.files}.items() if data is not None}
            merged = self._plan(wanted, copy.drafts)
            require_next(merged, copy, source)
            require_valid_signatures(merged, copy.theirs, source)
            before = {item.role: item.approvals for item in plan.evaluate() if item.is_staged}
            self._write(merged, plan.files)
            return [
                item.role
                for item in merged.evaluate()
                if item.is_staged and before.get(item.role) != item.approvals
            ]

    # --- publishing -------------------------------------------------------------------------------------------------

    def publish(
        self, online: Sequence[Authority], *, directory: Path | None = None, is_short_meant: bool = False
    ) -> Published:
        """Publishes what is staged; with nothing staged, brings `directory` up to date.

        Args:
            online: Keys that sign snapshot and timestamp.
            directory: Where the static files go besides; None: where the settings say.
            is_short_meant: As `require_handover`.

        Raises:
            UsageError: Signatures are missing, these are not the online keys, or as `require_handover`.
            MalformedError, VerificationError: Hosts would not accept it.
            StoreError: It cannot be written; doing it again completes it.
        """
        with self._staging.locked():
            plan = self.plan()
            if plan.drafts:
                require_acceptable(plan)
                require_handover(plan, self.settings, now=self._clock(), is_short_meant=is_short_meant)
                require_signed(plan)
                self._publish(plan, online, is_new=True)
            self._note_base(self.published, plan.files)
            # Drafts of what is published are of no more use; also those that a publication left when it was cut off.
            self._staging.write_drafts({})
            return self._exported(directory)

    def refresh(self, online: Sequence[Authority], *, directory: Path | None = None) -> Published:
        """Signs what is published again, so that it stays fresh: the timestamp, and late the snapshot.

        Raises:
            UsageError: Nothing is published, or these are not the online keys.
            StoreError: It cannot be written; doing it again completes it.
        """
        with self._staging.locked():
            published = self.published
            if published.snapshot is None:
                raise UsageError("nothing is published yet: attestd governance publish")
            plan = self._plan(published.files, {})
            due = is_snapshot_due(plan, **self._when())
            self._publish(plan, online, is_new=due)
            return self._exported(directory)

    def _publish(self, plan: Next, online: Sequence[Authority], *, is_new: bool) -> None:
        publish_set(plan, online, directory=self.published_path, is_new=is_new, **self._when())

    def _exported(self, directory: Path | None) -> Published:
        where = directory or self.export_path
        if where is not None:
            export(self.published_path, where)
        return self.published

    # --- inside -----------------------------------------------------------------------------------------------------

    def _staged(self) -> tuple[dict[str, bytes], dict[str, bytes], Published]:
        """Files and drafts, with what is published, which they go on from."""
        files, drafts, published = self._staging.files(), self._staging.drafts(), self.published
        require_not_overtaken(files, drafts, published, self._staging.base())
        return files, drafts, published

    def _plan(self, files: Mapping[str, bytes], drafts: Mapping[str, bytes]) -> Next:
        return plan_next(self.published, files, drafts, **self._when())

    def _write(self, plan: Next, present: Mapping[str, bytes], *, is_checked: bool = True) -> None:
        """Makes a version the one that is staged: files first, for drafts are made anew from them."""
        if is_checked and self.missing(plan.files):
            # A first version that is not complete: everything else is judged when it is.
            if "authorities.json" in plan.files:
                parse_authorities(plan.files["authorities.json"])
        elif is_checked:
            require_acceptable(plan)
        gone: dict[str, bytes | None] = {name: None for name in present if name not in plan.files}
        changed = {name: data for name, data in plan.files.items() if present.get(name) != data}
        self._note_base(plan.published, present)
        self._staging.write({**gone, **changed})
        self._staging.write_drafts(plan.documents())
        self._note_base(plan.published, plan.files)

    def _note_base(self, published: Published, files: Mapping[str, bytes]) -> None:
        """Before files change, for then it cannot be seen any more; and after, for what was taken back."""
        base = base_of(files, self._staging.drafts(), published, self._staging.base())
        self._staging.write_base(base)

    def _rewrite(self, plan: Next, role: str, draft: bytes) -> None:
        self._staging.write_drafts(self._plan(plan.files, {**plan.documents(), role: draft}).documents())

    def _delegate(
        self, plan: Next, files: Mapping[str, bytes], delegations: Mapping[str, Delegation]
    ) -> None:
        draft = next_role(plan, "targets", files, delegations, **self._when())
        drafts = {**plan.documents(), "targets": draft}
        self._write(self._plan(files, drafts), plan.files)

    def _when(self) -> dict[str, Any]:
        return {"expiry": self.settings.expiry_days, "now": self._clock()}


def _file(plan: Next, name: str) -> bytes:
    if name not in plan.files:
        raise UsageError(f"{name} is not staged: attestd governance add {name} FILE")
    return plan.files[name]
