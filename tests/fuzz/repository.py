"""Targets: what authorities read of others: copies of trust files that are compared, PCR values of a reference machine."""

from attestd.distribution.approve import parse_pcr_values
from attestd.errors import MalformedError
from attestd.governance.changes import describe_changes
from attestd.governance.policy_schema import DEFAULT_POLICY
from tests.fuzz.target import target
from tests.world import World

WORLD = World()
NAMES = (
    "authorities.json",
    "revocations.json",
    "platform/local.json",
    "platform/history/local-1.json",
    f"hosts/{WORLD.host.id}.json",
    "policy/exec.cedar",
    "policy/entities.json",
    "teams/web/authorities.json",
)
PCRS = (
    b"sha256:\n  0 : 0x" + b"0A" * 32 + b"\n  11: 0x" + b"00" * 32 + b"\n",
    b'{"bank":"sha256","pcrs":{"4":{"now":"' + b"ab" * 32 + b'"}}}',
)


@target(MalformedError, seeds=lambda: [*WORLD.files().values(), DEFAULT_POLICY], is_json=True)
def changed_file(data: bytes) -> None:
    """In the place of each kind of file: compared with the true one, and with none."""
    before = WORLD.files()
    for name in NAMES:
        try:
            found = describe_changes({}, {name: data})
        except MalformedError:
            continue
        assert found
        assert all("\n" not in change.words for change in found if name.endswith(".cedar"))
        describe_changes({name: data}, {name: before.get(name, data)})


@target(MalformedError, seeds=lambda: list(PCRS), is_json=True)
def pcr_values(data: bytes) -> None:
    """Each PCR once, of 32 bytes."""
    found = parse_pcr_values(data)
    assert found
    assert all(0 <= index < 24 and len(value) == 32 for index, value in found.items())
