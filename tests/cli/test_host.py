"""`attestd init`, `serve`, `authority`, and a user who is not root."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from attestd.agent import provision
from attestd.agent.provision import choose_tpm
from attestd.errors import UsageError
from attestd.paths import find_layout
from tests.cli.conftest import Cli
from tests.host import Host, kill_and_wait, wait_for

ATTESTD = [sys.executable, "-I", "-m", "attestd"]


def test_init_then_again(nowhere: Cli) -> None:
    first = nowhere.ok("init", "--tpm", "embedded", "--standalone", "--label", "role=ci", "--json")
    assert first.json["fresh"] is True
    assert first.json["tier"] == "software"
    assert "software TPM" in first.stderr
    before = contents(nowhere.state)
    again = nowhere.ok("init", "--json")
    *notes, chosen = first.json["notes"]
    assert "PCRs 0,2,4,7,11,12: " in chosen
    assert again.json == {**first.json, "fresh": False, "notes": notes}, "PCRs are chosen once"
    assert contents(nowhere.state) == before
    assert "nothing was changed" in nowhere.ok("init").stdout
    assert nowhere.ok("init", "--pcrs", "12,11,7,4,2,0").status == 0
    for other in (["--pcrs", "0,7"], ["--tpm", "device:/dev/tpmrm0"]):
        assert nowhere("init", *other).status == 64
    for path in nowhere.state.rglob("*.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and "tpm" not in path.parts and not path.name.endswith(("-shm", "-wal"))
    }


def test_init_finishes_what_was_cut_off(own: Host, own_cli: Cli) -> None:
    own.layout.host.unlink()
    (own.layout.trust / "metadata" / "timestamp.json").unlink()
    assert own_cli.ok("init", "--json").json["fresh"] is False
    assert own.layout.host.exists()
    assert own_cli.ok("platform", "show", "--json").json["approved"] is True


def test_init_while_the_agent_runs(cli: Cli, running: Host) -> None:
    """It must not even ask for the TPM, which the agent holds."""
    assert cli.ok("init", "--json").json["host"] == running.id


def test_init_with_a_path_that_is_too_long(nowhere: Cli) -> None:
    result = nowhere("init", "--state-dir", f"/tmp/{'x' * 100}")
    assert result.status == 64
    assert "shorter --state-dir" in result.stderr
    assert not Path(f"/tmp/{'x' * 100}").exists()


def test_init_without_pcrs_for_a_real_tpm(nowhere: Cli) -> None:
    result = nowhere("init", "--tpm", "swtpm:path=/nonexistent")
    assert result.status == 64
    assert "--pcrs" in result.stderr
    assert nowhere("init", "--tpm", "swtpm:path=/nonexistent", "--pcrs", "0").status == 69


def test_auto_takes_the_tpm_of_the_host_if_it_can(
    nowhere: Cli, monkeypatch: pytest.MonkeyPatch, swtpm_tcti: str
) -> None:
    layout = find_layout(str(nowhere.state))
    monkeypatch.setattr(provision, "DEVICE", "/dev/null")
    broken = choose_tpm("auto", layout, {})
    assert broken.tpm == "embedded"
    assert "cannot be used" in str(broken.fallback)
    monkeypatch.setattr(provision, "DEVICE", "/nonexistent")
    assert "no TPM" in str(choose_tpm("auto", layout, {}).fallback)
    real = provision.Tpm
    monkeypatch.setattr(provision, "DEVICE", "/dev/null")
    monkeypatch.setattr(provision, "Tpm", lambda _: real(swtpm_tcti))
    assert choose_tpm("auto", layout, {}) == provision.ChosenTpm("device:/dev/null", None)
    assert choose_tpm("auto", layout, {"ATTESTD_TPM": "mssim:"}).tpm == "mssim:"
    with pytest.raises(UsageError, match="uses the TPM"):
        choose_tpm("embedded", layout, {"ATTESTD_TPM": "mssim:"})


def serve(state: Path, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as output:
        return subprocess.Popen(
            [*ATTESTD, "serve", "--state-dir", str(state)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={"PATH": "/usr/bin:/bin"},
        )  # fmt: skip


def test_serve(own: Host, own_cli: Cli, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = serve(own.state, log)
    try:
        wait_for("the agent is ready", lambda: b"ready" in log.read_bytes() or None)
        second = subprocess.run(
            [*ATTESTD, "serve", "--state-dir", str(own.state)], capture_output=True, check=False, timeout=60
        )
        assert second.returncode == 69
        assert second.stderr.startswith(b"attestd: cannot serve: an agent is running")
        assert own_cli.ok("status", "--json").json["agent"]["pid"] == process.pid
        runner = own.runner_pid
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert own.runner_pid == runner, "the runner outlives it"
    finally:
        process.kill()
        process.wait()
    lines = log.read_text().splitlines()
    assert lines[-1].endswith("stopped")
    assert all(line[2] == ":" and line[8] == " " for line in lines), lines
    kill_and_wait(runner)


def test_serve_says_why_it_cannot(nowhere: Cli, own: Host, tmp_path: Path) -> None:
    uninitialised = nowhere("serve")
    assert uninitialised.status == 69
    assert "attestd init" in uninitialised.stderr
    (own.layout.trust / "root.json").unlink()
    process = serve(own.state, tmp_path / "log")
    assert process.wait(30) == 69
    said = (tmp_path / "log").read_text()
    assert "root.json" in said
    assert "Traceback" not in said


def test_keygen_and_show(cli: Cli, running: Host) -> None:
    made = cli.ok("authority", "keygen", "--no-passphrase", "key", "--json").json
    assert stat.S_IMODE(Path("key.pem").stat().st_mode) == 0o600
    for file in ("key.pem", "key.pub", "file:key.pem"):
        assert cli.ok("authority", "show", file, "--json").json["key_id"] == made["key_id"]
    assert cli.ok("authority", "show", "key.pem", "--json").json["pem"] == Path("key.pub").read_text()
    assert "PRIVATE" not in cli.ok("authority", "show", "key.pem").stdout
    assert cli("authority", "keygen", "key.pem").status == 64, "never overwritten"
    assert cli("authority", "show", "nokey").status == 69
    assert cli("authority", "show", "hsm:2").status == 64
    trusted = cli.ok("authority", "show", "--json").json["keys"]
    local = running.trust.authorities.rules[0].keys[0].key_id
    roles = next(key["roles"] for key in trusted if key["key_id"] == local)
    assert any("authorizations" in role for role in roles)
    assert any("enrolling" in role for role in roles)
    assert local in cli.ok("authority", "show").stdout


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("runuser") is None, reason="needs root, to be somebody else"
)
def test_the_whole_way_as_an_ordinary_user(short_dir: Path) -> None:
    home = short_dir / "home"
    home.mkdir()
    short_dir.chmod(0o755)
    shutil.chown(home, "nobody")
    command = ["runuser", "-u", "nobody", "--", "env", "-i", "PATH=/usr/bin:/bin", f"HOME={home}", *ATTESTD]

    def attestd(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [*command, *arguments], cwd=home, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == status, done
        return done.stdout

    attestd("init", "--tpm", "embedded")
    state = home / ".local" / "state" / "attestd"
    host = Host(short_dir)
    host.state, host.layout = state, find_layout(str(state))
    agent = subprocess.Popen(
        [*command, "serve"], cwd=home, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for("the agent serves", lambda: host.layout.agent_socket.exists() or None)
        attestd("authorization", "issue", "--", "/usr/bin/id", "-un")
        assert attestd("exec", "-a", "id.auth.json", "--", "/usr/bin/id", "-un") == "nobody\n"
        assert json.loads(attestd("why", "2", "--json"))["body"]["isolation"] == "none"
        attestd("doctor")
        assert json.loads(attestd("audit", "verify", "--json"))["counter"]
        attestd("platform", "show")
        pid = json.loads(attestd("status", "--json"))["agent"]["pid"]
        kill_and_wait(pid, signal.SIGTERM)
        assert agent.wait(30) == 0
        kill_and_wait(host.runner_pid)
    finally:
        for pid in host.processes():
            kill_and_wait(pid)
        agent.kill()
        agent.wait()
