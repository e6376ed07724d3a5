"""Operators over HTTP: known by their certificates, seen in what they decided; nobody else gets an answer."""

import contextlib
import io
import json
import ssl
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from attestd.agent.enrollers import Enroller
from attestd.errors import StoreError
from attestd.governance.desk import parse_host_answer
from attestd.strict import canonical, format_time
from tests.cli.conftest import Result
from tests.cli.meanwhile import Meanwhile
from tests.controller.certificates import Authority
from tests.controller.journal import journal
from tests.controller.running import Controller
from tests.controller.test_enroller import HEADERS, MAKER, Asking, Desk, pending, signed, with_other_keys
from tests.fleet import attestd
from tests.host import wait_for
from tests.world import Host


class Afar:
    """A controller with TLS, and operators on other machines."""

    def __init__(self, top: Path, **configuration: Any) -> None:
        self.top = top
        servers, self.operators, foreign = (Authority(name) for name in ("servers", "operators", "foreign"))
        servers.issue(top, "server", host="localhost")
        for name, authority in (("servers", servers), ("operators", self.operators)):
            (top / f"{name}.pem").write_bytes(authority.pem)
        self.alice = self.operators.issue(top, "alice")
        self.operators.issue(top, "old", until=-timedelta(minutes=1))
        foreign.issue(top, "mallory")
        self.desk = Desk(top, f"sqlite:///{top / 'controller.db'}")
        self.controller: Controller = self.desk.controller(
            tls_certificate=str(top / "server.pem"), tls_key=str(top / "server.key"),
            operator_ca=str(top / "operators.pem"), **configuration,
        )  # fmt: skip
        self.nobody = ssl.create_default_context(cafile=str(top / "servers.pem"))
        self.controller.tls = self.nobody
        self.url = f"https://localhost:{self.controller.port}"

    def run(self, *command: Any, who: str = "alice") -> Result:
        shown = ("--certificate", self.top / f"{who}.pem", "--key", self.top / f"{who}.key")
        return attestd(
            self.top,
            "controller",
            *command,
            "--controller",
            self.url,
            *shown,
            "--ca",
            self.top / "servers.pem",
        )

    def ok(self, *command: Any) -> Result:
        done = self.run(*command)
        assert done.status == 0, done
        return done

    @contextlib.contextmanager
    def as_alice(self) -> Iterator[Controller]:
        """The same controller, asked with her certificate."""
        self.controller.tls = ssl.create_default_context(cafile=str(self.top / "servers.pem"))
        self.controller.tls.load_cert_chain(self.top / "alice.pem", self.top / "alice.key")
        try:
            yield self.controller
        finally:
            self.controller.tls = self.nobody


@pytest.fixture(scope="module")
def afar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Afar]:
    afar = Afar(tmp_path_factory.mktemp("afar"))
    with afar.controller:
        yield afar


def asking(afar: Afar, name: str) -> Asking:
    """A host whose TPM a manufacturer vouches for: a person decides."""
    host = Host(name, root=afar.desk.world.root)
    return Asking(afar.desk.world, host, MAKER.ek(host.ek))


def test_an_operator_decides_from_afar(afar: Afar) -> None:
    certified, role = asking(afar, "certified"), {"role": "ci"}
    waits = pending(certified.enrol(afar.controller, labels=role))
    assert f"{certified.host.id[:16]}  waiting" in afar.ok("hosts").stdout
    shown = afar.ok("approve", certified.host.id[:12], "--yes").stderr
    for words in (certified.host.id, "role=ci", waits.digest, "a new host, vouched for by maker"):
        assert words in shown
    signed(certified.enrol(afar.controller, labels=role))
    found = afar.ok("hosts", "--json").json
    assert [row["state"] for row in found["hosts"] if row["host"] == certified.host.id] == ["not published"]
    [decided] = [item for item in found["decisions"] if item["host"] == certified.host.id]
    assert (decided["decision"], decided["digest"]) == ("approved", waits.digest)
    assert decided["operator"] == f"certificate {afar.alice}, CN=alice"
    afar.controller.wait_said(rf"enrolment.decided host={certified.host.id} .*operator={afar.alice}")
    # On the machine itself the same is seen.
    assert json.loads(afar.controller.attestd("hosts", "--json").stdout) == found


def test_expect_refuse_revoke(afar: Afar) -> None:
    host = asking(afar, "expected")
    afar.ok("enroll", host.host.id, "--label", "role=db")
    signed(host.enrol(afar.controller, labels={"role": "db"}))
    pending(host.enrol(afar.controller, labels={"role": "root"}))
    assert afar.run("approve", host.host.id[:7], "--yes").status == 64
    afar.ok("approve", host.host.id, "--refuse", "--yes")
    assert "an operator refused" in host.enrol(afar.controller, labels={"role": "root"}).problem(403)
    assert "attestd governance revoke --host" in afar.ok("revoke", host.host.id, "--yes").stderr
    assert "was revoked here" in afar.ok("revoke", host.host.id, "--yes").stderr
    assert "revoked here" in host.enrol(afar.controller).problem(403)
    refused = afar.run("enroll", host.host.id)
    assert (refused.status, "status 409" in refused.stderr) == (1, True), refused


