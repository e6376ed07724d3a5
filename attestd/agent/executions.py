"""One request to execute: observe, ask for what is missing, decide, seal, hand over."""

import asyncio
import itertools
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from attestd.agent.connection import Connection
from attestd.agent.core import Core
from attestd.agent.denials import MAX_SINGLE, log_denial
from attestd.agent.runner_link import Execute
from attestd.agent.sealing import Receipt, sealing_denial
from attestd.audit.seal import Charge, Pending
from attestd.authorization.artifact import UntrustedArtifact, parse_artifact
from attestd.authorization.issue import DEFAULT_PATH
from attestd.codes import Code, Denial, Denied
from attestd.errors import AttestdError, MalformedError, StoreError, VerificationError
from attestd.gate.authority import verify_authorization
from attestd.gate.body import as_denied
from attestd.gate.concealment import derive_salt
from attestd.gate.decide import decide
from attestd.gate.execution import Execution, File, plan_environment
from attestd.gate.model import Decision, Request
from attestd.gate.script import FIRST_BYTES, Shebang, is_script, parse_shebang
from attestd.journal import event
from attestd.lineage.receipt import VerifiedReceipt, parse_receipt, verify_receipt
from attestd.observe import Observed, observe_directory, observe_file, read_start
from attestd.strict import canonical
from attestd.tlog.tree import leaf_hash
from attestd.wire import Frame, Kind, WireError, close_all, encode_fields

__all__ = ["serve_request"]

_FIXED_FIELDS: Final = 4
_STDIO: Final = 3
_CWD, _EXECUTABLE, _REQUEST_FDS = 3, 4, 5
MAX_FIELDS: Final = 65_536
MAX_ARGV_BYTES: Final = 1 << 20  # its strings and a NUL after each
MAX_CANDIDATES: Final = 8
MAX_NEEDS: Final = 14  # of which each may bring a descriptor
MAX_ENV_BYTES: Final = 1 << 20  # no command could be given more (execve(2), "Limits on size of arguments")
INLINE_BYTES: Final = 1 << 20  # hashed in about a millisecond
ANSWER_TIMEOUT_S: Final = 30.0  # for a client to answer, and to take an answer
_ONLY_COUNTED: Final = f"more than {MAX_SINGLE} denials in a minute: this one is counted, and has no receipt"
# What stands for a file that could not be observed: the digest of nothing that exists.
_UNSEEN: Final = File(path="/", sha256="0" * 64)


@dataclass
class _Asked:
    """A request as it came, with everything that was learnt about it. Owns its descriptors."""

    mode: str
    options: bytes
    given: bytes | None
    parent: bytes
    argv: tuple[str, ...]
    descriptors: list[int]
    uid: int
    executable: Observed | None = None
    cwd: str = "/"
    shebang: Shebang | None = None
    failure: Denial | None = None
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[int, Observed]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def wants_receipt(self) -> bool:
        return b"receipt" in self.options.split(b",")

    @property
    def wants_json(self) -> bool:
        return b"json" in self.options.split(b",")

    def close(self) -> None:
        close_all(self.descriptors)
        close_all([descriptor for descriptor, _ in self.files.values()])
        self.descriptors, self.files = [], {}


@dataclass(frozen=True)
class _Candidate:
    """An artifact that may allow the request; `artifact` is None where it does not parse."""

    data: bytes | None
    artifact: UntrustedArtifact | None


@dataclass(frozen=True)
class _Decided:
    candidate: _Candidate
    execution: Execution
    decision: Decision
    salt: bytes = field(repr=False)


async def serve_request(connection: Connection, frame: Frame, core: Core) -> None:
    """Serves one `exec` or `check`; answers, and on an allow hands the client over to the runner.

    Raises:
        WireError, OSError, EOFError, TimeoutError: The client broke the protocol or went away.
    """
    asked = _parse(frame, connection.peer.uid)
    try:
        await _observe(asked, core)
        decided = await _decide(connection, asked, core)
        if asked.mode == "check":
            await _answer(connection, asked, decided.decision.denial, decided.decision.body)
        else:
            await _seal_and_release(connection, asked, decided, core)
    finally:
        asked.close()


def _parse(frame: Frame, uid: int) -> _Asked:
    try:
        fields = frame.fields(MAX_FIELDS)
        mode = fields[0].decode("ascii")
        argv = tuple(field.decode("utf-8") for field in fields[_FIXED_FIELDS:])
    except (IndexError, UnicodeDecodeError) as error:
        raise WireError(f"request: {error}") from error
    if mode not in ("exec", "check") or not argv or any("\0" in argument for argument in argv):
        raise WireError("request: expected exec or check, and a command")
    size = sum(len(field) + 1 for field in fields[_FIXED_FIELDS:])
    if size > MAX_ARGV_BYTES:
        raise WireError(f"request: a command line of {size} bytes, the limit is {MAX_ARGV_BYTES}")
    if len(frame.descriptors) != _REQUEST_FDS:
        raise WireError(f"request: {len(frame.descriptors)} descriptors, expected {_REQUEST_FDS}")
    descriptors, frame.descriptors = frame.descriptors, []
    return _Asked(mode, fields[1], fields[2] or None, fields[3], argv, descriptors, uid)


