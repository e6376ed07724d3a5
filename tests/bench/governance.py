"""What governance costs: Cedar at each decision, and loading and verifying all that is published."""

import statistics
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from attestd.governance.cedar import SCHEMA, Policies, PolicyRequest, parse_policies
from attestd.strict import canonical
from tests.bench.measure import Results, Row, median_ms, p99_ms
from tests.world import Host, World, digest

POLICIES = 1_000
USERS = 6_000
GROUPS = 200
EXECUTABLES = 3_700
PUBLISHERS = 100
TARGETS = 1_000
# In a process of its own, as at a start: what was verified before is remembered by its bytes.
LOAD = """
import os, sys, time
from pathlib import Path
from attestd.distribution.local import load_trust
from attestd.paths import TrustSource
directory = Path(sys.argv[1])
start = time.process_time()
trust = load_trust(TrustSource(directory, directory, frozenset({os.geteuid()})))
print(time.process_time() - start)
assert len(trust.hosts) == int(sys.argv[2]) and not trust.unusable
"""


def measure(results: Results) -> None:
    """All rows of this page."""
    cedar(results)
    load(results)


def policies() -> Policies:
    """A thousand policies over ten thousand entities, each with what it is about in front, as policies have."""
    lines = [
        *(f'permit (principal in Group::"g{n}", action, resource);' for n in range(GROUPS)),
        *(
            f'forbid (principal, action, resource in Publisher::"p{n}") when {{ context.argc > 1000000 }};'
            for n in range(PUBLISHERS)
        ),
    ]
    lines += [
        f'forbid (principal, action, resource) when {{ context.executable like "/opt/{n}/*" }};'
        for n in range(POLICIES - len(lines))
    ]
    entities = [
        *(_entity("Group", f"g{n}") for n in range(GROUPS)),
        *(_entity("Publisher", f"p{n}") for n in range(PUBLISHERS)),
        *(_entity("User", str(n), ("Group", f"g{n % GROUPS}")) for n in range(USERS)),
        *(
            _entity("Executable", digest(b"%d" % n), ("Publisher", f"p{n % PUBLISHERS}"))
            for n in range(EXECUTABLES)
        ),
    ]
    files = {
        "policy/schema.cedarschema": SCHEMA,
        "policy/entities.json": canonical(entities),
        "policy/exec.cedar": "\n".join(lines).encode(),
    }
    return parse_policies(files, teams={})


def _entity(kind: str, key: str, *parents: tuple[str, str]) -> dict[str, object]:
    above = [{"type": parent, "id": name} for parent, name in parents]
    return {"uid": {"type": kind, "id": key}, "attrs": {}, "parents": above}


def cedar(results: Results) -> None:
    """Each question another: no verdict is remembered. What it is about comes again, as users and programs do."""
    loaded, argc = policies(), count()

    def ask(number: int) -> float:
        values = {"executable": f"/usr/bin/tool-{number % 40}", "argc": next(argc)}
        request = PolicyRequest(
            requester=number % USERS,
            sha256=digest(b"%d" % (number % 40)),
            executable=values["executable"],
            uid=1001,
            attributes=values.__getitem__,
        )
        start = time.thread_time()
        assert loaded.evaluate("exec", request).permitted
        return time.thread_time() - start

    for number in range(100):
        ask(number)
    times = [ask(number * USERS // 60 + number % 3) for number in range(500 if results.quick else 5_000)]
    results.add(
        Row(
            f"Cedar, a decision among {POLICIES:,} policies, {USERS + EXECUTABLES + GROUPS + PUBLISHERS:,} entities",
            median_ms(times) * 1e3,
            "µs",
            f"CPU time; p99 {p99_ms(times) * 1e3:.0f} µs",
            bar=100,
            at_most=True,
        )
    )


def load(results: Results) -> None:
    """A fleet's governance, from its files."""
    world = World("bench")
    hosts = TARGETS - len(world.files()) + len(world.records)
    for number in range(hosts - len(world.records)):
        host = Host(f"bench host {number}", root=world.root)
        world.records[host.id] = world.host_record(host)
    assert len(world.files()) == TARGETS
    with tempfile.TemporaryDirectory() as directory:
        world.write_trust(Path(directory))
        command = [sys.executable, "-c", LOAD, directory, str(hosts)]
        times = [
            float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(1 if results.quick else 3)
        ]
    results.add(
        Row(
            f"governance of {TARGETS:,} targets, load and verify, CPU time",
            statistics.median(times),
            "s",
            f"{hosts:,} host records",
            bar=1,
            at_most=True,
        )
    )
