"""The verifier over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest

from tests.appraisal.attesting import BAD
from tests.controller.attesting import Remote, verifying
from tests.controller.running import Controller
from tests.world import p256


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
def controller(remote: Remote, tmp_path: Path, url: str) -> Iterator[Controller]:
    with verifying(tmp_path / "state", remote, database=url) as made:
        yield made


def test_a_host_attests(remote: Remote, controller: Controller) -> None:
    first = remote.attest(controller)
    assert first.is_affirming
    assert (first.expires - first.issued).total_seconds() == 300
    key = p256("verifier one").public_key()
    assert jwt.decode(first.token, key, algorithms=["ES256"])["iss"] == "one"
    assert controller.get("/healthz").json == {"healthy": True, "troubles": {}}
    # The next time it sends what is new alone.
    asked = remote.challenge(controller)
    assert asked.eventlog is not None
    assert asked.ima is not None
    remote.items.append(BAD)
    second = remote.attest(controller)
    assert not second.is_affirming
    assert second.claims.attestd.findings.count == 1
    controller.wait_said("attestation.changed .*status=contraindicated findings=1")
    metrics = controller.get("/metrics").body.decode()
    assert 'attestd_verifier_requests{outcome="affirmed"} 1' in metrics