async def _look(descriptor: int, uid: int, core: Core) -> Observed:
    """Observes a file; a large one in a thread, one at a time for each user, so that others need not wait for it."""
    try:
        small = os.fstat(descriptor).st_size <= INLINE_BYTES
    except OSError:
        small = True
    if small:
        return observe_file(descriptor)
    async with core.slow.setdefault(uid, asyncio.Lock()):
        return await asyncio.to_thread(observe_file, descriptor)


async def _observe(asked: _Asked, core: Core) -> None:
    """Looks at what was handed over. What cannot be observed is denied by the decision, and recorded."""
    try:
        asked.cwd = observe_directory(asked.descriptors[_CWD])
        asked.executable = await _look(asked.descriptors[_EXECUTABLE], asked.uid, core)
        asked.shebang = parse_shebang(read_start(asked.descriptors[_EXECUTABLE])[:FIRST_BYTES])
    except Denied as denied:
        asked.failure = denied.denial
    except MalformedError as error:
        asked.failure = Denial(
            Code.IDENTITY_MISMATCH, str(error), "name the interpreter itself, and authorize that"
        )


async def _decide(connection: Connection, asked: _Asked, core: Core) -> _Decided:
    candidates = _candidates(asked, core)
    await _ask_for_missing(connection, asked, candidates, core)
    parent = _parent(asked, core)
    first: _Decided | None = None
    for candidate in candidates:
        execution, failure = _execution(asked, candidate)
        request_id = secrets.token_hex(16)
        request = Request(
            id=request_id,
            salt=derive_salt(core.salt_key, request_id),
            artifact=candidate.data,
            execution=execution,
            observation=asked.failure or failure,
            parent=parent,
        )
        await _refresh_evidence(candidate, execution, core)
        decided = _Decided(candidate, execution, decide(request, core.context()), request.salt)
        if decided.decision.denial is None:
            return decided
        first = first or decided
    if first is None:
        raise StoreError("no candidate was decided")  # There is always one, if only "none".
    return first


async def _refresh_evidence(candidate: _Candidate, execution: Execution, core: Core) -> None:
    """Takes evidence that is as fresh as the artifact asks. One that nobody signed makes the TPM do nothing."""
    if candidate.artifact is None:
        return
    # Looked at first: a list that was replaced needs another quote.
    await core.look(candidate.artifact.statement)
    statement = candidate.artifact.statement
    if core.has_evidence(statement) and core.has_results(statement):
        return
    trust = core.trust()
    try:
        if not isinstance(trust, Denial):
            path = execution.executable.path
            verify_authorization(candidate.artifact, trust=trust, executable=path, uid=execution.uid)
            await core.refresh_evidence(statement)
            await core.refresh_results(statement)
    except Denied:
        return


def _candidates(asked: _Asked, core: Core) -> list[_Candidate]:
    if asked.given is not None:
        found = [asked.given]
    else:
        digest = asked.executable.sha256 if asked.executable else ""
        fitting = core.installed.candidates(uid=asked.uid, argv0=asked.argv[0], digest=digest)
        found = list(itertools.islice(fitting, MAX_CANDIDATES))
    candidates = []
    for data in found:
        try:
            candidates.append(_Candidate(data, parse_artifact(data)))
        except MalformedError:
            candidates.append(_Candidate(data, None))
    return candidates or [_Candidate(None, None)]


