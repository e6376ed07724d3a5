"""`attestd governance enroll`: by one enroller or several, what was shown, and what is signed."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from attestd.strict import canonical, format_time
from tests.cli.conftest import Cli
from tests.cli.fleet import fleet_world, in_repository, publish, trust, trust_id, trust_keys
from tests.cli.meanwhile import Meanwhile


def test_enrolling(repository: Cli) -> None:
    """A host's request becomes a record that hosts accept; an enroller who is none cannot admit anybody."""
    world = fleet_world()
    Path("authorities.json").write_bytes(canonical({**world.authorities, "version": 2}))
    run = in_repository(repository)
    run("add", "authorities.json", "authorities.json")
    now = datetime.now(UTC)
    times = {
        "not_before": format_time(now - timedelta(hours=30.5)),
        "not_after": format_time(now + timedelta(days=9)),
    }
    Path("request.json").write_bytes(canonical({**world.records[world.host.id], **times}))
    enroll = ("governance", "enroll", "--repository", "governance", "request.json", "--yes")
    refused = repository(*enroll, "--key", "carol.pem")
    assert refused.status == 1
    assert "no host would accept it" in refused.stderr
    done = repository.ok(*enroll, "--key", "enroller.pem")
    assert world.host.id in done.stderr, "what is signed is shown first"
    assert f"WARNING: it waited: it begins at {times['not_before']}, 1 day ago" in done.stderr
    assert trust().hosts.keys() == {world.host.id}
    assert repository(*enroll).status == 64
    Path("request.json").write_bytes(b"{}")
    assert repository(*enroll, "--key", "enroller.pem").status == 65


def test_what_was_seen_is_what_is_signed(repository: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another enroller's record of this host is published while somebody looks: that one would end."""
    world = fleet_world()
    Path("authorities.json").write_bytes(canonical({**world.authorities, "version": 2}))
    run = in_repository(repository)
    run("add", "authorities.json", "authorities.json")
    other = world.host_record(world.host.reinstalled("other", root=world.root))
    Path("first.json").write_bytes(canonical(world.records[world.host.id]))
    Path("second.json").write_bytes(canonical(other))
    enroll = ("governance", "enroll", "--repository", "governance", "--key", "enroller.pem")

    def published() -> None:
        repository.ok(*enroll, "first.json", "--yes")
        publish(repository)

    monkeypatch.setattr(sys, "stdin", Meanwhile(published, "y"))
    refused = repository(*enroll, "second.json")
    assert (refused.status, "has changed meanwhile" in refused.stderr) == (64, True), refused
    assert "the keys before" not in refused.stderr
    shown = repository.ok("governance", "show", "--repository", "governance", "--json").json
    assert not [item["role"] for item in shown["roles"] if item["staged"]]
    assert "WARNING: the keys before" in repository.ok(*enroll, "second.json", "--yes").stderr


def test_two_enrollers(repository: Cli) -> None:
    world = fleet_world()
    world.authorities["enrollers"] = {"keys": [trust_id("enroller"), trust_id("carol")], "threshold": 2}
    world.authorities["keys"] |= trust_keys("carol")
    Path("authorities.json").write_bytes(canonical({**world.authorities, "version": 2}))
    in_repository(repository)("add", "authorities.json", "authorities.json")
    Path("request.json").write_bytes(canonical(world.records[world.host.id]))
    enroll = ("governance", "enroll", "--repository", "governance", "--yes")
    refused = repository(*enroll, "request.json", "--key", "enroller.pem")
    assert refused.status == 1
    repository.ok(*enroll, "request.json", "--key", "enroller.pem", "-o", "half.json")
    assert repository(*enroll, "half.json", "--key", "enroller.pem").status == 1, "one key twice is one"
    repository.ok(*enroll, "half.json", "--key", "carol.pem")
    (host,) = trust().hosts.values()
    assert set(host.enrollers) == {trust_id("enroller"), trust_id("carol")}
    for name in ("alice", "bob", "root"):
        repository("governance", "sign", "--repository", "governance", "--key", f"{name}.pem", "--yes")
    repository.ok("governance", "publish", "--repository", "governance")
    # It comes again, with other labels: both sign the new record, and that the old one ends.
    begins = world.now + timedelta(hours=1)
    again = {**world.records[world.host.id], "labels": {"role": "new"}, "not_before": format_time(begins)}
    Path("request.json").write_bytes(canonical(again))
    one = ("request.json", "--key", "enroller.pem", "-o", "again.json")
    assert repository(*enroll, *one).status == 64, "without --ended the next one does not get it"
    assert not Path("again.json").exists()
    repository.ok(*enroll, *one, "--ended", "ended.json")
    assert repository(*enroll, "again.json", "--key", "carol.pem").status == 1
    assert repository(*enroll, "again.json", "--key", "carol.pem", "--ended", "half.json").status == 64
    repository.ok(*enroll, "again.json", "--key", "carol.pem", "--ended", "ended.json")
    assert trust().hosts[host.host].labels == {"role": "new"}
    [past] = trust().host_history[host.host]
    assert (past.labels, past.not_after) == (host.labels, begins + timedelta(minutes=5))
    # Or both keys are at one place.
    repository.ok("governance", "stage", "--repository", "governance", "--reset")
    assert repository(*enroll, "request.json", "--key", "carol.pem").status == 1
    repository.ok(*enroll, "request.json", "--key", "carol.pem", "--key", "enroller.pem")
    assert trust().host_history[host.host][0].not_after == past.not_after
