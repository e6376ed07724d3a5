"""A host that boots, and boots otherwise: real extends, recorded logs, and what a denial says of it."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from attestd.agent.ask import AgentSocket
from attestd.agent.boot_logs import fetch_boots, fetch_log
from attestd.agent.findings import COMPLIES_NOT, of_status
from attestd.codes import Code
from attestd.distribution import acceptance
from attestd.lineage.entry import EntryType
from tests.docs.forked import shared_command_line
from tests.host import Host, Result
from tests.measured import CHANGED, RECORDED, UKI, MeasuredHost, boot_rules, ima_policy

LINE = (RECORDED / UKI / "cmdline").read_text().strip()
OTHER_LINE = (RECORDED / CHANGED / "cmdline").read_text().strip()


@contextmanager
def booted(boot: str = UKI, **configuration: Any) -> Iterator[MeasuredHost]:
    """A host that booted, in an approved state, and serves."""
    with MeasuredHost.create() as host:
        assert isinstance(host, MeasuredHost)
        host.configure(**configuration)
        host.reboot(boot)
        host.start()
        host.approve_present_state()
        assert allowed(host).status == 0
        yield host


def allowed(host: Host) -> Result:
    return host.run("/bin/true", options=["--json"])


def denial(host: Host, code: Code = Code.ENVIRONMENT_UNTRUSTED) -> dict[str, Any]:
    result = allowed(host)
    decision = result.json
    assert (result.status, decision["code"]) == (77, code), decision
    return decision


def why(host: Host, seq: int) -> str:
    """Offline: no agent answers."""
    return attestd(host, "why", str(seq))


def attestd(host: Host, *words: str) -> str:
    command = [shared_command_line(), words[0], "--state-dir", str(host.state), *words[1:]]
    environment = {"PATH": os.environ["PATH"], "COLUMNS": "300"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def test_another_command_line_is_named_in_the_log_and_offline() -> None:
    with booted() as host:
        host.reboot(CHANGED)
        host.start()
        decision = denial(host)
        expected = (
            f"PCR 11: kernel command line in section .cmdline changed: `{LINE}` -> `{OTHER_LINE}` (event 30)"
        )
        assert expected in decision["sentence"]
        host.stop()
        sealed = host.entries(EntryType.DECISION_DENY)[-1]
        assert sealed.seq == decision["seq"]
        assert expected in sealed.body["findings"]["first"]
        assert expected.replace(" ", "") in "".join(why(host, sealed.seq).split())
        host.wait_settled()
        host.require_sound()
        # The boot that was approved runs again; so does the other one, once it is approved.
        host.reboot(UKI)
        host.start()
        assert allowed(host).status == 0
        host.reboot(CHANGED)
        host.start()
        denial(host)
        host.approve_present_state()
        assert allowed(host).status == 0


def test_without_an_event_log_the_values_are_told() -> None:
    with booted(logs=()) as host:
        host.reboot(CHANGED)
        host.start()
        sentence = denial(host)["sentence"]
        assert "PCR 4 (sha256): expected" in sentence
        assert "PCR 11 (sha256): expected" in sentence
        assert fetch_boots(AgentSocket(os.fsencode(host.layout.agent_socket)))[0] == ()


def test_a_pcr_extended_at_run_time() -> None:
    with booted() as host:
        host.extend(12)
        # The TPM refuses at once; the next evidence says why.
        decisions = [denial(host) for _ in range(2)]
        assert "PCR 12: extended after the boot, by nothing that a log tells" in decisions[1]["sentence"]
        host.wait_settled()
        host.require_sound()


def test_boots_are_kept_and_told() -> None:
    with booted() as host:
        host.reboot(CHANGED)
        host.start()
        denial(host)
        agent = AgentSocket(os.fsencode(host.layout.agent_socket))
        (changed, first), now = fetch_boots(agent)
        assert (changed.command_line, first.command_line) == (OTHER_LINE, LINE)
        assert (changed.approved, first.approved) == ((), ("local",))
        assert now.digest == changed.digest
        assert now.ima == str(host.ima_list)
        assert changed.pcrs[7] == first.pcrs[7]
        assert changed.pcrs[11] != first.pcrs[11]
        for boot, name in ((first.digest, UKI), (changed.digest, CHANGED), ("now", CHANGED)):
            assert (
                fetch_log(agent, boot, "eventlog")
                == (RECORDED / name / "binary_bios_measurements").read_bytes()
            )
        assert fetch_log(agent, "now", "ima") == b""


def test_status_and_doctor() -> None:
    with booted() as host:
        host.rules(boot=boot_rules(command_lines=[LINE]), ima=ima_policy("/bin/a"))
        host.measure(b"/bin/a")
        assert allowed(host).status == 0
        status = host.status()
        platform = status["platforms"]["local"]
        assert (platform["state"], platform["ima_entries"], platform["until"]) == ("approved", 1, None)
        assert platform["boot_events"] > 0
        assert (status["measured"]["boots"], status["measured"]["problem"]) == (1, None)
        assert status["measured"]["ima_list"] == str(host.ima_list)
        healthy = {item.area: item for item in of_status(status, now=datetime.now(UTC))}
        assert healthy["logs"].remedy is None
        assert "of 1 boot it is kept; IMA list /" in healthy["logs"].found
        host.measure(b"/tmp/evil")
        denial(host)
        host.approve_present_state(not_after=datetime.now(UTC) + timedelta(days=2))
        denial(host)
        status = host.status()
        assert status["platforms"]["local"]["state"] == COMPLIES_NOT
        found = {item.area: item for item in of_status(status, now=datetime.now(UTC)) if item.remedy}
        assert "IMA entry 1: /tmp/evil" in found["platform local, rules"].found
        assert "this state is approved until" in found["platform local"].found
        shown = attestd(host, "status")
        for words in (
            "approved, but does not comply",
            "approved until",
            "2 IMA entries looked at",
            "/tmp/evil",
        ):
            assert words in shown
        host.ima_list.unlink()
        status = host.status()
        assert "No such file" in status["measured"]["problem"]
        found = {item.area: item for item in of_status(status, now=datetime.now(UTC)) if item.remedy}
        assert "must be able to read it" in found["logs"].found
        assert "No such file" in attestd(host, "status")


def test_boot_rules_in_an_approved_state() -> None:
    """An approved state is not enough where rules say more; the rules find what the approval let in."""
    with booted() as host:
        host.rules(boot=boot_rules(secure_boot="required", separators="required", command_lines=[LINE]))
        assert allowed(host).status == 0
        body = host.entries(EntryType.DECISION_ALLOW)[-1].body
        assert "boot events comply" in body["checks"][12]["detail"]
        host.reboot(CHANGED)
        host.start()
        host.approve_present_state()
        sentence = denial(host)["sentence"]
        assert sentence.startswith(
            "the boot does not comply with the boot rules of platform policy 'local': PCR 11"
        )
        assert f"expected `{LINE}`, found {OTHER_LINE} (event 30)" in sentence
        host.rules(boot=boot_rules(command_lines=[LINE, OTHER_LINE]))
        assert allowed(host).status == 0


def test_a_log_that_lies() -> None:
    """The state is approved, and the log is another boot's: rules cannot be evaluated on it."""
    with booted() as host:
        host.rules(boot=boot_rules(command_lines=[LINE]))
        host.eventlog.write_bytes((RECORDED / CHANGED / "binary_bios_measurements").read_bytes())
        assert "PCR 11: extended after the boot, by nothing that a log tells" in denial(host)["sentence"]
        host.eventlog.write_bytes(b"no log")
        wait_old(host)
        assert "cannot be appraised" in denial(host, Code.EVIDENCE_INVALID)["sentence"]
        host.eventlog.unlink()
        assert "No such file" in denial(host, Code.EVIDENCE_INVALID)["sentence"]


