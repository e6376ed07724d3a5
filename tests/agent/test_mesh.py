"""An agent and its verifiers: away at the start, restarted, moved, at odds with the host; and what the log tells of it."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import msgspec

from attestd.appraisal.claims import FindingsClaim, ResultClaims
from attestd.appraisal.vector import Status
from attestd.lineage.entry import EntryType
from tests.agent.verifying import Remote, mesh_of
from tests.distribution import web
from tests.fleet import attestd
from tests.host import Host, Logged, wait_for

TRUE = "/usr/bin/true"
UNAVAILABLE, DENIED = 69, 77
# It was asked a moment ago; then not even a request asks it again.
URGENT_S = 1.0


@contextmanager
def meshed(*, lifetime: timedelta = timedelta(minutes=5)) -> Iterator[tuple[Host, Remote, Remote]]:
    """A host that is not started yet, and two verifiers, of which one serves."""
    with ExitStack() as stack:
        host = stack.enter_context(Host.create())
        one, two = (
            stack.enter_context(Remote(name, lambda: host.trust, lifetime=lifetime))
            for name in ("one", "two")
        )
        one.start()
        two.start()
        two.stop()
        host.publish(mesh_of(one, two))
        # So rarely that it is not by chance that it takes evidence.
        settings = {"mesh_wait_s": 1, "evidence_interval_s": 3600}
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        host.layout.configuration.write_text("".join(['tpm = "embedded"\n', *lines]))
        yield host, one, two


def doubting(claims: ResultClaims) -> ResultClaims:
    found = msgspec.structs.replace(claims.attestd, findings=FindingsClaim(count=1, first=("it looks odd",)))
    platform = msgspec.structs.replace(claims.submods.platform, status=Status.CONTRAINDICATED)
    submods = msgspec.structs.replace(claims.submods, platform=platform)
    return msgspec.structs.replace(claims, attestd=found, submods=submods)


def state_of(host: Host) -> str | None:
    return host.status()["platforms"].get("local", {}).get("state")


def told(host: Host) -> list[tuple[str, str]]:
    return [(item.body["verifier"], item.body["status"]) for item in host.entries(EntryType.ATTESTATION)]


def shown_and_verified(host: Host, logged: Logged) -> None:
    """An entry of a verifier's result says all of it, and its token convinces others."""
    shown = attestd(host.work, "audit", "show", str(logged.seq), state=host.state)
    assert "PCR 7 (sha256): expected" in shown.stdout, shown
    assert logged.body["token"] not in shown.stdout
    file = host.top / "result.jwt"
    file.write_text(logged.body["token"] + "\n")
    verify = ("verify", "result", file, "--trust", host.layout.trust)
    found = attestd(host.work, *verify, "--json")
    assert (found.status, found.json["status"]) == (0, "contraindicated"), found
    assert found.json["host"] == host.id
    assert (
        found.json["governance"] == found.json["trust"]["version"]
    )  # what the verifier went by; what it is verified by
    assert "says" in attestd(host.work, *verify).stdout
    later = attestd(host.work, *verify, "--at", "2099-01-01T00:00:00Z")
    assert later.status == 1
    assert "was enrolled with these keys from" in later.stderr
    file.write_text(logged.body["token"].rpartition(".")[0] + "." + "A" * 86)
    assert attestd(host.work, *verify).status == 1
    file.write_text("a.b")
    assert attestd(host.work, *verify).status == 65


def test_two_of_two() -> None:
    with meshed() as (host, one, two):
        host.start()
        artifact = host.issue(TRUE, verifiers=2)
        assert host.exec(TRUE, authorization=artifact).status == UNAVAILABLE
        # On a busy machine the one that is there may take longer than the request waited.
        wait_for("one vouches", lambda: told(host) == [("one", "affirming")])
        denied = host.exec(TRUE, authorization=artifact, options=["--json"])
        assert denied.status == UNAVAILABLE, denied
        status = attestd(host.work, "status", state=host.state).stdout
        assert "no result holds" in status
        assert "platform local: affirming" in status
        doctor = attestd(host.work, "doctor", state=host.state).stdout
        assert "verifier two" in doctor
        assert "look at that controller" in doctor
        assert denied.json["code"] == "mesh_unavailable"
        assert "2 verifiers must vouch for this host, 1 do" in denied.json["sentence"]
        # It comes up: whoever needs it asks it at once.
        two.start()
        time.sleep(URGENT_S)
        wait_for("it runs", lambda: host.exec(TRUE, authorization=artifact).status == 0)
        wait_for("both are told", lambda: sorted(told(host)) == [("one", "affirming"), ("two", "affirming")])
        # Results are held: it need not be there.
        two.stop()
        assert host.exec(TRUE, authorization=artifact).status == 0
        asked = len(one.seen)
        assert host.exec(TRUE, authorization=artifact).status == 0
        assert len(one.seen) == asked
        # It moves: governance says where to.
        seen = len(two.seen)
        two.start(port=0)
        host.publish(mesh_of(one, two, version=2))
        wait_for("it is found", lambda: len(two.seen) > seen)
        status = {found["name"]: found for found in host.status()["verifiers"]}
        assert status["two"]["url"] == two.url
        assert status["two"]["results"]["local"]["status"] == "affirming"
        # A key that is revoked counts for nothing, whatever it signed.
        host.revoke(keys=[next(iter(host.trust.mesh.verifiers.values())).key.key_id])
        wait_for("it is revoked", lambda: host.exec(TRUE, authorization=artifact).status == UNAVAILABLE)
        host.wait_settled()
        host.require_sound()


