"""Sealing: what is decided becomes a leaf under a TPM-signed checkpoint before anything is released.

This is "Sealing" of the architecture, steps 1 to 4, in its order and with its numbers. `CRASH_POINTS` are the places
where a crash leaves a different state behind; `recover` knows each of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from attestd.audit.pending import Charge, Pending, Sealed, SealResult
from attestd.audit.recover import is_reset_jump, settle_counter
from attestd.audit.sealing_tpm import QuoteEvidence, SealingTpm
from attestd.audit.store import LogStore, SealedBatch, Tail
from attestd.codes import Code, Denial
from attestd.errors import (
    AttestdError,
    RollbackError,
    TpmError,
    TpmRefusedError,
    TpmUnavailableError,
    UsageError,
)
from attestd.lineage.checkpoint import LogKeys
from attestd.lineage.entry import EntryType, join_entry
from attestd.plain import counted
from attestd.strict import canonical, format_time_us
from attestd.tcg.attest import parse_attest
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.quote import join_quote
from attestd.tlog.checkpoint import Batch, BatchMode, Checkpoint
from attestd.tlog.note import NoteSignature, format_note, parse_note
from attestd.tlog.tree import Frontier, Node, leaf_hash

__all__ = ["CRASH_POINTS", "Charge", "Pending", "SealResult", "Sealed", "Sealer"]

CRASH_POINTS: Final = ("charged", "release_signed", "quoted", "committed", "stepped")


class _Draft(msgspec.Struct, frozen=True, gc=False):  # a batch makes thousands
    """A pending entry with its outcome so far: `charges` are the uses by artifact and number, if it is an allow."""

    type: EntryType
    body: bytes
    charges: tuple[tuple[str, int], ...] = ()
    denial: Denial | None = None


@dataclass(frozen=True, slots=True)
class _Tree:
    """The log with a batch of drafts, in memory."""

    drafts: Sequence[_Draft]
    entries: list[bytes]
    leaf_hashes: list[bytes]
    frontier: Frontier
    nodes: list[Node]
    checkpoint: Checkpoint
    time: str


class Sealer:
    """Seals batches, one at a time, from one thread at a time.

    If `seal` raises, nothing of its batch may be released; the next call finds out how far the failed one came.
    A `RollbackError` is final: give up this sealer, and serve again only after `recover`.
    """

    def __init__(
        self,
        store: LogStore,
        tpm: SealingTpm,
        keys: LogKeys,
        *,
        counter: int,
        resets: tuple[int, int] | None = None,
        crash_point: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Takes over a log.

        Args:
            store: The log, opened to append.
            tpm: Its TPM, with the approval in force.
            keys: The keys with which that TPM signs.
            counter: The TPM's log counter, as `recover` found it; for a new log, as it is.
            resets: The TPM's reset and restart count then; None: as at the first quote.
            crash_point: Called at each of `CRASH_POINTS`, for tests.

        Raises:
            UsageError: The keys are another log's.
            RollbackError: The log does not end with a checkpoint.
            StoreError: The log cannot be read.
        """
        if keys.origin != store.origin:
            raise UsageError(f"keys of {keys.origin} cannot seal {store.origin}")
        self._store, self._tpm, self._keys = store, tpm, keys
        self._tail = store.tail()
        self._counter = counter
        self._crash_point = crash_point
        self._in_flight: _Tree | None = None
        self._final: RollbackError | None = None
        self._unreleased: list[int] = []
        self._resets = resets

    def seal(self, pendings: Sequence[Pending], *, now: datetime, boot: str) -> SealResult:
        """Seals one batch, whose decisions are all of one platform policy version.

        Args:
            pendings: What waits; at least one.
            now: The time, trusted by the caller; if the log is ahead of it, the log's last time is used.
            boot: The kernel's boot id.

        Raises:
            TpmUnavailableError: The TPM does not answer.
            TpmError: It answers, but not with what it should.
            StoreError: The log cannot be written.
            RollbackError: The counter, or the stored log, is not where it must be.
        """
        if not pendings:
            raise UsageError("nothing to seal")
        if self._final:  # A counter that was wrong may look right the next time; the log must be looked into.
            raise RollbackError(f"nothing is sealed any more since {self._final}") from self._final
        try:
            return self._seal(pendings, now=now, boot=boot)
        except RollbackError as error:
            self._final = error
            raise

    def _seal(self, pendings: Sequence[Pending], *, now: datetime, boot: str) -> SealResult:
        if self._in_flight:  # The last call raised, maybe after its commit.
            self._settle(self._in_flight)

        # 1. Charge the uses, and compute the new root in memory. The checkpoint names the batch and the counter's
        #    value plus one. The release key signs it if some decision allows, then the attestation key quotes it.
        drafts = self._charge(pendings)
        time = max(format_time_us(now), self._tail.time)
        tree = self._grow(drafts, time=time, boot=boot)
        self._crash_point("charged")
        try:
            note, quote = self._sign(tree.checkpoint)
        except TpmRefusedError as refusal:
            # 2. Each allow becomes a denial; the leaves are rebuilt and sealed by the quote alone. (A signature
            #    that the release key made before the quote showed another state is dropped: no receipt without
            #    an approved quote over the same text is valid.)
            drafts = _deny_allows(pendings, drafts, refusal)
            tree = self._grow(drafts, time=time, boot=boot)
            note, quote = self._sign(tree.checkpoint)

        # A TPM that was reset under us has another counter: to be found before the commit, not by step 4.
        if self._follow_reset(quote):
            return self._seal(pendings, now=now, boot=boot)

        # 3. Leaves, nodes, charges and checkpoint in one transaction. From here until it has returned nobody
        #    knows whether the batch is in the log: `_settle` and `recover` find out.
        self._in_flight = tree
        self._commit(pendings, tree, note)
        self._crash_point("committed")

        # 4. Step the counter. Only then may anyone see a receipt.
        expected = tree.checkpoint.batch.counter
        counter = self._tpm.step_counter()
        if counter != expected:
            if not self._has_jumped(recorded=expected, actual=counter):
                raise RollbackError(
                    f"the TPM's log counter went to {counter}, the checkpoint says {expected}: someone else steps it, "
                    "or another copy of this log is in use"
                )
            self._keep(tree, counter=counter)
            raise TpmUnavailableError(
                f"the TPM was reset while a batch was sealed: its log counter went to {counter}, the checkpoint says"
                f" {expected}: nothing of the batch is released"
            )
        self._crash_point("stepped")
        return self._finish(tree, note, quote)

    def _charge(self, pendings: Sequence[Pending]) -> list[_Draft]:
        drafts: list[_Draft] = []
        uses: dict[str, int] = {}
        for pending in pendings:
            charge = pending.charge
            if charge is None:
                drafts.append(_Draft(pending.type, pending.encoded))
                continue
            denial = None
            charged = (*charge.above, (charge.artifact_id, charge.max_uses))
            for artifact, most in charged:
                if artifact not in uses:
                    uses[artifact] = self._store.uses(artifact)
                if most is not None and uses[artifact] >= most:
                    denial = _exhausted(artifact, most, uses[artifact])
            if denial is not None:  # All of them, or none.
                drafts.append(_deny(pending, denial))
                continue
            for artifact, _ in charged:
                uses[artifact] += 1
            numbers = tuple((artifact, uses[artifact]) for artifact, _ in charged)
            drafts.append(_Draft(pending.type, pending.encoded, numbers))
        return drafts

    def _grow(self, drafts: Sequence[_Draft], *, time: str, boot: str) -> _Tree:
        frontier = self._tail.frontier
        first = frontier.size
        entries = [
            join_entry(type_=draft.type, time=time, seq=seq, boot=boot, body=draft.body)
            for seq, draft in enumerate(drafts, first)
        ]
        leaf_hashes = [leaf_hash(entry) for entry in entries]
        grown, nodes = frontier.append(leaf_hashes)
        mode = BatchMode.RELEASE if any(draft.charges for draft in drafts) else BatchMode.RECORD
        checkpoint = Checkpoint(
            origin=self._keys.origin,
            size=grown.size,
            root=grown.root(),
            batch=Batch(first=first, mode=mode, counter=self._counter + 1),
        )
        return _Tree(drafts, entries, leaf_hashes, grown, nodes, checkpoint, time)

    def _sign(self, checkpoint: Checkpoint) -> tuple[bytes, QuoteEvidence]:
        text, keys = checkpoint.text(), self._keys
        release = checkpoint.batch.mode is BatchMode.RELEASE
        lines = []
        if release:
            lines.append(NoteSignature(keys.origin, keys.release.key_id, self._tpm.sign_release(text)))
            self._crash_point("release_signed")
        quote = self._tpm.quote(extra_data(Purpose.CHECKPOINT, host_id=keys.host_id, data=text))
        self._crash_point("quoted")
        if release and not quote.approved:
            raise TpmRefusedError("the quote shows PCRs that are not the approved ones")
        payload = join_quote(quote.attest, quote.signature)
        try:
            note = format_note(text, [*lines, NoteSignature(keys.origin, keys.attestation.key_id, payload)])
            keys.verify(
                parse_note(note)
            )  # A fault of the TPM must not become a log that nothing can be appended to.
        except AttestdError as error:
            raise TpmError(f"the TPM's signatures over the checkpoint do not verify: {error}") from error
        return note, quote

    def _follow_reset(self, quote: QuoteEvidence) -> bool:
        """Whether the TPM was reset since the last quote, so that the counter jumped and the batch is to be redone.

        Raises:
            RollbackError: The counter is where no reset takes it.
        """
        before, self._resets = self._resets, parse_attest(quote.attest).clock.order[:2]
        if before in (None, self._resets) or (actual := self._tpm.read_counter()) == self._counter:
            return False
        if not is_reset_jump(self._tpm, recorded=self._counter, actual=actual):
            raise RollbackError(
                f"the TPM was reset, and its log counter went from {self._counter} to {actual}: no reset explains that"
            )
        self._counter = actual
        return True

    def _commit(self, pendings: Sequence[Pending], tree: _Tree, note: bytes) -> None:
        first = tree.checkpoint.batch.first
        self._store.commit(
            SealedBatch(
                checkpoint=tree.checkpoint,
                note=note,
                entries=tree.entries,
                nodes=tree.nodes,
                charges=[
                    (artifact, n, seq)
                    for seq, draft in enumerate(tree.drafts, first)
                    for artifact, n in draft.charges
                ],
                spooled=[(item.spooled, seq) for seq, item in enumerate(pendings, first) if item.spooled],
            )
        )

    def _finish(self, tree: _Tree, note: bytes, quote: QuoteEvidence) -> SealResult:
        """The batch is sealed: the next one continues from it."""
        before = self._tail.frontier
        self._tail = Tail(tree.frontier, tree.time)
        self._counter = tree.checkpoint.batch.counter
        self._in_flight = None
        unreleased, self._unreleased = tuple(self._unreleased), []
        sealed = (
            Sealed(seq, draft.type, entry, hash_, draft.denial)
            for seq, draft, entry, hash_ in zip(
                range(before.size, tree.frontier.size),
                tree.drafts,
                tree.entries,
                tree.leaf_hashes,
                strict=True,
            )
        )
        return SealResult(tuple(sealed), tree.checkpoint, note, quote, unreleased, before, tree.nodes)

    def _settle(self, tree: _Tree) -> None:
        """Finds out how far a call came that raised: as `recover` does after a crash."""
        tail = self._store.tail()
        if tail.frontier == tree.frontier:
            self._keep(tree, counter=self._settle_counter(tree.checkpoint.batch.counter))
        elif tail.frontier != self._tail.frontier:
            raise RollbackError("the stored log changed under the sealer: another process writes to it")
        self._tail, self._in_flight = tail, None

    def _keep(self, tree: _Tree, *, counter: int) -> None:
        """A batch that is in the log, and of which nothing may be released: the next one continues from it."""
        first = tree.checkpoint.batch.first
        self._unreleased += [seq for seq, draft in enumerate(tree.drafts, first) if draft.charges]
        self._tail, self._counter, self._in_flight = Tail(tree.frontier, tree.time), counter, None

    def _settle_counter(self, recorded: int) -> int:
        """As `recover` does, a TPM reset included: it may be why the step failed, and the counter jumped in it."""
        actual = self._tpm.read_counter()
        if actual not in (recorded - 1, recorded) and self._has_jumped(recorded=recorded, actual=actual):
            return actual
        return settle_counter(self._tpm, recorded=recorded)

    def _has_jumped(self, *, recorded: int, actual: int) -> bool:
        """Whether the TPM was reset since the last quote, and its counter jumped in that."""
        # Any quote will do for the counts, and this one can be taken for nothing else.
        bound = extra_data(Purpose.EVIDENCE, host_id=self._keys.host_id, data=self._keys.origin.encode())
        resets = parse_attest(self._tpm.quote(bound).attest).clock.order[:2]
        if resets == self._resets or not is_reset_jump(self._tpm, recorded=recorded, actual=actual):
            return False
        self._resets = resets
        return True


def _deny_allows(
    pendings: Sequence[Pending], drafts: Sequence[_Draft], refusal: TpmRefusedError
) -> list[_Draft]:
    denial = Denial(
        Code.ENVIRONMENT_UNTRUSTED,
        f"expected the TPM to release in an approved platform state, found that it refuses: {refusal}",
        "`attestd platform show` compares the PCRs with the approved ones; an authority can approve this state",
    )
    return [
        _deny(pending, denial) if draft.charges else draft
        for pending, draft in zip(pendings, drafts, strict=True)
    ]


def _deny(pending: Pending, denial: Denial) -> _Draft:
    return _Draft(EntryType.DECISION_DENY, canonical(dict(pending.to_denial(denial))), denial=denial)


def _exhausted(artifact: str, most: int, used: int) -> Denial:
    return Denial(
        Code.USES_EXHAUSTED,
        f"expected at most {counted(most, 'use')} of artifact {artifact}, found {used} already sealed",
        "ask the authority for a new authorization: `attestd authorization issue --help`",
    )
