"""New TPM keys: what the old ones sealed verifies and releases nothing; cut off anywhere, it is finished."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestd.agent.exclusive import exclusive
from attestd.agent.keystore import load_keys
from attestd.agent.rekey import STEPS
from attestd.audit.shards import verify_shards
from attestd.audit.store import LogStore
from attestd.distribution.keyring import Keyring
from attestd.distribution.signer import generate
from attestd.distribution.standalone import open_local_repository, publish_local
from attestd.errors import TpmRefusedError, UsageError
from attestd.governance.rotation import replace_key
from attestd.lineage.entry import EntryType, parse_entry
from attestd.tcg.nv import COUNTER_INDEX
from attestd.tcg.public import parse_public
from attestd.tpm.embedded import EmbeddedTpm
from tests.agent.rekey_entry import WITHIN
from tests.agent.test_exec import denied
from tests.cli.conftest import Cli, cli_of
from tests.forking import AGENT, spawn
from tests.host import Host


@pytest.fixture(scope="module")
def template() -> Iterator[tuple[Host, bytes, bytes]]:
    """A host that used an artifact for two once, stopped; the artifact, and the receipt."""
    with Host.create() as host:
        host.start()
        artifact = host.issue("/bin/true", max_uses=2)
        assert host.exec("/bin/true", authorization=artifact).status == 0
        host.wait_settled()
        receipt = host.receipt(host.entries(EntryType.DECISION_ALLOW)[0].seq)
        assert host.stop() == 0
        host.kill_runner(signal.SIGTERM)
        yield host, artifact, receipt


@pytest.fixture
def used(template: tuple[Host, bytes, bytes]) -> Iterator[tuple[Host, bytes, bytes]]:
    """A copy of it, for each test its own."""
    host, artifact, receipt = template
    with Host.create(state=host.state) as copy:
        copy.work = host.work  # where the artifact lets it run
        yield copy, artifact, receipt


@pytest.fixture
def cli(used: tuple[Host, bytes, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return cli_of(used[0], tmp_path, monkeypatch)


def require_goes_on(host: Host, artifact: bytes, receipt: bytes) -> None:
    """One use of two is left, by the new keys; everything of before verifies."""
    host.start()
    assert host.exec("/bin/true", authorization=artifact).status == 0
    denied(host.exec("/bin/true", authorization=artifact), "uses_exhausted")
    host.wait_settled()
    present = host.trust.hosts[host.id]
    new = host.verify_receipt(host.receipt(host.entries(EntryType.DECISION_ALLOW)[0].seq))
    assert new.host.release_spki == present.release_spki
    old = host.verify_receipt(receipt)
    assert old.host.release_spki != present.release_spki
    assert [record.release_spki for record in host.trust.host_history[host.id]] == [old.host.release_spki]
    host.require_sound()
    assert host.stop() == 0
    assert not [name for name in os.listdir(host.layout.agent) if ".next" in name]


def test_everything_goes_on(used: tuple[Host, bytes, bytes], cli: Cli) -> None:
    host, artifact, receipt = used
    before = load_keys(host.layout.keys)
    size = len(host.entries())
    done = cli.ok("rekey", "--yes", "--json").json
    assert done["host"] == host.id
    assert done["waits"] == []
    after = load_keys(host.layout.keys)
    assert after[0].ak_public != before[0].ak_public
    assert after[0].release_public != before[0].release_public
    assert {after[1].ak, after[1].release, after[1].counter}.isdisjoint(
        {before[1].ak, before[1].release, before[1].counter}
    )
    require_goes_on(host, artifact, receipt)
    first = host.entries()[0]
    assert (first.type, first.body["previous"]["size"]) == (EntryType.LOG_START, size + 1)
    found = cli.ok("audit", "verify", "--json").json
    assert found["closed"] == [
        {"origin": first.body["previous"]["origin"], "size": size + 1, "verified": True}
    ]
    ((_, closed),) = verify_shards(host.layout.log, trust=host.trust)
    assert closed is not None
    assert closed.types[EntryType.HOST_REENROLL] == 1
    with contextlib.closing(LogStore.open(done["closed"], readonly=True)) as store:
        announced = parse_entry(store.entry(size)).body
    assert announced == {
        "host": host.id,
        "ak": parse_public(after[0].ak_public).name.hex(),
        "release_key": parse_public(after[0].release_public).name.hex(),
    }


def test_whoever_has_the_old_keys_can_use_nothing(used: tuple[Host, bytes, bytes], cli: Cli) -> None:
    host, _, _ = used
    blobs, auth = load_keys(host.layout.keys)
    cli.ok("rekey", "--yes")
    embedded = EmbeddedTpm(host.layout.tpm)
    embedded.start()
    try:
        with embedded.open() as tpm:
            tpm.load_keys(blobs, auth)
            for use in (tpm.read_counter, tpm.step_counter):
                with pytest.raises(TpmRefusedError):
                    use()
            tpm.load_keys(*load_keys(host.layout.keys))
            tpm.step_counter()
    finally:
        embedded.stop()


@pytest.mark.parametrize(
    "point", [f"{moment}:{step}" for step in STEPS for moment in ("before", "after")] + list(WITHIN)
)
def test_killed_anywhere_it_is_finished_by_the_next_call(
    used: tuple[Host, bytes, bytes], cli: Cli, point: str
) -> None:
    host, artifact, receipt = used
    output = host.top / "rekey"
    with output.open("wb") as file:
        entry = ("tests.agent.rekey_entry", host.state, point)
        killed = spawn(*entry, imported=(*AGENT, "attestd.cli.rekey"), env=os.environ, output=file.fileno())
    assert killed.wait(60) == -signal.SIGKILL, output.read_text()
    EmbeddedTpm(host.layout.tpm).stop()
    if host.layout.next_keys.exists():
        with pytest.raises(UsageError, match="attestd rekey finishes it"), exclusive(host.layout):
            pass
        assert "half replaced" in cli("audit", "rotate", "export").stderr
    if point != "after:take_over":
        cli.ok("rekey", "--yes")
    require_goes_on(host, artifact, receipt)


def test_an_agent_does_not_start_between(used: tuple[Host, bytes, bytes]) -> None:
    host, _, _ = used
    shutil.copy(host.layout.keys, host.layout.next_keys)
    with pytest.raises(AssertionError, match="half replaced"):
        host.start()


def test_refused(used: tuple[Host, bytes, bytes], cli: Cli) -> None:
    host, _, _ = used
    before = load_keys(host.layout.keys)
    host.start()
    running = cli("rekey", "--yes")
    assert (running.status, "running" in running.stderr) == (64, True), running
    host.stop()
    host.layout.keys.rename(host.top / "keys")
    missing = cli("rekey", "--yes")
    assert (missing.status, "rekey --lost" in missing.stderr) == (64, True), missing
    (host.top / "keys").rename(host.layout.keys)
    host.layout.log.rename(host.top / "log")
    missing = cli("rekey", "--yes")
    assert (missing.status, "rekey --lost" in missing.stderr) == (64, True), missing
    (host.top / "log").rename(host.layout.log)
    assert load_keys(host.layout.keys) == before
    cli.ok("rekey", "--yes")


def test_an_enroller_elsewhere_must_be_named(used: tuple[Host, bytes, bytes], cli: Cli) -> None:
    host, artifact, receipt = used
    away = host.top / "local.pem"
    (host.layout.authority / "local.pem").rename(away)
    refused = cli("rekey", "--yes")
    assert (refused.status, "--with KEY" in refused.stderr) == (64, True), refused
    refused = cli("rekey", "--yes", "--controller", "http://127.0.0.1:1")
    assert (refused.status, "this host stands alone" in refused.stderr) == (64, True), refused
    cli.ok("rekey", "--yes", "--with", away)
    away.rename(host.layout.authority / "local.pem")
    require_goes_on(host, artifact, receipt)


def test_keys_with_passphrases(used: tuple[Host, bytes, bytes], cli: Cli) -> None:
    host, artifact, receipt = used
    secret = Path("secret")
    secret.write_text("correct horse")
    secret.chmod(0o600)
    for path in host.layout.authority.glob("*.pem"):
        cli.ok("authority", "protect", "--new-passphrase-file", secret, path)
    assert cli("rekey", "--yes").status == 64
    cli.ok("rekey", "--yes", "--passphrase-file", secret)
    for path in host.layout.authority.glob("*.pem"):
        cli.ok("authority", "protect", "--passphrase-file", secret, "--no-passphrase", path)
    require_goes_on(host, artifact, receipt)


def test_the_tpm_was_cleared(used: tuple[Host, bytes, bytes], cli: Cli) -> None:
    host, artifact, receipt = used
    clear(host)
    host.start(wait=False)
    assert host.wait_ended() != 0
    refused = cli("rekey", "--yes")
    assert refused.status != 0
    cli.ok("rekey", "--yes", "--lost")
    require_goes_on(host, artifact, receipt)
    types = {entry.type for entry in host.entries()}
    assert EntryType.LOG_START in types


def clear(host: Host) -> None:
    embedded = EmbeddedTpm(host.layout.tpm)
    embedded.start()
    try:
        subprocess.run(
            ["tpm2_clear", "-T", embedded.tcti, "-c", "l"], check=True, capture_output=True, timeout=60
        )
        with embedded.open() as tpm:
            assert tpm.nv_name(COUNTER_INDEX) is None
    finally:
        embedded.stop()


def test_the_disk_was_lost(used: tuple[Host, bytes, bytes], cli: Cli) -> None:
    """Log and keys; governance and authority keys were restored."""
    host, _, receipt = used
    for path in (host.layout.agent, host.layout.runner):
        shutil.rmtree(path)
        path.mkdir(mode=0o700)
    cli.ok("rekey", "--yes", "--lost")
    host.start()
    assert host.run("/bin/true").status == 0
    host.wait_settled()
    assert host.entries()[0].body["previous"] is None
    assert host.verify_receipt(receipt).host.release_spki != host.trust.hosts[host.id].release_spki
    host.require_sound()


@pytest.mark.parametrize("role", ["root", "epoch"])
def test_under_another_authority(used: tuple[Host, bytes, bytes], cli: Cli, role: str) -> None:
    """Governance is changed first; then each host gets new keys."""
    host, _, receipt = used
    made = generate("p256", host.layout.authority / f"{role}2.pem")
    repository, keyring = open_local_repository(host.layout.authority), Keyring(host.layout.authority)
    old = getattr(host.trust.authorities, role).key_id
    rotation = replace_key(
        repository.plan().files,
        old=old,
        new=made.public,
        signers=keyring.signers(),
        revoked_keys=(),
        now=datetime.now(UTC),
    )
    publish_local(repository, host.layout.authority, rotation.files)
    host.start(wait=False)
    assert host.wait_ended() != 0, "its host record does not hold any more"
    cli.ok("rekey", "--yes")
    host.start()
    assert host.run("/bin/true").status == 0
    host.wait_settled()
    assert host.trust.unusable == {}
    assert host.verify_receipt(receipt).approval is not None
    assert getattr(host.trust.authorities, role).key_id == made.public.key_id
    host.require_sound()


def test_a_host_that_others_govern(used: tuple[Host, bytes, bytes], cli: Cli) -> None:
    """It asks for its record, and goes on when that is published."""
    host, artifact, receipt = used
    repository, authority = host.layout.repository, host.layout.authority
    settings = host.layout.configuration.read_text()
    host.layout.configuration.write_text(f'governance_url = "{repository / "published"}"\n{settings}')
    for _ in range(2):
        asked = cli.ok("rekey", "--yes", "--json")
        assert asked.json["waits"] == [str(host.layout.host_request)]
        assert "attestd governance enroll" in asked.stderr
        with pytest.raises(UsageError, match="attestd rekey finishes it"), exclusive(host.layout):
            pass
    key = authority / "local.pem"
    cli.ok(
        "governance", "enroll", "--yes", "--repository", repository, "--key", key, host.layout.host_request
    )
    if cli.ok("governance", "diff", "--repository", repository, "--json").json["changes"]:
        cli.ok(
            "governance", "sign", "--yes", "--repository", repository, "--key", authority / "governance.pem"
        )
        cli.ok("governance", "publish", "--repository", repository)
    assert cli.ok("rekey", "--yes", "--json").json["waits"] == []
    require_goes_on(host, artifact, receipt)
