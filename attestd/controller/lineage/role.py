"""Receipts over HTTP: anybody brings them, for they prove themselves; operators read them, for they say what ran."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated, Final

import msgspec

from attestd.controller.http.metrics import Gauge
from attestd.controller.http.operation import Answer, Body, Call, Operation, Response, answer_json
from attestd.controller.http.problem import MEDIA_TYPE, Problem
from attestd.controller.lineage.example import EXAMPLE
from attestd.controller.lineage.receipts import Receipts
from attestd.errors import MalformedError, VerificationError
from attestd.governance.trust import Trust
from attestd.lineage.receipt import parse_receipt, verify_receipt
from attestd.prometheus import Labels
from attestd.strict import Sha256Hex, Strict
from attestd.tlog.proof import MAX_PROOF_BYTES

__all__ = ["Lineage"]

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

    def __init__(self, *, trust: Callable[[], Trust], receipts: Receipts) -> None:
        """Takes what governance says now, and where receipts are kept."""
        self._trust, self._receipts = trust, receipts
        self._counted = {"kept": 0, "known": 0, "refused": 0}

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
                    200: Response("It was here already.", schema=Kept),
                    201: Response("It is kept.", schema=Kept),
                    403: Response("It is no receipt, or does not verify, and why.", MEDIA_TYPE),
                },
            ),
            Operation(
                name="getReceipt",
                method="GET",
                path="/v1/receipts/{leaf}",
                summary="A receipt, as it was brought",
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
        trust = self._trust()
        try:
            verified = verify_receipt(parse_receipt(call.value), trust=trust)
        except (MalformedError, VerificationError) as error:
            self._counted["refused"] += 1
            raise Problem(403, str(error)) from error
        is_new = await asyncio.to_thread(self._receipts.add, verified, call.value)
        self._counted["kept" if is_new else "known"] += 1
        return answer_json(Kept(verified.leaf, verified.entry.type.value), status=201 if is_new else 200)

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


def _unknown(call: Call) -> Problem:
    return Problem(404, f"no receipt of leaf {call.parameters['leaf'][:80]!r} is kept here")
