"""A host with a TPM enrols with two controllers, both of which must sign, and runs what its fleet allows."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509

from attestd.agent.enrollers import Enroller
from attestd.audit.store import LogStore
from attestd.errors import StoreError, VerificationError
from attestd.lineage.entry import EntryType, parse_entry
from attestd.lineage.receipt import parse_receipt, verify_receipt
from attestd.paths import Configuration
from attestd.strict import canonical
from tests.cli.conftest import Result
from tests.controller.running import Controller
from tests.fleet import INTERVAL_S, Fleet, Member
from tests.host import wait_for

TRUE = "/usr/bin/true"


class Mesh:
    """A fleet whose host records two controllers sign."""

    def __init__(self, fleet: Fleet, top: Path) -> None:
        self.fleet = fleet
        web, office = str(fleet.office / "web"), fleet.office
        self.one = Controller(
            top / "one", roles=["governance", "enroller"], governance=web,
            enroller_key=str(office / "enroller.pem"), epoch_key=str(office / "tpm epoch.pem"),
            ak_trust_domain="one.example",
        )  # fmt: skip
        self.two = Controller(
            top / "two", roles=["enroller"], governance=web, enroller_key=str(office / "enroller two.pem")
        )
        for made in (self.one, self.two):
            made.init("--root", str(fleet.anchor)).start()

    def host(self) -> Member:
        host = Member(Path(tempfile.mkdtemp(prefix="h-", dir="/tmp")))
        host.office = self.fleet.office
        self.fleet.hosts.append(host)
        host.work.mkdir()
        host.configuration = Configuration(governance_url=self.urls[0] + "/governance")
        return host

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{made.port}" for made in (self.one, self.two)]

    def init(self, host: Member, *options: str, urls: list[str] | None = None) -> Result:
        named = [word for url in urls or self.urls for word in ("--controller", url)]
        return host.attestd(
            *("init", "--tpm", "embedded", *named, "--governance", f"{self.urls[0]}/governance"),
            *("--root", self.fleet.anchor, "--json", "--wait", "0", *options),
        )

    def believe(self, *hosts: str) -> None:
        version = self.fleet.add(
            "ek-allow.json", canonical({"v": 1, "hosts": dict.fromkeys(hosts, "software")})
        )
        for made in (self.one, self.two):
            made.wait_said(rf"governance.read version={version} ")


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with Fleet(enrollers=("enroller", "enroller two")) as fleet:
        mesh = Mesh(fleet, tmp_path)
        try:
            yield mesh
        finally:
            for made in (mesh.one, mesh.two):
                made.kill()


def test_a_host_joins(mesh: Mesh) -> None:
    host = mesh.host()
    label = ("--label", "role=ci")
    # Nobody knows this TPM; its host-id is what somebody has to look at.
    refused = mesh.init(host, *label)
    assert refused.status == 1, refused
    [id_] = re.findall(r"EK of host ([0-9a-f]{64}) ", refused.stderr)
    # Both say the same; that is said once.
    assert f"2 enrollers must sign, 0 did: {', '.join(mesh.urls)}: the EK of host {id_}" in refused.stderr
    mesh.believe(id_)
    # Its label is its own word: operators decide, each at their controller.
    waiting = mesh.init(host, *label)
    assert waiting.status == 69, waiting
    assert "2 enrollers must sign, 0 did" in waiting.stderr
    assert "labels role=ci, before none" in waiting.stderr
    mesh.one.attestd("approve", id_, "--yes")
    waiting = mesh.init(host, *label)
    assert waiting.status == 69, waiting
    assert "2 enrollers must sign, 1 did" in waiting.stderr
    mesh.two.attestd("approve", id_, "--yes")
    # An enroller that crashed: the host waits, and goes on.
    mesh.two.kill()
    cut = mesh.init(host, *label)
    assert cut.status == 69, cut
    port = mesh.two.port
    mesh.two.configuration["listen"] = f"127.0.0.1:{port}"
    mesh.two.start()
    joined = mesh.init(host, *label)
    assert joined.status == 0, joined
    assert joined.json["host"] == id_
    assert "not published" in mesh.one.attestd("hosts").stdout
    mesh.fleet.governance("enroll", joined.json["record"], "--yes")
    version = mesh.fleet.publish()
    with host.layout.configuration.open("a") as file:
        file.write(f"governance_interval_s = {INTERVAL_S}\n")
    host.start()
    host.wait_version(version)
    assert host.exec(TRUE, authorization=host.authorize(TRUE)).status == 0
    for made in (mesh.one, mesh.two):
        wait_for("it is listed", lambda made=made: "enrolled" in made.attestd("hosts").stdout)
    again = mesh.init(host, *label)
    assert again.status == 0, again
    assert again.json["fresh"] is False
    assert again.json["record"] is None
    comes_again(mesh, host, label)
    has_new_keys(mesh, host)


def comes_again(mesh: Mesh, host: Member, label: tuple[str, ...]) -> None:
    """Its disk is lost, not its TPM: other keys, which operators admit, each at their controller; nobody else's key is needed."""
    receipt = host.receipt(host.entries(EntryType.DECISION_ALLOW)[0].seq)
    certificates = host.layout.ak_certificates
    assert host.status()["governance"]["ak_certificates"] == str(certificates)
    before, id_ = x509.load_pem_x509_certificate(certificates.read_bytes()), host.id
    assert host.stop() == 0
    for path in (host.layout.agent, host.layout.runner, host.layout.trust):
        shutil.rmtree(path)
    waiting = mesh.init(host, *label)
    assert waiting.status == 69, waiting
    assert "other keys than before" in waiting.stderr
    for made in (mesh.one, mesh.two):
        made.attestd("approve", id_, "--yes")
    back = mesh.init(host, *label)
    assert back.status == 0, back
    assert x509.load_pem_x509_certificate(certificates.read_bytes()).public_key() != before.public_key()
    enroll = (
        "governance",
        "enroll",
        "--repository",
        mesh.fleet.office / "governance",
        back.json["record"],
        "--yes",
    )
    refused = host.attestd(*enroll)
    assert refused.status == 1, refused
    assert "name the file that the enrollers signed (--ended)" in refused.stderr
    mesh.fleet.governance("enroll", back.json["record"], "--ended", back.json["ended"], "--yes")
    for name, url, key in zip(("one", "two"), mesh.urls, mesh.fleet.enrollers, strict=True):
        mesh.fleet.governance("mesh", name, "--url", url, "--enroller", f"{key}.pem")
    version = mesh.fleet.publish()
    host.start()
    host.wait_version(version)
    assert host.exec(TRUE, authorization=host.authorize(TRUE)).status == 0
    [second] = [entry for entry in host.entries() if entry.type is EntryType.HOST_REENROLL]
    present = mesh.fleet.trust.hosts[id_]
    assert (second.seq, second.body) == (
        1, {"host": id_, "ak": present.ak_name.hex(), "release_key": present.release_name.hex()},
    )  # fmt: skip
    # What it did before verifies, by the record that ended.
    assert verify_receipt(parse_receipt(receipt), trust=mesh.fleet.trust).host.ak_name != present.ak_name


