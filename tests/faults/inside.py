"""An agent inside the test's process, with a fault injector between it and a real TPM. No runner: until the receipt."""

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from attestd.agent.assemble import assembled
from attestd.agent.core import Core
from attestd.agent.sealing import Receipt
from attestd.audit.seal import Charge, Pending
from attestd.authorization.artifact import parse_artifact
from attestd.codes import Denial
from attestd.errors import AttestdError
from attestd.gate.body import as_denied
from attestd.gate.decide import decide
from attestd.gate.execution import Execution, File, plan_environment
from attestd.gate.model import Request
from attestd.lineage.entry import EntryType
from attestd.paths import Configuration
from tests.host import Host, sha256
from tests.tpm.provisioned import Between

COMMAND = "/usr/bin/true"


@dataclass
class Injector:
    """What stands between agent and TPM, over all connections that the agent makes."""

    before: Callable[[int], bytes | None] = lambda _: None
    connections: list[Between] = field(default_factory=list)

    def connect(self, tcti: str) -> Between:
        between = Between(tcti)
        between.before = lambda code: self.before(code)  # noqa: PLW0108 - it is replaced later
        self.connections.append(between)
        return between

    def raw(self, command: bytes) -> bytes:
        """A command of somebody else; only from `before`, which is in the TPM's thread."""
        return self.connections[-1].real.exchange(command)


@dataclass
class Inside:
    """The agent's core, and requests to it."""

    host: Host
    core: Core
    injector: Injector

    def __post_init__(self) -> None:
        self.authorize()

    def authorize(self, **members: Any) -> None:
        """What is asked for from here on; members are those of `Host.issue`."""
        self._artifact = self.host.issue(COMMAND, **members)
        statement = parse_artifact(self._artifact).statement
        predicate = statement.predicate
        self._execution = Execution(
            executable=File(COMMAND, sha256(COMMAND)),
            interpreters=(),
            argv=(COMMAND,),
            cwd=predicate.scope.cwd,
            uid=predicate.scope.uid,
            env=plan_environment(statement, {}),
            inputs=(),
            requester_uid=predicate.scope.uid,
        )

    async def ask(self) -> Receipt | str:
        """From a request to its receipt, if it is an allow's; else why it is none."""
        request = Request(
            secrets.token_hex(16), bytes(32), self._artifact, self._execution, observation=None, parent=None
        )
        await self.core.refresh_evidence(parse_artifact(self._artifact).statement)
        decision = decide(request, self.core.context())
        if decision.denial is not None or decision.artifact is None:
            assert decision.denial is not None
            return decision.denial.code
        pending = Pending(
            EntryType.DECISION_ALLOW,
            decision.body,
            charge=Charge(decision.artifact.id, None),
            to_denial=lambda denial: as_denied(decision.body, denial),
        )
        try:
            receipt = await self.core.seal(
                pending, platform=decision.platform, witnesses=decision.body["witness_quorum"]
            )
        except AttestdError as error:
            return type(error).__name__
        if receipt.sealed.denial is not None:
            return receipt.sealed.denial.code
        cosigned = await self.core.cosign(receipt, decision.body["witness_quorum"])
        return cosigned.code if isinstance(cosigned, Denial) else cosigned

    async def ask_many(self, count: int) -> tuple[list[Receipt | str], float]:
        """So many at once: the answers, and how long they took."""
        began = time.monotonic()
        answers = await asyncio.gather(*(self.ask() for _ in range(count)))
        return list(answers), time.monotonic() - began

    async def until_served(self, timeout_s: float = 60) -> None:
        """Waits until a request is released again."""
        async with asyncio.timeout(timeout_s):
            while not isinstance(await self.ask(), Receipt):  # noqa: ASYNC110 - nobody would set an event
                await asyncio.sleep(0.1)

    def batches(self) -> int:
        """Checkpoints so far."""
        return sum(1 for _ in self.core.store.checkpoints())


@contextlib.asynccontextmanager
async def inside(
    host: Host, monkeypatch: pytest.MonkeyPatch, configuration: Configuration | None = None
) -> AsyncIterator[Inside]:
    """Starts an agent on a provisioned host."""
    injector = Injector()
    monkeypatch.setattr("attestd.tpm.device.Tcti", injector.connect)
    log = logging.getLogger("attestd.faults")
    async with assembled(host.layout, configuration or host.configuration, log) as agent:
        isolation = "user" if os.geteuid() == 0 else "none"
        agent.core.runner_info = {"isolation": isolation, "uid": os.geteuid()}
        yield Inside(host, agent.core, injector)


def released(answers: list[Receipt | str]) -> list[Receipt]:
    """The receipts; all of them must be."""
    for answer in answers:
        assert isinstance(answer, Receipt), answer
    return [answer for answer in answers if isinstance(answer, Receipt)]
