"""`attestd platform boots|diff|predict|rules|approve` on a host whose software TPM measured a recorded boot."""

import io
import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from attestd.distribution.standalone import open_local_repository
from attestd.paths import KERNEL_LOGS
from tests.cli.conftest import Cli, cli_of
from tests.host import Host, wait_for
from tests.measured import CHANGED, MeasuredHost
from tests.recorded_boots import next_boots
from tests.tcg.eventlog.build import BOOTS, RECORDED

GRUB = BOOTS / "shim-grub-ms-sb"
UKI = BOOTS / "uki-sb"
EVENTS, IMA = "binary_bios_measurements", "binary_runtime_measurements"
LINE, CHANGED_LINE = (
    (BOOTS / name / "cmdline").read_text().strip() for name in ("uki-sb", "uki-sb-cmdline2")
)


@pytest.fixture
def booted() -> Iterator[MeasuredHost]:
    """It boots `uki-sb`; before, it had booted `uki-sb-cmdline2`, approved."""
    with MeasuredHost.create() as host:
        host.configure()
        host.reboot(CHANGED)
        host.start()
        host.approve_present_state()
        assert host.run("/usr/bin/id", "-u").status == 0
        host.reboot("uki-sb")
        host.start()
        yield host


@pytest.fixture
def booted_cli(booted: MeasuredHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return cli_of(booted, tmp_path, monkeypatch)


def both(cli: Cli) -> list[dict[str, object]] | None:
    """This boot is kept as soon as the agent has looked at it."""
    found = cli.ok("platform", "boots", "--json").json["boots"]
    return found if len(found) == 2 else None


def test_boots(booted: MeasuredHost, booted_cli: Cli) -> None:
    now, before = wait_for("boots", lambda: both(booted_cli))
    assert (now["approved"], now["command_line"]) == ([], LINE)
    assert (before["approved"], before["command_line"]) == (["local"], CHANGED_LINE)
    shown = booted_cli.ok("platform", "boots").stdout
    assert "approved by" in shown
    assert CHANGED_LINE in shown


def test_no_boots(cli: Cli, own: Host, own_cli: Cli) -> None:
    own.start()
    assert "no event log is configured" in own_cli.ok("platform", "boots").stdout
    result = own_cli("platform", "diff")
    assert result.status == 64
    assert "no event log" in result.stderr
    assert "no event log" in own_cli("platform", "measure").stderr
    assert "no event log" in own_cli("platform", "predict", "--kernel", GRUB / EVENTS).stderr


def test_diff_says_what_changed_since_the_last_approved_boot(booted: MeasuredHost, booted_cli: Cli) -> None:
    booted_cli.ok("platform", "extend", "--pcr", "12", GRUB / "cmdline")
    result = booted_cli("platform", "diff")
    assert result.status == 1
    assert (
        f"PCR 11: kernel command line in section .cmdline changed: `{CHANGED_LINE}` -> `{LINE}` (event 30)\n"
        in result.stdout
    )
    assert "PCR 12: extended after the boot, by nothing that a log tells\n" in result.stdout
    found = booted_cli("platform", "diff", "approved", "now", "--json").json
    assert [change["pcr"] for change in found["changes"]] == [4, 9, 11]
    assert [item["pcr"] for item in found["unexplained"]] == [12]
    assert found["same"] is False
    last = len(booted_cli.ok("platform", "boots", "--json").json["boots"])
    assert booted_cli("platform", "diff", str(last), "now", "--json").json["changes"] == found["changes"]
    assert booted_cli.ok("platform", "diff", str(last), str(last)).stdout.startswith("✓ the same")
    unknown = booted_cli("platform", "diff", "9", "now")
    assert (unknown.status, "there is no boot '9'" in unknown.stderr) == (64, True)
    missing = booted_cli("platform", "diff", "no-such-file", "now")
    assert (missing.status, "no-such-file" in missing.stderr) == (69, True)


def test_approving_shows_what_was_measured_and_what_changed(booted: MeasuredHost, booted_cli: Cli) -> None:
    approved = booted_cli.ok("platform", "approve", "--yes", "--expires", "2h", "--json")
    for words in (
        f"kernel command line in section .cmdline: {LINE}\n",
        "UEFI variable SecureBoot: on\n",
        "boot phase: ready\n",
        f"changed: `{CHANGED_LINE}` -> `{LINE}`",
        "this approval ends",
    ):
        assert words in approved.stderr
    ends = datetime.fromisoformat(approved.json["ends"])
    assert timedelta(minutes=119) < ends - datetime.now(UTC) <= timedelta(hours=2)
    shown = booted_cli.ok("platform", "show", "--json").json
    assert (shown["approved"], shown["ends"]) == (True, approved.json["ends"])
    assert booted.run("/usr/bin/id", "-u").status == 0
    # Approved again without an end it has none; and then there is nothing to do.
    assert booted_cli.ok("platform", "approve", "--yes", "--json").json["ends"] is None
    assert booted_cli.ok("platform", "show", "--json").json["ends"] is None
    assert "nothing was changed" in booted_cli.ok("platform", "approve").stderr
    assert booted_cli.ok("platform", "approve", "--json").json["version"] == 4


def test_breaking_glass(booted: MeasuredHost, booted_cli: Cli) -> None:
    """The host is denied; what it wrote is approved elsewhere, by whoever has the key."""
    assert booted.run("/usr/bin/id", "-u").status == 77
    document = booted_cli.ok("platform", "measure", "--json")
    Path("evidence.json").write_text(document.stdout)
    assert document.json["unexplained"] == []
    Path("none.json").write_text(
        json.dumps({**document.json, "evidence": None, "pcrs": {"sha256": {"0": "00" * 32}}})
    )
    result = booted_cli("platform", "approve", "--from-evidence", "none.json")
    assert result.status == 65
    assert "no value of PCR 2" in result.stderr
    other = json.loads(document.stdout)
    pcrs = other["evidence"]["quote"]["pcrs"]["sha256"]
    pcrs["12"] = pcrs["11"]
    Path("forged.json").write_text(json.dumps(other))
    forged = booted_cli("platform", "approve", "--from-evidence", "forged.json", "--yes")
    assert forged.status == 1, forged
    approved = booted_cli.ok("platform", "approve", "--from-evidence", "evidence.json", "--yes", "--json")
    assert approved.json["attested"] is True
    assert f"a quote by the TPM of host {booted.id}, verified" in approved.stderr
    assert f"kernel command line in section .cmdline: {LINE}" in approved.stderr
    assert booted.run("/usr/bin/id", "-u").status == 0


def test_a_log_that_the_quote_does_not_prove_explains_nothing(booted: MeasuredHost, booted_cli: Cli) -> None:
    """Whoever wants a state approved writes the log of the approved one beside its quote."""
    document = json.loads(booted_cli.ok("platform", "measure", "--json").stdout)
    lie = b64encode((BOOTS / CHANGED / EVENTS).read_bytes()).decode()
    document["evidence"] |= {"eventlog": lie, "command_line": CHANGED_LINE}
    Path("edited.json").write_text(json.dumps(document))
    shown = booted_cli("platform", "approve", "--from-evidence", "edited.json", "--yes", "--json")
    assert "PCR 11: not known: no log explains its value\n" in shown.stderr
    assert "    nothing\n" not in shown.stderr
    assert CHANGED_LINE not in shown.stderr
    assert (shown.json["changes"], shown.json["unexplained"]) == ([], [4, 11])
    # And this host's own, where it tells of a change that was not.
    booted.eventlog.write_bytes((GRUB / EVENTS).read_bytes())
    found = booted_cli("platform", "diff", "approved", "now", "--json").json
    assert {4, 7} <= {change["pcr"] for change in found["changes"]}
    assert {4, 7} & {item["pcr"] for item in found["unexplained"]}


def test_a_quote_alone_is_evidence(booted: MeasuredHost, booted_cli: Cli) -> None:
    booted_cli.ok("quote", "-o", "host.quote.json")
    approved = booted_cli.ok("platform", "approve", "--from-evidence", "host.quote.json", "--yes")
    assert "measured otherwise" not in approved.stderr
    assert booted.run("/usr/bin/id", "-u").status == 0


def test_an_update_window(booted: MeasuredHost, booted_cli: Cli) -> None:
    """Signed before the reboot: both states are approved, then only the new one."""
    booted_cli.ok("platform", "approve", "--yes")
    Path("new.efi").write_bytes(next_boots()["new.efi"])
    found = booted_cli.ok("platform", "predict", "--uki", "new.efi", "--json")
    assert found.json["unknown"] == {}
    assert [change["pcr"] for change in found.json["changes"]] == [4, 9, 11, 11, 11]
    assert any("phases" in item for item in found.json["assumptions"]) is False, "they are known"
    approved = booted_cli.ok(
        "platform", "predict", "--uki", "new.efi", "--approve", "--until", "2h", "--yes", "--json"
    )
    predicted = {index: pcr["now"] for index, pcr in approved.json["pcrs"].items()}
    assert predicted == {index: found.json["pcrs"]["sha256"][index] for index in predicted}
    assert "no quote proves these values: they are from a prediction" in approved.stderr
    assert "provided that the UKI is what this boot started" in approved.stderr
    assert "approvals of other states end" in approved.stderr
    assert booted.run("/usr/bin/id", "-u").status == 0, "the old state is approved yet"
    windows = booted.trust.platforms["local"].windows
    assert len(windows) == 3, "the first one was approved by init"
    assert bytes.fromhex(approved.json["pcr_digest"]) not in windows
    again = booted_cli.ok("platform", "predict", "--uki", "new.efi", "--approve", "--yes")
    assert "approved already" in again.stderr


def test_predicted_values_are_evidence(booted: MeasuredHost, booted_cli: Cli) -> None:
    Path("new.efi").write_bytes(next_boots()["new.efi"])
    Path("next.json").write_text(booted_cli.ok("platform", "predict", "--uki", "new.efi", "--json").stdout)
    approved = booted_cli.ok("platform", "approve", "--from-evidence", "next.json", "--yes", "--json")
    assert approved.json["attested"] is False
    assert "no quote proves these values" in approved.stderr


def test_what_cannot_be_predicted_is_not_approved(booted: MeasuredHost, booted_cli: Cli) -> None:
    from tests.appraisal.predict.build import BY_OTHER
    from tests.tcg.build_pe import STUB, pe

    image = pe({".sdmagic": STUB, ".linux": b"k", ".cmdline": b"quiet"}, signatures=(BY_OTHER,))
    Path("other.efi").write_bytes(image)
    shown = booted_cli("platform", "predict", "--uki", "other.efi")
    assert shown.status == 1
    assert "✗ PCR 7 cannot be predicted: the UKI is signed by CN=other" in shown.stdout
    result = booted_cli("platform", "predict", "--uki", "other.efi", "--approve", "--yes")
    assert result.status == 1
    assert "selects PCR 7, which cannot be predicted" in result.stderr
    booted_cli.ok("platform", "extend", "--pcr", "12", "other.efi")
    Path("new.efi").write_bytes(next_boots()["new.efi"])
    extended = booted_cli("platform", "predict", "--uki", "new.efi", "--json")
    assert extended.status == 1
    assert list(extended.json["unknown"]) == ["12"]


def test_predicting_from_files(nowhere: Cli) -> None:
    for name, data in next_boots().items():
        Path(name).write_bytes(data)
    uki = ("platform", "predict", "--eventlog", UKI / EVENTS, "--running-cmdline", UKI / "cmdline")
    shown = nowhere.ok(*uki, "--uki", "new.efi").stdout
    assert f"Next boot, predicted from {UKI / EVENTS}" in shown
    assert f"kernel command line in section .cmdline changed: `{LINE}` -> `quiet`" in shown
    assert "systemd measures the phases sysinit:ready into PCR 11 after the log" in shown
    values = nowhere.ok(*uki, "--uki", "new.efi", "--phases", "sysinit", "--json").json["pcrs"]["sha256"]
    assert values["11"] not in shown
    assert values["4"] in shown
    Path("measure.log").write_text("")
    same = nowhere.ok(
        "platform",
        "predict",
        "--eventlog",
        GRUB / EVENTS,
        "--userspace",
        "measure.log",
        "--kernel",
        "vmlinuz",
    )
    assert "into PCR 11" not in same.stdout, "GRUB is not systemd's stub"
    refused = nowhere("platform", "predict", "--eventlog", GRUB / EVENTS, "--cmdline", "single")
    assert (refused.status, "--grub-config" in refused.stderr) == (1, True)
    no_image = nowhere(*uki, "--uki", UKI / "cmdline")
    assert (no_image.status, "UKI: truncated in its headers" in no_image.stderr) == (65, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing changes"),
        (("--until", "2h"), "go with --approve"),
        (("--uki", "x", "--approve"), "no governance of this host"),
        (("--rename", "x"), "NAME=VALUE"),
    ],
)
def test_misused(arguments: tuple[str, ...], words: str, nowhere: Cli) -> None:
    Path("x").write_bytes(next_boots()["new.efi"])
    result = nowhere("platform", "predict", "--eventlog", UKI / EVENTS, *arguments)
    assert result.status == 64
    assert words in result.stderr


