"""`attestd governance replay`: what staged policies would have said; then published, and they do say it."""

from pathlib import Path

from attestd.lineage.entry import EntryType
from tests.cli.conftest import Cli
from tests.host import Host

FORBID = """
@id("no-id")
@reason("Nobody asks who they are.")
forbid (principal, action, resource)
when { context.directory == "/usr/bin/" && context.argv.contains("-u") };
"""


def test_replay_then_publish(own: Host, own_cli: Cli) -> None:
    own.start()
    assert own.run("/usr/bin/id", "-u").status == 0
    assert own.run("/usr/bin/true").status == 0
    assert own.exec("/usr/bin/id").status == 77
    own.wait_settled()

    same = own_cli("governance", "replay")
    assert (same.status, same.stdout.splitlines()[-1]) == (
        0,
        "0 of 3 decisions would differ; policies were asked in 2, 0 cannot be said",
    )

    Path("exec.cedar").write_text("permit (principal, action, resource);" + FORBID)
    own_cli.ok("governance", "add", "policy/exec.cedar", "exec.cedar")
    differing = own_cli("governance", "replay", "-n", "50")
    assert differing.status == 1
    assert "would be denied: /usr/bin/id -u" in differing.stdout
    assert "then: permitted by exec#all" in differing.stdout
    assert "policy_conflict: forbidden by policy exec#no-id (Nobody asks who they are.)" in differing.stdout
    assert "1 of 3 decisions would differ" in differing.stdout
    found = own_cli("governance", "replay", "--json", "--log", own.layout.log)
    assert (found.status, found.json["decisions"], found.json["unknown"]) == (1, 3, [])
    (differs,) = found.json["differ"]
    assert (differs["argv"], differs["permitted"]) == (["/usr/bin/id", "-u"], False)
    assert own_cli("governance", "replay", "-n", "1").status == 0

    own_cli.ok("governance", "sign", "--key", own.layout.authority / "governance.pem", "--yes")
    own_cli.ok("governance", "publish")
    denied = own.run("/usr/bin/id", "-u")
    assert denied.status == 77
    assert "policy_conflict: forbidden by policy exec#no-id (Nobody asks who they are.)" in denied.stderr
    assert own.run("/usr/bin/true").status == 0
    own.wait_settled()
    entry = own.entries(EntryType.DECISION_DENY)[-1]
    why = own_cli.ok("why", str(entry.seq)).stdout
    assert "exec#no-id" in why
    allowed = own.entries(EntryType.DECISION_ALLOW)[-1]
    assert "permitted by exec#0" in own_cli.ok("why", str(allowed.seq)).stdout


def test_a_typo_is_not_staged(own: Host, own_cli: Cli) -> None:
    Path("exec.cedar").write_text("permit (principal, action, resource)\nwhen { context has artifct };\n")
    refused = own_cli("governance", "add", "policy/exec.cedar", "exec.cedar")
    assert refused.status == 65
    assert "exec.cedar: line 1: this can never be true: context has artifct" in refused.stderr
