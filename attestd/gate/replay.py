"""What other policies would have said to a decision that is in the log."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from attestd.codes import Denied
from attestd.errors import MalformedError
from attestd.gate.execution import Execution, File
from attestd.gate.explain import explain
from attestd.gate.model import Outcome
from attestd.gate.policy import policy_request, require_policy_file, require_verdict
from attestd.governance.cedar import Policies
from attestd.governance.host import VerifiedHost
from attestd.lineage.entry import Entry
from attestd.strict import parse_time

__all__ = ["Replay", "replay"]

_POLICY: Final = 10  # the number of the check
# By member of the body: the attributes that are computed from it.
_FROM: Final[Mapping[str, frozenset[str]]] = {
    "argv": frozenset({"argv", "argc", "command_line"}),
    "secret arguments": frozenset({"argv", "command_line"}),
    "env": frozenset({"env"}),
    "inputs": frozenset({"inputs"}),
    "interpreters": frozenset({"interpreters"}),
}


@dataclass(frozen=True)
class Replay:
    """One decision, put before other policies.

    Attributes:
        recorded: What the policies said then, in words; empty if they were not asked.
        permitted: Whether they permit it now; None: it cannot be said, or nobody asked them then.
        differs: Whether that is another outcome than was recorded.
        words: Why, in words.
    """

    recorded: str
    permitted: bool | None
    differs: bool
    words: str


class _NotRecordedError(Exception):
    """A policy looks at something that the log does not have."""


def replay(entry: Entry, *, policies: Policies, host: VerifiedHost) -> Replay:
    """Puts a recorded decision before other policies.

    Tier, user space and labels are those of the host's record as it is given: the log does not have them. All else is what
    the entry says.

    Args:
        entry: A `decision.allow` or `decision.deny`.
        policies: The policies to ask.
        host: The record of the host whose log it is.

    Raises:
        UsageError: The entry is no decision.
        MalformedError: The entry's body is not that of a decision.
    """
    then = explain(entry).checks[_POLICY - 1]
    if then.outcome is Outcome.NOT_EVALUATED:
        return Replay("", None, differs=False, words="it was denied before a policy was asked")
    was_permitted = then.outcome is Outcome.VERIFIED
    try:
        permitted, words = True, _evaluate(entry, policies, host)
    except Denied as denied:
        permitted, words = False, f"{denied.denial.code}: {denied.denial.sentence}"
    except _NotRecordedError as error:
        return Replay(
            then.detail, None, differs=False, words=f"a policy looks at {error}, which is not in the log"
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        # A log may be of anybody: nothing is assumed of a body.
        raise MalformedError(f"entry {entry.seq}: its body is not that of a decision: {error!r}") from error
    return Replay(then.detail, permitted, differs=permitted is not was_permitted, words=words)


def _evaluate(entry: Entry, policies: Policies, host: VerifiedHost) -> str:
    body = entry.body
    missing = _missing(body)
    name, chain = body["policy"], body["artifact"].get("chain", [])
    request = policy_request(
        _execution(body, missing),
        terms=body["terms"],
        platform=body["platform"]["name"],
        host=host,
        findings=(),
        depth=max(0, len(chain) - 1),
        now=parse_time(entry.time),
    )
    require_policy_file(name, pinned=None, policies=policies)
    guarded = replace(request, attributes=_guarded(request.attributes, missing))
    return require_verdict(name, guarded, policies=policies)


def _missing(body: Mapping[str, Any]) -> frozenset[str]:
    """What the log has digests of: members that were too large for it, and arguments that are secret."""
    cut = frozenset(
        name
        for name in ("argv", "env", "inputs", "interpreters", "terms")
        if isinstance(body[name], dict) and isinstance(body[name].get("bytes"), int)
    )
    concealed = "argv" not in cut and any(isinstance(argument, dict) for argument in body["argv"])
    return cut | {"secret arguments"} if concealed else cut


def _execution(body: Mapping[str, Any], missing: frozenset[str]) -> Execution:
    files = {
        name: () if name in missing else tuple(File(**item) for item in body[name])
        for name in ("interpreters", "inputs")
    }
    return Execution(
        executable=File(**body["executable"]),
        interpreters=files["interpreters"],
        argv=("",) if "argv" in missing else tuple(map(_shown, body["argv"])),
        cwd=body["cwd"],
        uid=body["uid"],
        env={} if "env" in missing else {name: _shown(value) for name, value in body["env"].items()},
        inputs=files["inputs"],
        requester_uid=body["requester"]["uid"],
    )


def _shown(value: Any) -> Any:
    # Policies see the names of variables only, and arguments that are concealed are guarded.
    return "" if isinstance(value, dict) else value


def _guarded(attributes: Callable[[str], Any], missing: frozenset[str]) -> Callable[[str], Any]:
    unknown = {name: member for member in missing for name in _FROM.get(member, ())}

    def look(name: str) -> Any:
        if name in unknown or ("terms" in missing and name.startswith("artifact.")):
            raise _NotRecordedError(name)
        return attributes(name)

    return look