def test_this_machine_without_an_installation(nowhere: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads the kernel's logs itself."""
    monkeypatch.setitem(KERNEL_LOGS, "eventlog", UKI / EVENTS)
    monkeypatch.setitem(KERNEL_LOGS, "ima_list", UKI / "binary_runtime_measurements")
    found = nowhere.ok("platform", "measure", "--json").json
    assert found["evidence"] is None
    assert found["pcrs"]["sha256"]["4"] == RECORDED["uki-sb"][1]["sha256"][4].hex()
    nowhere.ok("platform", "measure", "--ima-policy", "ima.json")
    assert len(json.loads(Path("ima.json").read_text())["digests"]) == 425
    assert nowhere("platform", "measure", "--ima-policy", "ima.json").status == 64, "it is there"
    assert nowhere("platform", "measure", "--exclude", "/x").status == 64
    assert nowhere.ok("platform", "diff", UKI / EVENTS, "now").stdout.startswith("✓")
    Path("measure.log").write_text("")
    assert nowhere.ok("platform", "measure", "--userspace", "measure.log").stdout


def test_rules(booted: MeasuredHost, booted_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = booted_cli
    cli.ok("platform", "approve", "--yes")
    assert "an approved state is enough" in cli.ok("platform", "rules").stdout
    cli.ok("platform", "measure", "--rules", "boot.json", "--ima", UKI / IMA, "--ima-policy", "ima.json")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    refused = cli("platform", "rules", "--boot", "boot.json")
    assert refused.status == 64, "nobody said yes"
    assert cli.ok("governance", "diff").stdout == "nothing changes\n", "it is taken back"
    # Edited by a person: not in the form that is signed.
    Path("boot.json").write_text(json.dumps(json.loads(Path("boot.json").read_text()), indent=2))
    published = cli.ok("platform", "rules", "--boot", "boot.json", "--ima", "ima.json", "--yes")
    assert "boot rule secure_boot required" in published.stderr
    assert "425 paths" in published.stdout
    policy = booted.trust.platforms["local"]
    assert policy.boot is not None
    assert policy.boot.secure_boot == "required"
    assert booted.trust.ima[policy.ima.sha256]
    told = cli.ok("platform", "rules", "--json").json
    assert told["ima"] == {"policy": "local", "sha256": policy.ima.sha256}
    assert told["boot"]["images"] == policy.boot.images
    assert "already" in cli.ok("platform", "rules", "--boot", "boot.json").stderr
    assert cli.ok("platform", "diff", "now", "policy").stdout.startswith("✓")
    weak = json.loads(Path("boot.json").read_text()) | {"images": None}
    Path("weak.json").write_text(json.dumps(weak))
    before = cli("platform", "rules", "--boot", "weak.json").stderr
    assert "weak rules: command_lines without images" in before, "said before anybody says yes"
    assert "weak rules" not in published.stderr
    cli.ok("platform", "rules", "--no-ima", "--yes")
    left = booted.trust.platforms["local"]
    assert (left.ima, left.boot) == (None, policy.boot)
    assert not booted.trust.ima
    assert cli("platform", "rules", "--no-boot", "--boot", "boot.json").status == 64
    wrong = cli("platform", "rules", "--ima", "boot.json", "--yes")
    assert wrong.status == 65


def test_a_boot_against_a_policy(booted: MeasuredHost, booted_cli: Cli) -> None:
    cli = booted_cli
    shown = cli("platform", "diff", "now", "policy")
    assert shown.status == 1
    assert "✗ the state of this boot is not approved" in shown.stdout
    assert "the policy has no boot rules" in shown.stdout
    cli.ok("platform", "approve", "--yes")
    cli.ok("platform", "measure", "--rules", "boot.json")
    cli.ok("platform", "rules", "--boot", "boot.json", "--yes")
    last = str(len(cli.ok("platform", "boots", "--json").json["boots"]))
    found = cli("platform", "diff", last, "policy", "--json")
    assert found.status == 1
    assert {"images", "command_lines"} <= {item["rule"] for item in found.json["findings"]}
    assert found.json["approved"] is True, "its state is, and the rules deny it"
    assert cli.ok("platform", "diff", "now", "policy", "--json").json["findings"] == []
    cli.ok("platform", "extend", "--pcr", "12", GRUB / "cmdline")
    extended = cli("platform", "diff", "now", "policy").stdout
    assert "PCR 12: no log explains its value" in extended


def test_rules_for_an_update(booted: MeasuredHost, booted_cli: Cli) -> None:
    """The policy's rules deny the new kernel, and it is said; what predict writes allows both."""
    cli = booted_cli
    cli.ok("platform", "approve", "--yes")
    cli.ok("platform", "measure", "--rules", "boot.json")
    Path("new.efi").write_bytes(next_boots()["new.efi"])
    cli.ok("platform", "predict", "--uki", "new.efi", "--rules", "first.json")
    cli.ok("platform", "rules", "--boot", "boot.json", "--yes")
    warned = cli.ok("platform", "predict", "--uki", "new.efi", "--approve", "--yes")
    assert "the policy's boot rules deny this state: PCR 4: image" in warned.stderr
    cli.ok("platform", "predict", "--uki", "new.efi", "--rules", "both.json")
    assert Path("first.json").read_bytes() == Path("both.json").read_bytes()
    cli.ok("platform", "rules", "--boot", "both.json", "--yes")
    assert cli.ok("platform", "diff", "now", "policy").stdout.startswith("✓")
    quiet = cli.ok("platform", "predict", "--uki", "new.efi", "--approve", "--yes", "--expires", "7d")
    assert "deny this state" not in quiet.stderr


def test_the_first_policy_of_predicted_values(booted: MeasuredHost, booted_cli: Cli) -> None:
    cli, authority = booted_cli, booted.layout.authority
    Path("new.efi").write_bytes(next_boots()["new.efi"])
    Path("next.json").write_text(cli.ok("platform", "predict", "--uki", "new.efi", "--json").stdout)
    make = ("governance", "platform", "lab", "--values", "next.json", "--yes", "--state-dir", booted.state)
    keys = ("--root-key", authority / "root.pem", "--key", authority / "platform.pem")
    cli.ok(*make, *keys, "--pcrs", "0,2,4,7,11,12")
    policy = open_local_repository(authority).validate().trust.platforms["lab"]
    assert str(policy.selection) == "sha256:0,2,4,7,11,12"
    cli.ok("governance", "stage", "--reset", "--state-dir", booted.state)
    for wrong, words in (("0,16", "no value of PCR 16"), ("0,10", "no value of PCR 10")):
        result = cli(*make, *keys, "--pcrs", wrong)
        assert (result.status, words in result.stderr) == (64, True)
    Path("next.json").write_text(json.dumps({"pcrs": {"sha256": {"10": "00" * 32}}}))
    result = cli(*make, *keys)
    assert (result.status, "PCR 10 changes" in result.stderr) == (64, True)


def test_approving_where_no_host_is(booted: MeasuredHost, booted_cli: Cli, nowhere: Cli) -> None:
    """With the repository, a key and what the denied host wrote."""
    authority = booted.layout.authority
    document = booted_cli.ok("platform", "measure", "--json", "--state-dir", booted.state).stdout
    Path("evidence.json").write_text(document)
    place = ("--repository", authority / "governance", "--key", authority / "platform.pem", "--yes")
    staged = nowhere.ok("platform", "approve", "--from-evidence", "evidence.json", *place, "--json")
    assert (staged.json["attested"], staged.json["version"]) == (True, 3)
    assert "staged in" in staged.stderr
    nowhere.ok("governance", "stage", "--reset", "--repository", authority / "governance")
    Path("new.efi").write_bytes(next_boots()["new.efi"])
    ahead = ("platform", "predict", "--eventlog", UKI / EVENTS, "--running-cmdline", UKI / "cmdline")
    predicted = nowhere.ok(*ahead, "--uki", "new.efi", "--approve", *place, "--json")
    assert predicted.json["attested"] is False
    assert predicted.json["pcr_digest"] != staged.json["pcr_digest"]