def wait_old(host: MeasuredHost) -> None:
    """Until evidence is taken anew: another version of the policy is the quickest way."""
    host.approve_present_state()


@pytest.mark.parametrize("log", ["eventlog", "ima_list"])
def test_a_policy_that_needs_a_log_that_is_not_configured(log: str) -> None:
    with booted(logs=()) as host:
        if log == "eventlog":
            host.rules(boot=boot_rules(secure_boot="required"))
        else:
            host.rules(ima=ima_policy("/bin/a"))
        sentence = denial(host, Code.EVIDENCE_INVALID)["sentence"]
        assert f"configured ({log})" in sentence


def test_ima() -> None:
    with booted() as host:
        host.rules(ima=ima_policy("/bin/a", "/bin/b"))
        assert allowed(host).status == 0
        host.measure(b"/bin/a", b"/bin/b")
        assert allowed(host).status == 0
        host.measure(b"/tmp/evil", content=b"evil")
        decision = denial(host)
        assert (
            "IMA policy 'fleet' does not allow: IMA entry 2: /tmp/evil: expected no such file"
            in decision["sentence"]
        )
        host.stop()
        sealed = host.entries(EntryType.DECISION_DENY)[-1]
        assert "/tmp/evil" in why(host, sealed.seq)
        host.wait_settled()
        host.require_sound()
        # Another policy that allows it: the whole list is looked at again. The PCRs are as they were.
        host.start()
        denial(host)
        host.rules(ima=ima_policy("/bin/a", "/bin/b", exclude=["/tmp/*"]))
        assert allowed(host).status == 0


