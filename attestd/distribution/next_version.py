"""What the next version of a repository would be: which roles need a new version, and who must sign it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from tuf.api.metadata import Root, Targets

from attestd.distribution.documents import (
    Approvals,
    Document,
    delegations_of,
    digests,
    evaluate_approvals,
    key_names,
    parse_document,
)
from attestd.distribution.published import Published
from attestd.distribution.settings import Expiry
from attestd.distribution.staging import role_of
from attestd.errors import UsageError
from attestd.governance.draft import Delegation, draft_targets
from attestd.governance.metadata import Metadata, Versions
from attestd.governance.targets import TargetFile, TargetList

__all__ = ["Next", "RoleApprovals", "plan_next"]


@dataclass(frozen=True)
class RoleApprovals:
    """How far a role's next version is.

    Attributes:
        role: Its TUF role.
        version: Its version, staged or else published.
        expires: When that version expires.
        is_staged: It is a draft: it waits for signatures, then to be published.
        approvals: Who signed, as who counts it: a new root is counted by the present one and by itself.
    """

    role: str
    version: int
    expires: datetime
    is_staged: bool
    approvals: tuple[Approvals, ...]

    @property
    def lacking(self) -> int:
        """How many signatures there are too few."""
        return max(approvals.lacking for approvals in self.approvals)


@dataclass(frozen=True)
class Next:
    """The next version: what is published, with what is staged in its place.

    Attributes:
        published: What is published.
        root: The root that will count.
        roles: The targets role and the teams', each as it will be.
        drafts: Which of them (and `root`) are not published yet.
        files: The targets.
    """

    published: Published
    root: Document[Root]
    roles: Mapping[str, Document[Targets]]
    drafts: frozenset[str]
    files: Mapping[str, bytes]

    def documents(self) -> dict[str, bytes]:
        """The drafts, by role."""
        every = {"root": self.root.data, **{name: role.data for name, role in self.roles.items()}}
        return {name: every[name] for name in sorted(self.drafts)}

    def delegator(self, role: str) -> Root | Targets:
        """Who says which keys sign for a role."""
        return self.root.content if role == "targets" else self.roles["targets"].content

    def signable(self, key_id: str) -> list[str]:
        """The drafts that a key may sign."""
        return [
            item.role
            for item in self.evaluate()
            if item.is_staged
            and any(key_id in (*approvals.signed, *approvals.missing) for approvals in item.approvals)
        ]

    def claimed(self, role: str) -> set[str]:
        """The keys (attestd's ids) whose signatures a role's file claims to have."""
        document = self.root if role == "root" else self.roles[role]
        before = [self.published.root.content] if role == "root" and self.published.root else []
        counting = [*before, self.root.content] if role == "root" else [self.delegator(role)]
        names = {
            keyid: key_id for delegator in counting for keyid, key_id in key_names(delegator, role).items()
        }
        return {names[keyid] for keyid in document.untrusted.signatures if keyid in names}

    def evaluate(self) -> list[RoleApprovals]:
        """How far each role is."""
        before = [self.published.root.content] if "root" in self.drafts and self.published.root else []
        counting = [*before, self.root.content]
        found = [_approvals("root", self.root, counting, is_staged="root" in self.drafts)]
        return found + [
            _approvals(name, role, [self.delegator(name)], is_staged=name in self.drafts)
            for name, role in self.roles.items()
        ]

    def metadata(self, files: Mapping[str, bytes] | None = None) -> Metadata:
        """What a host would find verified once all is signed and published: these files, or those of this version."""
        found = self.files if files is None else files
        sha256 = digests(found)
        published = self.published
        targets = {name: role.version for name, role in {**published.roles, **self.roles}.items()}
        role, expires = min(
            (
                ("root", self.root.content.expires),
                *((name, item.content.expires) for name, item in self.roles.items()),
            ),
            key=lambda item: item[1],
        )
        return Metadata(
            versions=Versions(
                root=self.root.version,
                timestamp=(published.timestamp.version if published.timestamp else 0) + 1,
                snapshot=(published.snapshot.version if published.snapshot else 0) + 1,
                targets=targets,
            ),
            targets=TargetList.of(
                {name: TargetFile(len(data), sha256[name], role_of(name)) for name, data in found.items()}
            ),
            expires=expires,
            expires_role=role,
            issued=None,
        )


def plan_next(
    published: Published,
    files: Mapping[str, bytes],
    drafts: Mapping[str, bytes],
    *,
    expiry: Expiry,
    now: datetime,
) -> Next:
    """Works out the next version; drafts that still say what is wanted keep their signatures.

    A role gets a new version if its targets or delegations change, or if those who count its signatures no longer
    count enough of them.

    Args:
        published: What is published.
        files: The targets of the next version, all of them.
        drafts: Drafts by role; those of a version that is published already are of no more use.
        expiry: How long new versions hold.
        now: For how long from when.

    Raises:
        UsageError: There is no root yet, or a target belongs to a team that nothing is delegated to.
        MalformedError: A draft does not parse.
    """
    by_role: dict[str, dict[str, bytes]] = {}
    for name, data in files.items():
        by_role.setdefault(role_of(name), {})[name] = data
    root, is_new = _next_root(published, drafts.get("root"))
    staged = {"root"} if is_new else set()
    planner = _Planner(published, drafts, now + expiry.of("targets"))
    roles: dict[str, Document[Targets]] = {}
    roles["targets"], is_new = planner.plan("targets", root.content, by_role.pop("targets", {}))
    if is_new:
        staged.add("targets")
    top = roles["targets"].content
    for name in delegations_of(top):
        roles[name], is_new = planner.plan(name, top, by_role.pop(name, {}))
        if is_new:
            staged.add(name)
    for name, orphans in by_role.items():
        raise UsageError(
            f"target {min(orphans)!r}: nothing is delegated to role {name}: attestd governance delegate makes a team"
        )
    return Next(published, root, roles, frozenset(staged), files)


def _next_root(published: Published, draft: bytes | None) -> tuple[Document[Root], bool]:
    present = published.root
    if draft is not None:
        document = parse_document(draft, Root, what="root.json")
        if document.version == (present.version if present else 0) + 1:
            return document, True
    if present is None:
        raise UsageError("this repository has no root yet: attestd governance init makes one")
    return present, False


@dataclass(frozen=True)
class _Planner:
    published: Published
    drafts: Mapping[str, bytes]
    expires: datetime

    def plan(
        self, role: str, delegator: Root | Targets, files: Mapping[str, bytes]
    ) -> tuple[Document[Targets], bool]:
        """The role's next version, and whether it is a draft."""
        base = self.published.roles.get(role)
        version = (base.version if base else 0) + 1
        wanted = digests(files)
        draft = self._draft(role, version)
        if draft is not None and _said(draft) == wanted:
            return draft, True
        carrier = draft or base
        delegations = delegations_of(carrier.content) if carrier else {}
        if (
            base is not None
            and _said(base) == wanted
            and delegations_of(base.content) == delegations
            and evaluate_approvals(delegator, role, base).lacking == 0
        ):
            return base, False
        return parse_document(self._make(version, files, delegations), Targets, what=f"{role}.json"), True

    def _draft(self, role: str, version: int) -> Document[Targets] | None:
        data = self.drafts.get(role)
        if data is None:
            return None
        document = parse_document(data, Targets, what=f"{role}.json")
        return document if document.version == version else None

    def _make(self, version: int, files: Mapping[str, bytes], delegations: Mapping[str, Delegation]) -> bytes:
        return draft_targets(
            version=version,
            expires=self.expires,
            targets=dict(sorted(files.items())),
            delegations=list(delegations.values()),
        )


def _said(document: Document[Targets]) -> dict[str, str]:
    return {name: file.hashes["sha256"] for name, file in document.content.targets.items()}


def _approvals(
    role: str,
    document: Document[Root] | Document[Targets],
    counting: list[Root] | list[Root | Targets],
    *,
    is_staged: bool,
) -> RoleApprovals:
    return RoleApprovals(
        role,
        document.version,
        document.content.expires,
        is_staged,
        tuple(evaluate_approvals(delegator, role, document) for delegator in counting),
    )
