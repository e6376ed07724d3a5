"""`attestd backup`, `deprovision`: what is kept verifies, what is gone is gone."""

import io
import json
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from attestd.tcg.nv import COUNTER_INDEX, EPOCH_INDEX, NvAttribute, nv_public
from attestd.tpm import nv
from attestd.tpm.embedded import EmbeddedTpm
from tests.cli.conftest import Cli
from tests.host import Host


def serve_once(host: Host) -> None:
    host.start()
    assert host.run("/bin/true").status == 0
    host.wait_settled()


def unpack(file: Path, into: Path) -> None:
    with tarfile.open(file) as tar:
        assert {(member.uid, member.gid, member.mode) for member in tar} == {(0, 0, 0o600)}
    into.mkdir()
    subprocess.run(["tar", "-xf", file, "-C", into], check=True)


def test_a_backup_of_a_running_host_verifies_anywhere(own: Host, own_cli: Cli, tmp_path: Path) -> None:
    serve_once(own)
    artifact = own.write(own.issue("/bin/true"))
    own_cli.ok("authorization", "install", artifact)
    made = own_cli.ok("backup", "b.tar", "--json").json
    file = tmp_path / "b.tar"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file], "nothing is left of making it"
    unpack(file, tmp_path / "x")
    names = {str(path.relative_to(tmp_path / "x")) for path in (tmp_path / "x").rglob("*") if path.is_file()}
    assert names == set(made["files"])
    assert {
        "log.db",
        "attestd.toml",
        "runner/host.json",
        "trust/root.json",
        "trust/metadata/timestamp.json",
    } < names
    assert any(name.startswith(f"authorizations/{os.geteuid()}/") for name in names)
    secrets = json.loads(own.layout.keys.read_bytes())["auth"].values()
    kept = file.read_bytes()
    assert not any(secret.encode() in kept for secret in secrets)
    assert b"PRIVATE KEY" not in kept
    verified = own_cli.ok("verify", "log", "x/log.db", "--trust", "x/trust", "--json").json
    assert verified["size"] == made["size"] <= own.status()["log"]["size"]
    assert own_cli("backup", "b.tar").status == 64, "it is there already"
    assert own_cli("backup", "none/b.tar").status == 69


def test_an_older_log_restored_on_the_same_tpm_is_a_rollback(own: Host, own_cli: Cli, tmp_path: Path) -> None:
    """And what docs/operations.md says to do then leads to a host that serves."""
    serve_once(own)
    own_cli.ok("backup", "b.tar")
    assert own.run("/bin/true").status == 0
    own.wait_settled()
    assert own.stop() == 0
    unpack(tmp_path / "b.tar", tmp_path / "x")
    newer = own.layout.log.read_bytes()
    own.layout.log.write_bytes((tmp_path / "x" / "log.db").read_bytes())
    assert own.start(wait=False).wait_ended() == 1
    assert "RollbackError" in own.agent_log
    own.layout.log.write_bytes(newer)
    own.start()
    assert own.run("/bin/true").status == 0


def test_a_lost_disk_is_restored_with_new_keys(own: Host, own_cli: Cli, tmp_path: Path) -> None:
    """Trust and authorities come back, the old log is evidence; keys and log are new, for the keys were lost."""
    serve_once(own)
    own_cli.ok("backup", "b.tar")
    old = own.receipt(2)
    assert own.stop() == 0
    own.kill_runner()
    unpack(tmp_path / "b.tar", tmp_path / "x")
    for path in own.layout.agent.iterdir():
        path.unlink() if path.is_file() else None
    embedded = EmbeddedTpm(own.layout.tpm)
    embedded.start()
    with embedded.open() as tpm:
        tpm.undefine(COUNTER_INDEX)  # its auth value was lost
    embedded.stop()
    own_cli.ok("init")
    own.start()
    assert own.run("/bin/true").status == 0
    Path("old.tlog-proof").write_bytes(old)
    own_cli.ok("verify", "receipt", "old.tlog-proof", "--trust", "x/trust")
    own_cli.ok("audit", "verify")


def test_deprovision_keeps_the_evidence(own: Host, own_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_once(own)
    assert own_cli("deprovision", "--yes").status == 64, "the agent is running"
    assert own.stop() == 0
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert own_cli("deprovision").status == 64, "nobody said yes"
    done = own_cli.ok("deprovision", "--yes", "--json").json
    assert done["undefined"] == [f"epoch {EPOCH_INDEX:#010x}", f"log counter {COUNTER_INDEX:#010x}"]
    assert not own.layout.keys.exists()
    assert own.start(wait=False).wait_ended() == 1
    evidence = Path(done["evidence"])
    own_cli.ok("verify", "log", evidence / "log.db", "--trust", evidence / "trust")
    embedded = EmbeddedTpm(own.layout.tpm)
    embedded.start()
    with embedded.open() as tpm:
        assert tpm.nv_name(EPOCH_INDEX) is tpm.nv_name(COUNTER_INDEX) is None
    embedded.stop()
    assert own_cli("deprovision", "--yes").status == 69, "there is nothing left to take out of service"
    own_cli.ok("init")
    own.start()
    assert own.run("/bin/true").status == 0


def test_deprovision_leaves_what_is_not_ours(own: Host, own_cli: Cli) -> None:
    embedded = EmbeddedTpm(own.layout.tpm)
    embedded.start()
    theirs = nv_public(
        EPOCH_INDEX, attributes=NvAttribute.AUTHREAD | NvAttribute.AUTHWRITE, auth_policy=b"", size=8
    )
    with embedded.open() as tpm:
        tpm.undefine(EPOCH_INDEX)
        nv.define(tpm._channel, theirs)
    embedded.stop()
    done = own_cli.ok("deprovision", "--yes")
    assert "not what our authorities imply" in done.stderr
    embedded.start()
    with embedded.open() as tpm:
        assert tpm.nv_name(EPOCH_INDEX) is not None
    embedded.stop()


def test_purge_leaves_nothing(own: Host, own_cli: Cli) -> None:
    done = own_cli.ok("deprovision", "--yes", "--purge", "--json").json
    assert done["evidence"] is None
    left = [path for path in own.state.rglob("*") if path.is_file()]
    assert left == []