async def _ask_for_missing(
    connection: Connection, asked: _Asked, candidates: Sequence[_Candidate], core: Core
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
        paths = [_child_path(asked, candidate) for candidate in candidates]
        await _ask(connection, asked, [f"lookup:{asked.shebang.lookup}:{path}" for path in paths], core)


async def _ask(connection: Connection, asked: _Asked, needs: Sequence[str], core: Core) -> None:
    wanted = [need for need in dict.fromkeys(needs) if need not in asked.files and need not in asked.missing]
    for start in range(0, len(wanted), MAX_NEEDS):
        await _ask_some(connection, asked, wanted[start : start + MAX_NEEDS], core)


async def _ask_some(connection: Connection, asked: _Asked, wanted: Sequence[str], core: Core) -> None:
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


async def _take(asked: _Asked, need: str, answer: bytes, frame: Frame, core: Core) -> None:
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
            asked.files[need] = (descriptor, await _look(descriptor, asked.uid, core))
        except Denied as denied:
            close_all([descriptor])
            asked.missing[need] = denied.denial.sentence


def _child_path(asked: _Asked, candidate: _Candidate) -> str:
    if candidate.artifact is None:
        return DEFAULT_PATH
    return plan_environment(candidate.artifact.statement, asked.env).get("PATH", DEFAULT_PATH)


def _interpreter_needs(asked: _Asked, candidate: _Candidate) -> list[str]:
    if asked.shebang is None:
        return []
    needs = [f"file:{asked.shebang.interpreter}"]
    if asked.shebang.lookup is not None:
        needs.append(f"lookup:{asked.shebang.lookup}:{_child_path(asked, candidate)}")
    return needs


def _execution(asked: _Asked, candidate: _Candidate) -> tuple[Execution, Denial | None]:
    """What would run under a candidate, and why that cannot be told, if so."""
    failure: Denial | None = None
    needs = _interpreter_needs(asked, candidate)
    interpreters: list[Observed] = []
    for need in needs:
        if need not in asked.files:
            reason = asked.missing.get(need, "not found")
            failure = Denial(
                Code.IDENTITY_MISMATCH,
                f"the script's interpreter {need.partition(':')[2]}: {reason}",
                "install the interpreter where the script's first line says",
            )
            continue
        descriptor, observed = asked.files[need]
        if is_script(read_start(descriptor)):
            failure = Denial(
                Code.IDENTITY_MISMATCH,
                f"the interpreter {observed.path} is itself a script",
                "name a program as the script's interpreter",
            )
        interpreters.append(observed)
    statement = candidate.artifact.statement if candidate.artifact else None
    inputs: list[tuple[str, Observed]] = []
    for item in statement.predicate.scope.inputs if statement else ():
        found = asked.files.get(f"file:{item.name}")
        if found is not None:
            inputs.append((item.name, found[1]))
    seen = [item for item in (asked.executable, *interpreters, *(found for _, found in inputs)) if item]
    execution = Execution(
        executable=_file(asked.executable),
        interpreters=tuple(_file(item) for item in interpreters),
        argv=asked.argv,
        cwd=asked.cwd,
        uid=statement.predicate.scope.uid if statement else asked.uid,
        env=plan_environment(statement, asked.env) if statement else {},
        inputs=tuple(_file(item) for _, item in inputs),
        requester_uid=asked.uid,
        writable=frozenset(item.path for item in seen if item.writable),
    )
    return execution, failure


def _file(observed: Observed | None) -> File:
    return _UNSEEN if observed is None else File(observed.path, observed.sha256)


def _parent(asked: _Asked, core: Core) -> VerifiedReceipt | Denial | None:
    if not asked.parent:
        return None
    hint = "give the receipt that attestd exec --receipt wrote for the parent execution"
    trust = core.trust()
    if isinstance(trust, Denial):
        return trust
    try:
        return verify_receipt(parse_receipt(asked.parent), trust=trust)
    except (MalformedError, VerificationError) as error:
        return Denial(Code.LINEAGE_BROKEN, f"the parent's receipt does not verify: {error}", hint)


async def _seal_and_release(connection: Connection, asked: _Asked, decided: _Decided, core: Core) -> None:
    decision = decided.decision
    try:
        receipt = await _seal(decided, core, asked.uid)
    except AttestdError as error:
        denial = sealing_denial(error)
        core.log.warning(event("decision.unsealed", code=denial.code, uid=asked.uid, error=error))
        core.denials.aggregate(asked.uid, denial.code.value)
        await _answer(connection, asked, denial, as_denied(decision.body, denial))
        return
    if receipt is None or decision.denial is not None:
        await _answer(connection, asked, _as_told(decision.denial, receipt), decision.body, receipt)
        return
    if receipt.sealed.denial is not None:  # The TPM refused, or the last use went to another request.
        denial = receipt.sealed.denial
        log_denial(core.log, denial, uid=asked.uid, seq=receipt.sealed.seq)
        await _answer(connection, asked, denial, as_denied(decision.body, denial), receipt)
        return
    cosigned = await core.cosign(receipt, decision.body["witness_quorum"])
    if isinstance(cosigned, Denial):
        seq = receipt.sealed.seq
        core.log.warning(event("decision.uncosigned", code=cosigned.code, uid=asked.uid, seq=seq))
        try:
            await _answer(connection, asked, cosigned, as_denied(decision.body, cosigned), receipt)
        finally:  # Whether or not the client still listens: nothing ran.
            await core.void(seq, f"{cosigned.code}: {cosigned.sentence}")
        return
    await _release(connection, asked, decided, cosigned, core)


def _as_told(denial: Denial | None, receipt: Receipt | None) -> Denial | None:
    """The denial; one that got no leaf of its own says so."""
    if denial is None or receipt is not None:
        return denial
    return replace(denial, hint=f"{denial.hint} ({_ONLY_COUNTED})")


async def _seal(decided: _Decided, core: Core, uid: int) -> Receipt | None:
    """Seals the decision; None for a denial above the rate that gets leaves of its own."""
    decision = decided.decision
    if decision.denial is not None:
        if not core.denials.admit(uid):
            core.denials.aggregate(uid, decision.denial.code.value)
            return None
        receipt = await core.seal(Pending(decision.entry_type, decision.body))
        log_denial(core.log, decision.denial, uid=uid, seq=receipt.sealed.seq)
        return receipt
    if decision.artifact is None or decision.platform is None:
        raise StoreError("an allowed decision without artifact or platform policy")
    *above, own = ((link.id, link.statement.predicate.validity.max_uses) for link in decision.artifact.links)
    pending = Pending(
        decision.entry_type,
        decision.body,
        charge=Charge(*own, tuple(above)),
        to_denial=lambda denial: as_denied(decision.body, denial),
    )
    return await core.seal(pending, platform=decision.platform, witnesses=decision.body["witness_quorum"])


async def _release(
    connection: Connection, asked: _Asked, decided: _Decided, receipt: Receipt, core: Core
) -> None:
    """Tells the client, then hands it to the runner; a release that comes to nothing is made void."""
    data = receipt.to_bytes()
    seq = receipt.sealed.seq
    try:
        await _answer(connection, asked, None, decided.decision.body, receipt)
    except (OSError, WireError) as error:
        await core.void(seq, f"the client is gone: {error}")
        raise
    interpreters = [asked.files[need][0] for need in _interpreter_needs(asked, decided.candidate)]
    statement = decided.candidate.artifact.statement if decided.candidate.artifact else None
    platform = decided.decision.platform
    pinned = statement.predicate.scope.inputs if statement else ()
    inputs = [asked.files[f"file:{item.name}"][0] for item in pinned]
    execute = Execute(
        receipt=data,
        artifact=decided.candidate.data or b"",
        options=b",".join(option for option in asked.options.split(b",") if option.startswith(b"tty")),
        salt=decided.salt,
        interpreters=len(interpreters),
        inputs=len(inputs),
        env=sorted(decided.execution.env.items()),
        argv=decided.execution.argv,
        tokens=core.tokens(statement, platform) if statement and platform else (),
        descriptors=[
            connection.socket.fileno(),
            *asked.descriptors[:_STDIO],
            asked.descriptors[_CWD],
            asked.descriptors[_EXECUTABLE],
            *interpreters,
            *inputs,
        ],
    )
    try:
        refusal = await core.runner.execute(execute)
    except StoreError as error:
        refusal = Denial(Code.AGENT_UNAVAILABLE, str(error), "start the runner; see attestd doctor")
    if refusal is None:
        core.releases += 1
        return
    core.log.warning(event("runner.refused", code=refusal.code, uid=asked.uid, seq=seq))
    try:
        await _tell_refusal(connection, refusal)
    finally:  # Whether or not the client still listens: nothing ran.
        await core.void(seq, f"the runner refused: {refusal.code}: {refusal.sentence}")


async def _tell_refusal(connection: Connection, refusal: Denial) -> None:
    words = [str(refusal.exit_status), refusal.code.value, refusal.sentence, refusal.hint]
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        await connection.send(Kind.REFUSED, encode_fields([word.encode() for word in words]))


async def _answer(
    connection: Connection,
    asked: _Asked,
    denial: Denial | None,
    body: Mapping[str, Any],
    receipt: Receipt | None = None,
) -> None:
    """The decision frame. Its id is the leaf hash; a decision that got no leaf of its own has neither id nor number."""
    leaf = leaf_hash(receipt.sealed.entry).hex() if receipt else ""
    seq = str(receipt.sealed.seq) if receipt else ""
    shown = b""
    if asked.wants_json or asked.mode == "check":
        shown = canonical(
            {
                "decision": "allow" if denial is None else "deny",
                "code": denial.code.value if denial else None,
                "exit": denial.exit_status if denial else 0,
                "sentence": denial.sentence if denial else None,
                "hint": denial.hint if denial else None,
                "id": leaf or None,
                "seq": receipt.sealed.seq if receipt else None,
                "body": dict(body),
            }
        )
    words = (
        [b"allow", b"0", b"", b"", b""]
        if denial is None
        else [
            b"deny",
            str(denial.exit_status).encode(),
            denial.code.encode(),
            denial.sentence.encode(),
            denial.hint.encode(),
        ]
    )
    sent = receipt.to_bytes() if receipt is not None and asked.wants_receipt else b""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        await connection.send(
            Kind.DECISION, encode_fields([*words, leaf.encode(), seq.encode(), shown, sent])
        )
