"""Reads a decision's log entry back: what `attestd why` explains. The entry may come from any log: nothing is assumed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attestd.errors import UsageError
from attestd.gate.model import CHECKS, Check, Outcome
from attestd.lineage.entry import Entry, EntryType

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """One decision in parts.

    Attributes:
        allowed: What was decided.
        code, sentence, hint: Why it was denied, and what to do; empty if it was allowed.
        findings: What spoke against the platform, as far as it was recorded, of `finding_count`.
        checks: Every check in its order; one that the entry does not have was not evaluated.
        request: What was asked: argv, executable, requester and the like, as far as the entry has them.
    """

    allowed: bool
    code: str
    sentence: str
    hint: str
    findings: tuple[str, ...]
    finding_count: int
    checks: tuple[Check, ...]
    request: Mapping[str, Any]

    @property
    def failed(self) -> Check | None:
        """The check that decided a denial; None: none of the numbered ones."""
        return next((check for check in self.checks if check.outcome is Outcome.REJECTED), None)


def explain(entry: Entry) -> Explanation:
    """Explains a `decision.allow` or `decision.deny`.

    Raises:
        UsageError: The entry is no decision.
    """
    if entry.type not in (EntryType.DECISION_ALLOW, EntryType.DECISION_DENY):
        raise UsageError(
            f"entry {entry.seq} is a {entry.type.value}, not a decision: see attestd audit show {entry.seq}"
        )
    body = entry.body
    denial, found = _mapping(body.get("denial")), _mapping(body.get("findings"))
    first, count = found.get("first"), found.get("count")
    findings = tuple(map(_text, first)) if isinstance(first, list) else ()
    return Explanation(
        allowed=entry.type is EntryType.DECISION_ALLOW,
        code=_text(body.get("code")),
        sentence=_text(denial.get("sentence")),
        hint=_text(denial.get("hint")),
        findings=findings,
        finding_count=count if isinstance(count, int) else len(findings),
        checks=_checks(body.get("checks")),
        request={
            name: body[name]
            for name in (
                "argv",
                "cwd",
                "executable",
                "interpreters",
                "requester",
                "uid",
                "artifact",
                "platform",
            )
            if body.get(name) is not None
        },
    )


def _checks(value: object) -> tuple[Check, ...]:
    found: dict[str, Mapping[str, Any]] = {}
    for item in value if isinstance(value, list) else ():
        check = _mapping(item)
        found[_text(check.get("name"))] = check
    return tuple(_check(number, name, found.get(name, {})) for number, name in enumerate(CHECKS, 1))


def _check(number: int, name: str, value: Mapping[str, Any]) -> Check:
    outcome = value.get("outcome")
    known = outcome if outcome in list(Outcome) else Outcome.NOT_EVALUATED
    return Check(number, name, Outcome(known), _text(value.get("detail")))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
