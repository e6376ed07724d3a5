"""Cedar policies: what may run, beyond what authorities signed.

Everything is parsed and validated when governance is loaded. A decision evaluates the permits of the one file that the
artifact names, and the forbids of every file in whose scope the execution lies: a forbid cannot be avoided by naming
another file, and nobody's permit opens what was signed for another.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
from cedarpy import Decision, PolicySet, is_authorized

from attestd.errors import MalformedError
from attestd.governance.policy_entities import Hierarchy, parse_entities
from attestd.governance.policy_file import Policy, parse_policy_file, policy_set
from attestd.governance.policy_index import Attributes, Index
from attestd.governance.policy_schema import DEFAULT_POLICY, EMPTY_ENTITIES, SCHEMA

__all__ = [
    "DEFAULT_POLICY",
    "EMPTY_ENTITIES",
    "SCHEMA",
    "Policies",
    "PolicyRequest",
    "TeamScope",
    "Verdict",
    "parse_policies",
]

SCHEMA_FILE: Final = "policy/schema.cedarschema"
ENTITIES_FILE: Final = "policy/entities.json"
# Of all files of `policy/`, and of all of one team: loading costs seconds at worst.
MAX_TOTAL_BYTES: Final = 1 << 20
# What a decision may cost, whatever the requester puts in: about a tenth of a second each.
MAX_CONTEXT_BYTES: Final = 2 << 20
MAX_MATCHING: Final = 1 << 26
# Up to so many candidates are evaluated alone, by a set that is kept; more of them with all the rest.
MAX_SLICE: Final = 64
MAX_SLICES: Final = 128
MAX_VIEWS: Final = 64
MAX_VERDICTS: Final = 1024
MAX_KEPT_CONTEXT: Final = 1024

_ARTIFACT: Final = "artifact."
_NAME: Final = "[a-z0-9][a-z0-9._-]{0,63}"
_TARGET: Final = re.compile(rf"\A(?:teams/({_NAME})/)?policy/({_NAME})\.cedar\Z")


class TeamScope(Protocol):
    """The executions that a team governs."""

    def covers(self, *, executable: str, uid: int) -> bool:
        """Whether running that executable as that user is the team's to govern."""


@dataclass(frozen=True)
class PolicyRequest:
    """What is put before the policies.

    Attributes:
        requester: The requester's uid: the principal.
        sha256: Of the executable: the resource.
        executable: Its path, and
        uid: the user it runs as: they decide which teams' policies count.
        attributes: Of the context, as the schema names them.
    """

    requester: int
    sha256: str
    executable: str
    uid: int
    attributes: Attributes


