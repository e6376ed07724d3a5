"""What docs/operations.md tells to do, done: a new log, new keys; what is old goes on verifying."""

import os
import re
import shutil
import tomllib
from pathlib import Path

from attestd.agent.provision import provision_standalone
from attestd.distribution.local import TrustSource, load_trust
from attestd.lineage.entry import EntryType
from attestd.lineage.receipt import parse_receipt, verify_receipt
from attestd.paths import Configuration
from attestd.tcg.nv import COUNTER_INDEX
from attestd.tpm.embedded import EmbeddedTpm
from tests.host import Host, wait_for


def run_once(host: Host) -> bytes:
    """Serves, runs a command, stops in order; returns the receipt of the decision."""
    host.start()
    assert host.run("/bin/true").status == 0
    host.wait_settled()
    assert host.stop() == 0
    return host.receipt(host.entries(EntryType.DECISION_ALLOW)[-1].seq)


def init(host: Host) -> str:
    return provision_standalone(host.layout, host.configuration, pcrs=None, labels={}).log_origin


def test_a_new_log():
    with Host.create() as host:
        old = run_once(host)
        first = host.verify_receipt(old).at.checkpoint.origin
        away = host.top / "away"
        away.mkdir()
        for path in host.layout.agent.glob("log.db*"):
            path.rename(away / path.name)
        assert init(host) != first
        new = run_once(host)
        assert host.entries()[0].type is EntryType.LOG_START
        assert host.verify_receipt(new).at.checkpoint.origin != first
        assert host.verify_receipt(old).at.checkpoint.origin == first
        host.require_sound()


def test_new_keys():
    with Host.create() as host:
        old, before = run_once(host), host.trust.hosts[host.id]
        away = host.top / "away"
        shutil.copytree(host.layout.trust, away / "trust")
        host.layout.agent.rename(away / "agent")
        embedded = EmbeddedTpm(host.layout.tpm)
        embedded.start()
        with embedded.open() as tpm:
            tpm.undefine(COUNTER_INDEX)
        embedded.stop()
        init(host)
        new = run_once(host)
        assert host.trust.hosts[host.id].release_spki != before.release_spki
        host.verify_receipt(new)
        host.require_sound()
        old_trust = load_trust(TrustSource.at(away / "trust", owners={os.geteuid()}))
        assert verify_receipt(parse_receipt(old), trust=old_trust).entry.type is EntryType.DECISION_ALLOW


def test_every_metric_that_is_documented_exists_and_every_setting(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    with Host.create() as host:
        path = tmp_path / "attestd.prom"
        host.start(env={"ATTESTD_METRICS_FILE": str(path)})
        assert host.run("/bin/true").status == 0
        assert host.exec("/bin/true").status == 77
        wait_for("verified", lambda: host.status()["log"]["verified"])
        path.unlink(missing_ok=True)
        written = wait_for("metrics", lambda: path.exists() and path.read_text())
    for name in set(re.findall(r"`(attestd_[a-z_]+)", text)):
        assert f"# TYPE {name} " in written, name
    settings = tomllib.loads(text.partition("```toml\n")[2].partition("```")[0])
    assert settings.keys() == set(Configuration.__struct_fields__)
    assert Configuration(**{**settings, "tpm": "embedded"}) == Configuration()
