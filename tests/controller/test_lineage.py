"""The lineage role: receipts are kept once, joined by what they say of each other, and read by operators alone."""

import json
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from attestd.controller.lineage.receipts import Bounds, Receipts, part_of
from attestd.controller.lineage.role import BEHIND_S
from attestd.controller.store.engine import Store, migrate
from attestd.governance.mesh import witness_key_id
from attestd.lineage.entry import EntryType
from attestd.lineage.receipt import parse_receipt, verify_receipt
from attestd.lineage.usage import BoundRequest, UsageQuery
from attestd.strict import canonical
from attestd.tlog.checkpoint import BatchMode
from attestd.tlog.note import NoteSignature
from tests.controller.certificates import Authority
from tests.controller.journal import journal
from tests.controller.running import Client, Controller
from tests.controller.test_witness_hosts import write
from tests.fleet import attestd
from tests.world import World, mesh_file, with_cosignatures, with_lines, witness

JSON = {"content-type": "application/json"}
AMPLE = Bounds(1000, 1 << 30)


@dataclass(frozen=True)
class Family:
    """Three executions, each the next one's parent, and one of another line."""

    world: World
    receipts: dict[str, bytes]

    def leaf(self, name: str) -> str:
        return verify_receipt(parse_receipt(self.receipts[name]), trust=self.world.trust()).leaf


def family(name: str = "lineage") -> Family:
    world = World(name, now=datetime.now(UTC).replace(microsecond=0))
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
        yield Receipts(store, AMPLE)


def add(receipts: Receipts, kin: Family, *names: str) -> list[str]:
    trust = kin.world.trust()
    return [
        receipts.add(verify_receipt(parse_receipt(kin.receipts[name]), trust=trust), kin.receipts[name])[0]
        for name in names
    ]


def test_kept_once(receipts: Receipts, kin: Family) -> None:
    assert add(receipts, kin, "root", "root", "child") == ["kept", "known", "kept"]
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


def test_no_more_is_kept_of_a_host_than_it_may_have(url: str, kin: Family) -> None:
    """Whoever broke into it signs leaves as it likes: by number and by bytes there is an end, and others are not concerned."""
    migrate(url)
    sizes = [len(data) for data in kin.receipts.values()]
    with closing(Store.open(url)) as store:
        few = Receipts(store, Bounds(2, 1 << 30))
        assert add(few, kin, "root", "child", "root", "stranger") == ["kept", "kept", "known", "full"]
        assert few.get(kin.leaf("stranger")) is None
        host = kin.world.host.id
        small = Receipts(store, Bounds(100, sum(sizes[:1])))
        assert add(small, kin, "liar", "child") == ["full", "known"]
        [used] = small.usage(UsageQuery()).hosts
        held = sum(len(kin.receipts[name]) for name in ("root", "child"))
        assert (used.host, used.receipts, used.bytes, used.own) == (host, 2, held, False)
        # An operator says otherwise, exactly as much as it takes; and takes it back.
        exact = held + len(kin.receipts["liar"])
        few.bound(host, BoundRequest(max_receipts=3, max_bytes=exact - 1))
        assert add(few, kin, "liar") == ["full"]
        used = few.bound(host, BoundRequest(max_receipts=None, max_bytes=exact))
        assert (used.max_receipts, used.max_bytes, used.own) == (2, exact, True)
        assert add(few, kin, "liar") == ["full"]
        few.bound(host, BoundRequest(max_receipts=3, max_bytes=exact))
        assert add(few, kin, "liar", "stranger") == ["kept", "full"]
        used = few.bound(host, BoundRequest(max_receipts=None, max_bytes=None))
        assert (used.receipts, used.bytes, used.max_receipts, used.own) == (3, exact, 2, False)
        other = family("another host")
        assert add(few, other, "root") == ["kept"]
        assert few.lineage(kin.leaf("child"))[0]
        first, second = (
            few.usage(UsageQuery(limit=1, after=after)) for after in ("", min(host, other.world.host.id))
        )
        assert [page.hosts[0].host for page in (first, second)] == sorted([host, other.world.host.id])
        assert (first.next, second.next) == (min(host, other.world.host.id), None)


