"""`add-checkpoint` over HTTP, and what monitors read."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import select

from attestd.controller.batch import Batches
from attestd.controller.http.metrics import Gauge
from attestd.controller.http.operation import Answer, Body, Call, Operation, Response
from attestd.controller.http.problem import Problem
from attestd.controller.store.engine import Store
from attestd.controller.store.schema import witness_logs
from attestd.controller.witness.anchor import claim_anchor, mark_rolled_back
from attestd.controller.witness.logs import KnownLogs, UntrustedLogError
from attestd.controller.witness.state import Conflict, Outcome, State, Submission
from attestd.errors import MalformedError, RollbackError, VerificationError
from attestd.journal import event
from attestd.tlog.checkpoint import parse_tree_head
from attestd.tlog.cosignature import Cosigner, verify_cosignature
from attestd.tlog.note import UntrustedNote, parse_note
from attestd.tlog.vkey import format_vkey
from attestd.tlog.witness import (
    MAX_ADD_CHECKPOINT_BYTES,
    Refusal,
    RefusalStatus,
    format_cosignatures,
    parse_add_checkpoint,
)

__all__ = ["Witness", "witness_running"]

TEXT: Final = "text/plain; charset=utf-8"
SIZE: Final = "text/x.tlog.size"
MAX_ORIGIN_BYTES: Final = 255
_ORIGIN_HASH: Final = 64
_NUMBER: Final = "(0|[1-9][0-9]{0,17})"
_HASH: Final = "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="
_SIGNATURE: Final = "([A-Za-z0-9+/]{4}){2,1000}([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?"
_PATTERN: Final = (
    f"^old {_NUMBER}\\n({_HASH}\\n){{0,63}}\\n"
    f"[!-~]{{1,200}}\\n{_NUMBER}\\n{_HASH}\\n([!-~]{{1,200}}\\n)*\\n(— [!-*,-~]{{1,200}} {_SIGNATURE}\\n){{1,16}}$"
)
_EXAMPLE: Final = """\
old 0

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
""".encode()
_EXAMPLE_ANSWER: Final = (
    "— witness.example/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
).encode()


class Witness:
    """The role."""

    def __init__(
        self,
        *,
        logs: KnownLogs,
        cosigners: Sequence[Cosigner],
        batches: Batches[Submission, Outcome],
        store: Store,
        anchors: Path,
        log: logging.Logger,
    ) -> None:
        """Takes its parts; use `witness_running`."""
        self._logs, self._cosigners, self._batches = logs, cosigners, batches
        self._store, self._anchors, self._log = store, anchors, log
        self._rolled_back: str | None = None
        self._cosigned = 0

    def operations(self) -> list[Operation]:
        """What it offers."""
        return [
            Operation(
                name="addCheckpoint",
                method="POST",
                path="/witness/add-checkpoint",
                summary="Cosign a checkpoint (C2SP tlog-witness)",
                handler=self.add_checkpoint,
                body=Body(
                    MAX_ADD_CHECKPOINT_BYTES,
                    _EXAMPLE,
                    words="`old <size>`, the lines of a consistency proof, an empty line, a checkpoint",
                    pattern=_PATTERN,
                ),
                responses={
                    200: Response("Signature lines, one of each of its keys.", TEXT, example=_EXAMPLE_ANSWER),
                    400: Response(
                        "Malformed, or the old size is above the checkpoint's.", "application/problem+json"
                    ),
                    403: Response(
                        "No signature by a trusted key, or one that is wrong.", "application/problem+json"
                    ),
                    404: Response("The origin is unknown.", "application/problem+json"),
                    409: Response(
                        "The old size is not that of the latest: that one.", SIZE, example=b"20852014\n"
                    ),
                    422: Response("The proof or the root does not verify.", "application/problem+json"),
                },
            ),
            Operation(
                name="getCheckpoint",
                method="GET",
                path="/witness/{origin_sha256}/checkpoint",
                summary="The latest checkpoint cosigned of a log (C2SP tlog-witness)",
                handler=self.get_checkpoint,
                parameters={"origin_sha256": "SHA-256 of the log's origin, lower-case hex"},
                responses={
                    200: Response("The checkpoint, with the log's signatures and the witness's.", TEXT),
                    404: Response("Nothing was cosigned of this log.", "application/problem+json"),
                },
            ),
            Operation(
                name="getWitnessKeys",
                method="GET",
                path="/witness/vkeys",
                summary="The keys by which its cosignatures are verified, as C2SP vkeys",
                handler=self.get_keys,
                responses={
                    200: Response("A vkey a line. Do not believe them from here: compare them.", TEXT)
                },
            ),
        ]

    def gauges(self) -> list[Gauge]:
        """For `/metrics`."""
        return [
            ("attestd_witness_cosigned", "Checkpoints cosigned since the start.", {(): self._cosigned}),
            ("attestd_witness_waiting", "Requests that wait for the database.", {(): self._batches.waiting}),
            (
                "attestd_witness_rolled_back",
                "1 where the database is older than what was cosigned.",
                {(): float(self._rolled_back is not None)},
            ),
        ]

    def trouble(self) -> str | None:
        """Why it answers nobody, for `/healthz`."""
        return self._rolled_back

    async def add_checkpoint(self, call: Call) -> Answer:
        """Cosigns, or says why not: each status as the specification says.

        1. The body parses; else 400.
        2. The origin is known; else 404.
        3. Each line by a trusted key verifies, and there is one; else 403.
        4. It grew from the latest, by `evaluate_growth`: 400, 409, 422.
        5. It is stored, durably, before the answer.
        """
        if self._rolled_back is not None:
            raise Problem(503, "the witness does not answer: its database is older than what it has cosigned")
        submission = self._verify(call.value)
        try:
            outcome = await self._batches.submit(submission)  # 4, 5
        except RollbackError as error:
            await self._stop(str(error))
            raise Problem(
                503, "the witness does not answer: its database is older than what it has cosigned"
            ) from error
        if isinstance(outcome, Conflict):
            return Answer(f"{outcome.size}\n".encode(), SIZE, RefusalStatus.CONFLICT)
        if isinstance(outcome, Refusal):
            if outcome.status is RefusalStatus.UNPROCESSABLE:
                # Signed by the log, and not shown to continue what was cosigned: it may be another history.
                self._log.error(
                    event(
                        "witness.inconsistent", origin=submission.head.origin, size=submission.head.size,
                        root=submission.head.root.hex(), id=call.correlation_id,
                    )
                )  # fmt: skip
            raise Problem(outcome.status, outcome.sentence)
        self._cosigned += 1
        return Answer(format_cosignatures(outcome.lines), TEXT)

    def _verify(self, body: bytes) -> Submission:
        try:
            request = parse_add_checkpoint(body)  # 1
            note = parse_note(request.checkpoint)
            head = parse_tree_head(note.text)
        except MalformedError as error:
            raise Problem(RefusalStatus.BAD_REQUEST, str(error)) from error
        try:
            log = self._logs.find(head.origin) if len(head.origin.encode()) <= MAX_ORIGIN_BYTES else None
            if log is None:  # 2
                raise Problem(RefusalStatus.NOT_FOUND, f"origin {head.origin[:80]!r} is unknown here")
            lines = log.verify(note)  # 3
        except UntrustedLogError as error:
            raise Problem(RefusalStatus.FORBIDDEN, str(error)) from error
        except (VerificationError, MalformedError) as error:
            raise Problem(RefusalStatus.FORBIDDEN, str(error)) from error
        return Submission(request, note, head, lines, log.host, self._seen_before(note))

    def _seen_before(self, note: UntrustedNote) -> bool:
        for cosigner in self._cosigners:
            key = cosigner.key
            if any((line.name, line.key_id) == (key.name, key.key_id) for line in note.signatures):
                with contextlib.suppress(VerificationError):
                    verify_cosignature(note, key)
                    return True
        return False

    async def _stop(self, words: str) -> None:
        if self._rolled_back is None:
            self._rolled_back = words
            self._log.critical(event("witness.rolled_back", error=words))
            await asyncio.to_thread(mark_rolled_back, self._anchors, words)

    async def get_checkpoint(self, call: Call) -> Answer:
        """The stored note."""
        if self._rolled_back is not None:
            raise Problem(503, "the witness does not answer: its database is older than what it has cosigned")
        name = call.parameters["origin_sha256"]
        note = await asyncio.to_thread(self._stored, name) if len(name) == _ORIGIN_HASH else None
        if note is None:
            raise Problem(404, "nothing was cosigned of a log of this origin")
        return Answer(note, TEXT, headers={"cache-control": "no-cache"})

    async def get_keys(self, _: Call) -> Answer:
        """The public keys."""
        return Answer(
            "".join(f"{format_vkey(cosigner.key)}\n" for cosigner in self._cosigners).encode(), TEXT
        )

    def _stored(self, origin_sha256: str) -> bytes | None:
        statement = select(witness_logs.c.note).where(witness_logs.c.origin_sha256 == origin_sha256)
        with self._store.read() as connection:
            found = connection.execute(statement).scalar_one_or_none()
        return None if found is None else bytes(found)


@contextlib.asynccontextmanager
async def witness_running(
    *,
    store: Store,
    anchors: Path,
    cosigners: Sequence[Cosigner],
    logs: KnownLogs,
    log: logging.Logger,
    now: Callable[[], int],
) -> AsyncIterator[Witness]:
    """The role, as long as the context lasts.

    Args:
        store: The database.
        anchors: Where it is remembered how far it had come.
        cosigners: The keys.
        logs: Which logs it knows.
        log: Where it writes what happens.
        now: Seconds since the epoch.

    Raises:
        RollbackError: The database is older than what was cosigned.
        UsageError, StoreError, MalformedError: As `claim_anchor`.
    """
    anchor = claim_anchor(anchors, store)
    try:
        batches = Batches[Submission, Outcome](
            State(store, anchor, cosigners, now=now).decide, name="witness"
        )
        async with batches.running():
            yield Witness(
                logs=logs, cosigners=cosigners, batches=batches, store=store, anchors=anchors, log=log
            )
    finally:
        anchor.close()