def test_pages(afar: Afar) -> None:
    one, two = (asking(afar, name) for name in ("page one", "page two"))
    for host, page in ((one, "1"), (two, "2")):
        pending(host.enrol(afar.controller, labels={"page": page}))
    with afar.as_alice() as controller:
        whole = controller.get("/v1/hosts").json
        assert whole["next"] is None
        first = controller.get("/v1/hosts?limit=1").json
        assert first["next"] == first["hosts"][0]["host"]
        second = controller.get(f"/v1/hosts?limit=1&after={first['next']}&state=waiting").json
        assert second["hosts"][0]["host"] > first["next"]
        for wrong in ("limit=0", "limit=501", "limit=x", "after=x", "state=x", "page=2", "limit=1&limit=1"):
            assert "the query" in controller.get(f"/v1/hosts?{wrong}").problem(400)
    ids = {row["host"] for row in afar.ok("hosts", "--state", "waiting", "--json").json["hosts"]}
    assert {one.host.id, two.host.id} <= ids
    [row] = afar.ok("hosts", "--label", "page=1", "--json").json["hosts"]
    assert row["host"] == one.host.id
    assert "no host is like that" in afar.ok("hosts", "--state", "not-published", "--label", "page=3").stderr


def test_what_was_looked_at_is_what_is_decided(afar: Afar) -> None:
    host = asking(afar, "changing")
    path = f"/v1/hosts/{host.host.id}"
    seen = pending(host.enrol(afar.controller)).digest
    with afar.as_alice() as controller:
        shown = parse_host_answer(controller.get(path).body).waiting.shown
    pending(host.enrol(afar.controller, labels={"role": "root"}))
    with afar.as_alice() as controller:
        body = canonical({"digest": seen})
        assert "waits any more" in controller.post(f"{path}/refuse", body, HEADERS).problem(409)
        body = canonical({"shown": shown})
        refused = controller.post(f"{path}/approve", body, HEADERS).problem(409)
        found = controller.get(path).json
        assert f"it is record {found['waiting']['digest']} now: a new host" in refused
        assert found["waiting"]["digest"] != seen
        assert found["decisions"] == []
        refuse = canonical({"digest": found["waiting"]["digest"]})
        assert controller.post(f"{path}/refuse", refuse, HEADERS).status == 200
        assert "waits any more" in controller.post(f"{path}/approve", body, HEADERS).problem(409)
        for unknown in ("x", "00" * 32):
            controller.get(f"/v1/hosts/{unknown}").problem(404)
        controller.post("/v1/hosts/x/revoke", canonical({"reason": ""}), HEADERS).problem(404)
        controller.post(f"{path}/approve", canonical({"shown": "x"}), HEADERS).problem(422)


