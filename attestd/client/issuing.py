"""A command as its requester sees it, written down as a statement: what `attestd authorization issue` signs.

Files are opened as `attestd exec` opens them, and looked at as agent and runner will, so that what is pinned is what they
find.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from attestd.authorization.artifact import Link
from attestd.authorization.delegation import draft_delegation
from attestd.authorization.issue import DEFAULT_PATH, StatementDraft, draft_statement, resource
from attestd.authorization.pattern import ArgPattern, describe, matches, quote
from attestd.authorization.statement import Resource, Statement
from attestd.client import Ended
from attestd.client.files import find_command
from attestd.codes import Denied
from attestd.errors import MalformedError, UsageError
from attestd.gate.script import FIRST_BYTES, is_script, parse_shebang
from attestd.governance.policy_schema import DEFAULT_POLICY_NAME
from attestd.governance.trust import Trust
from attestd.observe import Observed, observe_directory, observe_file, read_start

__all__ = ["CURRENT", "Asked", "Delegated", "draft_for_command", "draft_under", "policy_pin"]

CURRENT: Final = "current"
_EXECVP_PATH: Final = "/bin:/usr/bin"
MAX_NAMED: Final = 8  # of a fleet's hosts


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a person asks to have authorized; None where the narrowest value is meant.

    Attributes:
        argv: The command, as it will be typed.
        patterns: For arguments that may vary: the pattern by index in argv, 1 being the first argument.
        hosts: Host ids; none and no labels: the one host that the trust directory knows.
        host_labels: Labels that a host must carry.
        platform: The platform policy; None: the only one.
        policy: The policy file from which a permit must come: its name, a team's as `team/name`.
        policy_digest: The SHA-256 that its text must have, in hex; `CURRENT`: that of now; None: any.
        uid: Who the command runs as; None: the requester.
        requesters: Who may ask, at least one.
        cwd: Where it runs; None: the current directory.
        env_pass, env_set: What of the environment reaches it.
        inputs: Files whose bytes are pinned.
        ttl_s: How long it is valid, seconds.
        max_uses: How often; None: any number of times.
        max_evidence_age_s: How old evidence may be.
        verifiers, witnesses: How many of each must vouch for the host, unless governance asks more.
        on_trust_loss: "kill" or "report".
        delegate_to: Key ids that may issue narrower artifacts under this one.
        max_depth: How many times in a row.
    """

    argv: Sequence[str]
    requesters: Sequence[int]
    requested_by: str
    ttl_s: int
    max_uses: int | None = 1
    patterns: Mapping[int, ArgPattern]
    hosts: Sequence[str] = ()
    host_labels: Mapping[str, str]
    platform: str | None = None
    policy: str = DEFAULT_POLICY_NAME
    policy_digest: str | None = None
    uid: int | None = None
    cwd: Path | None = None
    env_pass: Sequence[str] = ()
    env_set: Mapping[str, str]
    inputs: Sequence[Path] = ()
    reason: str = ""
    on_behalf_of: str | None = None
    max_evidence_age_s: int = 60
    verifiers: int = 0
    witnesses: int = 0
    on_trust_loss: str = "kill"
    delegate_to: Sequence[str] = ()
    max_depth: int = 0


@dataclass(frozen=True, kw_only=True)
class Delegated:
    """What a delegate hands on of an artifact; what is not given stays as it is there. As in `Asked`."""

    argv: Sequence[str]
    requested_by: str
    patterns: Mapping[int, ArgPattern]
    ttl_s: int | None
    max_uses: int | None
    requesters: Sequence[int]
    hosts: Sequence[str]
    host_labels: Mapping[str, str]
    env_pass: Sequence[str]
    env_set: Mapping[str, str]
    inputs: Sequence[Path]
    reason: str
    on_behalf_of: str | None
    max_evidence_age_s: int | None
    on_trust_loss: str | None
    policy: str | None
    policy_digest: str | None
    delegate_to: Sequence[str]
    max_depth: int


def draft_under(parent: Link, asked: Delegated, *, now: datetime) -> Statement:
    """Writes the statement that delegates a part of what an artifact authorizes.

    Whether it is narrower is not looked at here.

    Args:
        parent: The artifact's last link.
        asked: What is handed on.
        now: The first moment of validity.

    Raises:
        UsageError: The artifact has expired, a file is not there, or a value that no artifact can hold.
    """
    try:
        return draft_delegation(
            parent,
            argv=_patterns(asked.argv, asked.patterns),
            now=now,
            requested_by=asked.requested_by,
            ttl_s=asked.ttl_s,
            max_uses=asked.max_uses,
            hosts=asked.hosts,
            host_labels=asked.host_labels,
            requesters=asked.requesters,
            env_pass=asked.env_pass,
            env_set=asked.env_set,
            inputs=[_pin(path) for path in asked.inputs],
            max_evidence_age_s=asked.max_evidence_age_s,
            on_trust_loss=asked.on_trust_loss,
            policy=asked.policy,
            policy_digest=asked.policy_digest,
            delegate_to=asked.delegate_to,
            max_depth=asked.max_depth,
            reason=asked.reason,
            on_behalf_of=asked.on_behalf_of,
        )
    except MalformedError as error:  # As below.
        raise UsageError(str(error)) from error


