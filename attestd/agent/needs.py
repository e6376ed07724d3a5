"""What only the client can see, its user's files and environment: asked back for."""

import asyncio
from collections.abc import Sequence
from typing import Final

from attestd.agent.asked import ANSWER_TIMEOUT_S, Asked, Candidate, look
from attestd.agent.connection import Connection
from attestd.agent.core import Core
from attestd.authorization.issue import DEFAULT_PATH
from attestd.codes import Denied
from attestd.gate.execution import plan_environment
from attestd.wire import Frame, Kind, WireError, close_all, encode_fields

__all__ = ["ask_for_missing", "child_path", "interpreter_needs"]

MAX_NEEDS: Final = 14  # of which each may bring a descriptor
MAX_ENV_BYTES: Final = 1 << 20  # no command could be given more (execve(2), "Limits on size of arguments")


async def ask_for_missing(
    connection: Connection, asked: Asked, candidates: Sequence[Candidate], core: Core
) -> None:
    """Only the client can see the user's files and environment: ask for all that some candidate needs, once."""
    needs: list[str] = []
    for candidate in candidates:
        if candidate.artifact is None:
            continue
        scope = candidate.artifact.statement.predicate.scope
        needs += [f"env:{name}" for name in scope.env.pass_]
        needs += [f"file:{item.name}" for item in scope.inputs]
    if asked.shebang is not None:
        needs += [f"file:{asked.shebang.interpreter}"]
    await _ask(connection, asked, needs, core)
    if asked.shebang is not None and asked.shebang.lookup is not None:
        # The child's PATH depends on the artifact, and may be passed from the client: hence a second question.
        paths = [child_path(asked, candidate) for candidate in candidates]
        await _ask(connection, asked, [f"lookup:{asked.shebang.lookup}:{path}" for path in paths], core)


async def _ask(connection: Connection, asked: Asked, needs: Sequence[str], core: Core) -> None:
    wanted = [need for need in dict.fromkeys(needs) if need not in asked.files and need not in asked.missing]
    for start in range(0, len(wanted), MAX_NEEDS):
        await _ask_some(connection, asked, wanted[start : start + MAX_NEEDS], core)


async def _ask_some(connection: Connection, asked: Asked, wanted: Sequence[str], core: Core) -> None:
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        await connection.send(Kind.NEED, encode_fields([need.encode() for need in wanted]))
        frame = await connection.receive(timeout_s=None)
    try:
        answers = frame.fields(len(wanted))
        if frame.kind != Kind.HERE or len(answers) != len(wanted):
            raise WireError(f"expected {len(wanted)} answers")
        for need, answer in zip(wanted, answers, strict=True):
            await _take(asked, need, answer, frame, core)
        if frame.descriptors:
            raise WireError("more descriptors than answers")
    finally:
        frame.close()


async def _take(asked: Asked, need: str, answer: bytes, frame: Frame, core: Core) -> None:
    kind, _, name = need.partition(":")
    if not answer.startswith(b"+"):
        asked.missing[need] = answer[1:200].decode("utf-8", "backslashreplace")
    elif kind == "env":
        try:
            value = answer[1:].decode("utf-8")
        except UnicodeDecodeError:
            asked.missing[need] = "its value is not UTF-8"
            return
        if "\0" in value:
            asked.missing[need] = "its value has a NUL byte"
            return
        asked.env[name] = value
        if sum(map(len, asked.env.values())) > MAX_ENV_BYTES:
            raise WireError(f"variables of more than {MAX_ENV_BYTES} bytes")
    else:
        if not frame.descriptors:
            raise WireError("an answer without its descriptor")
        descriptor = frame.descriptors.pop(0)
        try:
            asked.files[need] = (descriptor, await look(descriptor, asked.uid, core))
        except Denied as denied:
            close_all([descriptor])
            asked.missing[need] = denied.denial.sentence


def child_path(asked: Asked, candidate: Candidate) -> str:
    """The `PATH` that the command would have under a candidate."""
    if candidate.artifact is None:
        return DEFAULT_PATH
    return plan_environment(candidate.artifact.statement, asked.env).get("PATH", DEFAULT_PATH)


def interpreter_needs(asked: Asked, candidate: Candidate) -> list[str]:
    """The needs that a script's first line stands for, under a candidate."""
    if asked.shebang is None:
        return []
    needs = [f"file:{asked.shebang.interpreter}"]
    if asked.shebang.lookup is not None:
        needs.append(f"lookup:{asked.shebang.lookup}:{child_path(asked, candidate)}")
    return needs
