"""What operators ask and decide over HTTP, each known by a client certificate."""

import asyncio
import logging
import re
from collections.abc import Callable
from datetime import datetime
from typing import Final

from attestd.controller.enroller.desk import Desk, HostNames
from attestd.controller.enroller.office import Office
from attestd.controller.enroller.records import Decision, decided_event
from attestd.controller.http.operation import Answer, Body, Call, Handler, Operation, Response
from attestd.controller.http.problem import MEDIA_TYPE, Problem
from attestd.errors import UsageError
from attestd.governance.desk import (
    MAX_REQUEST_BYTES,
    ApproveRequest,
    ExpectRequest,
    HostAnswer,
    HostList,
    HostQuery,
    RevokeRequest,
    Verdict,
    VerdictRequest,
)
from attestd.governance.trust import Trust
from attestd.strict import canonical

__all__ = ["Operators"]

_HOST: Final = re.compile(r"\A[0-9a-f]{64}\Z")
_HOST_WORDS: Final = "The host-id, 64 hexadecimal digits."
_APPROVE: Final = Body(MAX_REQUEST_BYTES, canonical({"shown": "00" * 32}), ApproveRequest)
_DIGEST: Final = Body(MAX_REQUEST_BYTES, canonical({"digest": "00" * 32}), VerdictRequest)
_LABELS: Final = Body(MAX_REQUEST_BYTES, canonical({"labels": {"role": "ci"}}), ExpectRequest)
_REASON: Final = Body(MAX_REQUEST_BYTES, canonical({"reason": "stolen"}), RevokeRequest)


class Operators:
    """The part of the role that operators see."""

    def __init__(
        self,
        *,
        office: Office,
        trust: Callable[[], Trust],
        log: logging.Logger,
        now: Callable[[], datetime],
    ) -> None:
        """Takes what is remembered, what governance says, the journal, and the time."""
        self._office, self._trust, self._log, self._now = office, trust, log, now
        self._names = HostNames()

    def operations(self) -> list[Operation]:
        """What operators may ask and decide."""
        return [
            *self.reading(),
            _decision("approve", "Have a record signed", self.approve, _APPROVE),
            _decision("refuse", "Refuse a record", self.refuse, _DIGEST),
            _decision("expect", "Expect a host", self.expect, _LABELS),
            _decision("revoke", "Sign nothing of a host any more", self.revoke, _REASON),
        ]

    def reading(self) -> list[Operation]:
        """What operators may ask, also where nothing is enrolled."""
        return [
            Operation(
                name="listHosts",
                method="GET",
                path="/v1/hosts",
                summary="The hosts that wait, are enrolled, ended, revoked; and what was decided",
                handler=self.hosts,
                query=HostQuery,
                responses={200: Response("A page, in the order of host-ids.", schema=HostList)},
                operators_only=True,
            ),
            Operation(
                name="showHost",
                method="GET",
                path="/v1/hosts/{host}",
                summary="One host, and the record that waits",
                handler=self.host,
                parameters={"host": _HOST_WORDS},
                responses={
                    200: Response("The host.", schema=HostAnswer),
                    404: Response("It is not known here.", MEDIA_TYPE),
                },
                operators_only=True,
            ),
        ]

    async def hosts(self, call: Call) -> Answer:
        """`GET /v1/hosts`."""
        return Answer(canonical(await asyncio.to_thread(self._desk(call).hosts, call.query)))

    async def host(self, call: Call) -> Answer:
        """`GET /v1/hosts/{host}`."""
        found = await asyncio.to_thread(self._desk(call).host, _host(call))
        if found is None:
            raise Problem(404, "no host of this id is known here")
        return Answer(canonical(found))

    async def approve(self, call: Call) -> Answer:
        """`POST /v1/hosts/{host}/approve`."""
        return await self._decide(call, lambda desk, host: desk.approve(host, call.value.shown))

    async def refuse(self, call: Call) -> Answer:
        """`POST /v1/hosts/{host}/refuse`."""
        return await self._decide(call, lambda desk, host: desk.refuse(host, call.value.digest))

    async def expect(self, call: Call) -> Answer:
        """`POST /v1/hosts/{host}/expect`."""
        return await self._decide(call, lambda desk, host: desk.expect(host, call.value.labels))

    async def revoke(self, call: Call) -> Answer:
        """`POST /v1/hosts/{host}/revoke`."""
        return await self._decide(call, lambda desk, host: desk.revoke(host, call.value.reason))

    async def _decide(self, call: Call, decide: Callable[[Desk, str], Verdict]) -> Answer:
        host = _host(call)
        try:
            verdict = await asyncio.to_thread(decide, self._desk(call), host)
        except UsageError as error:
            raise Problem(409, str(error)) from error
        return Answer(canonical(verdict))

    def _desk(self, call: Call) -> Desk:
        operator = "" if call.operator is None else str(call.operator)
        sha256 = None if call.operator is None else call.operator.sha256

        def decided(host: str, decision: Decision, digest: str) -> None:
            # Whatever the answer comes to: nobody may be waiting for it any more.
            self._log.info(decided_event(host, decision, digest, operator=sha256))

        return Desk(self._office, self._trust, self._names, operator=operator, now=self._now, decided=decided)


def _decision(verb: str, summary: str, handler: Handler, body: Body) -> Operation:
    return Operation(
        name=f"{verb}Host",
        method="POST",
        path=f"/v1/hosts/{{host}}/{verb}",
        summary=summary,
        handler=handler,
        parameters={"host": _HOST_WORDS},
        body=body,
        responses={
            200: Response("It is recorded, with who decided.", schema=Verdict),
            404: Response("No host-id.", MEDIA_TYPE),
            409: Response(
                "There is nothing of this kind to decide any more, or something else than was shown.",
                MEDIA_TYPE,
            ),
        },
        operators_only=True,
    )


def _host(call: Call) -> str:
    host = call.parameters["host"]
    if not _HOST.match(host):
        raise Problem(404, f"{host[:80]!r} is no host-id: expected 64 hexadecimal digits")
    return host
