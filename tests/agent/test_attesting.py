"""A real TPM attests to a remote verifier over HTTP: with logs, with what is new, after a reset; and to one that lies."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from attestd.agent import controllers
from attestd.agent.attesting import Attestation
from attestd.agent.controllers import CallThreads, Controller
from attestd.agent.measured_logs import BootReader
from attestd.appraisal.claims import ResultClaims
from attestd.appraisal.result import AttestationResult
from attestd.appraisal.state import BootAppraiser
from attestd.errors import (
    AttestdError,
    EvidenceIncompleteError,
    MalformedError,
    StoreError,
    VerificationError,
)
from attestd.paths import load_configuration
from attestd.strict import encode_base64url
from tests.agent.test_evidence import Bench, on
from tests.agent.verifying import Remote, mesh_of
from tests.distribution import web
from tests.host import Host
from tests.measured import BANKS, UKI, MeasuredHost, boot_rules, ima_policy
from tests.tcg.ima.build import data, ima_list
from tests.world import p256

REPLAY_S = 0.005


@dataclass
class Side:
    """A host with a TPM, and the verifier that it attests to."""

    host: Host
    remote: Remote
    bench: Bench
    attestation: Attestation

    def attest(self) -> AttestationResult:
        time.sleep(REPLAY_S)  # the TPM's clock counts milliseconds
        trust = self.host.trust
        controller = Controller(self.remote.url)
        policy = trust.platforms["local"]

        async def attest() -> AttestationResult:
            return await self.attestation.attest(controller, name="one", policy=policy, trust=trust)

        return asyncio.run(attest())

    def refused(self, error: type[AttestdError]) -> str:
        with pytest.raises(error) as raised:
            self.attest()
        return str(raised.value)


@contextmanager
def attesting(host: Host) -> Iterator[Side]:
    with Remote("one", lambda: host.trust) as remote, on(host) as bench:
        remote.start()
        host.publish(mesh_of(remote, version=host.trust.mesh.version + 1))
        paths = load_configuration(host.layout.configuration, {}).log_paths()
        threads = CallThreads()
        yield Side(
            host,
            remote,
            bench,
            Attestation(bench.port, BootReader(paths), threads, now=lambda: datetime.now(UTC)),
        )
        threads.stop()


@pytest.fixture(scope="module")
def measured() -> Iterator[MeasuredHost]:
    with MeasuredHost.create() as host:
        assert isinstance(host, MeasuredHost)
        host.configure()
        host.reboot(UKI)
        host.rules(boot=boot_rules(secure_boot="required"), ima=ima_policy("/bin/a"))
        yield host


@pytest.fixture(scope="module")
def plain() -> Iterator[Side]:
    """A host whose policy has no rules."""
    with Host.create() as host, attesting(host) as side:
        yield side


@pytest.fixture
def honest(plain: Side) -> Side:
    """The same, and its verifier tells the truth again."""
    remote = plain.remote
    remote.lie, remote.garble, remote.asked = (lambda same: same), (lambda same: same), (lambda same: same)
    remote.key = p256("verifier one")
    return plain


def findings(result: AttestationResult) -> tuple[str, ...]:
    assert result.is_affirming == (not result.claims.attestd.findings.count)
    return result.claims.attestd.findings.first


def test_a_real_tpm(measured: MeasuredHost) -> None:
    with attesting(measured) as side:
        remote = side.remote
        # This boot was never approved as a state; its logs comply.
        first = findings(side.attest())
        assert all("PCR" in finding for finding in first)
        assert findings(side.attest()) == first
        whole, small = remote.seen
        assert len(small) < 4096 < len(whole)
        # A file is measured: only what is new is sent.
        evil = data(b"/bin/evil", b"evil")
        digests = {bank: hashlib.new(bank, evil).digest() for bank in BANKS}
        side.bench.port.other(lambda tpm: tpm.extend(10, digests)).result()
        measured.ima_list.write_bytes(ima_list(evil))
        assert any("/bin/evil" in finding for finding in findings(side.attest()))
        # The verifier lost what it kept: it is told the whole, over a new challenge.
        remote.kept.clear()
        remote.boots = BootAppraiser()
        assert any("/bin/evil" in finding for finding in findings(side.attest()))
        assert [len(seen) > 4096 for seen in remote.seen[-2:]] == [False, True]
        # One that is never content is left alone.
        remote.garble = lambda _: conflict()
        seen = len(remote.seen)
        assert "it asked 3 times" in side.refused(StoreError)
        assert len(remote.seen) == seen + 3
        remote.garble = lambda same: same
    measured.reboot(UKI)
    with attesting(measured) as side:
        side.remote.state = remote.state
        again = side.attest()
        assert not any("/bin/evil" in finding for finding in findings(again))
        assert remote.state is not None
        assert again.claims.attestd.state.reset_count > remote.state.last.reset_count


def conflict() -> bytes:
    raise EvidenceIncompleteError("not enough")


def state(claims: ResultClaims, **changes: Any) -> ResultClaims:
    found = msgspec.structs.replace(claims.attestd.state, **changes)
    return msgspec.structs.replace(claims, attestd=msgspec.structs.replace(claims.attestd, state=found))


def platform(claims: ResultClaims, **changes: Any) -> ResultClaims:
    found = msgspec.structs.replace(claims.attestd.platform, **changes)
    return msgspec.structs.replace(claims, attestd=msgspec.structs.replace(claims.attestd, platform=found))


def late(claims: ResultClaims) -> ResultClaims:
    return msgspec.structs.replace(claims, iat=claims.iat - 600, exp=claims.iat - 300)


LIES: dict[str, tuple[Callable[[ResultClaims], ResultClaims], type[AttestdError], str]] = {
    "another challenge": (
        lambda claims: msgspec.structs.replace(claims, nonce=encode_base64url(bytes(56))),
        VerificationError,
        "nonce",
    ),
    "another host": (
        lambda claims: msgspec.structs.replace(claims, ueid=encode_base64url(b"\x01" + bytes(32))),
        VerificationError,
        "UEID",
    ),
    "another name": (lambda claims: msgspec.structs.replace(claims, iss="two"), VerificationError, "issuer"),
    "it is over": (late, VerificationError, "holds from"),
    "another state": (lambda claims: state(claims, pcr_digest="00" * 32), VerificationError, "another state"),
    "another boot": (lambda claims: state(claims, reset_count=99), VerificationError, "another state"),
    "another policy": (lambda claims: platform(claims, digest="00" * 32), StoreError, "older governance"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_result_that_lies(honest: Side, lie: str) -> None:
    honest.remote.lie, error, words = LIES[lie]
    assert words in honest.refused(error)


def test_answers_that_are_none(honest: Side) -> None:
    remote = honest.remote
    assert honest.attest().is_affirming
    remote.key = p256("stranger")
    assert "mesh.json names no verifier" in honest.refused(VerificationError)
    remote.key = p256("verifier one")
    for garbage in (b"", b"\xff", b"a.b.c", b"{}", b"x" * 32_768):
        remote.garble = lambda _, garbage=garbage: garbage
        honest.refused(MalformedError)
    remote.garble = lambda _: b"x" * 32_769
    assert "larger than" in honest.refused(MalformedError)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (lambda asked: {**asked, "host": "00" * 32}, VerificationError),
        (lambda asked: {**asked, "platform": "other"}, VerificationError),
        (lambda asked: {**asked, "challenge": encode_base64url(bytes(57))}, MalformedError),
        (lambda asked: {**asked, "more": 1}, MalformedError),
        (lambda asked: {**asked, "challenge": encode_base64url(bytes(56))}, VerificationError),
    ],
)
def test_challenges_that_are_none(
    honest: Side, asked: Callable[[dict[str, Any]], dict[str, Any]], error: type[AttestdError]
) -> None:
    honest.remote.asked = asked
    honest.refused(error)


def test_servers_that_misbehave(honest: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controllers.Controller.post, "__kwdefaults__", {**POST, "deadline_s": 0.3})
    server = honest.remote.web
    assert server is not None
    for path in ("v1/challenge", "v1/evidence"):
        before = server.behaviours[path]
        for behaviour, error in ((web.endless, MalformedError), (web.dripping_headers, StoreError)):
            server.behaviours[path] = behaviour
            honest.refused(error)
        server.behaviours[path] = before
    assert honest.attest().is_affirming


POST: dict[str, Any] = dict(controllers.Controller.post.__kwdefaults__ or {})
