"""The verifier over HTTP: hosts that attest, and peers that lie to it."""

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.appraisal.challenge import make_challenge
from attestd.appraisal.evidence import EvidenceChallenge
from attestd.errors import UsageError
from attestd.strict import canonical, decode_base64url
from attestd.tcg.binding import Purpose, extra_data
from tests.appraisal.attesting import BAD
from tests.controller.attesting import CHALLENGE, EVIDENCE, JSON, Remote, prepare, verifying
from tests.controller.running import Controller, PostgreSQL
from tests.world import Host, b64, p256, spki

SECRET = "controller/verifier.secret"


@pytest.fixture(scope="module")
def remote() -> Remote:
    remote = Remote()
    for name in ("other", "revoked", "ended", "unread"):
        remote.enrol(name)
    world = remote.world
    world.revocations["hosts"] = [Host("revoked", root=world.root).id]
    ended = Host("ended", root=world.root)
    world.records[ended.id] = world.host_record(ended, not_after="2020-01-01T00:00:00Z")
    return remote


@pytest.fixture(scope="module")
def controller(remote: Remote, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with verifying(tmp_path_factory.mktemp("verifier") / "state", remote) as made:
        yield made


def refused(controller: Controller, evidence: bytes, status: int = 403) -> str:
    return controller.post(EVIDENCE, evidence, JSON).problem(status)


def ask(controller: Controller, **changes: Any) -> Any:
    body = {"v": 1, "host": "00" * 32, "platform": "local", **changes}
    return controller.post(CHALLENGE, canonical(body), JSON)


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
    query = f"{CHALLENGE}?host={remote.host.id}&platform=local"
    assert controller.get(query).json["ima"] == msgspec.to_builtins(asked.ima)
    remote.items.append(BAD)
    second = remote.attest(controller)
    assert not second.is_affirming
    assert second.claims.attestd.findings.count == 1
    controller.wait_said("attestation.changed .*status=contraindicated findings=1")
    assert 'attestd_verifier_requests{outcome="affirmed"}' in controller.get("/metrics").body.decode()


def test_an_older_quote(remote: Remote, controller: Controller) -> None:
    """What was accepted is not accepted again, nor is what was quoted before it, though both challenges still hold."""
    remote.tick()
    late = remote.answer(remote.challenge(controller))
    remote.tick()
    evidence = remote.answer(remote.challenge(controller))
    assert controller.post(EVIDENCE, evidence, JSON).status == 200
    assert "a replay" in refused(controller, evidence)
    assert "went back" in refused(controller, late)
    controller.wait_said("evidence.refused .*went back")


def test_challenges_that_are_none(remote: Remote, controller: Controller) -> None:
    remote.tick()
    asked = remote.challenge(controller)
    secret = (controller.state / SECRET).read_bytes()

    def forged(**changes: Any) -> EvidenceChallenge:
        given: dict[str, Any] = {
            "host": remote.host.id,
            "platform": "local",
            "key": secret,
            "expires": datetime.now(UTC) + timedelta(minutes=1),
            "random": bytes,
        }
        return msgspec.structs.replace(asked, challenge=make_challenge(**{**given, **changes}))

    over = forged(expires=datetime.now(UTC) - timedelta(seconds=1))
    assert "it was over at" in refused(controller, remote.answer(over))
    for wrong in (
        forged(key=bytes(32)),
        forged(host=Host("other", root=remote.world.root).id),
        forged(platform="another"),
        # The last character has bits that are always zero, and another one there may be no base64url.
        msgspec.structs.replace(asked, challenge=asked.challenge[:-1].swapcase() + asked.challenge[-1]),
    ):
        assert "this verifier did not make it" in refused(controller, remote.answer(wrong))
    # The same secret makes what it accepts: the refusals above are not for another reason.
    assert controller.post(EVIDENCE, remote.answer(forged()), JSON).status == 200


def test_evidence_of_others(remote: Remote, controller: Controller) -> None:
    remote.tick()
    other = Host("other", root=remote.world.root)
    asked = remote.challenge(controller)
    assert "extraData" in refused(controller, remote.answer(asked, signer=other))
    # A key in software, or another host's, that signs in this one's name.
    other.id = remote.host.id
    assert "signature" in refused(controller, remote.answer(asked, signer=other))
    assert "composite" in refused(
        controller, remote.answer(asked, about={pcr: bytes(32) for pcr in remote.quoted()})
    )
    assert "PCR" in refused(controller, remote.answer(asked, values={7: bytes(32)}))
    assert "extraData" in refused(controller, remote.answer(asked, purpose=Purpose.QUOTE))


def test_a_record_that_is_gone_from_the_mirror(remote: Remote, controller: Controller) -> None:
    """Its host is not told that it is not enrolled, and is known again when the record is back; others do not notice."""
    host = Host("unread", root=remote.world.root).id
    [path] = Path(controller.configuration["governance"]).rglob(f"*.{host}.json")
    away = path.rename(path.with_name("away"))
    words = ask(controller, host=host).problem(503)
    assert remote.challenge(controller).host == remote.host.id
    assert str(path) in words
    away.rename(path)
    assert ask(controller, host=host).status == 200


def test_hosts_that_may_not(remote: Remote, controller: Controller) -> None:
    unknown = ask(controller).problem(404)
    assert unknown == f"host {'00' * 32} is not enrolled"
    assert "no usable platform policy" in ask(controller, host=remote.host.id, platform="x").problem(404)
    for name, words in (("revoked", "is revoked"), ("ended", "does not hold now")):
        host = Host(name, root=remote.world.root).id
        assert words in ask(controller, host=host).problem(403)
    revoked = remote.enrol("revoked")
    secret = (controller.state / SECRET).read_bytes()
    asked = revoked.ask(key=secret, expires=datetime.now(UTC) + timedelta(minutes=1))
    assert "is revoked" in refused(controller, revoked.answer(asked))


def test_what_is_no_evidence(remote: Remote, controller: Controller) -> None:
    remote.tick()
    good = remote.answer(remote.challenge(controller))
    assert "JSON" in refused(controller, b"{", 400)
    assert "duplicate" in refused(controller, good[:-1] + b',"v":1}', 400)
    refused(controller, b"{}", 422)
    controller.post(EVIDENCE, good, {"content-type": "text/plain"}).problem(415)
    assert "Expected" in ask(controller, host="x").problem(422)
    assert "query" in controller.get(f"{CHALLENGE}?host=x&platform=y").problem(400)
    assert "query" in controller.get(f"{CHALLENGE}?host={'0' * 64}").problem(400)
    assert "twice" in controller.get(f"{CHALLENGE}?host=a&host=b&platform=c").problem(400)
    head = f"POST {EVIDENCE} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 40000000\r\n\r\n"
    assert controller.say(head.encode()).startswith(b"HTTP/1.1 413 ")
    # Spaces are no matter, and large bodies are read elsewhere.
    padded = good[:-1] + b" " * 70_000 + b"}"
    assert controller.post(EVIDENCE, padded, JSON).status == 200


def test_logs_that_are_not_kept(remote: Remote, controller: Controller) -> None:
    """A host that goes on from what its verifier does not hold is told so, and sends all of it."""
    other = remote.enrol("other")
    asked = other.challenge(controller)
    assert (asked.eventlog, asked.ima) == (None, None)
    claimed = msgspec.structs.replace(asked, eventlog="00" * 32)
    assert "is not kept" in refused(
        controller,
        other.answer(msgspec.structs.replace(claimed, eventlog=remote.challenge(controller).eventlog)),
        409,
    )
    assert controller.post(EVIDENCE, other.answer(asked), JSON).status == 200


def test_one_of_many_that_come_at_the_same_time(remote: Remote, controller: Controller) -> None:
    remote.tick()
    evidence = remote.answer(remote.challenge(controller))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: controller.post(EVIDENCE, evidence, JSON).status, range(8)))
    assert sorted(found) == [200, *[403] * 7]


