"""Writes tests/governance/vectors; run `python -m tests.governance.make_vectors`.

Keys follow from names and all signatures are deterministic: the same bytes come out every time. Beside one golden
example of each trust file, published in a TUF repository, there are an artifact, the leaves of its two decisions, and the receipt that releases it.
"""

import json
from dataclasses import replace
from pathlib import Path

from attestd.gate.decide import decide
from attestd.lineage.entry import format_entry
from attestd.lineage.receipt import parse_receipt
from attestd.strict import canonical, format_time_us
from tests.world import BOOT, NOW, World, digest

DIRECTORY = Path(__file__).parent / "vectors"

POLICY = b"""\
// Who may run what, beyond what authorities signed.

@id("deployers")
permit (principal in Group::"deployers", action == Action::"exec", resource in Publisher::"platform-team")
when { context.directory == "/usr/bin/" };

@id("freeze")
@reason("No changes to production on Fridays.")
forbid (principal, action, resource)
when { context.argv.contains("prod") && context.weekday == 5 }
unless { context.artifact.metadata.contains("emergency=true") };

@id("short-lived")
@reason("Unlimited artifacts live at most a day.")
forbid (principal, action, resource)
when { !(context.artifact has max_uses) && context.artifact.ttl_s > 86400 };
"""
ENTITIES = json.dumps(
    [
        {"uid": {"type": "Group", "id": "deployers"}, "attrs": {}, "parents": []},
        {"uid": {"type": "Publisher", "id": "platform-team"}, "attrs": {}, "parents": []},
        {
            "uid": {"type": "User", "id": "1001"},
            "attrs": {},
            "parents": [{"type": "Group", "id": "deployers"}],
        },
        {
            "uid": {"type": "Executable", "id": digest(b"deploy")},
            "attrs": {},
            "parents": [{"type": "Publisher", "id": "platform-team"}],
        },
    ],
    indent=2,
).encode()


BOOT_RULES = {
    "v": 1,
    "bank": "sha256",
    "secure_boot": "required",
    "separators": "unchecked",
    "certificates": None,
    "images": [digest(b"a unified kernel image")],
    "command_lines": ["root=/dev/vda2 ro quiet"],
    "sections": None,
    "digests": {"2": []},
}
IMA_POLICY = {
    "v": 1,
    "digests": {"/usr/bin/deploy": [f"sha256:{digest(b'deploy')}"]},
    "patterns": [],
    "exclude": ["/var/log/*"],
    "keys": {},
    "violations": "exclude",
}


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
    world.policies |= {"policy/exec.cedar": POLICY, "policy/entities.json": ENTITIES}
    values = {str(pcr): [value.hex()] for pcr, value in world.values.items()}
    reference = {**world.platforms["local"]["reference"], "pcrs": {"sha256": values}}
    world.history["local-1"] = world.platform_file(values={pcr: bytes(32) for pcr in world.values})
    world.platforms["local"] = world.platform_file(
        version=2,
        epoch=2,
        max_epoch=3,
        reference=reference,
        lifecycle={"valid_until": "2027-01-01T00:00:00Z", "windows": []},
    )
    measured = world.platform_file(name="measured")
    window = {"pcr_digest": measured["approvals"][0]["pcr_digest"], "not_after": "2026-06-01T00:00:00Z"}
    world.extra["ima/measured.json"] = canonical(IMA_POLICY)
    world.platforms["measured"] = {
        **measured,
        "reference": {
            **measured["reference"],
            "boot": BOOT_RULES,
            "ima": {"policy": "measured", "sha256": digest(world.extra["ima/measured.json"])},
        },
        "lifecycle": {"valid_until": None, "windows": [window]},
    }
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
