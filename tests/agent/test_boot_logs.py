"""The boots and logs that an agent tells the command line of."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestd.agent.boot_logs import PART_BYTES, describe_boots, read_boot_log
from attestd.agent.boots import Boot, Boots
from attestd.agent.measured_logs import BootReader
from attestd.errors import MalformedError, StoreError, UsageError
from attestd.paths import Configuration

RECORDED = Path(__file__).parent.parent / "tcg" / "data" / "uki-sb"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def reader(**logs: str) -> BootReader:
    return BootReader(Configuration(**logs).log_paths())


@pytest.fixture
def boots(tmp_path: Path) -> Boots:
    return Boots(tmp_path / "boots")


def test_the_present_boot(boots: Boots) -> None:
    recorded = reader(
        eventlog=str(RECORDED / "binary_bios_measurements"),
        ima_list=str(RECORDED / "binary_runtime_measurements"),
        command_line=str(RECORDED / "cmdline"),
    )
    logs = recorded.read()
    assert logs is not None
    assert logs is recorded.read(), "it did not change"
    now = describe_boots(boots, recorded)["now"]
    assert now["digest"] == logs.digest
    assert now["command_line"].startswith("console=ttyS0")
    assert now["ima"] == str(RECORDED / "binary_runtime_measurements")
    assert now["problem"] is None


def test_without_logs(boots: Boots) -> None:
    told = describe_boots(boots, reader())
    assert told == {
        "boots": [],
        "now": dict.fromkeys(("digest", "command_line", "kernel", "ima", "problem")),
    }
    for name, log, why in (
        ("now", "eventlog", "there is no boot 'now'; there are: none"),
        ("ab" * 32, "userspace", "there is no boot"),
        ("now", "ima", "if one is configured"),
        ("now", "journal", "there are: eventlog, userspace, ima"),
    ):
        with pytest.raises(UsageError, match=why):
            read_boot_log(name, log, 0, boots=boots, reader=reader())


def test_logs_that_cannot_be_read(boots: Boots, tmp_path: Path) -> None:
    missing = reader(eventlog=str(tmp_path / "none"))
    with pytest.raises(StoreError, match=r"No such file.*must be able to read it"):
        missing.read()
    assert "No such file" in describe_boots(boots, missing)["now"]["problem"]
    log = tmp_path / "log"
    log.write_bytes(b"no log")
    broken = reader(eventlog=str(log))
    with pytest.raises(MalformedError, match="event log"):
        broken.read()
    log.write_bytes((RECORDED / "binary_bios_measurements").read_bytes())
    assert broken.read() is not None, "read again when it changed"


def test_a_user_space_log_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "tpm2-measure.log"
    found = reader(eventlog=str(RECORDED / "binary_bios_measurements"), userspace_log=str(path))
    logs = found.read()
    assert logs is not None
    assert logs.events == ()
    path.write_bytes(
        b'\x1e{"pcr":11,"digests":[{"hashAlg":"sha256","digest":"' + b"ab" * 32 + b'"}],"content":{}}\n'
    )
    logs = found.read()
    assert logs is not None
    assert [event.pcr for event in logs.events] == [11]
    assert logs.userspace == path.read_bytes()


def test_in_parts(boots: Boots, tmp_path: Path) -> None:
    data = bytes(range(256)) * (PART_BYTES // 128)
    boots.note(Boot(data, b"user space", "quiet", "6.1", "sha256", {}, (), NOW, NOW))
    (kept,) = boots.all()
    first = read_boot_log(kept.digest, "eventlog", 0, boots=boots, reader=reader())
    last = read_boot_log(kept.digest, "eventlog", PART_BYTES, boots=boots, reader=reader())
    assert (first["more"], last["more"]) == (True, False)
    assert not read_boot_log(kept.digest, "userspace", 0, boots=boots, reader=reader())["more"]
    path = tmp_path / "list"
    path.write_bytes(data)
    ima = [
        read_boot_log("now", "ima", offset, boots=boots, reader=reader(ima_list=str(path)))
        for offset in (0, PART_BYTES, 2 * PART_BYTES)
    ]
    assert [part["more"] for part in ima] == [True, False, False]
    assert (ima[0]["data"], ima[2]["data"]) == (first["data"], "")
