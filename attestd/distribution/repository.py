"""The repository of governance, on the authorities' side: stage, validate, sign, publish, re-sign.

A directory that only authorities have: `staged/targets` holds what the next version will hold, under plain names;
`staged/metadata` the drafts that wait for signatures; `published` the static files as they were last published. Copied
to another machine, a draft is signed there, and its signatures are brought back by `merge`.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from attestd.distribution.acceptance import Accepted, in_one_form, require_acceptable, with_history
from attestd.distribution.documents import (
    Document,
    delegations_of,
    digests,
    evaluate_approvals,
    keys_of,
    parse_document,
    require_keys,
    role_facts,
)
from attestd.distribution.next_version import Next, RoleApprovals, plan_next
from attestd.distribution.published import (
    METADATA,
    Published,
    make_directories,
    publish_files,
    read_file,
    read_published,
)
from attestd.distribution.settings import Settings, load_settings, save_settings
from attestd.distribution.signer import Authority
from attestd.distribution.staging import Staging, require_name, role_of, role_of_draft, team_role
from attestd.errors import StoreError, UsageError
from attestd.governance.authorities import parse_authorities
from attestd.governance.changes import Change, compare_facts, describe_changes
from attestd.governance.draft import (
    Delegation,
    RoleKeys,
    add_signature,
    draft_root,
    draft_snapshot,
    draft_targets,
    draft_timestamp,
    merge_signatures,
)
from attestd.governance.edits import with_team, without_team
from attestd.governance.metadata import verify_metadata

__all__ = ["ONLINE", "Repository", "utc_now"]

# Snapshot and timestamp are signed by the same keys: both are made by whoever publishes.
ONLINE: Final = "online"
_ONLINE_ROLES: Final = ("snapshot", "timestamp")
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

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        root: RoleKeys,
        targets: RoleKeys,
        online: RoleKeys,
        settings: Settings,
        clock: Callable[[], datetime] = utc_now,
    ) -> "Repository":
        """Makes a repository whose first root waits to be signed.

        Args:
            path: A new directory, or an empty one.
            root: Who may change all keys; kept offline.
            targets: Who signs what hosts believe.
            online: Who signs snapshot and timestamp.
            settings: Expiries, where the online key is, where the files go.
            clock: The time.

        Raises:
            UsageError: The directory is in use, or a role cannot be signed.
            StoreError: It cannot be written.
        """
        for role, keys in (("root", root), ("targets", targets), (ONLINE, online)):
            require_keys(keys, role=role)
        _require_unused(path)
        for directory in (path / "staged" / "targets", path / "staged" / "metadata", path / "published"):
            make_directories(directory, top=path, mode=0o700)
        draft = draft_root(
            version=1,
            expires=clock() + settings.expiry_days.of("root"),
            root=root,
            targets=targets,
            snapshot=online,
            timestamp=online,
        )
        Staging(path / "staged").write_drafts({"root": draft})
        save_settings(path, settings)
        return cls(path, clock=clock)

    # --- what there is ----------------------------------------------------------------------------------------------

    @property
    def published(self) -> Published:
        """What was last published."""
        return read_published(self.published_path)

    @property
    def anchor_digest(self) -> str:
        """SHA-256 of the first root, which hosts are given: it names a repository."""
        return hashlib.sha256(read_file(self.published_path / METADATA / "1.root.json")).hexdigest()

    def role_keys(self, role: str) -> RoleKeys:
        """Who signs for `root`, `targets` or `online`, as the next root says.

        Raises:
            UsageError: No such role.
        """
        if role not in ("root", "targets", ONLINE):
            raise UsageError(f"role {role!r}: expected root, targets or {ONLINE}")
        return keys_of(self.plan().root.content, _ONLINE_ROLES[0] if role == ONLINE else role)

    def plan(self) -> Next:
        """What the next version would be, as the staged files are now.

        Raises:
            UsageError, StoreError, MalformedError, VerificationError: What is staged or published makes no sense.
        """
        return self._plan(self._staging.files(), self._staging.drafts())

    def status(self) -> list[RoleApprovals]:
        """Each role's version, staged or published, and how many signatures it lacks."""
        return self.plan().evaluate()

    def validate(self) -> Accepted:
        """What hosts would believe if this were published.

        Raises:
            MalformedError, VerificationError, UsageError: As `require_acceptable`.
        """
        return require_acceptable(self.plan())

    def diff(self) -> list[Change]:
        """What the next version changes, in words: keys and thresholds of roles, then each file.

        Raises:
            MalformedError: A file is not of the form of its name.
        """
        plan = self.plan()
        before = plan.published
        old = role_facts(
            before.root.content if before.root else None,
            before.roles["targets"].content if "targets" in before.roles else None,
        )
        new = role_facts(plan.root.content, plan.roles["targets"].content)
        return compare_facts("roles", old, new) + describe_changes(before.files, plan.files)

    # --- staging ----------------------------------------------------------------------------------------------------

    def stage(self, files: Mapping[str, bytes | None]) -> None:
        """Changes what the next version will hold, if a host would accept it; signatures of changed roles are void.

        Args:
            files: Contents by target name; None: not in the next version.

        Raises:
            MalformedError, VerificationError, UsageError: It would not be accepted; nothing is changed.
            StoreError: It cannot be written.
        """
        for name in files:
            require_name(name)
        with self._staging.locked():
            present = self._staging.files()
            absent = [name for name, data in files.items() if data is None and name not in present]
            if absent:
                raise UsageError(f"target {absent[0]!r} is not staged; there are: {', '.join(present)}")
            given = {name: data for name, data in {**present, **files}.items() if data is not None}
            wanted = with_history(
                {name: in_one_form(name, data) for name, data in given.items()}, self.published.files
            )
            plan = self._plan(wanted, self._staging.drafts())
            if self.missing(wanted):
                _validate_parts(wanted)
            else:
                require_acceptable(plan)
            gone = dict.fromkeys(name for name, data in files.items() if data is None)
            changed = {name: data for name, data in wanted.items() if present.get(name) != data}
            self._staging.write({**gone, **changed})
            self._staging.write_drafts(plan.documents())

    def missing(self, files: Mapping[str, bytes] | None = None) -> list[str]:
        """What no version can do without, and these files (or those that are staged) do not have."""
        found = self._staging.files() if files is None else files
        return [name for name in _NEEDED if name not in found]

    def unstage(self, names: Sequence[str] | None = None) -> None:
        """Takes changes back: these targets, or everything that is staged, is as published again.

        Raises:
            UsageError, StoreError: As `stage`.
        """
        with self._staging.locked():
            before = self._staging.files()
            published = self.published
            wanted = published.files
            chosen = names if names is not None else sorted({*before, *wanted})
            back = {name: wanted.get(name) for name in chosen}
            drafts = self._staging.drafts() if names is not None or published.root is None else {}
            files = {name: data for name, data in {**before, **back}.items() if data is not None}
            plan = self._plan(files, drafts)
            self._staging.write(back)
            self._staging.write_drafts(plan.documents())

    def set_keys(self, role: str, keys: RoleKeys) -> None:
        """Stages a new root that says who signs a role: `root`, `targets`, or `online`.

        Raises:
            UsageError: No such role, or nobody could sign for it.
            StoreError: It cannot be written.
        """
        require_keys(keys, role=role)
        with self._staging.locked():
            plan = self.plan()
            roles = {name: keys_of(plan.root.content, name) for name in ("root", "targets", *_ONLINE_ROLES)}
            chosen = _ONLINE_ROLES if role == ONLINE else (role,)
            if not roles.keys() >= set(chosen):
                raise UsageError(f"role {role!r}: expected root, targets or {ONLINE}")
            self._write_root(plan, {**roles, **dict.fromkeys(chosen, keys)})

    def renew(self, role: str) -> None:
        """Stages a version that says the same and holds longer, of `root`, `targets` or a team's role.

        Raises:
            UsageError: No such role.
            StoreError: It cannot be written.
        """
        with self._staging.locked():
            plan = self.plan()
            if role == "root":
                names = ("root", "targets", *_ONLINE_ROLES)
                self._write_root(plan, {name: keys_of(plan.root.content, name) for name in names})
                return
            if role not in plan.roles:
                raise UsageError(f"role {role!r}: expected one of root, {', '.join(plan.roles)}")
            draft = self._draft_role(plan, role, plan.files, delegations_of(plan.roles[role].content))
            self._rewrite(plan, {**plan.documents(), role: draft})

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
            delegated = Delegation(
                role, keys, (f"teams/{team}/*", f"teams/{team}/policy/*"), terminating=True
            )
            delegations = {**delegations_of(plan.roles["targets"].content), role: delegated}
            self._stage_delegations(plan, {"authorities.json": authorities}, delegations)

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
            files = {name: None for name in plan.files if role_of(name) == role}
            self._stage_delegations(plan, {**files, "authorities.json": authorities}, delegations)

    # --- signing ----------------------------------------------------------------------------------------------------

    def sign(self, authority: Authority) -> list[str]:
        """Signs each draft that this key may sign.

        Returns:
            The roles that were signed.

        Raises:
            UsageError: Nothing is staged that this key signs.
            MalformedError, VerificationError: A host would not accept what is staged: nobody should sign it.
            StoreError: The key does not sign, or it cannot be written.
        """
        with self._staging.locked():
            plan = self.plan()
            roles = signable(plan, authority.public.key_id)
            if roles != [Root.type]:
                require_acceptable(plan)
            if not roles:
                raise UsageError(
                    f"key {authority.public.key_id} signs nothing of what is staged: "
                    + (", ".join(sorted(plan.drafts)) or "nothing is")
                )
            drafts = plan.documents()
            for role in roles:
                drafts[role] = add_signature(drafts[role], authority.sign)
            self._staging.write_drafts(drafts)
            return roles

    def merge(self, source: Path) -> list[str]:
        """Takes over signatures that were made on a copy: of a repository's directory, or of one draft.

        Drafts that are only in the copy are taken over with their targets; a draft that says something else than ours
        is refused.

        Returns:
            The roles that have more signatures, or are new here.

        Raises:
            UsageError: Ours and theirs say different things.
            StoreError, MalformedError, VerificationError: The copy cannot be read, or would not be accepted.
        """
        with self._staging.locked():
            plan = self.plan()
            theirs = _drafts_of(source)
            drafts = plan.documents()
            files: dict[str, bytes | None] = {}
            for role, data in theirs.items():
                if role in drafts:
                    drafts[role] = _merged(role, drafts[role], data, source)
                else:
                    drafts[role] = data
                    files |= _files_of(role, data, source, present=plan.files)
            wanted = {name: data for name, data in {**plan.files, **files}.items() if data is not None}
            merged = self._plan(wanted, drafts)
            for role, data in theirs.items():
                if role not in merged.drafts or merged.documents()[role] != drafts[role]:
                    raise UsageError(
                        f"{source}: its {role} is not the next version here: expected one made from what is published"
                    )
                del data
            require_acceptable(merged)
            before = {item.role: item.approvals for item in plan.evaluate() if item.role in plan.drafts}
            self._staging.write(files)
            self._staging.write_drafts(merged.documents())
            return [
                item.role
                for item in merged.evaluate()
                if item.is_staged and before.get(item.role) != item.approvals
            ]

    # --- publishing -------------------------------------------------------------------------------------------------

    def publish(self, online: Sequence[Authority], *, directory: Path | None = None) -> Published:
        """Publishes what is staged; with nothing staged, brings `directory` up to date.

        Args:
            online: Keys that sign snapshot and timestamp.
            directory: Where the static files go besides; None: where the settings say.

        Raises:
            UsageError: Signatures are missing, or these are not the online keys.
            MalformedError, VerificationError: A host would not accept it.
            StoreError: It cannot be written; doing it again completes it.
        """
        with self._staging.locked():
            plan = self.plan()
            if plan.drafts:
                require_acceptable(plan)
                for item in plan.evaluate():
                    _require_signed(item)
                self._write_set(plan, online, is_new=True)
                self._staging.write_drafts({})
            self._export(directory)
            return self.published

    def refresh(self, online: Sequence[Authority], *, directory: Path | None = None) -> Published:
        """Signs what is published again, so that it stays fresh: the timestamp, and the snapshot when half its time is over.

        Raises:
            UsageError: Nothing is published, or these are not the online keys.
            StoreError: It cannot be written; doing it again completes it.
        """
        with self._staging.locked():
            published = self.published
            if published.snapshot is None:
                raise UsageError("nothing is published yet: attestd governance publish")
            plan = plan_next(
                published, published.files, {}, expiry=self.settings.expiry_days, now=self._clock()
            )
            half = self.settings.expiry_days.of("snapshot") / 2
            due = published.snapshot.content.expires - self._clock() < half
            unsigned = evaluate_approvals(plan.root.content, "snapshot", published.snapshot).lacking > 0
            self._write_set(plan, online, is_new=due or unsigned)
            self._export(directory)
            return self.published

    def _write_set(self, plan: Next, online: Sequence[Authority], *, is_new: bool) -> None:
        published = plan.published
        former = {name: role.data for name, role in published.roles.items()}
        roles = {**former, **{name: role.data for name, role in plan.roles.items()}}
        days, now = self.settings.expiry_days, self._clock()
        snapshot = published.snapshot
        if is_new or snapshot is None:
            draft = draft_snapshot(
                version=(snapshot.version if snapshot else 0) + 1,
                expires=now + days.of("snapshot"),
                roles=roles,
            )
            snapshot = parse_document(_sign_all(draft, online), Snapshot, what="snapshot.json")
        draft = draft_timestamp(
            version=(published.timestamp.version if published.timestamp else 0) + 1,
            expires=now + days.of("timestamp"),
            issued=now,
            snapshot=snapshot.data,
        )
        timestamp = parse_document(_sign_all(draft, online), Timestamp, what="timestamp.json")
        for role, document in (("snapshot", snapshot), ("timestamp", timestamp)):
            _require_online(plan.root.content, role, document)
        roots = (*published.roots, plan.root) if "root" in plan.drafts else published.roots
        made = Published(roots, timestamp, snapshot, {**published.roles, **plan.roles}, plan.files)
        files = made.static()
        # As any host verifies it, before anybody can see it.
        verify_metadata(lambda name, _: files.get(f"metadata/{name}"), root=roots[0].data, floor=None)
        publish_files(self.published_path, files, keep=published.static())

    def _export(self, directory: Path | None) -> None:
        where = directory or (Path(self.settings.publish_to) if self.settings.publish_to else None)
        if where is not None:
            files = {
                str(path.relative_to(self.published_path)): read_file(path)
                for path in sorted(self.published_path.rglob("*"))
                if path.is_file() and not path.name.startswith(".")
            }
            publish_files(where, files, keep=())

    # --- inside -----------------------------------------------------------------------------------------------------

    def _plan(self, files: Mapping[str, bytes], drafts: Mapping[str, bytes]) -> Next:
        return plan_next(self.published, files, drafts, expiry=self.settings.expiry_days, now=self._clock())

    def _write_root(self, plan: Next, roles: Mapping[str, RoleKeys]) -> None:
        present = plan.published.root
        draft = draft_root(
            version=(present.version if present else 0) + 1,
            expires=self._clock() + self.settings.expiry_days.of("root"),
            **roles,
        )
        self._rewrite(plan, {**plan.documents(), "root": draft})

    def _stage_delegations(
        self, plan: Next, files: Mapping[str, bytes | None], delegations: Mapping[str, Delegation]
    ) -> None:
        wanted = {name: data for name, data in {**plan.files, **files}.items() if data is not None}
        drafts = {**plan.documents(), "targets": self._draft_role(plan, "targets", wanted, delegations)}
        changed = self._plan(wanted, drafts)
        require_acceptable(changed)
        self._staging.write(files)
        self._staging.write_drafts(changed.documents())

    def _draft_role(
        self, plan: Next, role: str, files: Mapping[str, bytes], delegations: Mapping[str, Delegation]
    ) -> bytes:
        base = plan.published.roles.get(role)
        return draft_targets(
            version=(base.version if base else 0) + 1,
            expires=self._clock() + self.settings.expiry_days.of("targets"),
            targets={name: data for name, data in sorted(files.items()) if role_of(name) == role},
            delegations=[delegations[name] for name in sorted(delegations)],
        )

    def _rewrite(self, plan: Next, drafts: Mapping[str, bytes]) -> None:
        self._staging.write_drafts(self._plan(plan.files, drafts).documents())


