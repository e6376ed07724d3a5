"""What becomes of governance's record of this host: none, none that verifies, none that can be read, or one."""

from datetime import timedelta

from attestd.agent.findings import of_record, record_fault
from attestd.errors import StoreError
from attestd.governance.trust import parse_trust
from tests.world import World, described


def test_the_record_of_this_host() -> None:
    world = World("findings")
    name, remedies = f"hosts/{world.host.id}.json", set()
    damaged = {**world.files(), name: b"{}"}
    unread = {key: data for key, data in world.files().items() if key != name}
    for is_named, files, words in (
        (True, world.files(), None),
        (True, damaged, "published, but does not verify: "),
        (True, unread, "published, but cannot be read here: "),
        (False, unread, "has no record of this host"),
    ):
        metadata = described({**files, name: files.get(name, b"")} if is_named else files)

        def read(name: str, files: dict[str, bytes] = files) -> bytes:
            if name not in files:
                raise StoreError(f"{name}: No such file or directory")
            return files[name]

        trust = parse_trust(read, metadata=metadata)
        fault = record_fault(trust, world.host.id)
        assert (fault is None) is (words is None or not is_named)
        record = trust.hosts.get(world.host.id)
        until = None if record is None else "2100-01-01T00:00:00Z"
        found = of_record(until, fault, version=1, now=world.now + timedelta(days=1))
        if words is None:
            assert found.remedy is None
        else:
            assert words in found.found
            assert found.remedy
            remedies.add(found.remedy)
    assert len(remedies) == 3