def test_who_else_cosigned_is_kept_as_well(url: str) -> None:
    """In the same row and the same room: a receipt that came early has not all of its witnesses yet."""
    world = World("cosigned", now=datetime.now(UTC).replace(microsecond=0))
    world.extra["mesh.json"] = mesh_file([witness("one"), witness("two")])
    body, trust = world.decide().body, world.trust()
    sealed = {
        type_: world.receipt(body, type_=type_)
        for type_ in (EntryType.DECISION_ALLOW, EntryType.DECISION_DENY)
    }
    migrate(url)
    with closing(Store.open(url)) as store:
        for type_, plain in sealed.items():
            one, two, both = (
                with_cosignatures(plain, *map(witness, names)) for names in (["one"], ["two"], ["one", "two"])
            )
            verified = verify_receipt(parse_receipt(both), trust=trust)
            ample = Receipts(store, AMPLE)
            outcomes = [ample.add(verified, data)[0] for data in (plain, plain, one, plain, one)]
            assert outcomes == ["kept", "known", "joined", "known", "known"]
            tenth = 10 if type_ is EntryType.DECISION_DENY else 1
            for room, outcome in ((len(both) - 1, "full"), (len(both), "joined")):
                # As many as there are, and their bytes.
                exact = Receipts(store, Bounds(tenth, room * tenth))
                assert exact.add(verified, two)[0] == outcome
            assert ample.get(verified.leaf) == both
            [used] = ample.usage(UsageQuery()).hosts
            part = part_of(used, type_)
            assert (part.receipts, part.bytes) == (1, len(both))


def test_who_counts_no_more_keeps_nobody_out(url: str) -> None:
    """What was kept when a witness still counted makes room for what a reader believes now."""
    now = datetime.now(UTC).replace(microsecond=0)
    end = now + timedelta(days=7)
    world = World("replaced", now=now)
    one, two = witness("one"), witness("two")
    world.extra["mesh.json"] = mesh_file([one, two], quorum=1)
    plain = world.receipt(world.decide().body)
    migrate(url)
    with closing(Store.open(url)) as store:
        receipts = Receipts(store, AMPLE)

        def brought(receipt: bytes) -> str:
            verified = verify_receipt(parse_receipt(receipt), trust=world.trust())
            return receipts.add(verified, receipt)[0]

        # Who has a replaced witness's key, and its honest line of before: the late one is kept, before anybody says so.
        late, timely = (with_cosignatures(plain, one, time=time) for time in (end, now))
        assert brought(late) == "kept"
        world.replace_mesh(mesh_file([two], quorum=1), handover=end)
        assert brought(timely) == "joined"
        leaf = verify_receipt(parse_receipt(timely), trust=world.trust()).leaf
        assert receipts.get(leaf) == timely
        world.revocations["keys"] = [witness_key_id(one.key)]
        other = with_cosignatures(plain, two, time=now)
        assert brought(other) == "joined"
        assert receipts.get(leaf) == other
        [used] = receipts.usage(UsageQuery()).hosts
        assert (used.receipts, used.bytes) == (1, len(other))


def test_denials_leave_the_room_to_what_ran(url: str) -> None:
    """Nobody needs an authorization to be denied: a tenth as much of it is kept, beside what else is."""
    found = family("denials")
    for name in ("denied", "denied again", "denied too often"):
        time = found.world.now + timedelta(milliseconds=len(found.receipts))
        type_ = EntryType.DENIALS_AGGREGATED if name == "denied again" else EntryType.DECISION_DENY
        found.receipts[name] = found.world.receipt({"name": name}, time=time, type_=type_)
    migrate(url)
    with closing(Store.open(url)) as store:
        few = Receipts(store, Bounds(11, 1 << 30))
        assert add(few, found, "denied", "denied again", "denied too often") == ["kept", "kept", "full"]
        small = Receipts(store, Bounds(1000, 10 * len(found.receipts["denied"])))
        assert add(small, found, "denied too often", "denied") == ["full", "known"]
        others = [name for name in found.receipts if not name.startswith("denied")]
        assert add(few, found, *others) == ["kept"] * len(others)
        [used] = few.usage(UsageQuery()).hosts
        held = sum(len(found.receipts[name]) for name in ("denied", "denied again"))
        assert (used.receipts, used.denials, used.denial_bytes) == (len(others), 2, held)
        assert (used.max_receipts, used.max_denials) == (11, 2)


