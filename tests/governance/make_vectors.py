"""Writes tests/governance/vectors; run `python -m tests.governance.make_vectors`.

Keys follow from names and all signatures are deterministic: the same bytes come out every time. Beside one golden
example of each trust file, published in a TUF repository, there are an artifact, the leaves of its two decisions, and the receipt that releases it.
"""

from dataclasses import replace
from pathlib import Path

from attestd.gate.decide import decide
from attestd.lineage.entry import format_entry
from attestd.lineage.receipt import parse_receipt
from attestd.strict import format_time_us
from tests.world import BOOT, NOW, World

DIRECTORY = Path(__file__).parent / "vectors"


def golden_world() -> World:
    """The world of the vectors: every list of its trust files has an element."""
    world = World("golden", authors=2, threshold=2)
    world.add_team("payments", paths=["/opt/payments/"], uids=[1001, 1002], max_depth=1)
    world.revocations |= {
        "artifacts": ["aa" * 32],
        "keys": ["bb" * 32],
        "hosts": ["cc" * 32],
        "subjects": ["dd" * 32],
        "requesters": [65534],
        "epoch": 1,
        "bump": world.bump(1),
    }
    values = {str(pcr): [value.hex()] for pcr, value in world.values.items()}
    reference = {**world.platforms["local"]["reference"], "pcrs": {"sha256": values}}
    world.history["local-1"] = world.platform_file(values={pcr: bytes(32) for pcr in world.values})
    world.platforms["local"] = world.platform_file(
        version=2,
        epoch=2,
        max_epoch=3,
        reference=reference,
        lifecycle={"valid_until": "2027-01-01T00:00:00Z"},
    )
    return world


def vectors() -> dict[str, bytes]:
    """File name to content."""
    world = golden_world()
    granted = world.grant()
    denied = decide(
        replace(world.request(granted.artifact), execution=world.execution(cwd="/tmp")),
        world.context(),
    )
    deny = format_entry(
        type_=denied.entry_type, time=format_time_us(NOW), seq=2, boot=BOOT, body=dict(denied.body)
    )
    return {
        **{f"trust/{name}": data for name, data in world.publish().files().items()},
        "deploy.auth.json": granted.artifact,
        "decision.allow.json": parse_receipt(granted.receipt).entry_bytes,
        "decision.deny.json": deny,
        "deploy.tlog-proof": granted.receipt,
    }


if __name__ == "__main__":
    for name, content in vectors().items():
        path = DIRECTORY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
