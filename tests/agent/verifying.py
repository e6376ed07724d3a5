"""A remote verifier on 127.0.0.1: the pure half behind a real web server, and every lie that one could tell."""

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from attestd.appraisal.claims import ResultClaims, draft_result
from attestd.appraisal.evidence import parse_evidence
from attestd.appraisal.host_state import HostState
from attestd.appraisal.ima import parse_ima_policy
from attestd.appraisal.state import BootAppraiser
from attestd.appraisal.verifier import Verifier, ask_evidence
from attestd.errors import AttestdError, EvidenceIncompleteError
from attestd.governance.trust import Trust
from attestd.strict import canonical
from tests.distribution.web import Handler, Web, serving
from tests.results import sign_result
from tests.world import b64, mesh_file, p256, spki, week_ahead

KEY = bytes(range(32))


class Remote:
    """Attributes may be changed while it serves.

    Attributes:
        state: What it keeps of the host; `kept` of its logs.
        seen: The evidence that came.
        lie: Changes claims before they are signed, `key` signs them, `garble` changes what is answered.
    """

    def __init__(
        self, name: str, trust: Callable[[], Trust], *, lifetime: timedelta = timedelta(minutes=5)
    ) -> None:
        self.name, self.trust, self.lifetime = name, trust, lifetime
        self.key = p256(f"verifier {name}")
        self.state: HostState | None = None
        self.kept: dict[str, bytes] = {}
        self.seen: list[bytes] = []
        self.lie: Callable[[ResultClaims], ResultClaims] = lambda claims: claims
        self.garble: Callable[[bytes], bytes] = lambda data: data
        self.asked: Callable[[dict[str, Any]], dict[str, Any]] = lambda asked: asked
        self.port = 0
        self.web: Web | None = None
        self.boots = BootAppraiser()
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, port: int | None = None) -> Self:
        """Serves where it did before, or at another port."""
        self.web = self._stack.enter_context(serving({}, port=self.port if port is None else port))
        self.port = self.web.server_address[1]
        self.web.behaviours = {"v1/challenge": self._challenge, "v1/evidence": self._evidence}
        return self

    def stop(self) -> None:
        """Also what connections were open answer no more."""
        self.web = None
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _policy(self, name: str) -> Any:
        return parse_ima_policy(self.trust().ima[name])

    def _challenge(self, handler: Handler, _: bytes) -> None:
        body = json.loads(handler.server.bodies[-1])
        assert body.keys() == {"v", "host", "platform"}

        def ask() -> bytes:
            found = ask_evidence(
                self.state, host=body["host"], policy=self.trust().platforms[body["platform"]], key=KEY,
                expires=datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1), random=os.urandom,
            )  # fmt: skip
            return canonical(self.asked(json.loads(canonical(found))))

        self._answer(handler, ask)

    def _evidence(self, handler: Handler, _: bytes) -> None:
        data = handler.server.bodies[-1]
        self.seen.append(data)
        now = datetime.now(UTC)

        def verify() -> bytes:
            trust = self.trust()
            verifier = Verifier(KEY, self.boots, self._policy, self.kept.get)
            found = verifier.verify(parse_evidence(data), trust=trust, state=self.state, now=now)
            self.state = found.state
            if found.logs is not None and found.state.eventlog is not None:
                self.kept[found.state.eventlog] = found.logs
            claims = draft_result(
                found, verifier=self.name, build="tests", governance=trust.version, now=now, lifetime=self.lifetime
            )  # fmt: skip
            return self.garble(sign_result(self.lie(claims), key=self.key).encode())

        self._answer(handler, verify)

    def _answer(self, handler: Handler, made: Callable[[], bytes]) -> None:
        if handler.server is not self.web:
            handler.close_connection = True  # It was stopped.
            return
        try:
            with self._lock:
                data = made()
        except AttestdError as error:
            status = 409 if isinstance(error, EvidenceIncompleteError) else 403
            handler.answer(canonical({"status": status, "detail": str(error)}), status=status)
        else:
            handler.answer(data)


def mesh_of(*remotes: Remote, quorum: int = 0, version: int = 1) -> Mapping[str, bytes]:
    """`mesh.json` that names them."""
    nodes = {remote.name: {"url": remote.url, "key": b64(spki(remote.key))} for remote in remotes}
    verifiers = {"quorum": quorum, "nodes": nodes}
    return {"mesh.json": mesh_file(version=version, handover=week_ahead(), verifiers=verifiers)}
