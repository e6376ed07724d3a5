"""The lineage role: receipts are kept once, joined by what they say of each other, and read by operators alone."""

import re
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from attestd.controller.lineage.receipts import Receipts
from attestd.controller.store.engine import Store, migrate
from attestd.lineage.entry import EntryType
from attestd.lineage.receipt import parse_receipt, verify_receipt
from attestd.tlog.checkpoint import BatchMode
from tests.controller.certificates import Authority
from tests.controller.running import Client, Controller
from tests.controller.test_witness_hosts import write
from tests.world import World


@dataclass(frozen=True)
class Family:
    """Three executions, each the next one's parent, and one of another line."""

    world: World
    receipts: dict[str, bytes]

    def leaf(self, name: str) -> str:
        return verify_receipt(parse_receipt(self.receipts[name]), trust=self.world.trust()).leaf


def family() -> Family:
    world = World("lineage", now=datetime.now(UTC).replace(microsecond=0))
    found = Family(world, {})

    def seal(name: str, body: dict[str, Any], **changes: Any) -> None:
        time = world.now + timedelta(milliseconds=len(found.receipts))
        found.receipts[name] = world.receipt(body, time=time, **changes)

    def allow(name: str, parent: str | None) -> None:
        seal(name, world.decide().body | {"parent": parent})

    def ran(name: str, of: str, type_: EntryType) -> None:
        seal(name, {"leaf": found.leaf(of)}, type_=type_, mode=BatchMode.RECORD)

    allow("root", None)
    ran("root start", "root", EntryType.EXECUTION_START)
    ran("root exit", "root", EntryType.EXECUTION_EXIT)
    allow("child", found.leaf("root start"))  # a parent is named by its decision, or by its start
    ran("child start", "child", EntryType.EXECUTION_START)
    allow("grandchild", found.leaf("child"))
    allow("stranger", "ab" * 32)
    allow("liar", "not a leaf")
    ran("started nothing", "root", EntryType.AGENT_START)
    return found


@pytest.fixture(scope="module")
def kin() -> Family:
    return family()


@pytest.fixture
def receipts(url: str) -> Iterator[Receipts]:
    migrate(url)
    with closing(Store.open(url)) as store:
        yield Receipts(store)


def add(receipts: Receipts, kin: Family, *names: str) -> list[bool]:
    trust = kin.world.trust()
    return [
        receipts.add(verify_receipt(parse_receipt(kin.receipts[name]), trust=trust), kin.receipts[name])
        for name in names
    ]


def test_kept_once(receipts: Receipts, kin: Family) -> None:
    assert add(receipts, kin, "root", "root", "child") == [True, False, True]
    assert receipts.get(kin.leaf("root")) == kin.receipts["root"]
    assert receipts.get("ab" * 32) is None


def test_lineage(receipts: Receipts, kin: Family) -> None:
    add(receipts, kin, *reversed(kin.receipts))
    found, missing = receipts.lineage(kin.leaf("grandchild"))
    names = {kin.leaf(name): name for name in kin.receipts}
    assert [names[item.leaf] for item in found] == [
        "grandchild", "child", "child start", "root", "root start", "root exit",
    ]  # fmt: skip
    assert missing == ""
    assert [names[item.leaf] for item in receipts.lineage(kin.leaf("root exit"))[0]] == [
        "root", "root start", "root exit",
    ]  # fmt: skip


def test_what_is_not_here_is_named(receipts: Receipts, kin: Family) -> None:
    add(receipts, kin, "grandchild", "child", "stranger", "liar", "started nothing")
    for name, missing in (("grandchild", kin.leaf("root start")), ("stranger", "ab" * 32), ("liar", "")):
        assert receipts.lineage(kin.leaf(name))[1] == missing
    [alone], _ = receipts.lineage(kin.leaf("started nothing"))
    assert alone.decision == ""
    assert receipts.lineage("00" * 32) == ([], "00" * 32)


def test_over_http(tmp_path: Path, kin: Family) -> None:
    """Anybody brings receipts, an operator's certificate reads them; what does not verify is not kept."""
    operators, servers = Authority("operators"), Authority("servers")
    operators.issue(tmp_path, "operator")
    servers.issue(tmp_path, "server", host="localhost")
    for name, authority in (("operators", operators), ("servers", servers)):
        (tmp_path / f"{name}-ca.pem").write_bytes(authority.pem)
    state = tmp_path / "state"
    with Controller(
        state, roles=["lineage"], governance=str(state / "web"), operator_ca=str(tmp_path / "operators-ca.pem"),
        tls_certificate=str(tmp_path / "server.pem"), tls_key=str(tmp_path / "server.key"),
    ) as controller:  # fmt: skip
        write(kin.world, controller)
        controller.init().start()
        context = ssl.create_default_context(cafile=str(tmp_path / "servers-ca.pem"))
        anybody = Client(controller.port, tls=context)
        for name, status in (("root", 201), ("root", 200), ("child", 201), ("root start", 201)):
            answered = anybody.post("/v1/receipts", kin.receipts[name])
            assert (answered.status, answered.json["leaf"]) == (status, kin.leaf(name))
        receipt = kin.receipts["grandchild"]
        assert "index" in anybody.post("/v1/receipts", receipt.replace(b"index", b"Index")).problem(403)
        forged = re.sub(rb"\nindex [0-9]+", b"\nindex 1", receipt)
        assert "inclusion" in anybody.post("/v1/receipts", forged).problem(403)
        stranger = World("lineage of another fleet", now=kin.world.now)
        anybody.post("/v1/receipts", stranger.receipt(stranger.decide().body)).problem(403)
        anybody.post("/v1/receipts", b"x" * (1 << 20)).problem(413)
        path = f"/v1/lineage/{kin.leaf('child')}"
        assert "operators" in anybody.get(path).problem(403)
        assert "operators" in anybody.get(f"/v1/receipts/{kin.leaf('root')}").problem(403)
        context.load_cert_chain(tmp_path / "operator.pem", tmp_path / "operator.key")
        operator = Client(controller.port, tls=context)
        found = operator.get(path).json
        assert [item["leaf"] for item in found["receipts"]] == [
            kin.leaf("child"), kin.leaf("root"), kin.leaf("root start"),
        ]  # fmt: skip
        assert found["missing"] == ""
        assert operator.get(f"/v1/receipts/{kin.leaf('root')}").body == kin.receipts["root"]
        for unknown in ("ab" * 32, "x", "%00", "a" * 4000):
            operator.get(f"/v1/lineage/{unknown}").problem(404)
            operator.get(f"/v1/receipts/{unknown}").problem(404)
        metrics = operator.get("/metrics").body.decode()
        assert 'attestd_lineage_receipts_total{outcome="kept"} 3' in metrics
        assert not [line for line in controller.said if "request.bug" in line]
