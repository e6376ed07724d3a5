"""An agent's request to execute: taken apart, observed, verified. What comes out may run, once."""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from attestd.codes import Code, Denied
from attestd.errors import MalformedError, VerificationError
from attestd.gate.concealment import SALT_BYTES
from attestd.gate.execution import Execution, File
from attestd.gate.release import Here, VerifiedRelease, verify_release
from attestd.gate.script import Shebang, is_script, parse_shebang
from attestd.gate.vouching import MAX_COUNTED
from attestd.lineage.receipt import parse_receipt
from attestd.observe import observe_directory, read_start
from attestd.runner.consent import Consent
from attestd.runner.hold import Held, hold_file, is_firm_path, require_here
from attestd.runner.launch import FIRST_KEPT, Command, find_user
from attestd.wire import Credentials, Frame, WireError

__all__ = ["Release", "peer_of", "verify_request"]

MAX_FIELDS: Final = 65_536
_FIXED_FIELDS: Final = 8
_UCRED: Final = struct.Struct("=iII")
_SEE_AGENT: Final = "see the agent's journal"


@dataclass(frozen=True)
class Release:
    """A verified execution. The descriptors in `command` are closed when its context is left.

    Attributes:
        requester: The process that connected to the agent: only it may give the go.
        consent: What its go must say.
    """

    verified: VerifiedRelease
    command: Command
    requester: Credentials
    consent: Consent


@dataclass(frozen=True)
class _Request:
    receipt: bytes
    artifact: bytes
    salt: bytes = field(repr=False)
    tokens: tuple[str, ...]
    env: dict[str, str]
    argv: tuple[str, ...]
    client: int
    stdio: tuple[int, int, int]
    cwd: int
    executable: int
    interpreters: list[int]
    inputs: list[int]


@dataclass(frozen=True)
class _Observed:
    """What would run; its files are held open until the stack that they were opened on is left."""

    execution: Execution
    shebang: Shebang | None
    executable: Held
    interpreters: list[Held]
    inputs: list[Held]


@contextmanager
def verify_request(frame: Frame, here: Here, *, descriptor_limit: tuple[int, int]) -> Iterator[Release]:
    """Verifies a request to execute.

    1. It has the form of one.
    2. Who asks: the kernel's credentials of the client's connection.
    3. What would run: every descriptor's path and bytes; what others than root can write is copied to sealed memory
       and run from there. Whether it is a script its own verified bytes say. Each path, that of the working directory
       too, is where this host has that very file.
    4. `gate.release.verify_release` holds for exactly that.
    5. The user exists, and the runner can become that user.
    6. Pinned inputs cannot change after this: they are root's, under a path that only root can change, or the
       command gets them as descriptors.

    Args:
        frame: The request; its descriptors stay the caller's.
        here: What the runner knows of itself.
        descriptor_limit: RLIMIT_NOFILE for the command.

    Raises:
        Denied: One of these does not hold.
        WireError: 1.
        OSError: No memory, no descriptors.
    """
    request = _parse(frame)  # 1
    requester = peer_of(request.client)  # 2
    consent = Consent.needed(request.argv, [*request.stdio, request.cwd, request.executable])
    with ExitStack() as stack:
        observed = _observe(stack, request, requester)  # 3
        verified = verify_release(  # 4
            receipt=request.receipt,
            artifact=request.artifact,
            execution=observed.execution,
            here=here,
            salt=request.salt,
            tokens=request.tokens,
        )
        user = find_user(observed.execution.uid)  # 5
        argv, keep = _arguments(observed)  # 6
        command = Command(
            program=(observed.interpreters or [observed.executable])[-1].descriptor,
            argv=argv,
            env=request.env,
            cwd=request.cwd,
            stdio=request.stdio,
            keep=keep,
            user=user,
            terminal=None,
            descriptor_limit=descriptor_limit,
        )
        yield Release(verified, command, requester, consent)


def peer_of(descriptor: int) -> Credentials:
    """Who connected a Unix socket, as the kernel recorded it then.

    Raises:
        Denied: `identity_mismatch`: not a connected Unix stream socket.
    """
    try:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
                raise _mismatch("the client's descriptor is no Unix stream socket")
            return Credentials(
                *_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
            )
    except OSError as error:
        raise _mismatch(f"the client's descriptor is no connected socket: {error.strerror}") from error


def _parse(frame: Frame) -> _Request:
    fields, descriptors = frame.fields(MAX_FIELDS), frame.descriptors
    if len(fields) < _FIXED_FIELDS:
        raise WireError(f"execute: {len(fields)} fields, expected at least {_FIXED_FIELDS}")
    receipt, artifact, _options, salt = fields[:4]
    if len(salt) != SALT_BYTES:
        raise WireError(f"execute: a salt of {len(salt)} bytes, expected {SALT_BYTES}")
    interpreters, inputs, variables = (_count(text) for text in fields[4:7])
    tokens = tuple(_text(fields[7]).split("\n")) if fields[7] else ()
    if (
        len(tokens) > MAX_COUNTED
    ):  # no quorum is larger; each that does not verify costs a signature's verification
        raise WireError(f"execute: {len(tokens)} attestation results, the limit is {MAX_COUNTED}")
    texts = [_text(text) for text in fields[_FIXED_FIELDS:]]
    if len(texts) <= variables:
        raise WireError("execute: no argv")
    if len(descriptors) != 6 + interpreters + inputs:
        raise WireError(f"execute: {len(descriptors)} descriptors, expected {6 + interpreters + inputs}")
    env: dict[str, str] = {}
    for text in texts[:variables]:
        name, separator, value = text.partition("=")
        if not name or not separator or name in env:  # not quoted: without a separator the name is all of it
            raise WireError(f"execute: environment variable {len(env)} is malformed or there twice")
        env[name] = value
    client, stdin, stdout, stderr, cwd, executable = descriptors[:6]
    return _Request(
        receipt=receipt,
        artifact=artifact,
        salt=salt,
        tokens=tokens,
        env=env,
        argv=tuple(texts[variables:]),
        client=client,
        stdio=(stdin, stdout, stderr),
        cwd=cwd,
        executable=executable,
        interpreters=descriptors[6 : 6 + interpreters],
        inputs=descriptors[6 + interpreters :],
    )