def draft_for_command(asked: Asked, *, trust: Trust, environ: Mapping[str, str], now: datetime) -> Statement:
    """Writes the statement that authorizes one command as it is now.

    Args:
        asked: What is asked.
        trust: Governance of the host.
        environ: The requester's environment: PATH, and what is passed of it.
        now: The first moment of validity.

    Raises:
        UsageError: The command or a file is not there, not readable, not what it must be; a choice is missing; a value
            that no artifact can hold, or a script whose first line is not supported.
    """
    try:
        return _draft(asked, trust, environ, now)
    except MalformedError as error:  # It is the asker's own word that is at fault, not input from elsewhere.
        raise UsageError(str(error)) from error


def _draft(asked: Asked, trust: Trust, environ: Mapping[str, str], now: datetime) -> Statement:
    child_path = asked.env_set.get(
        "PATH", environ.get("PATH", "") if "PATH" in asked.env_pass else DEFAULT_PATH
    )
    here = () if asked.hosts or asked.host_labels else (_only(trust.hosts, "host", "--host"),)
    first, *further = (*asked.hosts, *here) or (None,)
    requester, *requesters = asked.requesters
    return draft_statement(
        StatementDraft(
            subjects=_subjects(asked.argv[0], environ.get("PATH", _EXECVP_PATH), child_path),
            argv=_patterns(asked.argv, asked.patterns),
            cwd=_directory(asked.cwd or Path()),
            uid=requester if asked.uid is None else asked.uid,
            requester_uid=requester,
            further_requesters=requesters,
            host_id=first,
            further_hosts=further,
            host_labels=asked.host_labels,
            platform=asked.platform or _only(trust.platforms, "platform policy", "--platform"),
            policy=asked.policy,
            policy_digest=policy_pin(asked.policy, asked.policy_digest, trust=trust),
            policy_version=trust.version,
            now=now,
            ttl_s=asked.ttl_s,
            requested_by=asked.requested_by,
            reason=asked.reason,
            on_behalf_of=asked.on_behalf_of,
            max_uses=asked.max_uses,
            env_pass=asked.env_pass,
            env_set=asked.env_set,
            inputs=[_pin(path) for path in asked.inputs],
            max_evidence_age_s=asked.max_evidence_age_s,
            verifiers=asked.verifiers,
            witnesses=asked.witnesses,
            on_trust_loss=asked.on_trust_loss,
            delegate_to=asked.delegate_to,
            max_depth=asked.max_depth,
        )
    )


def policy_pin(name: str, digest: str | None, *, trust: Trust) -> str | None:
    """The digest that an artifact pins of a policy which is in force.

    Args:
        name: The policy.
        digest: As in `Asked`.
        trust: Governance.

    Raises:
        UsageError: No policy of that name is in force; the message names those that are.
    """
    current = trust.policies.digest(name)
    if current is None:
        reason = trust.policies.unusable_reason(name)
        raise UsageError(
            f"policy {name!r} is not in force{f' ({reason})' if reason else ''}: choose with --policy"
            f" ({', '.join(sorted(trust.policies.files)) or 'there is none'})"
        )
    return current if digest == CURRENT else digest


def _patterns(argv: Sequence[str], given: Mapping[int, ArgPattern]) -> list[ArgPattern]:
    patterns: list[ArgPattern] = list(argv)
    for index, pattern in given.items():
        if not 1 <= index < len(patterns):
            raise UsageError(f"argument {index}: the command has arguments 1 to {len(patterns) - 1}")
        if not matches(pattern, argv[index]):
            raise UsageError(
                f"argument {index} is {quote(argv[index])}, its pattern allows {describe(pattern)}: give an example"
                " that it allows"
            )
        patterns[index] = pattern
    return patterns


def _only(known: Mapping[str, object], what: str, option: str) -> str:
    if len(known) != 1:
        some = ", ".join(sorted(known)[:MAX_NAMED]) + (", ..." if len(known) > MAX_NAMED else "")
        raise UsageError(f"governance names {len(known)} of kind {what}: choose with {option} ({some})")
    return next(iter(known))


def _subjects(name: str, path: str, child_path: str) -> list[Resource]:
    """The executable and, for a script, what its first line asks for."""
    with _found(name, path) as descriptor:
        found = [_observed(descriptor)]
        shebang = parse_shebang(read_start(descriptor)[:FIRST_BYTES])
    interpreters = [] if shebang is None else [(shebang.interpreter, ""), (shebang.lookup, child_path)]
    for interpreter, where in interpreters:
        if interpreter is None:
            continue
        with _found(interpreter, where) as descriptor:
            if is_script(read_start(descriptor)):
                raise UsageError(
                    f"{name}: its interpreter {interpreter} is itself a script: name a program there"
                )
            found.append(_observed(descriptor))
    return [resource(item.path, item.sha256) for item in found]


@contextmanager
def _found(name: str, path: str) -> Iterator[int]:
    try:
        descriptor = find_command(os.fsencode(name), os.fsencode(path))
    except Ended as ended:
        raise UsageError(str(ended)) from ended
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _observed(descriptor: int) -> Observed:
    try:
        return observe_file(descriptor)
    except Denied as denied:
        raise UsageError(denied.denial.sentence) from denied


def _pin(path: Path) -> Resource:
    descriptor = _open(path, os.O_NONBLOCK)
    try:
        found = _observed(descriptor)
    finally:
        os.close(descriptor)
    return resource(found.path, found.sha256)


def _directory(path: Path) -> str:
    descriptor = _open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        return observe_directory(descriptor)
    except Denied as denied:
        raise UsageError(denied.denial.sentence) from denied
    finally:
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