def _require_unused(path: Path) -> None:
    """Settings are written last: without them, what lies there is a creation that was cut off, and is begun again."""
    try:
        found = {item.name for item in path.iterdir()} if path.exists() else set()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if not found <= {"staged", "published"}:
        raise UsageError(f"{path} is not empty: a repository is made in a new directory")


def signable(plan: Next, key_id: str) -> list[str]:
    """The drafts that a key may sign, by role."""
    return [
        item.role
        for item in plan.evaluate()
        if item.is_staged
        and any(key_id in (*approvals.signed, *approvals.missing) for approvals in item.approvals)
    ]


def _file(plan: Next, name: str) -> bytes:
    if name not in plan.files:
        raise UsageError(f"{name} is not staged: attestd governance add {name} FILE")
    return plan.files[name]


def _validate_parts(files: Mapping[str, bytes]) -> None:
    """What can be said of a first version that is not complete: everything else waits until it is."""
    if "authorities.json" in files:
        parse_authorities(files["authorities.json"])


def _require_signed(item: RoleApprovals) -> None:
    for approvals in item.approvals:
        if approvals.lacking:
            raise UsageError(
                f"{item.role} version {item.version} has {len(approvals.signed)} of {approvals.threshold} signatures:"
                f" attestd governance sign, by {approvals.lacking} of {', '.join(approvals.missing)}"
            )


