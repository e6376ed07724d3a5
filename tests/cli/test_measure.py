"""`attestd platform measure` and `diff`: files in, values and words out, without TPM or agent."""

import struct
from pathlib import Path

import pytest

from attestd.paths import KERNEL_LOGS
from tests.cli.conftest import Cli
from tests.tcg.eventlog.build import BOOTS, RECORDED, event, log, sha1_event
from tests.tcg.eventlog.test_userspace import record
from tests.tcg.ima.build import data, entry

UKI, CHANGED, GRUB = (BOOTS / name for name in ("uki-sb", "uki-sb-cmdline2", "shim-grub-ms-sb"))
EVENTS, IMA = "binary_bios_measurements", "binary_runtime_measurements"


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_measure(name: str, nowhere: Cli) -> None:
    """The replayed values are what the TPMs held."""
    data_, banks = RECORDED[name]
    Path("log").write_bytes(data_)
    found = nowhere.ok("platform", "measure", "--eventlog", "log", "--json").json
    for bank, values in banks.items():
        replayed = {int(index): bytes.fromhex(value) for index, value in found["pcrs"][bank].items()}
        replayed.pop(11, None)
        assert len(replayed) >= 8
        assert replayed == {index: values[index] for index in replayed}


@pytest.mark.parametrize("form", ["ascii", "binary"])
def test_measure_with_ima(form: str, nowhere: Cli) -> None:
    list_ = UKI / f"{form}_runtime_measurements"
    found = nowhere.ok("platform", "measure", "--eventlog", UKI / EVENTS, "--ima", list_, "--json").json
    held = RECORDED["uki-sb"][1]
    assert found["pcrs"]["sha256"]["10"] == held["sha256"][10].hex()
    assert found["pcrs"]["sha1"]["10"] == held["sha1"][10].hex()
    assert "10" not in found["pcrs"]["sha384"]
    assert found["ima"]["pcr10_of_padded_sha1"]["sha384"] == held["sha384"][10].hex()
    assert (found["ima"]["entries"], found["findings"]) == (426, [])


def test_measure_for_people(nowhere: Cli) -> None:
    shown = nowhere.ok(
        *("platform", "measure", "--eventlog", UKI / EVENTS, "--ima", UKI / IMA),
        *("--cmdline", UKI / "cmdline", "--events"),
    ).stdout
    assert "PCRs of bank sha256\n" in shown
    assert "IMA: 426 entries\n" in shown
    assert "✓ PCR 7: UEFI variable SecureBoot: on (event 4)\n" in shown
    assert "- PCR 4: image \\EFI\\BOOT\\BOOTX64.EFI: dd371611" in shown
    assert " rw ima_policy=tcb panic=-1 quiet (event 30)\n" in shown
    assert "No findings\n" in shown
    assert "note: the digest of an EV_EFI_VARIABLE_BOOT event" in shown


def test_measure_with_user_space(nowhere: Cli) -> None:
    """Firmware's log and systemd's together are what the TPM held in PCR 11."""
    Path("measure.log").write_bytes(record("sysinit") + record("ready"))
    found = nowhere.ok(
        "platform", "measure", "--eventlog", UKI / EVENTS, "--userspace", "measure.log", "--json"
    ).json
    assert found["pcrs"]["sha256"]["11"] == RECORDED["uki-sb"][1]["sha256"][11].hex()
    assert found["events"][-1]["what"] == "boot phase"
    assert any("no sha384 digest" in note for note in found["notes"])