def test_a_database_of_before_is_counted(url: str, kin: Family) -> None:
    migrate(url)
    denied = kin.world.receipt({}, type_=EntryType.DECISION_DENY, mode=BatchMode.RECORD)
    with closing(Store.open(url)) as store:
        add(Receipts(store, AMPLE), kin, "root", "child")
        Receipts(store, AMPLE).add(verify_receipt(parse_receipt(denied), trust=kin.world.trust()), denied)
        counted = Receipts(store, AMPLE).usage(UsageQuery())
        with store.write() as connection:
            connection.execute(text("DROP TABLE receipt_hosts"))
            connection.execute(text("ALTER TABLE enrolment_decisions DROP COLUMN confirmed"))
            connection.execute(text("UPDATE alembic_version SET version_num = '0004'"))
    assert migrate(url)
    with closing(Store.open(url)) as store:
        assert Receipts(store, AMPLE).usage(UsageQuery()) == counted


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
        lineage_receipts_per_host=3,
    ) as controller:  # fmt: skip
        write(kin.world, controller)
        controller.init().start()
        context = ssl.create_default_context(cafile=str(tmp_path / "servers-ca.pem"))
        anybody = Client(controller.port, tls=context)
        for name, status in (("root", 201), ("root", 200), ("child", 201), ("root start", 201)):
            answered = anybody.post("/v1/receipts", kin.receipts[name])
            assert (answered.status, answered.json["leaf"]) == (status, kin.leaf(name))
        receipt = kin.receipts["grandchild"]
        assert "index" in anybody.post("/v1/receipts", receipt.replace(b"index", b"Index")).problem(400)
        without = re.sub(rb"\nextra [^\n]*", b"", receipt)
        assert "no entry" in anybody.post("/v1/receipts", without).problem(422)
        forged = re.sub(rb"\nindex [0-9]+", b"\nindex 1", receipt)
        assert "inclusion" in anybody.post("/v1/receipts", forged).problem(403)
        stranger = World("lineage of another fleet", now=kin.world.now)
        anybody.post("/v1/receipts", stranger.receipt(stranger.decide().body)).problem(403)
        anybody.post("/v1/receipts", b"x", {"content-length": str(1 << 20)}).problem(413)
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
        no_room(controller, kin, operator, tmp_path)
        metrics = operator.get("/metrics").body.decode()
        assert 'attestd_lineage_receipts_total{outcome="kept"} 4' in metrics
        assert 'attestd_lineage_receipts_total{outcome="full"} 2' in metrics
        assert not [line for line in controller.said if "request.bug" in line]


def test_padding_is_not_kept(tmp_path: Path) -> None:
    """Lines of keys that are nobody's verify nothing, and would take the room of ten other receipts."""
    world = World("padded", now=datetime.now(UTC).replace(microsecond=0))
    world.extra["mesh.json"] = mesh_file([witness("one"), witness("two")])
    plain = with_cosignatures(world.receipt(world.decide().body), witness("one"), time=world.now)
    padded = with_lines(
        with_cosignatures(plain, witness("nobody"), time=world.now),
        *(NoteSignature("padding", bytes([number] * 4), os.urandom(4000)) for number in range(9)),
    )
    state = tmp_path / "state"
    with Controller(state, roles=["lineage"], governance=str(state / "web")) as controller:
        write(world, controller)
        controller.init().start()
        anybody = Client(controller.port)
        host = world.host.id
        [path] = (state / "web").rglob(f"*.{host}.json")
        away = path.rename(path.with_name("away"))
        anybody.post("/v1/receipts", padded).problem(503)  # the record is not there just now
        away.rename(path)
        leaf = anybody.post("/v1/receipts", padded).json["leaf"]
        assert anybody.post("/v1/receipts", plain).status == 200
        [row] = json.loads(controller.attestd("receipts", "--json").stdout)["hosts"]
        assert (row["host"], row["receipts"], row["bytes"]) == (host, 1, len(plain))
        with closing(Store.open(f"sqlite:///{next(state.rglob('controller.db'))}")) as store:
            kept = Receipts(store, AMPLE).get(leaf)
        assert kept == plain
        assert kept is not None
        # Who else cosigned is kept later on.
        both = with_cosignatures(plain, witness("two"), time=world.now)
        assert [anybody.post("/v1/receipts", data).status for data in (both, plain)] == [200, 200]
        metrics = anybody.get("/metrics").body.decode()
        assert 'attestd_lineage_receipts_total{outcome="joined"} 1' in metrics
        [row] = json.loads(controller.attestd("receipts", "--json").stdout)["hosts"]
        assert (row["receipts"], row["bytes"]) == (1, len(both))
    (tmp_path / "kept.tlog-proof").write_bytes(kept)
    world.write_trust(tmp_path / "trust")
    shown = attestd(tmp_path, "verify", "receipt", "kept.tlog-proof", "--trust", "trust", "--json")
    assert (shown.status, list(json.loads(shown.stdout)["witnesses"])) == (0, ["one"]), shown


