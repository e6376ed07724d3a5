"""One request to execute: observe, ask for what is missing, decide, seal, hand over."""

import itertools
import secrets
from typing import Final

from attestd.agent.asked import Asked, Candidate, observe, parse_request
from attestd.agent.connection import Connection
from attestd.agent.core import Core
from attestd.agent.needs import ask_for_missing, interpreter_needs
from attestd.agent.releasing import Decided, answer, seal_and_release
from attestd.authorization.artifact import parse_artifact
from attestd.codes import Code, Denial, Denied
from attestd.errors import GovernanceBehindError, MalformedError, StoreError, VerificationError
from attestd.gate.authority import verify_authorization
from attestd.gate.concealment import derive_salt
from attestd.gate.decide import decide
from attestd.gate.execution import Execution, File, plan_environment
from attestd.gate.model import Request
from attestd.gate.script import is_script
from attestd.lineage.receipt import VerifiedReceipt, parse_receipt, verify_receipt
from attestd.observe import Observed, read_start
from attestd.tlog.checkpoint import parse_origin
from attestd.wire import Frame

__all__ = ["serve_request"]

MAX_CANDIDATES: Final = 8
# What stands for a file that could not be observed: the digest of nothing that exists.
_UNSEEN: Final = File(path="/", sha256="0" * 64)


async def serve_request(connection: Connection, frame: Frame, core: Core) -> None:
    """Serves one `exec` or `check`; answers, and on an allow hands the client over to the runner.

    Raises:
        WireError, OSError, EOFError, TimeoutError: The client broke the protocol or went away.
    """
    asked = parse_request(frame, connection.peer.uid)
    try:
        await observe(asked, core)
        decided = await _decide(connection, asked, core)
        if asked.mode == "check":
            await answer(connection, asked, decided.decision.denial, decided.decision.body)
        else:
            await seal_and_release(connection, asked, decided, core)
    finally:
        asked.close()


async def _decide(connection: Connection, asked: Asked, core: Core) -> Decided:
    candidates = _candidates(asked, core)
    await ask_for_missing(connection, asked, candidates, core)
    parent = await _parent(asked, core)
    first: Decided | None = None
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
        decided = Decided(candidate, execution, decide(request, core.context()), request.salt)
        if decided.decision.denial is None:
            return decided
        first = first or decided
    if first is None:
        raise StoreError("no candidate was decided")  # There is always one, if only "none".
    return first


async def _refresh_evidence(candidate: Candidate, execution: Execution, core: Core) -> None:
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


def _candidates(asked: Asked, core: Core) -> list[Candidate]:
    if asked.given is not None:
        found = [asked.given]
    else:
        digest = asked.executable.sha256 if asked.executable else ""
        fitting = core.installed.candidates(uid=asked.uid, argv0=asked.argv[0], digest=digest)
        found = list(itertools.islice(fitting, MAX_CANDIDATES))
    candidates = []
    for data in found:
        try:
            candidates.append(Candidate(data, parse_artifact(data)))
        except MalformedError:
            candidates.append(Candidate(data, None))
    return candidates or [Candidate(None, None)]


def _execution(asked: Asked, candidate: Candidate) -> tuple[Execution, Denial | None]:
    """What would run under a candidate, and why that cannot be told, if so."""
    failure: Denial | None = None
    needs = interpreter_needs(asked, candidate)
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


async def _parent(asked: Asked, core: Core) -> VerifiedReceipt | Denial | None:
    if not asked.parent:
        return None
    hint = "give the receipt that attestd exec --receipt wrote for the parent execution"
    trust = core.trust()
    if isinstance(trust, Denial):
        return trust
    missing: Denial | None = None
    try:
        receipt = parse_receipt(asked.parent)
        host = parse_origin(receipt.checkpoint.origin).host_id
        missing = await core.other_records.get(host, trust, asked.uid)
        return verify_receipt(receipt, trust=trust)  # Where one is missing, another may be enough.
    except GovernanceBehindError as error:
        hint = f"governance here is version {error.here}, the receipt names {error.named}: attestd governance update"
        return Denial(Code.GOVERNANCE_MISMATCH, f"the parent's receipt does not verify here: {error}", hint)
    except (MalformedError, VerificationError) as error:
        return missing or Denial(Code.LINEAGE_BROKEN, f"the parent's receipt does not verify: {error}", hint)