def test_an_unapproved_state() -> None:
    """PCRs change at run time: results hold no longer at once, and the verifiers' results turn."""
    with meshed() as (host, _, two):
        two.start()
        host.start()
        artifact = host.issue(TRUE, verifiers=2)
        wait_for("it runs", lambda: host.exec(TRUE, authorization=artifact).status == 0)
        host.extend(7)
        denied = host.exec(TRUE, authorization=artifact, options=["--json"])
        assert denied.json["code"] == "environment_untrusted"
        wait_for(
            "both turn",
            lambda: sorted(told(host)[-2:]) == [("one", "contraindicated"), ("two", "contraindicated")],
        )
        assert host.exec(TRUE, authorization=artifact).status == DENIED
        doctor = attestd(host.work, "doctor", state=host.state)
        assert "verifier two" in doctor.stdout
        assert "says contraindicated of platform local: PCR 7 (sha256): expected" in doctor.stdout
        said = attestd(host.work, "audit", "tail", state=host.state).stdout
        assert "verifier two says contraindicated" in " ".join(said.split())
        shown_and_verified(host, host.entries(EntryType.ATTESTATION)[-1])
        # It is approved: they turn once more.
        host.approve_present_state()
        wait_for("it runs", lambda: host.exec(TRUE, authorization=artifact).status == 0)
        assert sorted(told(host)[-2:]) == [("one", "affirming"), ("two", "affirming")]


def test_results_are_renewed_and_run_out() -> None:
    with meshed(lifetime=timedelta(seconds=2)) as (host, one, two):
        two.start()
        host.start()
        artifact = host.issue(TRUE, verifiers=2)
        began = time.monotonic()
        wait_for("it runs", lambda: host.exec(TRUE, authorization=artifact).status == 0)
        before = len(two.seen)
        wait_for("they are renewed", lambda: len(two.seen) >= before + 2)
        two.stop()
        wait_for("they run out", lambda: host.exec(TRUE, authorization=artifact).status == UNAVAILABLE)
        # A verifier that finds what the agent does not: the platform is denied.
        two.lie = doubting
        two.start()
        denied = wait_for(
            "it turns",
            lambda: (
                (found := host.exec(TRUE, authorization=artifact, options=["--json"])).status == DENIED
                and found
            ),
        )
        assert denied.json["code"] == "environment_untrusted"
        assert "findings of two: it looks odd" in denied.json["sentence"]
        # Renewed or not, the log is told what changed.
        assert told(host).count(("one", "affirming")) == 1
        assert [status for name, status in told(host) if name == "two"] == ["affirming", "contraindicated"]
        # What is quoted for a verifier tells the agent as well that PCRs changed, and nobody asked for anything.
        host.extend(7)
        wait_for("it turns as well", lambda: ("one", "contraindicated") in told(host))
        wait_for("the agent knows", lambda: state_of(host) == "not approved")
        assert len(one.seen) < 20 + 4 * (time.monotonic() - began), "nobody is asked all the time"


def test_a_verifier_that_is_silent_and_one_that_is_gone() -> None:
    """A request waits for a silent verifier once, and others do not wait for it again and again."""
    with meshed() as (host, one, two):
        two.start()
        assert two.web is not None
        two.web.behaviours["v1/challenge"] = web.silent
        host.start()
        artifact = host.issue(TRUE, verifiers=2)
        wait_for("it is asked", lambda: two.web is not None and two.web.asked)
        time.sleep(URGENT_S)
        start = time.monotonic()
        for _ in range(3):
            assert host.exec(TRUE, authorization=artifact).status == UNAVAILABLE
        assert time.monotonic() - start < 12
        # Another verifier takes its place; the runner believes it for mesh.json names it.
        three = Remote("three", lambda: host.trust)
        with three.start():
            host.publish(mesh_of(one, three, version=2))
            wait_for("it is asked", lambda: host.exec(TRUE, authorization=artifact).status == 0)
            assert [found["name"] for found in host.status()["verifiers"]] == ["one", "three"]
