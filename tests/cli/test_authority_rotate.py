"""A key of a standalone host replaced: everything goes on, by the new key; the old one is good for nothing."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestd.lineage.entry import EntryType
from tests.cli.conftest import Cli, cli_of
from tests.host import Host
from tests.softhsm import PIN


@pytest.fixture
def ran() -> Iterator[tuple[Host, bytes]]:
    """A running host, and the receipt of a command."""
    with Host.create() as host:
        host.start()
        assert host.run("/bin/true").status == 0
        host.wait_settled()
        yield host, host.receipt(host.entries(EntryType.DECISION_ALLOW)[0].seq)


@pytest.fixture
def cli(ran: tuple[Host, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return cli_of(ran[0], tmp_path, monkeypatch)


def keygen(cli: Cli, kind: str, name: str = "second") -> str:
    return str(
        cli.ok("authority", "keygen", "--no-passphrase", "--kind", kind, name, "--json").json["key_id"]
    )


def require_runs(host: Host, receipt: bytes) -> None:
    assert host.run("/bin/true").status == 0
    host.wait_settled()
    assert host.verify_receipt(receipt).approval is not None
    assert host.trust.unusable == {}
    host.require_sound()


def test_the_platform_key_without_touching_the_tpm(ran: tuple[Host, bytes], cli: Cli) -> None:
    """The agent runs on, with the same release key."""
    host, receipt = ran
    before = host.trust
    new = keygen(cli, "p256")
    done = cli.ok("authority", "rotate", "--yes", "--role", "platform", "second.pem", "--json").json
    assert done["replaced"] == ["TPM: platform states"]
    assert done["published"] is True
    require_runs(host, receipt)
    after = host.trust
    assert set(after.authorities.platform) == {new}
    assert after.hosts[host.id].release_name == before.hosts[host.id].release_name
    assert after.platforms["local"].version == before.platforms["local"].version + 1
    latest = host.receipt(host.entries(EntryType.DECISION_ALLOW)[-1].seq)
    approval = host.verify_receipt(latest).approval
    assert approval is not None
    assert approval.platform.key_id == new
    # The host's own commands use the new one.
    assert cli.ok("authority", "show", host.layout.authority / "platform.pub", "--json").json["key_id"] == new
    (kept,) = (host.layout.authority / "former").glob("*.pem")
    host.extend(11)
    refused = cli("platform", "approve", "--yes", "--key", kept)
    assert (refused.status, "no platform authority" in refused.stderr) == (64, True), refused
    cli.ok("platform", "approve", "--yes")
    require_runs(host, receipt)


def test_a_platform_key_that_was_stolen(ran: tuple[Host, bytes], cli: Cli) -> None:
    """What it could still approve is beyond what TPMs take, once the epoch is raised; the new key's states hold."""
    host, receipt = ran
    limit = max(item.max_epoch for item in host.trust.platforms["local"].approvals)
    keygen(cli, "p256")
    shown = cli.ok("authority", "rotate", "--yes", "--compromised", "--role", "platform", "second.pem")
    assert f"epoch {limit + 1}" in shown.stderr
    revocations = host.trust.revocations
    assert revocations.epoch == limit + 1
    assert revocations.bump is not None
    (approval,) = host.trust.platforms["local"].approvals
    assert min(approval.epoch, approval.max_epoch) > limit
    require_runs(host, receipt)
    again = cli.ok("authority", "keygen", "--no-passphrase", "--kind", "p256", "third", "--json").json[
        "key_id"
    ]
    cli.ok("authority", "rotate", "--yes", "--compromised", "--role", "platform", "third.pem")
    assert set(host.trust.authorities.platform) == {again}
    require_runs(host, receipt)


def test_the_key_that_authorizes_and_enrols(ran: tuple[Host, bytes], cli: Cli) -> None:
    host, receipt = ran
    old = host.layout.authority / "local.pem"
    before = old.read_bytes()
    artifact = host.issue("/bin/true")
    new = keygen(cli, "ed25519")
    done = cli.ok("authority", "rotate", "--yes", "--old", old, "second.pem", "--json").json
    assert set(done["replaced"]) == {"rule 'local'", "enrolling hosts"}
    assert done["signed_again"] == [f"hosts/{host.id}.json"]
    denied = host.exec("/bin/true", authorization=artifact)
    assert (denied.status, "invalid_signature" in denied.stderr) == (77, True), denied
    require_runs(host, receipt)
    assert host.trust.hosts[host.id].enrollers == (new,)
    assert old.read_bytes() == Path("second.pem").read_bytes() != before


def test_one_role_of_two(ran: tuple[Host, bytes], cli: Cli) -> None:
    """The old key enrols hosts still: its file stays where it is."""
    host, _ = ran
    old = host.layout.authority / "local.pem"
    before = old.read_bytes()
    keygen(cli, "ed25519")
    cli.ok("authority", "rotate", "--yes", "--role", "authorizations", "second.pem")
    assert old.read_bytes() == before
    cli.ok("authorization", "issue", "--key", "second.pem", "--cwd", host.work, "--", "/bin/true")
    assert host.exec("/bin/true", authorization=Path("true.auth.json").read_bytes()).status == 0
    cli.ok("authority", "rotate", "--yes", "--role", "enrollers", "second.pem")
    assert old.read_bytes() == Path("second.pem").read_bytes()