def _count(field: bytes) -> int:
    if not field.isdigit() or len(field) > 5:
        raise WireError("execute: expected a count of at most 5 digits")
    return int(field)


def _text(field: bytes) -> str:
    try:
        text = field.decode("utf-8")
    except UnicodeDecodeError:
        raise WireError("execute: a field is not UTF-8") from None
    if "\0" in text:
        raise WireError("execute: a field holds a NUL")
    return text


def _observe(stack: ExitStack, request: _Request, requester: Credentials) -> _Observed:
    executable = _hold(stack, request.executable)
    interpreters = [_hold(stack, descriptor) for descriptor in request.interpreters]
    shebang = _read_shebang(executable, interpreters)
    inputs = [_hold(stack, descriptor) for descriptor in request.inputs]
    cwd = observe_directory(request.cwd)
    require_here(cwd, request.cwd)
    execution = Execution(
        executable=_file(executable),
        interpreters=tuple(_file(item) for item in interpreters),
        argv=request.argv,
        cwd=cwd,
        uid=_claimed_uid(request.receipt),
        env=request.env,
        inputs=tuple(_file(item) for item in inputs),
        requester_uid=requester.uid,
        writable=frozenset(
            item.observed.path for item in (executable, *interpreters, *inputs) if item.observed.writable
        ),
    )
    return _Observed(execution, shebang, executable, interpreters, inputs)


def _hold(stack: ExitStack, descriptor: int) -> Held:
    held = hold_file(descriptor)
    stack.callback(os.close, held.descriptor)
    return held


def _file(held: Held) -> File:
    return File(held.observed.path, held.observed.sha256)


def _read_shebang(executable: Held, interpreters: list[Held]) -> Shebang | None:
    try:
        shebang = parse_shebang(read_start(executable.descriptor))
    except MalformedError as error:
        raise _mismatch(f"{executable.observed.path}: {error}") from error
    needed = 0 if shebang is None else shebang.interpreters
    if needed != len(interpreters):
        raise _mismatch(
            f"{executable.observed.path} takes {needed} interpreters, the agent handed over {len(interpreters)}"
        )
    for interpreter in interpreters:
        if is_script(read_start(interpreter.descriptor)):
            raise _mismatch(f"the interpreter {interpreter.observed.path} is itself a script")
    return shebang


def _claimed_uid(receipt: bytes) -> int:
    """The user that the receipt's entry names: `verify_release` compares it with the artifact's."""
    try:
        uid = parse_receipt(receipt).entry.body.get("uid")
    except (MalformedError, VerificationError) as error:
        raise Denied(Code.EVIDENCE_INVALID, f"the receipt does not parse: {error}", _SEE_AGENT) from error
    if type(uid) is not int:
        raise Denied(Code.EVIDENCE_INVALID, "the receipt names no user", _SEE_AGENT)
    return uid


def _arguments(observed: _Observed) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """What the program gets as argv, and the descriptors that argv names."""
    execution, shebang = observed.execution, observed.shebang
    keep: list[int] = [] if shebang is None else [observed.executable.descriptor]
    by_name: dict[str, str] = {}
    for item in observed.inputs:
        path = item.observed.path
        if not item.observed.writable and is_firm_path(path):
            continue
        if not any(_names(argument, path, execution.cwd) for argument in execution.argv[1:]):
            raise Denied(
                Code.SCOPE_VIOLATION,
                f"input {path} can be changed by others than root after the check, and the command line does not"
                " name it, so the command cannot be given a copy",
                "name it on the command line, or install it owned by root, in directories of root",
            )
        keep.append(item.descriptor)
        by_name[path] = _kept(len(keep) - 1)
    rest = tuple(
        next((by_name[path] for path in by_name if _names(argument, path, execution.cwd)), argument)
        for argument in execution.argv[1:]
    )
    first = (execution.argv[0],) if shebang is None else (*shebang.argv, _kept(0))
    return (*first, *rest), tuple(keep)


def _kept(index: int) -> str:
    return f"/proc/self/fd/{FIRST_KEPT + index}"


def _names(argument: str, path: str, cwd: str) -> bool:
    return argument == path or os.path.normpath(os.path.join(cwd, argument)) == path


def _mismatch(sentence: str) -> Denied:
    return Denied(
        Code.IDENTITY_MISMATCH,
        sentence,
        "see the agent's journal: what it hands over must be what it decided",
    )
