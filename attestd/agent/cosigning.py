"""Has witnesses cosign the log's checkpoints: those of releases while somebody waits, the latest one now and then.

A witness takes a log's checkpoints one after the other, each from the last it cosigned. So each has a task of its own, which
sends it the oldest checkpoint that somebody still waits for, and if there is none the newest. A checkpoint for which nobody
waits any more is left out.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from attestd.agent.controllers import CallThreads, Controller
from attestd.agent.metrics import Metrics
from attestd.agent.witness import (
    ACCEPTED,
    MAX_ANSWER_BYTES,
    PATH,
    ForkedError,
    PassedError,
    RolledBackError,
    Submitted,
    Witness,
)
from attestd.audit.cosignatures import CosignedLog
from attestd.codes import Code, Denial
from attestd.distribution.web import Answer
from attestd.errors import AttestdError, MalformedError, StoreError, VerificationError
from attestd.governance.mesh import NO_MESH, MeshTrust, MeshWitness
from attestd.journal import event
from attestd.lineage.cosigned import MAX_COSIGNATURES
from attestd.strict import format_time
from attestd.tlog.note import NoteSignature, format_signature_line
from attestd.tlog.tree import consistency_proof

__all__ = ["Cosigning"]

_AGAIN_S: Final = (
    0.1  # looked at this often whether a witness may be asked again, while somebody waits for it
)
_KEPT_ROUNDS: Final = 64  # whoever waits asks for his round within moments after it was sealed
_TOLD: Final = 4
_MAX_WORDS: Final = 1000
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(eq=False)
class _Round:
    """A checkpoint that somebody waits for.

    Attributes:
        began, deadline: On the monotonic clock.
        lines: What was cosigned, and is kept in the log.
        names: By whom.
        finally_: Why a witness will not cosign it.
        so_far: Why one has not yet.
    """

    checkpoint: Submitted
    quorum: int
    began: float
    deadline: float
    lines: list[NoteSignature] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    finally_: dict[str, str] = field(default_factory=dict)
    so_far: dict[str, str] = field(default_factory=dict)
    waiting: list[tuple[int, asyncio.Future[None]]] = field(default_factory=list)
    is_over: bool = False

    def take(self, name: str, kept: Sequence[NoteSignature]) -> None:
        if kept:
            self.lines += kept
            self.names.add(name)
        else:
            self.finally_[name] = f"it came when {MAX_COSIGNATURES} cosignatures were there"

    def note(self) -> bytes:
        # In the order in which the log gives them back.
        lines = sorted(self.lines, key=lambda line: (line.name, line.key_id))
        return self.checkpoint.note + "".join(map(format_signature_line, lines)).encode()


class _Way:
    """The way to a witness: found when it is asked, and again where what it takes (`controller_ca`) was not there."""

    def __init__(self, url: str, *, ca: str, deadline_s: float) -> None:
        self._url, self._ca, self._deadline_s = url, ca, deadline_s
        self._controller: Controller | None = None

    def post(self, body: bytes) -> Answer:
        if self._controller is None:
            self._controller = Controller(self._url, ca=self._ca)
        return self._controller.post(
            PATH, body, max_bytes=MAX_ANSWER_BYTES, content_type=_TEXT, accepted=ACCEPTED, deadline_s=self._deadline_s
        )  # fmt: skip

    def close(self) -> None:
        if self._controller is not None:
            self._controller.close()


class Cosigning:
    """The witnesses of `mesh.json`, asked for one log. Used from the agent's loop."""

    def __init__(
        self,
        store: CosignedLog,
        reader: CosignedLog,
        *,
        mesh: Callable[[], MeshTrust | None],
        round_over: Callable[[int], None],
        now: Callable[[], datetime],
        ca: str,
        wait_s: float,
        interval_s: float,
        metrics: Metrics,
        log: logging.Logger,
    ) -> None:
        """Takes what it needs; asks nobody yet.

        Args:
            store: The log, opened to append, for this alone; used in threads.
            reader: The log, opened to read; used in the loop.
            mesh: What governance says now; None: there is no governance to go by.
            round_over: Told the size of each checkpoint that nobody waits for any more.
            now: Trusted time.
            ca: Who may vouch for controllers.
            wait_s: How long a release waits.
            interval_s: How often the newest checkpoint is sent.
            metrics: Where it is counted.
            log: For people.
        """
        self._store, self._reader, self._mesh_now = store, reader, mesh
        self._round_over, self._now = round_over, now
        self._ca, self._wait_s, self._interval_s = ca, wait_s, interval_s
        self._metrics, self._log = metrics, log
        self._threads, self._writing = CallThreads(), threading.Lock()
        self._mesh = NO_MESH
        self._witnesses: dict[tuple[object, ...], tuple[Witness, _Way, asyncio.Task[None]]] = {}
        self._rounds: dict[int, _Round] = {}
        last = reader.last_checkpoint()
        self._newest = None if last is None else Submitted(last.size, last.note)

    @property
    def size(self) -> int:
        """Of the newest checkpoint."""
        return self._newest.size if self._newest else 0

    def proof(self, old: int, new: int) -> Sequence[bytes]:
        """See `witness.History`."""
        return consistency_proof(old, new, self._reader.node)

    def cosigned(self, size: int) -> bytes:
        """See `witness.History`."""
        return self._reader.checkpoint(size).note

    @property
    def witnesses(self) -> list[Witness]:
        """Those of mesh.json."""
        return [witness for witness, _, _ in self._witnesses.values()]

    def follow(self) -> None:
        """Takes over what governance says now."""
        mesh = self._mesh_now()
        if mesh is None or mesh is self._mesh:
            return
        self._mesh = mesh
        wanted: dict[tuple[object, ...], list[tuple[str, MeshWitness]]] = {}
        for node, found in mesh.witnesses.items():
            wanted.setdefault((found.key.name, found.url), []).append((node, found))
        keyed = {(*key, *sorted(item.key.body for _, item in found)): found for key, found in wanted.items()}
        for gone in [key for key in self._witnesses if key not in keyed]:
            _, way, task = self._witnesses.pop(gone)
            task.cancel()
            way.close()
        for key in [key for key in keyed if key not in self._witnesses]:
            self._witnesses[key] = self._begin(keyed[key])
        for round_ in list(self._rounds.values()):
            self._settle(round_)

    def sealed(self, size: int, note: bytes, quorum: int) -> None:
        """A checkpoint was sealed; they come in order.

        Args:
            size: Its size.
            note: As it was signed.
            quorum: How many witnesses must cosign it, before something is released.
        """
        self.follow()
        self._newest = Submitted(size, note)
        if quorum:
            now, loop = time.monotonic(), asyncio.get_running_loop()
            round_ = _Round(self._newest, quorum, now, now + self._wait_s)
            self._rounds[size] = round_
            loop.call_later(self._wait_s, self._expire, round_)
            while len(self._rounds) > _KEPT_ROUNDS and next(iter(self._rounds.values())).is_over:
                self._rounds.pop(next(iter(self._rounds)))
            self._settle(round_)
        for witness in self.witnesses:
            witness.wake.set()

    async def enough(self, size: int, quorum: int) -> bytes | Denial:
        """Waits until so many witnesses have cosigned a checkpoint, at most for the time that a release waits.

        Returns:
            The checkpoint with what they signed, which the log holds from now on; or why there are too few.
        """
        round_ = self._rounds.get(size)
        if round_ is None:
            return Denial(
                Code.INTERNAL_ERROR,
                f"nobody was asked to cosign the checkpoint of size {size}",
                "report this",
            )
        if len(round_.names) < quorum and not round_.is_over:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            round_.waiting.append((quorum, future))
            await future
        if len(round_.names) >= quorum:
            self._metrics.cosigned(time.monotonic() - round_.began)
            return round_.note()
        self._metrics.uncosigned()
        return self._too_few(round_, quorum)

    def describe(self) -> list[dict[str, Any]]:
        """For status: each witness, how far it came, and what is wrong with it."""
        self.follow()
        return [
            {
                "name": witness.name,
                "node": witness.nodes,
                "url": witness.url,
                "cosigned": witness.cosigned,
                "at": None if witness.answered_at is None else format_time(witness.answered_at),
                "problem": None if witness.error is None else str(witness.error),
                "forked": isinstance(witness.error, ForkedError),
                "rolled_back": isinstance(witness.error, RolledBackError),
            }
            for witness in self.witnesses
        ]

    async def stop(self) -> None:
        """Asks nobody any more."""
        running, self._witnesses = list(self._witnesses.values()), {}
        self._mesh_now = lambda: None
        for _, way, task in running:
            task.cancel()
            way.close()
        await asyncio.gather(*(task for _, _, task in running), return_exceptions=True)
        self._threads.stop()
        for round_ in self._rounds.values():
            self._end(round_)
        with self._writing:  # What is being written is written to its end.
            self._store.close()

    def _begin(self, nodes: list[tuple[str, MeshWitness]]) -> tuple[Witness, _Way, asyncio.Task[None]]:
        keys = tuple(found.key for _, found in nodes)
        url = nodes[0][1].url
        way = _Way(url, ca=self._ca, deadline_s=self._wait_s)

        async def send(body: bytes) -> Answer:
            return await self._threads.run(lambda: way.post(body))

        came = self._reader.last_cosigned(keys)
        witness = Witness(keys[0].name, ", ".join(name for name, _ in nodes), url, keys, send, came, came)
        return witness, way, asyncio.create_task(self._work(witness))

    def _keep(self, size: int, lines: Sequence[NoteSignature]) -> Sequence[NoteSignature]:
        # Where all lines of all witnesses would not fit into a note, one of each: it is a witness that counts.
        most = 1 if len(self._mesh.witnesses) > MAX_COSIGNATURES else len(lines)
        with self._writing:
            return self._store.add_cosignatures(size, lines[:most])

    async def _work(self, witness: Witness) -> None:
        while True:
            checkpoint, wait_s = self._next(witness)
            if checkpoint is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await witness.wake.wait()
                witness.wake.clear()
                continue
            await self._ask(witness, checkpoint)

    def _next(self, witness: Witness) -> tuple[Submitted | None, float | None]:
        """What to send now; or nothing, and how long to wait unless something happens."""
        for round_ in list(self._rounds.values()):
            name = witness.name
            if round_.is_over or name in round_.names or name in round_.finally_:
                continue
            if witness.backoff.is_due(urgent=True):
                return round_.checkpoint, None
            return None, _AGAIN_S
        if self._newest is None or self._newest.size <= witness.cosigned:
            return None, None
        wait_s = max(witness.next_at - time.monotonic(), witness.backoff.wait_s)
        return (self._newest, None) if wait_s <= 0 else (None, wait_s)

    async def _ask(self, witness: Witness, checkpoint: Submitted) -> None:
        witness.backoff.asked()
        witness.next_at = time.monotonic() + self._interval_s
        round_ = self._rounds.get(checkpoint.size)
        try:
            lines = await witness.ask(checkpoint, self, now=self._now)
            kept = await self._threads.run(lambda: self._keep(checkpoint.size, lines))
        except PassedError as error:  # Nothing is wrong with it.
            if round_ is not None:
                round_.finally_[witness.name] = str(error)
        except (StoreError, VerificationError, MalformedError) as error:
            self._failed(witness, error)
            if round_ is not None:
                away = isinstance(error, StoreError) and not isinstance(error, RolledBackError)
                (round_.so_far if away else round_.finally_)[witness.name] = str(error)
        except AttestdError as error:
            self._failed(witness, error)
        except Exception as error:  # noqa: BLE001 - the edge of a task: a bug must not end it unseen
            self._log.exception(event("job.failed"))
            self._failed(witness, StoreError(f"{type(error).__name__}"))
        else:
            witness.keeps(checkpoint.size if kept else 0)
            self._answered(witness)
            if round_ is not None:
                round_.take(witness.name, kept)
        if round_ is not None:
            self._settle(round_)

    def _answered(self, witness: Witness) -> None:
        if witness.error is not None:
            self._log.info(event("witness.back", witness=witness.name, url=witness.url))
        witness.error, witness.answered_at = None, self._now()
        witness.backoff.answered()

    def _failed(self, witness: Witness, error: AttestdError) -> None:
        before = witness.error
        witness.backoff.failed()
        witness.next_at = float("-inf")  # from here on it is the backoff that says when
        if isinstance(before, (ForkedError, RolledBackError)) and type(error) is StoreError:
            return  # That it does not answer now is less to know.
        witness.error = error
        if type(before) is type(error):
            return
        fields = {"witness": witness.name, "url": witness.url, "error": error}
        if isinstance(error, ForkedError):
            self._log.critical(event("log.forked", **fields))
        elif isinstance(error, RolledBackError):
            self._log.critical(event("witness.rolled_back", **fields))
        else:
            self._log.warning(event("witness.lost", **fields))

    def _settle(self, round_: _Round) -> None:
        """Tells those who waited for no more than there is, or for more than there can be."""
        possible = len({witness.name for witness in self.witnesses} - round_.finally_.keys() | round_.names)
        left = []
        for quorum, future in round_.waiting:
            if not (len(round_.names) >= quorum or possible < quorum):
                left.append((quorum, future))
            elif not future.done():
                future.set_result(None)
        round_.waiting = left
        if not round_.is_over and (
            len(round_.names) >= round_.quorum or (possible < round_.quorum and not left)
        ):
            self._end(round_)

    def _expire(self, round_: _Round) -> None:
        if not round_.is_over:
            self._end(round_)

    def _end(self, round_: _Round) -> None:
        if not round_.is_over:
            round_.is_over = True
            self._round_over(round_.checkpoint.size)
        for _, future in round_.waiting:
            if not future.done():
                future.set_result(None)
        round_.waiting = []

    def _too_few(self, round_: _Round, quorum: int) -> Denial:
        missing = [witness for witness in self.witnesses if witness.name not in round_.names]
        why = [
            f"{witness.nodes}: "
            + (
                round_.finally_.get(witness.name)
                or round_.so_far.get(witness.name)
                or str(witness.error or "no answer by then")
            )
            for witness in missing[:_TOLD]
        ]
        more = [f"and {len(missing) - _TOLD} more"] if len(missing) > _TOLD else []
        return Denial(
            Code.MESH_UNAVAILABLE,
            f"{quorum} of the witnesses must cosign this decision's checkpoint, {len(round_.names)} did:"
            f" {'; '.join([*why, *more])}"[:_MAX_WORDS],
            "nothing ran; try again once they answer: attestd doctor says what to do",
        )