def _require_online(root: Root, role: str, document: Document[Snapshot] | Document[Timestamp]) -> None:
    found = evaluate_approvals(root, role, document)
    if found.lacking:
        raise UsageError(
            f"{role}: {len(found.signed)} of {found.threshold} signatures by the online keys: give"
            f" {found.lacking} more of {', '.join(found.missing)} with --online"
        )


def _sign_all(draft: bytes, online: Sequence[Authority]) -> bytes:
    for authority in online:
        draft = add_signature(draft, authority.sign)
    return draft


def _drafts_of(source: Path) -> dict[str, bytes]:
    if source.is_dir():
        return Staging(source / "staged").drafts()
    return {role_of_draft(source): read_file(source)}


def _merged(role: str, ours: bytes, theirs: bytes, source: Path) -> bytes:
    try:
        return merge_signatures(ours, theirs)
    except UsageError as error:
        raise UsageError(
            f"{source}: its {role} is another draft than ours: sign this one, or unstage ours and merge again"
        ) from error


def _files_of(
    role: str, data: bytes, source: Path, *, present: Mapping[str, bytes]
) -> dict[str, bytes | None]:
    """The targets of a draft that comes with its files; they replace what the role had."""
    if role == "root":
        return {}
    wanted = parse_document(data, Targets, what=f"{role}.json").content.targets
    files: dict[str, bytes | None] = {name: None for name in present if role_of(name) == role}
    theirs = Staging(source / "staged").files() if source.is_dir() else present
    sha256 = digests(theirs)
    for name, file in wanted.items():
        if sha256.get(name) != file.hashes["sha256"]:
            raise UsageError(f"{source}: its {role} names a target {name} that it does not hold")
        files[name] = theirs[name]
    return files