def test_tpm2_checkquote(remote: Remote, controller: Controller, tmp_path: Path) -> None:
    """The quote in evidence is one to others too."""
    asked = remote.challenge(controller)
    sent = msgspec.json.decode(remote.answer(asked))
    for name in ("quote", "signature"):
        (tmp_path / name).write_bytes(decode_base64url(sent[name], what=name))
    pem = remote.host.ak.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "ak.pem").write_bytes(pem)
    challenge = decode_base64url(asked.challenge, what="challenge")
    for data, status in ((challenge, 0), (bytes(56), 1)):
        bound = extra_data(Purpose.EVIDENCE, host_id=remote.host.id, data=data).hex()
        done = subprocess.run(
            ["tpm2_checkquote", "-u", "ak.pem", "-m", "quote", "-s", "signature", "-g", "sha256", "-q", bound],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == status, done


def test_another_attestation_key(remote: Remote, controller: Controller) -> None:
    """A host that was enrolled again, as after its TPM was cleared, begins anew; with the old key it is another's."""
    host = remote.host
    remote.attest(controller)
    cleared = remote.enrol("cleared")
    cleared.host.id, cleared.host.ek_public = host.id, host.ek_public
    before = remote.world.records[host.id]
    remote.world.records[host.id] = remote.world.host_record(cleared.host)
    try:
        publish(remote, controller)
        cleared.clock = msgspec.structs.replace(cleared.clock, reset_count=0, clock=5)
        assert cleared.attest(controller).claims.attestd.state.reset_count == 0
        assert "signature" in refused(controller, remote.answer(remote.challenge(controller)))
    finally:
        remote.world.records[host.id] = before
        publish(remote, controller)


def publish(remote: Remote, controller: Controller) -> None:
    version = remote.world.write_trust(controller.state / "web")
    assert version
    controller.said.clear()
    controller.wait_said("governance.read")


def test_what_operators_see(remote: Remote, controller: Controller) -> None:
    """What was said last, and when: of hosts that never attested nothing."""
    said = remote.attest(controller).claims.attestd
    lines = {line[:16]: line for line in controller.attestd("hosts").stdout.splitlines()}
    count = said.findings.count
    result = rf"contraindicated, {count} findings?" if count else "affirming"
    words = rf"{result}, 20\S+Z, reset {said.state.reset_count}\.1"
    assert re.search(words, lines[remote.host.id[:16]]), lines
    assert "contra" not in lines[Host("ended", root=remote.world.root).id[:16]]
    controller.get("/v1/hosts").problem(403)


def test_two_processes(remote: Remote, tmp_path: Path, pg: PostgreSQL) -> None:
    """They have one secret and one store: a host may ask one and answer the other."""
    url, new = pg.database(), remote.enrol("new")
    with verifying(tmp_path / "one", remote, database=url) as one:
        remote.attest(one)
        two = Controller(tmp_path / "two", **{**one.configuration, "database": url})
        with pytest.raises(UsageError, match="copy the file"):
            prepare(two)
        secret = two.state / SECRET
        secret.write_bytes((one.state / SECRET).read_bytes())
        secret.chmod(0o600)
        (two.state / "trust").mkdir()
        (two.state / "trust" / "root.json").write_bytes((one.state / "trust" / "root.json").read_bytes())
        with two:
            made = prepare(two, join=True)
            assert made.verifier is not None
            assert made.verifier.key == b64(spki(p256("verifier one")))
            two.start()
            remote.tick()
            asked = remote.challenge(one)
            evidence = remote.answer(asked)
            with ThreadPoolExecutor(2) as threads:
                found = list(threads.map(lambda made: made.post(EVIDENCE, evidence, JSON), (one, two)))
            assert sorted(answered.status for answered in found) == [200, 403]
            _attests_elsewhere_meanwhile(remote, new, one, two)


def _attests_elsewhere_meanwhile(remote: Remote, new: Remote, one: Controller, two: Controller) -> None:
    """What `one` read for its challenge is over by then: it must neither count nor be in the way."""
    remote.tick()
    older = remote.answer(remote.challenge(one))
    remote.attest(two)
    assert "clock went back" in refused(one, older, 403)
    asked = remote.challenge(one)
    remote.attest(two)
    remote.tick()
    remote.result(one.post(EVIDENCE, remote.answer(asked), JSON), asked)
    asked = new.challenge(one)
    new.attest(two)
    new.tick()
    known = msgspec.structs.replace(asked, eventlog=new.challenge(two).eventlog)
    new.result(one.post(EVIDENCE, new.answer(known), JSON), asked)


def test_an_ima_policy_that_is_none_is_not_the_hosts_fault(tmp_path: Path) -> None:
    """Whoever published it hears of it; the host is told to ask again, and has done nothing wrong."""
    remote = Remote(name="unpublished")
    remote.policy_file = b"{}"
    remote.publish()
    with verifying(tmp_path / "state", remote) as controller:
        remote.tick()
        evidence = remote.answer(remote.challenge(controller))
        refused(controller, evidence, 503)
        controller.wait_said(r"request.failed .*governance: IMA policy [0-9a-f]{64}: ")
