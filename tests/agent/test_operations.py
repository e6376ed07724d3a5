"""What the command line asks a running agent."""

import asyncio
import json
import os
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from attestd.agent import operations
from attestd.agent.core import Core
from attestd.agent.findings import of_status
from attestd.agent.operations import serve_operation
from attestd.lineage.entry import EntryType
from attestd.strict import canonical
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.quote import verify_quote
from tests.agent.test_exec import denied
from tests.host import Host
from tests.world import World


def test_status_tells_the_truth(shared: Host) -> None:
    assert shared.run("/bin/true").status == 0
    shared.wait_settled()
    status = shared.status()
    last = shared.entries()[-1]
    assert status["agent"]["host"] == shared.id
    assert status["agent"]["releases"] == 1
    assert status["agent"]["pid"] == shared.agent.pid  # type: ignore[union-attr]
    assert (status["log"]["size"], status["log"]["last_time"]) == (last.seq + 1, last.entry.time)
    assert status["log"]["fatal"] is None
    assert status["runner"] == shared.runner_info()
    assert status["runner"]["pid"] == shared.runner_pid
    assert status["governance"]["tier"] == "software"
    assert status["tpm"]["epoch"] == status["governance"]["epoch"] == 1
    assert status["platforms"]["local"]["state"] == "approved"
    assert status["conditions"] == dict.fromkeys(("clock", "log", "runner", "tpm"))


def test_decision_by_id_and_by_number(shared: Host) -> None:
    denied(shared.exec("/bin/true"), "missing_authorization")
    last = shared.entries(EntryType.DECISION_DENY)[-1]
    for wanted in (last.id, str(last.seq)):
        answer = shared.ask("decision", id=wanted)["ok"]
        assert answer["seq"] == last.seq
        assert json.loads(answer["entry"])["body"] == last.body
        assert shared.verify_receipt(answer["receipt"].encode()).leaf == last.id
    for unknown in ("ab" * 32, "99999", "x", "-1", "0x1"):
        assert shared.ask("decision", id=unknown)["error"]["kind"] == "usage"


def test_quote_verifies_and_is_bound_to_challenge_and_purpose(shared: Host) -> None:
    challenge = os.urandom(32)
    answer = shared.ask("quote", challenge=b64encode(challenge).decode())["ok"]
    trust = shared.trust
    selection = trust.platforms["local"].selection
    verified = verify_quote(
        ak_public_key=trust.hosts[shared.id].ak,
        attest=b64decode(answer["attest"]),
        signature=b64decode(answer["signature"]),
        extra_data=extra_data(Purpose.QUOTE, host_id=shared.id, data=challenge),
        selection=selection,
        values={int(index): bytes.fromhex(value) for index, value in answer["pcrs"][selection.bank].items()},
    )
    assert verified.selections == (selection,)


def test_challenge_must_have_a_size(shared: Host) -> None:
    for size in (0, 1025):
        answer = shared.ask("quote", challenge=b64encode(bytes(size)).decode())
        assert answer["error"]["kind"] == "usage"
    assert shared.ask("quote", challenge="AAAA", platform="other")["error"]["kind"] == "usage"


def test_extend_wants_a_pcr_and_a_digest(shared: Host) -> None:
    digest = b64encode(bytes(32)).decode()
    for pcr, data in (
        (24, digest),
        (-1, digest),
        ("7", digest),
        (None, digest),
        (16, b64encode(bytes(31)).decode()),
    ):
        assert shared.ask("extend", pcr=pcr, data=data)["error"]["kind"] == "usage"
    assert shared.ask("extend", pcr=16, data=digest)["ok"] == {"pcr": 16, "sha256": "00" * 32}


def test_accepting_the_clock_is_recorded(shared: Host) -> None:
    answer = shared.ask("accept_clock")["ok"]
    entry = shared.entries()[answer["seq"]]
    assert entry.type is EntryType.ATTESTATION
    assert entry.body == {"what": "clock accepted", "by_uid": os.geteuid(), "time": answer["time"]}


def test_artifacts_for_all_users(shared: Host) -> None:
    artifact = shared.issue("/bin/echo", "installed")
    answer = shared.ask("install", artifact=artifact.decode(), everyone=True)["ok"]
    assert answer["everyone"] is True
    assert shared.exec("/bin/echo", "installed").stdout == b"installed\n"


def test_log_is_sound_after_all_this(shared: Host) -> None:
    shared.wait_settled()
    shared.require_sound()


def test_what_was_measured_is_for_root_and_the_agents_user() -> None:
    """The kernel gives event log and IMA list to root alone; the agent does not give them to others."""
    for request in ({"op": "boots"}, {"op": "boot_log", "boot": "now", "log": "ima"}):
        answer = asyncio.run(serve_operation(canonical(request), 65534, cast("Core", None)))
        assert answer["error"]["kind"] == "forbidden"


def test_offsets_into_logs(shared: Host) -> None:
    for offset in (-1, 0.5, "0", True):
        request = {"op": "boot_log", "boot": "now", "log": "eventlog", "offset": offset}
        answer = asyncio.run(serve_operation(json.dumps(request).encode(), os.geteuid(), cast("Core", None)))
        assert answer["error"]["kind"] in ("usage", "malformed")
    assert shared.ask("boot_log", boot="now", log="eventlog")["error"]["kind"] == "usage"
    assert shared.ask("boots")["ok"]["boots"] == []


def test_of_many_unusable_files_some_are_told(shared: Host) -> None:
    """Status stays within its frame, and says how many more there are."""
    world = World("status of a fleet")
    world.extra = {f"hosts/{number}.json": b"{}" for number in range(70)}
    layout = SimpleNamespace(ak_certificates=Path("/nonexistent"))
    core: Any = SimpleNamespace(host=world.host.id, layout=layout, grace=timedelta(0))
    told = operations._governance(world.trust(), core)
    assert (len(told["unusable"]), told["unusable_more"]) == (64, 6)
    status = shared.status()
    assert (status["governance"]["unusable"], status["governance"]["unusable_more"]) == ({}, 0)
    status["governance"] |= {"unusable": told["unusable"], "unusable_more": told["unusable_more"]}
    found = [item.found for item in of_status(status, now=datetime.now(UTC)) if "left out" in item.found]
    assert (len(found), found[-1]) == (65, "6 more files published, but left out")