def test_governance_that_is_behind(tmp_path: Path) -> None:
    """A receipt that names newer governance is to be brought again; one that only says so, of any other day, is refused."""
    world = World("behind", now=datetime.now(UTC).replace(microsecond=0))
    world.extra["mesh.json"] = mesh_file([witness("one")])
    state = tmp_path / "state"
    with Controller(state, roles=["lineage"], governance=str(state / "web")) as controller:
        write(world, controller)
        controller.init().start()
        anybody = Client(controller.port)
        world.replace_mesh(mesh_file([witness("two")]), handover=world.now + timedelta(days=7))
        body = world.decide().body
        receipt = world.receipt(body)
        answered = anybody.post("/v1/receipts", receipt)
        assert answered.headers["retry-after"] == str(BEHIND_S)
        assert (
            "governance here is version 1, the receipt names 2: that is newer, or never was"
            in answered.problem(503)
        )
        liar = world.receipt(body, time=world.now + timedelta(days=2))
        assert "that is newer, or never was" in anybody.post("/v1/receipts", liar).problem(403)
        write(world, controller)
        controller.wait_said("governance.read version=2 ")
        assert anybody.post("/v1/receipts", receipt).status == 201
        metrics = anybody.get("/metrics").body.decode()
        assert 'attestd_lineage_receipts_total{outcome="refused"} 2' in metrics


def no_room(controller: Controller, kin: Family, operator: Client, top: Path) -> None:
    """Three are kept of this host; an operator, here or from afar, sees it and allows more."""
    host, receipt = kin.world.host.id, kin.receipts["grandchild"]
    anybody = Client(controller.port, tls=ssl.create_default_context(cafile=str(top / "servers-ca.pem")))
    for _ in range(2):
        assert f"3 receipts of host {host} are kept" in anybody.post("/v1/receipts", receipt).problem(507)
    assert anybody.post("/v1/receipts", kin.receipts["root"]).status == 200
    full = f"lineage.full host={host} what=receipts receipts=3"
    assert len([line for line in controller.said if full in line]) == 1
    for path in ("/v1/receipts", "/v1/receipts?limit=1"):
        assert "operators" in anybody.get(path).problem(403)
    bound = f"/v1/receipts/hosts/{host}"
    body = canonical({"max_receipts": 9, "max_bytes": None})
    assert "operators" in anybody.post(bound, body, JSON).problem(403)
    operator.post("/v1/receipts/hosts/x", body, JSON).problem(404)
    afar = (
        *("--controller", f"https://localhost:{controller.port}", "--ca", "servers-ca.pem"),
        *("--certificate", "operator.pem", "--key", "operator.key"),
    )
    command = ("controller", "receipts")
    shown = attestd(top, *command, *afar)
    assert re.search(rf"{host[:16]} +3 +3 +0.0 +256 +0 +1 +0.0 +26 +the configuration's", shown.stdout), shown
    assert attestd(top, *command, host, "--most", "4", *afar).status == 0
    controller.wait_said(f"lineage.bounded host={host} receipts=4 .*operator=")
    [row] = json.loads(controller.attestd("receipts", "--json").stdout)["hosts"]
    assert (row["max_receipts"], row["own"]) == (4, True)
    assert anybody.post("/v1/receipts", receipt).status == 201
    local = ("controller", "receipts", host, "--default", "--state-dir", controller.state)
    with journal(top) as said:
        default = attestd(top, *local)
        line = said()
    assert "the configuration's" in default.stdout
    assert "lineage.bounded" not in default.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attestd.cli.controller_access._JOURNAL", str(top / "none"))
        assert line in attestd(top, *local).stderr
    assert re.match(rf"lineage.bounded host={host} receipts=3 bytes=\d+ operator=\S+", line), line
    for wrong in (("--most", "1"), ("x", "--most", "1"), (host,), (host, "--default", "--most-mb", "1")):
        controller.attestd("receipts", *wrong, status=64)