@dataclass(frozen=True)
class Verdict:
    """What the policies say.

    Attributes:
        permits: Ids of the permits of the named file that hold.
        forbids: The forbids that hold.
        errors: Why it cannot be said, each naming a policy where there is one. Not evaluated is not permitted.
    """

    permits: tuple[str, ...] = ()
    forbids: tuple[Policy, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def permitted(self) -> bool:
        """Whether some permit holds, no forbid does, and everything could be evaluated."""
        return bool(self.permits) and not self.forbids and not self.errors


@dataclass(frozen=True)
class PolicyFile:
    """One file: its team (None: everybody's), the SHA-256 of its bytes in hex, its policies."""

    team: str | None
    digest: str
    policies: tuple[Policy, ...]


class _View:
    """The policies that count for one named file within one set of teams."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.policies = {policy.id: policy for policy in policies}
        self._ordered = tuple(policies)
        self._index = Index(policies)
        self._whole: _Slice | None = None
        self._slices: dict[tuple[int, ...], _Slice] = {}

    def choose(self, request: PolicyRequest, hierarchy: Hierarchy) -> "_Slice":
        """A set with the same outcome as the whole."""
        candidates = self._index.candidates(
            hierarchy.containing(("User", str(request.requester))),
            hierarchy.containing(("Executable", request.sha256)),
            request.attributes,
        )
        if len(candidates) > MAX_SLICE:
            self._whole = self._whole or _Slice(self._ordered)
            return self._whole
        chosen = self._slices.get(candidates)
        if chosen is None:
            if len(self._slices) == MAX_SLICES:
                self._slices.clear()
            chosen = self._slices[candidates] = _Slice([self._ordered[place] for place in candidates])
        return chosen


class _Slice:
    """Policies as Cedar evaluates them, with all that they look at."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.handle = PolicySet.from_json_str(policy_set((policy.id, policy.form) for policy in policies))
        self.attributes = frozenset[str]().union(*(policy.attributes for policy in policies))
        self._artifact = tuple(name for name in self.attributes if name.startswith(_ARTIFACT))
        self._other = tuple(self.attributes.difference(self._artifact))
        self.pattern_cost = sum(policy.pattern_cost for policy in policies)

    def context(self, attributes: Attributes) -> str:
        """The context, in JSON, less what none of the policies looks at."""
        found = {name: attributes(name) for name in self._other}
        if self._artifact:
            terms = {name.removeprefix(_ARTIFACT): attributes(name) for name in self._artifact}
            found["artifact"] = {name: value for name, value in terms.items() if value is not None}
        return msgspec.json.encode(found).decode()


class Policies:
    """All policies of a version of governance; made by `parse_policies`.

    What it keeps beside them (sets that were evaluated before, and what they said to the very same question) changes how
    fast it answers, and nothing else.
    """

    def __init__(
        self,
        files: Mapping[str, PolicyFile],
        *,
        hierarchy: Hierarchy,
        teams: Mapping[str, TeamScope],
        unusable: Mapping[str, str],
    ) -> None:
        """See `parse_policies`."""
        self.files = files
        self.unusable = unusable
        self._hierarchy = hierarchy
        self._teams = teams
        self._views: dict[tuple[str, frozenset[str]], _View] = {}
        self._verdicts: dict[tuple[_Slice, int, str, str], Verdict] = {}

    def digest(self, name: str) -> str | None:
        """SHA-256 of the file of that name, in hex; None: there is none that is usable."""
        return self.files[name].digest if name in self.files else None

    def unusable_reason(self, name: str) -> str | None:
        """Why the file of that name could not be used, if so."""
        team, _, file = name.rpartition("/")
        return self.unusable.get(f"teams/{team}/policy/{file}.cedar")

    def covers(self, name: str, *, executable: str, uid: int) -> bool:
        """Whether the file of that name has a say: a team's only within the team's scope."""
        team = self.files[name].team if name in self.files else None
        return team is None or team in self._covering(executable, uid)

    def evaluate(self, name: str, request: PolicyRequest) -> Verdict:
        """Puts a request before the permits of one file and the forbids of all in whose scope it lies.

        Args:
            name: The file, as the artifact names it; it must be one of `files`.
            request: The request.

        Returns:
            The verdict. What cannot be evaluated for certain is an error in it: a file of a team that governs this
            execution and cannot be used, an expression that fails (an overflow), a request too large.
        """
        teams = self._covering(request.executable, request.uid)
        broken = tuple(
            f"{target} counts here and cannot be used: {reason}"
            for target, reason in sorted(self.unusable.items())
            if target.split("/")[1] in teams
        )
        if broken:
            return Verdict(errors=broken)
        view = self._view(name, teams)
        chosen = view.choose(request, self._hierarchy)
        context = chosen.context(request.attributes)
        if len(context) > MAX_CONTEXT_BYTES or len(context) * chosen.pattern_cost > MAX_MATCHING:
            looks = ", ".join(sorted(chosen.attributes))
            return Verdict(errors=(f"policies look at {looks}, which are too long to be evaluated in time",))
        # All that Cedar is given: it looks at nothing else, not even a clock.
        asked = (chosen, request.requester, request.sha256, context)
        verdict = self._verdicts.get(asked)
        if verdict is None:
            verdict = self._ask(view, chosen, request, context)
            if len(context) <= MAX_KEPT_CONTEXT:
                if len(self._verdicts) == MAX_VERDICTS:
                    self._verdicts.clear()
                self._verdicts[asked] = verdict
        return verdict

    def _ask(self, view: _View, chosen: _Slice, request: PolicyRequest, context: str) -> Verdict:
        asked = {
            "principal": {"type": "User", "id": str(request.requester)},
            "action": {"type": "Action", "id": "exec"},
            "resource": {"type": "Executable", "id": request.sha256},
            "context": context,
        }
        answer = is_authorized(asked, chosen.handle, self._hierarchy.handle)
        errors, reasons = tuple(sorted(answer.diagnostics.errors)), sorted(answer.diagnostics.reasons)
        if answer.decision is Decision.Allow:
            return Verdict(permits=tuple(reasons), errors=errors)
        if answer.decision is Decision.Deny:
            return Verdict(forbids=tuple(view.policies[reason] for reason in reasons), errors=errors)
        return Verdict(errors=errors or ("Cedar did not decide",))

    def _covering(self, executable: str, uid: int) -> frozenset[str]:
        return frozenset(
            team for team, scope in self._teams.items() if scope.covers(executable=executable, uid=uid)
        )

    def _view(self, name: str, teams: frozenset[str]) -> _View:
        view = self._views.get((name, teams))
        if view is None:
            if len(self._views) == MAX_VIEWS:
                self._views.clear()
            count = [
                policy
                for file_name, file in sorted(self.files.items())
                if file.team is None or file.team in teams
                for policy in file.policies
                if policy.forbid or file_name == name
            ]
            view = self._views[name, teams] = _View(count)
        return view


def parse_policies(files: Mapping[str, bytes], *, teams: Mapping[str, TeamScope]) -> Policies:
    """Parses and validates all policies of a version of governance.

    Args:
        files: Contents by target name: `policy/<name>.cedar`, `policy/schema.cedarschema`, `policy/entities.json`,
            `teams/<team>/policy/<name>.cedar`.
        teams: What each team governs.

    Returns:
        The policies. A team's file that cannot be used is left out, with its reason in `unusable`; what the team
        governs is then denied, for nobody knows what the file forbids.

    Raises:
        MalformedError: A file of `policy/` is missing, unknown or not valid, or all of them together are too large.
    """
    for needed in (SCHEMA_FILE, ENTITIES_FILE):
        if needed not in files:
            raise MalformedError(f"{needed} is missing")
    if files[SCHEMA_FILE] != SCHEMA:
        raise MalformedError(f"{SCHEMA_FILE}: expected exactly the schema of this version of attestd")
    hierarchy = parse_entities(files[ENTITIES_FILE])
    parsed: dict[str, PolicyFile] = {}
    unusable: dict[str, str] = {}
    sizes: Counter[str | None] = Counter()
    for target in sorted(files.keys() - {SCHEMA_FILE, ENTITIES_FILE}):
        team = target.split("/")[1] if target.startswith("teams/") else None
        if team is not None and team not in teams:
            unusable[target] = f"there is no team {team!r}"
            continue
        sizes[team] += len(files[target])
        try:
            name = _file_name(target)
            _require_small(target, team, sizes[team])
            parsed[name] = _parse_file(files[target], name=name, team=team, what=target, hierarchy=hierarchy)
        except MalformedError as error:
            if team is None:
                raise
            unusable[target] = str(error)
    return Policies(parsed, hierarchy=hierarchy, teams=teams, unusable=unusable)


def _require_small(target: str, team: str | None, total: int) -> None:
    if total > MAX_TOTAL_BYTES:
        whose = "policy/" if team is None else f"team {team!r}"
        raise MalformedError(
            f"{target}: the policies of {whose} are {total} bytes together, the limit is {MAX_TOTAL_BYTES}"
        )


def _file_name(target: str) -> str:
    """The name by which artifacts call a file."""
    found = _TARGET.match(target)
    if found is None:
        raise MalformedError(
            f"{target}: expected policy/<name>.cedar or teams/<team>/policy/<name>.cedar, in a-z, 0-9, '.', '_', '-'"
        )
    team, name = found.groups()
    return name if team is None else f"{team}/{name}"


def _parse_file(data: bytes, *, name: str, team: str | None, what: str, hierarchy: Hierarchy) -> PolicyFile:
    policies = parse_policy_file(data, name=name, what=what)
    for policy in policies:
        for kind, key in hierarchy.undeclared(policy.named):
            raise MalformedError(
                f'{what}: line {policy.line}: {kind}::"{ascii(key)[1:-1]}" is not declared in {ENTITIES_FILE}'
            )
    return PolicyFile(team=team, digest=hashlib.sha256(data).hexdigest(), policies=policies)