def test_what_ends_other_keys_is_confirmed(afar: Afar, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys before end where the new record began, however long ago: nobody approves that without being told."""
    before, world = asking(afar, "comes again"), afar.desk.world
    afar.desk.governed(lambda world: world.records.update({before.host.id: world.host_record(before.host)}))
    other = Asking(world, with_other_keys(before.host, world), *before.certificates)
    digest = pending(other.enrol(afar.controller)).digest
    path = f"/v1/hosts/{before.host.id}"
    with afar.as_alice() as controller:
        [words] = controller.get(path).json["waiting"]["warnings"]
        ak = world.trust().hosts[before.host.id].ak_name.hex()
        assert words.startswith(f"the keys before (ak {ak}) end at {format_time(world.now)}: nothing that")
        assert controller.get(path).json["decisions"] == []
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    declined = afar.run("approve", digest)
    assert (declined.status, "Have this record signed all the same?" in declined.stderr) == (1, True), (
        declined
    )
    assert f"WARNING: {words}" in afar.ok("approve", digest, "--yes").stderr
    signed(other.enrol(afar.controller))
    decided = [item for item in afar.ok("hosts", "--json").json["decisions"] if item["digest"] == digest]
    assert words in decided[0]["words"]


@pytest.mark.parametrize("where", ["here", "afar"])
def test_a_warning_that_comes_while_somebody_looks_is_shown(
    afar: Afar, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is the same, but governance has the host by now: with other keys, which it would end."""
    before, world = asking(afar, f"published meanwhile, seen {where}"), afar.desk.world
    other = Asking(world, with_other_keys(before.host, world, f"again, {where}"), *before.certificates)
    digest = pending(other.enrol(afar.controller)).digest

    def published() -> None:
        record = world.host_record(before.host)
        afar.desk.governed(lambda world: world.records.update({before.host.id: record}))

    def approve(*options: str) -> Result:
        if where == "afar":
            return afar.run("approve", digest, *options)
        return attestd(
            afar.top, *("controller", "approve", digest, "--state-dir", afar.controller.state, *options)
        )

    monkeypatch.setattr(sys, "stdin", Meanwhile(published, "y", "n"))
    looked = approve()
    first, again, second = looked.stderr.partition("nothing was decided, for this is not what is to be seen")
    assert looked.status == 1, looked
    assert again
    assert "WARNING" not in first
    assert "WARNING: the keys before" in second
    assert "signed all the same?" in second
    with journal(afar.top) as said:
        assert "WARNING: the keys before" in approve("--yes").stderr
        if where == "here":
            decided = f"enrolment.decided host={before.host.id} decision=approved digest={digest} operator="
            assert said().startswith(decided)
    signed(other.enrol(afar.controller))


def test_what_is_decided_stands_in_the_journal(afar: Afar) -> None:
    """Also where the answer is an error, for there is no governance: it is recorded."""
    host = asking(afar, "expected there")
    afar.ok("enroll", host.host.id)
    signed(host.enrol(afar.controller))
    afar.controller.wait_said(
        rf'enrolment.decided host={host.host.id} decision=approved digest=\w+ operator="certificate {afar.alice}'
    )
    timestamp = afar.top / "web/metadata/timestamp.json"
    whole = timestamp.read_bytes()
    timestamp.write_bytes(b"{}")
    try:
        afar.controller.wait_said("governance.unusable")
        with afar.as_alice() as controller:
            path, body = f"/v1/hosts/{host.host.id}", canonical({"reason": "stolen"})
            controller.get(path).problem(503)
            answered = controller.post(f"{path}/revoke", body, HEADERS)
            assert (answered.status, answered.json["governance"]) == (200, False), answered
        afar.controller.wait_said(rf"enrolment.decided host={host.host.id} decision=revoked ")
    finally:
        mark = len(afar.controller.said)
        timestamp.write_bytes(whole)
        wait_for(
            "governance is back",
            lambda: any("governance.read" in line for line in afar.controller.said[mark:]),
        )


def test_nobody_else_gets_an_answer(afar: Afar) -> None:
    """Neither who shows nothing, nor whom another authority knows, nor whose certificate has ended."""
    host = asking(afar, "stranger")
    pending(host.enrol(afar.controller))
    path = f"/v1/hosts/{host.host.id}"
    for asked in (afar.controller.get("/v1/hosts"), afar.controller.get(path)):
        assert "only for operators" in asked.problem(403)
    for verb in ("approve", "refuse", "expect", "revoke"):
        assert "only for operators" in afar.controller.post(f"{path}/{verb}", b"{}", HEADERS).problem(403)
    for who in ("mallory", "old"):
        refused = afar.run("revoke", host.host.id, "--yes", who=who)
        assert refused.status == 69, refused
        assert f"did its operator_ca issue {afar.top / who}.pem" in refused.stderr, refused
    assert f"{host.host.id[:16]}  waiting" in afar.ok("hosts").stdout
    # And the operator believes no server but the one that `--ca` vouches for.
    other = attestd(
        afar.top, *("controller", "hosts", "--controller", afar.url, "--ca", "operators.pem"),
        *("--certificate", "alice.pem", "--key", "alice.key"),
    )  # fmt: skip
    assert (other.status, "certificate verify failed" in other.stderr) == (69, True), other
    assert ": --ca FILE names who may vouch for it" in other.stderr
    assert "operator_ca" not in other.stderr


def test_whom_nobody_knows_and_what_is_not_there(afar: Afar) -> None:
    """A host is told what names those who may vouch for a server; that nobody listens has to do with no certificate."""
    root = afar.controller.state / "trust/root.json"
    joins = attestd(afar.top, "init", "--tpm", "embedded", "--controller", afar.url, "--root", root)
    assert joins.status == 69, joins
    assert "governance_ca (for init: --governance-ca FILE) names who may vouch for it" in joins.stderr
    host = asking(afar, "stranger")
    with pytest.raises(
        StoreError, match=r"controller_ca, or else governance_ca \(for init: --governance-ca FILE\), names"
    ):
        Enroller(afar.url).begin(host.request())
    nobody = attestd(
        afar.top, "controller", "hosts", "--controller", "https://localhost:1",
        *("--certificate", "alice.pem", "--key", "alice.key"),
    )  # fmt: skip
    assert (nobody.status, "Connection refused" in nobody.stderr) == (69, True), nobody
    assert "certificate" not in nobody.stderr
    assert "operator_ca" not in nobody.stderr


def test_options_that_do_not_go_together(afar: Afar) -> None:
    (afar.top / "none.key").write_bytes((afar.top / "alice.pem").read_bytes())
    for options, words in (
        (("--key", "alice.key"), "go with --controller"),
        (("--controller", afar.url), "--certificate and --key are needed"),
        (
            ("--controller", "http://localhost:1", "--certificate", "alice.pem", "--key", "alice.key"),
            "expected https://",
        ),
        (
            ("--controller", afar.url, "--certificate", "alice.pem", "--key", "none.key"),
            "expected a certificate and its key",
        ),
    ):
        refused = attestd(afar.top, "controller", "hosts", *options)
        assert refused.status == 64, refused
        assert words in refused.stderr
