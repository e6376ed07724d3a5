"""A verifier as people run it, and hosts that attest to it over HTTP."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from attestd.appraisal.evidence import EvidenceChallenge, parse_evidence_challenge
from attestd.appraisal.result import AttestationResult, verify_result
from attestd.controller.configuration import find_controller_layout, load_controller_configuration
from attestd.controller.service import Initialised, initialise
from attestd.strict import canonical
from tests.appraisal.attesting import Attesting
from tests.controller.running import Answered, Controller
from tests.controller.test_witness_hosts import write
from tests.distribution.repositories import write_key
from tests.governance.test_mesh import mesh
from tests.world import Host

CHALLENGE, EVIDENCE = "/v1/challenge", "/v1/evidence"
JSON = {"content-type": "application/json"}


class Remote(Attesting):
    """A host that attests to verifiers that run; its world is what they read."""

    def __init__(self, **kind: Any) -> None:
        super().__init__(now=datetime.now(UTC).replace(microsecond=0), **kind)
        self.world.extra["mesh.json"] = canonical(mesh(self.world))

    def enrol(self, name: str) -> Self:
        """Another host of the same fleet, in the same state."""
        other = copy.copy(self)
        other.host = Host(name, root=self.world.root)
        self.world.records[other.host.id] = self.world.host_record(other.host)
        return other

    def challenge(self, controller: Controller) -> EvidenceChallenge:
        body = canonical({"v": 1, "host": self.host.id, "platform": "local"})
        answered = controller.post(CHALLENGE, body, JSON)
        assert answered.status == 200, answered
        return parse_evidence_challenge(answered.body)

    def attest(self, controller: Controller) -> AttestationResult:
        """A second later than before; what is said of it."""
        self.tick()
        asked = self.challenge(controller)
        answered = controller.post(EVIDENCE, self.answer(asked), JSON)
        return self.result(answered, asked)

    def result(self, answered: Answered, asked: EvidenceChallenge) -> AttestationResult:
        assert answered.status == 200, answered
        assert answered.headers["content-type"] == "application/eat+jwt"
        trust = self.trust
        return verify_result(
            answered.body.decode(),
            mesh=trust.mesh,
            host=trust.hosts[self.host.id],
            nonce=asked.challenge,
            now=datetime.now(UTC),
        )


@contextmanager
def verifying(state: Path, remote: Remote, **configuration: Any) -> Iterator[Controller]:
    """The verifier `one` of the world's mesh, with that name's key."""
    made = Controller(
        state,
        **{
            "roles": ["verifier"],
            "governance": str(state / "web"),
            "verifier_name": "one",
            "verifier_key": str(write_key(state.parent, "tpm verifier one")),
            **configuration,
        },
    )
    with made as controller:
        write(remote.world, controller)
        prepare(controller)
        yield controller.start()


def prepare(controller: Controller, *, join: bool = False) -> Initialised:
    """As `init` does, without another process."""
    layout = find_controller_layout(str(controller.state))
    configuration = load_controller_configuration(layout.configuration, {})
    return initialise(layout, configuration, join=join)
