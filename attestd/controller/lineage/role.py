"""Receipts over HTTP: anybody brings them, for they prove themselves; operators read them, for they say what ran."""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Final

import msgspec

from attestd.controller.http.metrics import Gauge
from attestd.controller.http.operation import Answer, Body, Call, Operation, Response, answer_json
from attestd.controller.http.problem import MEDIA_TYPE, Problem
from attestd.controller.lineage.example import EXAMPLE
from attestd.controller.lineage.receipts import Outcome, Receipts, bounded_event, part_of
from attestd.errors import GovernanceBehindError, MalformedError, StoreError, VerificationError
from attestd.governance.trust import Trust
from attestd.journal import event
from attestd.lineage.receipt import (
    UntrustedReceipt,
    VerifiedReceipt,
    parse_receipt,
    strip_receipt,
    verify_receipt,
)
from attestd.lineage.usage import MAX_BOUND_BYTES, BoundRequest, HostUsage, UsageList, UsageQuery
from attestd.prometheus import Labels
from attestd.strict import Sha256Hex, Strict, canonical, parse_time
from attestd.tlog.checkpoint import parse_origin
from attestd.tlog.proof import MAX_PROOF_BYTES

__all__ = ["Lineage"]

_HOST: Final = re.compile(r"\A[0-9a-f]{64}\Z")
# When to ask again where governance is behind, and for how long after an entry it may be for that.
BEHIND_S: Final = 60
_MOST_BEHIND: Final = timedelta(days=1)
TEXT: Final = "text/plain; charset=utf-8"
_LEAF: Final = "A leaf hash, in hex: `attestd why` shows a decision's as its id."


class Kept(Strict, frozen=True):
    """That a receipt is kept."""

    leaf: Sha256Hex
    type: str


class Member(Strict, frozen=True):
    """One receipt of a lineage; `decision` and `parent` are empty where there is none."""

    leaf: Sha256Hex
    type: str
    host: Sha256Hex
    time: str
    decision: str
    parent: str


class Ancestry(Strict, frozen=True):
    """An execution's receipts and those of all that it descends from, nearest first.

    Attributes:
        receipts: Of each execution the decision first.
        missing: The parent that the last one names and whose receipt is not here; empty: nothing is missing.
    """

    receipts: Annotated[tuple[Member, ...], msgspec.Meta(min_length=1)]
    missing: str