@pytest.mark.parametrize("role", ["root", "epoch"])
def test_tpm_root_and_epoch_authority(ran: tuple[Host, bytes], cli: Cli, role: str) -> None:
    host, receipt = ran
    new = keygen(cli, "p256")
    assert host.stop() == 0
    shown = cli.ok("authority", "rotate", "--yes", "--role", role, "second.pem")
    assert "attestd rekey" in shown.stderr
    assert not host.trust.hosts
    assert host.verify_receipt(receipt).approval is not None
    cli.ok("rekey", "--yes")
    host.start()
    require_runs(host, receipt)
    assert getattr(host.trust.authorities, role).key_id == new


def test_a_key_in_a_token_is_accepted(ran: tuple[Host, bytes], cli: Cli, token: str) -> None:
    """An artifact signed by a SoftHSM key runs on a real host, whatever kind the key is."""
    host, receipt = ran
    pin = Path("pin")
    pin.write_text(PIN)
    pin.chmod(0o600)
    for number, kind in ((51, "p256"), (52, "ed25519")):
        uri = f"hsm:{number}?label={token}"
        key = ("--passphrase-file", pin)
        cli.ok("authority", "keygen", "--kind", kind, "--hsm", uri, *key, f"k{number}")
        cli.ok("authority", "rotate", "--yes", "--role", "authorizations", uri, *key)
        cli.ok("authorization", "issue", "--force", "--key", uri, *key, "--cwd", host.work, "--", "/bin/true")
        assert host.exec("/bin/true", authorization=Path("true.auth.json").read_bytes()).status == 0
    host.wait_settled()
    assert host.verify_receipt(receipt).approval is not None


def test_cut_off_after_it_was_published(
    ran: tuple[Host, bytes], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, receipt = ran

    def cut(*_: object, **__: object) -> None:
        raise OSError("cut off")

    new = keygen(cli, "p256")
    for name in ("write_atomic", "make_directory"):
        with monkeypatch.context() as patch:
            patch.setattr(f"attestd.distribution.rotate.{name}", cut)
            assert cli("authority", "rotate", "--yes", "--role", "platform", "second.pem").status == 70
    again = cli.ok("authority", "rotate", "--yes", "--role", "platform", "second.pem", "--json").json
    assert again["replaced"] == []
    assert cli.ok("authority", "show", host.layout.authority / "platform.pub", "--json").json["key_id"] == new
    assert len(os.listdir(host.layout.authority / "former")) == 2
    cli.ok("authority", "rotate", "--yes", "--role", "platform", "second.pem")
    require_runs(host, receipt)


def test_refused(ran: tuple[Host, bytes], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    host, receipt = ran
    before = host.trust.digest
    keygen(cli, "ed25519", "ed")
    keygen(cli, "p256", "ec")
    (host.layout.authority / "root.pem").rename("root.pem")
    for arguments, words in (
        (["--role", "platform", "ed.pem"], "P-256"),
        (["--role", "platform", "ec.pem"], "the root approves the platform keys"),
        (["--role", "platform", "ec.pub", "--with", "root.pem"], "a platform key approves the states"),
        (["ec.pem"], "Name its role"),
        (["--old", "nothing", "ec.pem"], "expected a key file"),
        (["--old", "0" * 64, "ec.pem"], "has none of these roles"),
        (["--role", "everything", "ec.pem"], "everything"),
    ):
        result = cli("authority", "rotate", "--yes", *arguments)
        assert result.status in (64, 65), result
        assert words in result.stderr, result
    assert host.trust.digest == before
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert cli("authority", "rotate", "--role", "authorizations", "ed.pem").status == 1, "nobody said yes"
    assert cli.ok("governance", "diff", "--json").json["changes"] == []
    cli.ok("authority", "rotate", "--yes", "--role", "platform", "ec.pem", "--with", "root.pem")
    require_runs(host, receipt)


def test_a_repository_elsewhere_is_staged(cli: Cli, ran: tuple[Host, bytes]) -> None:
    """Where others sign too, nothing is published yet."""
    host, _ = ran
    shutil.copytree(host.layout.repository, "governance")
    keygen(cli, "ed25519")
    keys = [str(host.layout.authority / f"{name}.pem") for name in ("local",)]
    shown = cli.ok("authority", "rotate", "--repository", "governance", "--old", f"{keys[0]}", "second.pem")
    assert "sign and publish" in shown.stderr
    changes = cli.ok("governance", "diff", "--repository", "governance", "--json").json["changes"]
    assert {change["target"] for change in changes} >= {"authorities.json"}
    assert cli.ok("governance", "diff", "--json").json["changes"] == []