def has_new_keys(mesh: Mesh, host: Member) -> None:
    """It asks for new keys by itself, and waits until operators said yes; mesh.json says whom to ask."""
    host.wait_settled()
    receipt = host.receipt(host.entries(EntryType.DECISION_ALLOW)[0].seq)
    assert host.stop() == 0
    controllers = (mesh.one, mesh.two)
    marks = [len(made.said) for made in controllers]
    command = [sys.executable, "-m", "attestd", "rekey", "--yes", "--json", "--wait", "100"]
    with subprocess.Popen(
        [*command, "--state-dir", str(host.state)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as waiting:
        for made, mark in zip(controllers, marks, strict=True):
            wait_for(
                "its TPM has answered",
                lambda made=made, mark=mark: any("enrolment.waiting" in line for line in made.said[mark:]),
            )
            made.attestd("approve", host.id, "--yes")
        out, err = waiting.communicate(timeout=280)
    assert waiting.returncode == 0, err
    assert "other keys than before" in err
    record, ended = json.loads(out)["waits"]
    mesh.fleet.governance("enroll", record, "--ended", ended, "--yes")
    version = mesh.fleet.publish()
    done = host.attestd("rekey", "--yes", "--json")
    assert (done.status, done.json["waits"]) == (0, []), done
    host.start()
    host.wait_version(version)
    assert host.exec(TRUE, authorization=host.authorize(TRUE)).status == 0
    trust = mesh.fleet.trust
    old = verify_receipt(parse_receipt(receipt), trust=trust).host
    assert old.ak_name != trust.hosts[host.id].ak_name
    with contextlib.closing(LogStore.open(done.json["closed"], readonly=True)) as closed:
        last = parse_entry(closed.entry(closed.size - 1))
    assert last.type is EntryType.HOST_REENROLL
    # Its last leaf, too, was sealed before that record ended.
    assert datetime.fromisoformat(last.time) <= old.not_after


def test_enrollers_that_are_too_few(mesh: Mesh) -> None:
    host = mesh.host()
    done = mesh.init(host, urls=mesh.urls[:1])
    assert done.status == 64, done
    assert "2 enrollers must sign a host record, and 1 are named" in done.stderr
    twice = mesh.init(host, urls=[mesh.urls[0], mesh.urls[0]])
    assert "named twice" in twice.stderr
    # The same enroller under two names: its key counts once.
    shutil.rmtree(host.state)
    other = mesh.urls[0].replace("127.0.0.1", "localhost")
    found = re.search(r"EK of host ([0-9a-f]{64}) ", mesh.init(host).stderr)
    assert found is not None
    mesh.believe(found[1])
    refused = mesh.init(host, urls=[mesh.urls[0], other])
    assert refused.status == 1, refused
    assert "a key counts once" in refused.stderr


def test_answers_that_are_none(mesh: Mesh) -> None:
    enroller = Enroller("http://127.0.0.1:1")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1"):
        enroller._post("/v1/enrollments", b"{}")
    with pytest.raises(VerificationError, match="status 404"):
        Enroller(mesh.urls[0] + "/nothing")._post("/v1/enrollments", b"{}")