def test_findings(nowhere: Cli) -> None:
    """They are for a person to judge: the status stays 0."""
    Path("log").write_bytes(RECORDED["ubuntu-1804-amd-sev"][0])
    shown = nowhere.ok("platform", "measure", "--eventlog", "log").stdout
    assert "PCR 7: UEFI variable SecureBoot: expected on, found off (event 3)" in shown
    [first, second] = nowhere.ok("platform", "measure", "--eventlog", "log", "--json").json["findings"]
    assert (first["event"], second["event"]) == (None, 3)
    assert second["text"] == "PCR 7: UEFI variable SecureBoot: expected on, found off (event 3)"
    other = nowhere.ok("platform", "measure", "--eventlog", UKI / EVENTS, "--ima", GRUB / IMA, "--json").json
    assert [item["where"] for item in other["findings"]] == ["IMA entry 0: boot_aggregate"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "event log: empty"),
        (b"\1" * 99, "event log: event 0"),
        (log()[:-1], "event log: event 0, which starts at byte 0, says 37 bytes of data, 36 follow"),
        (log(banks=("sm3",)), "event log: no bank that can be replayed"),
    ],
    ids=["empty", "junk", "cut", "sm3"],
)
def test_malformed_logs(content: bytes, message: str, nowhere: Cli) -> None:
    Path("log").write_bytes(content)
    result = nowhere("platform", "measure", "--eventlog", "log")
    assert (result.status, result.stdout) == (65, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_malformed_lists(nowhere: Cli) -> None:
    Path("ima").write_bytes(struct.pack("<I", 10) + b"x")
    result = nowhere("platform", "measure", "--eventlog", UKI / EVENTS, "--ima", "ima")
    assert (result.status, result.stdout) == (65, "")
    assert "IMA list: truncated in entry 0" in result.stderr


def test_nothing_in_a_log_steers_the_terminal(nowhere: Cli) -> None:
    evil = b"\x1b]0;owned\x07\nattestd: approved"
    Path("log").write_bytes(log(event(8, 13, b"grub_cmd: " + evil, evil), event(9, 13, evil, b"file")))
    Path("ima").write_bytes(entry(data(b"boot_aggregate")) + entry(data(b"/tmp/" + evil), violation=True))
    shown = nowhere.ok("platform", "measure", "--eventlog", "log", "--ima", "ima", "--events").stdout
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\nattestd: approved" not in shown
    assert shown.count("owned") == 3


def test_without_a_log_on_this_host(nowhere: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KERNEL_LOGS, "eventlog", Path("none"))
    result = nowhere("platform", "measure")
    assert result.status == 69
    assert "none: No such file or directory" in result.stderr


def test_diff(nowhere: Cli) -> None:
    same = nowhere.ok("platform", "diff", UKI / EVENTS, UKI / EVENTS)
    assert same.stdout == "✓ the same was measured, by sha256 digests\n"
    logs = ("platform", "diff", UKI / EVENTS, CHANGED / EVENTS)
    known = ("--cmdline", UKI / "cmdline", "--cmdline", CHANGED / "cmdline")
    result = nowhere(*logs, *known)
    assert result.status == 1
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["PCR 4", "PCR 9", "PCR 11"]
    before, after = ((boot / "cmdline").read_text().strip() for boot in (UKI, CHANGED))
    assert lines[2] == (
        f"PCR 11: kernel command line in section .cmdline changed: `{before}` -> `{after}` (event 30)"
    )
    as_json = nowhere(*logs, "--json")
    assert as_json.status == 1
    assert [change["pcr"] for change in as_json.json["changes"]] == [4, 9, 11]
    assert as_json.json["same"] is False
    added = nowhere("platform", "diff", UKI / EVENTS, GRUB / EVENTS, "--json").json["changes"]
    assert any(change["before"] is None for change in added)
    assert any(change["after"] is None for change in added)
    assert nowhere.ok("platform", "diff", UKI / EVENTS, UKI / EVENTS, "--json").json == {
        "bank": "sha256",
        "before": str(UKI / EVENTS),
        "after": str(UKI / EVENTS),
        "changes": [],
        "unexplained": [],
        "same": True,
    }


def test_diff_of_grub(nowhere: Cli) -> None:
    for name, line in [("a", "quiet"), ("b", "quiet init=/bin/sh")]:
        text = f"/vmlinuz {line}"
        Path(name).write_bytes(log(event(8, 13, f"kernel_cmdline: {text}".encode(), text.encode())))
    assert nowhere("platform", "diff", "a", "b").stdout == (
        "PCR 8: kernel command line changed: `/vmlinuz quiet` -> `/vmlinuz quiet init=/bin/sh` (event 1)\n"
    )


def test_diff_without_a_common_bank(nowhere: Cli) -> None:
    Path("a").write_bytes(sha1_event(0, 4, bytes(4)))
    Path("b").write_bytes(log(banks=("sha256",)))
    result = nowhere("platform", "diff", "a", "b")
    assert result.status == 64
    assert "no bank in common" in result.stderr