class Lineage:
    """The role."""

    def __init__(
        self,
        *,
        trust: Callable[[], Trust],
        receipts: Receipts,
        now: Callable[[], datetime],
        log: logging.Logger,
    ) -> None:
        """Takes what governance says now, where receipts are kept, the clock, and the journal."""
        self._trust, self._receipts, self._now, self._log = trust, receipts, now, log
        self._counted = dict.fromkeys((*Outcome, "refused"), 0)
        self._full: set[tuple[str, str]] = set()

    def operations(self) -> list[Operation]:
        """What it offers."""
        unknown = Response("No such receipt is kept here.", MEDIA_TYPE)
        return [
            Operation(
                name="addReceipt",
                method="POST",
                path="/v1/receipts",
                summary="Bring a receipt",
                handler=self.add,
                body=Body(
                    MAX_PROOF_BYTES, EXAMPLE, words="A C2SP tlog-proof with the entry as its extra data."
                ),
                responses={
                    200: Response("It was here already; witnesses that it has beside are kept.", schema=Kept),
                    201: Response("It is kept.", schema=Kept),
                    400: Response("It is no receipt.", MEDIA_TYPE),
                    403: Response("It does not verify, and why.", MEDIA_TYPE),
                    422: Response("A proof without an entry.", MEDIA_TYPE),
                    503: Response(
                        "It holds, but names governance that is newer than this controller's, if there is such a thing:"
                        " `Retry-After` says when to ask again.",
                        MEDIA_TYPE,
                    ),
                    507: Response("Of this host no more are kept, until an operator says so.", MEDIA_TYPE),
                },
            ),
            Operation(
                name="listUsage",
                method="GET",
                path="/v1/receipts",
                summary="How much is kept of whose receipts",
                handler=self.usage,
                query=UsageQuery,
                operators_only=True,
                responses={200: Response("A page, in the order of host-ids.", schema=UsageList)},
            ),
            Operation(
                name="boundHost",
                method="POST",
                path="/v1/receipts/hosts/{host}",
                summary="Say how much is kept of a host's receipts",
                handler=self.bound,
                parameters={"host": "The host-id, 64 hexadecimal digits."},
                body=Body(
                    MAX_BOUND_BYTES, canonical({"max_receipts": 200_000, "max_bytes": None}), BoundRequest
                ),
                operators_only=True,
                responses={
                    200: Response("It holds from now on.", schema=HostUsage),
                    404: Response("No host-id.", MEDIA_TYPE),
                },
            ),
            Operation(
                name="getReceipt",
                method="GET",
                path="/v1/receipts/{leaf}",
                summary="A receipt, with the signatures that verified when they were brought",
                handler=self.get,
                parameters={"leaf": _LEAF},
                operators_only=True,
                responses={200: Response("A C2SP tlog-proof.", TEXT), 404: unknown},
            ),
            Operation(
                name="getLineage",
                method="GET",
                path="/v1/lineage/{leaf}",
                summary="What an execution descends from",
                handler=self.lineage,
                parameters={"leaf": _LEAF},
                operators_only=True,
                responses={200: Response("Its receipts, and its ancestors'.", schema=Ancestry), 404: unknown},
            ),
        ]

    async def add(self, call: Call) -> Answer:
        """Verifies a receipt by governance as it is now, and keeps it."""
        try:
            verified, outcome, used = await asyncio.to_thread(self._add, call.value, self._trust())
        except Problem:
            self._counted["refused"] += 1
            raise
        self._counted[outcome] += 1
        if outcome is Outcome.FULL:
            raise self._is_full(used, verified)
        status = 201 if outcome is Outcome.KEPT else 200
        return answer_json(Kept(leaf=verified.leaf, type=verified.entry.type.value), status=status)

    def _add(self, data: bytes, trust: Trust) -> tuple[VerifiedReceipt, Outcome, HostUsage]:
        """In a thread: what verifies it may have to be read first."""
        receipt = _parsed(data)
        verified = self._verified(receipt, trust)
        outcome, used = self._receipts.add(verified, strip_receipt(receipt, verified))
        return verified, outcome, used

    def _verified(self, receipt: UntrustedReceipt, trust: Trust) -> VerifiedReceipt:
        try:
            return verify_receipt(receipt, trust=trust)
        except GovernanceBehindError as error:
            # For a day at most: a host may name what never was, and who brings that would ask for ever.
            if abs(self._now() - parse_time(receipt.entry.time)) < _MOST_BEHIND:
                words = f"{error}; ask again when this controller's governance is newer"
                raise Problem(503, words, headers={"retry-after": str(BEHIND_S)}) from error
            raise Problem(403, str(error)) from error
        except (MalformedError, VerificationError) as error:
            # By a record that cannot be read just now it may verify.
            if unread := trust.unread(parse_origin(receipt.checkpoint.origin).host_id):
                raise StoreError(f"{unread[0]} cannot be read: {error}") from error
            raise Problem(403, str(error)) from error

    def _is_full(self, used: HostUsage, verified: VerifiedReceipt) -> Problem:
        part = part_of(used, verified.entry.type)
        if (used.host, part.what) not in self._full:  # In the journal once: whoever broke into it goes on.
            self._full.add((used.host, part.what))
            self._log.warning(
                event(
                    "lineage.full", host=used.host, what=part.what, receipts=part.receipts, bytes=part.bytes
                )
            )
        return Problem(
            507,
            f"{part.receipts} {part.what} of host {used.host} are kept, {part.bytes} bytes, and no more than"
            f" {part.max_receipts} of {part.max_bytes} bytes are: an operator of this controller raises that (attestd"
            " controller receipts HOST)",
        )

    async def usage(self, call: Call) -> Answer:
        """How much is kept of whom."""
        return answer_json(await asyncio.to_thread(self._receipts.usage, call.query))

    async def bound(self, call: Call) -> Answer:
        """Gives a host bounds of its own."""
        host = call.parameters["host"]
        if not _HOST.match(host):
            raise Problem(404, f"{host[:80]!r} is no host-id: expected 64 hexadecimal digits")
        used = await asyncio.to_thread(self._receipts.bound, host, call.value)
        self._full = {full for full in self._full if full[0] != host}
        operator = None if call.operator is None else call.operator.sha256
        self._log.info(bounded_event(used, operator=operator))
        return answer_json(used)

    async def get(self, call: Call) -> Answer:
        """One receipt."""
        data = await asyncio.to_thread(self._receipts.get, call.parameters["leaf"])
        if data is None:
            raise _unknown(call)
        return Answer(data, TEXT)

    async def lineage(self, call: Call) -> Answer:
        """What it descends from. Whoever believes it verifies the receipts, each by itself."""
        found, missing = await asyncio.to_thread(self._receipts.lineage, call.parameters["leaf"])
        if not found:
            raise _unknown(call)
        return answer_json(Ancestry(tuple(Member(**vars(item)) for item in found), missing))

    def gauges(self) -> list[Gauge]:
        """For `/metrics`."""
        outcomes: Mapping[Labels, float] = {
            (("outcome", name),): float(count) for name, count in self._counted.items()
        }
        return [("attestd_lineage_receipts_total", "Receipts brought, by what became of them.", outcomes)]


def _parsed(data: bytes) -> UntrustedReceipt:
    try:
        return parse_receipt(data)
    except MalformedError as error:
        raise Problem(400, str(error)) from error
    except VerificationError as error:
        raise Problem(422, str(error)) from error


def _unknown(call: Call) -> Problem:
    return Problem(404, f"no receipt of leaf {call.parameters['leaf'][:80]!r} is kept here")
