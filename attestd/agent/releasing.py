"""What becomes of a decision: it is sealed, told to the client, and on an allow handed over to the runner."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from attestd.agent.asked import ANSWER_TIMEOUT_S, CWD, EXECUTABLE, STDIO, Asked, Candidate
from attestd.agent.connection import Connection
from attestd.agent.core import Core
from attestd.agent.denials import MAX_SINGLE, log_denial
from attestd.agent.needs import interpreter_needs
from attestd.agent.runner_link import Execute
from attestd.agent.sealing import Receipt, sealing_denial
from attestd.audit.seal import Charge, Pending
from attestd.codes import Code, Denial
from attestd.errors import AttestdError, StoreError
from attestd.gate.body import as_denied
from attestd.gate.execution import Execution
from attestd.gate.model import Decision
from attestd.journal import event
from attestd.strict import canonical
from attestd.tlog.tree import leaf_hash
from attestd.wire import Kind, WireError, encode_fields

__all__ = ["Decided", "answer", "seal_and_release"]

_ONLY_COUNTED: Final = f"more than {MAX_SINGLE} denials in a minute: this one is counted, and has no receipt"


@dataclass(frozen=True)
class Decided:
    """What was decided, of which execution, by which candidate."""

    candidate: Candidate
    execution: Execution
    decision: Decision
    salt: bytes = field(repr=False)


async def seal_and_release(connection: Connection, asked: Asked, decided: Decided, core: Core) -> None:
    """Seals a decision, has an allow cosigned as it needs, tells the client, and hands it over to the runner.

    Raises:
        WireError, OSError, TimeoutError: The client is gone; what was allowed is void.
    """
    decision = decided.decision
    try:
        receipt = await _seal(decided, core, asked.uid)
    except AttestdError as error:
        denial = sealing_denial(error)
        core.log.warning(event("decision.unsealed", code=denial.code, uid=asked.uid, error=error))
        core.denials.aggregate(asked.uid, denial.code.value)
        await answer(connection, asked, denial, as_denied(decision.body, denial))
        return
    if receipt is None or decision.denial is not None:
        await answer(connection, asked, _as_told(decision.denial, receipt), decision.body, receipt)
        return
    if receipt.sealed.denial is not None:  # The TPM refused, or the last use went to another request.
        denial = receipt.sealed.denial
        log_denial(core.log, denial, uid=asked.uid, seq=receipt.sealed.seq)
        await answer(connection, asked, denial, as_denied(decision.body, denial), receipt)
        return
    cosigned = await core.cosign(receipt, decision.body["witness_quorum"])
    if isinstance(cosigned, Denial):
        seq = receipt.sealed.seq
        core.log.warning(event("decision.uncosigned", code=cosigned.code, uid=asked.uid, seq=seq))
        try:
            await answer(connection, asked, cosigned, as_denied(decision.body, cosigned), receipt)
        finally:  # Whether or not the client still listens: nothing ran.
            await core.void(seq, f"{cosigned.code}: {cosigned.sentence}")
        return
    await _release(connection, asked, decided, cosigned, core)


def _as_told(denial: Denial | None, receipt: Receipt | None) -> Denial | None:
    """The denial; one that got no leaf of its own says so."""
    if denial is None or receipt is not None:
        return denial
    return replace(denial, hint=f"{denial.hint} ({_ONLY_COUNTED})")


async def _seal(decided: Decided, core: Core, uid: int) -> Receipt | None:
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
    connection: Connection, asked: Asked, decided: Decided, receipt: Receipt, core: Core
) -> None:
    """Tells the client, then hands it to the runner; a release that comes to nothing is made void."""
    data = receipt.to_bytes()
    seq = receipt.sealed.seq
    try:
        await answer(connection, asked, None, decided.decision.body, receipt)
    except (OSError, WireError) as error:
        await core.void(seq, f"the client is gone: {error}")
        raise
    interpreters = [asked.files[need][0] for need in interpreter_needs(asked, decided.candidate)]
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
            *asked.descriptors[:STDIO],
            asked.descriptors[CWD],
            asked.descriptors[EXECUTABLE],
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


async def answer(
    connection: Connection,
    asked: Asked,
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