def test_ima_an_entry_that_nobody_quoted_yet() -> None:
    """The list tells of it before the next quote does: that is enough to deny."""
    with booted() as host:
        host.rules(ima=ima_policy("/bin/a"))
        assert allowed(host).status == 0
        host.measure(b"/tmp/evil", content=b"evil", extended=False)
        assert "/tmp/evil" in denial(host)["sentence"]


def test_ima_a_hidden_entry() -> None:
    """Extended and not in the list: found by the next quote, within half the age that evidence may have."""
    with booted() as host:
        host.rules(ima=ima_policy("/bin/a"))
        host.measure(b"/bin/a")
        assert allowed(host).status == 0
        host.measure(b"/tmp/evil", content=b"evil", listed=False)
        command = ["/bin/true"]
        artifact = host.issue(*command, max_evidence_age_s=2)
        deadline = time.monotonic() + 60
        while (result := host.exec(*command, authorization=artifact, options=["--json"])).status == 0:
            assert time.monotonic() < deadline
        assert result.json["code"] == Code.ENVIRONMENT_UNTRUSTED
        assert "PCR 10: extended by something that the IMA list does not tell" in result.json["sentence"]


def test_ima_lists_that_are_gone_or_cut() -> None:
    with booted() as host:
        host.rules(ima=ima_policy("/bin/a", "/bin/b"))
        host.measure(b"/bin/a", b"/bin/b")
        assert allowed(host).status == 0
        whole = host.ima_list.read_bytes()
        host.ima_list.write_bytes(whole[:-3])
        assert "cannot be appraised" in denial(host, Code.EVIDENCE_INVALID)["sentence"]
        host.ima_list.unlink()
        assert "No such file" in denial(host, Code.EVIDENCE_INVALID)["sentence"]
        host.ima_list.write_bytes(whole[: len(whole) // 2])
        wait_old(host)
        assert "does not tell" in denial(host)["sentence"]
        host.ima_list.write_bytes(whole)
        wait_old(host)
        assert allowed(host).status == 0


def test_an_ima_policy_that_is_none_denies_as_governance(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be staged; but whoever signs may publish by other programs."""
    monkeypatch.setattr(acceptance, "parse_ima_policy", lambda _: None)
    with booted() as host:
        host.rules(ima={"v": 2})
        sentence = denial(host, Code.GOVERNANCE_MISMATCH)["sentence"]
        assert "ima/fleet.json, which is unusable: IMA policy" in sentence


def test_a_window_that_closes() -> None:
    with MeasuredHost.create() as host:
        assert isinstance(host, MeasuredHost)
        host.configure()
        host.reboot(UKI)
        host.start()
        end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=6)
        host.approve_present_state(not_after=end)
        result = allowed(host)
        assert result.status == 0
        time.sleep(max(0.0, (end - datetime.now(UTC)).total_seconds()) + 0.1)
        assert "approved until" in denial(host)["sentence"]
        seq = result.json["seq"]
        assert host.verify_receipt(host.receipt(seq)).approval is not None, "it was good in its time"
        host.wait_settled()
        host.require_sound()


def test_a_storm_of_measurements() -> None:
    """Files are executed as fast as the TPM can be extended: every release comes within 10 s."""
    with booted() as host:
        host.rules(ima=ima_policy(*(f"/bin/{n}" for n in range(20_000))))
        stop, measured = threading.Event(), [0]
        lock = threading.Lock()

        def storm() -> None:
            while not stop.is_set():
                with lock:  # The kernel has one, too: the list and the PCR have the same order.
                    host.measure(b"/bin/%d" % measured[0])
                    measured[0] += 1

        threads = [threading.Thread(target=storm) for _ in range(2)]
        artifact = host.issue("/bin/true", max_evidence_age_s=2)
        for thread in threads:
            thread.start()
        try:
            started = time.monotonic()
            times = []
            while time.monotonic() - started < 8:
                begun = time.monotonic()
                result = host.exec("/bin/true", authorization=artifact, options=["--json"])
                assert result.status == 0, result.stderr
                times.append(time.monotonic() - begun)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        print(
            f"{len(times)} releases, the slowest {max(times):.2f} s, {measured[0] / 8:.0f} extends a second"
        )
        assert max(times) < 10
        assert measured[0] > 100
        host.measure(b"/tmp/evil", content=b"evil")
        assert "/tmp/evil" in denial(host)["sentence"]
        host.wait_settled()
        host.require_sound()
