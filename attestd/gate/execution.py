"""What is about to run, and whether an artifact is about exactly that.

The agent decides by these checks and the runner repeats them on what it sees itself, so they stand here once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attestd.authorization.scope import (
    ScopeMismatch,
    match_argv,
    match_cwd,
    match_env,
    match_inputs,
    match_uid,
)
from attestd.authorization.secret import Secrets
from attestd.authorization.statement import Resource, Statement
from attestd.codes import Code, Denied
from attestd.errors import MalformedError
from attestd.gate.concealment import Concealment
from attestd.plain import counted

__all__ = ["Execution", "File", "execution_body", "plan_environment", "require_binding", "require_scope"]


@dataclass(frozen=True, slots=True)
class File:
    """A file by the path behind its descriptor and the SHA-256 (hex) of the bytes read from that descriptor."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Execution:
    """One execution, complete: nothing else reaches the child.

    What cannot be recorded cannot be decided: every string must have a UTF-8 form and no NUL byte, as log entries and
    execve ask, and argv must not be empty.

    Attributes:
        executable: What was asked for: a program, or a script.
        interpreters: For a script, in the order of its first line (`#!/usr/bin/env X`: env, then X); the last runs.
        argv: As given; argv[0] is the name the client used.
        cwd: Absolute path behind the descriptor.
        uid: The user it runs as.
        env: The child's whole environment.
        inputs: The pinned inputs.
        requester_uid: The user who asks, from the kernel.
        writable: Paths among the files above that others than root can write.

    Raises:
        MalformedError: A string that is none.
    """

    executable: File
    interpreters: tuple[File, ...]
    argv: tuple[str, ...]
    cwd: str
    uid: int
    env: Mapping[str, str]
    inputs: tuple[File, ...]
    requester_uid: int
    writable: frozenset[str] = field(default=frozenset())

    def __post_init__(self) -> None:
        files = (self.executable, *self.interpreters, *self.inputs)
        texts = (*self.argv, self.cwd, *self.env, *self.env.values(), *(item.path for item in files))
        try:
            data = "".join(texts).encode()
        except UnicodeEncodeError as error:
            raise MalformedError("execution: an argument, variable or path is not UTF-8") from error
        if not self.argv or b"\0" in data:
            raise MalformedError("execution: no arguments at all, or a NUL byte in one")


def plan_environment(statement: Statement, offered: Mapping[str, str]) -> dict[str, str]:
    """The child's environment: what the artifact sets, and what it passes of the client's."""
    scope = statement.predicate.scope.env
    passed = {name: offered[name] for name in scope.pass_ if name in offered}
    return {**passed, **scope.set}


def execution_body(execution: Execution, *, concealment: Concealment) -> dict[str, Any]:
    """The members of a decision's body that say what runs. Compared as values, so their shape is a contract."""
    return {
        "argv": concealment.argv(execution.argv),
        "cwd": execution.cwd,
        "env": concealment.env(execution.env),
        "executable": _file(execution.executable),
        "inputs": [_file(item) for item in execution.inputs],
        "interpreters": [_file(item) for item in execution.interpreters],
        "uid": execution.uid,
    }


def _file(item: File) -> dict[str, str]:
    return {"path": item.path, "sha256": item.sha256}


def require_binding(
    statement: Statement, execution: Execution, *, host: str, labels: Mapping[str, str]
) -> str:
    """Checks that the artifact is bound to this host, this requester and these bytes.

    Returns:
        What was compared, for the record.

    Raises:
        Denied: `identity_mismatch`.
    """
    bindings = statement.predicate.bindings
    if bindings.hosts and host not in bindings.hosts:
        raise _mismatch(
            f"the artifact is bound to {_some(bindings.hosts, 'host')}, this host is {host}",
            "issue an authorization for this host (attestd authorization issue --host)",
        )
    for label, value in bindings.host_labels.items():
        if labels.get(label) != value:
            raise _mismatch(
                f"the artifact is bound to hosts labelled {label}={value}, this host has {labels.get(label)!r}",
                "run it on a host with that label, or issue an authorization for this host",
            )
    if not bindings.hosts and not bindings.host_labels:
        raise _mismatch(
            "the artifact is bound to no host", "issue an authorization bound to hosts or host labels"
        )
    if execution.requester_uid not in {requester.uid for requester in bindings.requesters}:
        raise _mismatch(
            f"the artifact is bound to requesters with uid"
            f" {', '.join(str(item.uid) for item in bindings.requesters)}, the requester's uid is"
            f" {execution.requester_uid}",
            "issue an authorization for this requester (attestd authorization issue --requester)",
        )
    _check_bytes(statement.subject, execution)
    return f"host {host[:16]}, requester uid {execution.requester_uid}, {execution.executable.path}"


def _check_bytes(subjects: tuple[Resource, ...], execution: Execution) -> None:
    found = (execution.executable, *execution.interpreters)
    if len(subjects) != len(found):
        raise _mismatch(
            f"the artifact pins {counted(len(subjects), 'file')} ({', '.join(item.name for item in subjects)}), running"
            f" {execution.executable.path} takes {len(found)} ({', '.join(item.path for item in found)})",
            "issue a new authorization for what the file is now",
        )
    for subject, item in zip(subjects, found, strict=True):
        if subject.name != item.path:
            raise _mismatch(
                f"the artifact is for {subject.name}, the file that was opened is {item.path}",
                "run the authorized file, or issue an authorization for this one",
            )
        if subject.digest.sha256 != item.sha256:
            raise _mismatch(
                f"{item.path} has SHA-256 {item.sha256}, the artifact is for {subject.digest.sha256}",
                "the file was changed since it was authorized: review it and issue a new authorization",
            )


def require_scope(statement: Statement, execution: Execution, *, secrets: Secrets) -> str:
    """Checks that the execution lies within the artifact's scope.

    Args:
        statement: The artifact's.
        execution: What would run.
        secrets: What a denial must not quote.

    Returns:
        What was compared, for the record.

    Raises:
        Denied: `scope_violation`.
    """
    scope = statement.predicate.scope
    try:
        match_argv(scope.argv, execution.argv, secrets=secrets)
        match_cwd(scope.cwd, execution.cwd)
        match_uid(scope.uid, execution.uid)
        match_env(scope.env, execution.env, secrets=secrets)
        match_inputs(scope.inputs, _by_path(execution.inputs))
    except ScopeMismatch as error:
        raise Denied(
            Code.SCOPE_VIOLATION,
            str(error),
            "run it as it was authorized, or ask for an authorization that covers this",
        ) from error
    arguments, inputs = counted(len(execution.argv), "argument"), counted(len(execution.inputs), "input")
    return f"{arguments}, cwd {execution.cwd}, uid {execution.uid}, {inputs}"


def _by_path(inputs: tuple[File, ...]) -> dict[str, str]:
    found = {item.path: item.sha256 for item in inputs}
    if len(found) != len(inputs):
        # Mount namespaces make two files of one path: only one of them would be compared.
        raise ScopeMismatch(
            f"inputs: expected each path once, found {counted(len(inputs), 'file')} of {counted(len(found), 'path')}"
        )
    return found


def _some(values: tuple[str, ...] | list[str], what: str) -> str:
    return f"{what} {values[0]}" if len(values) == 1 else f"{len(values)} {what}s"


def _mismatch(sentence: str, hint: str) -> Denied:
    return Denied(Code.IDENTITY_MISMATCH, sentence, hint)
