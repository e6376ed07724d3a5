"""The controller: requests a second of one process, over HTTP without TLS, the load generator on the other core."""

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import psutil

from attestd.lineage.entry import EntryType
from attestd.tlog.checkpoint import BatchMode
from attestd.tlog.tree import consistency_proof
from attestd.tlog.witness import AddCheckpoint, format_add_checkpoint
from tests.bench.http import CONNECTIONS, over_connections
from tests.bench.measure import Results, Row
from tests.controller.running import Controller
from tests.world import BOOT, Host, Log, World

LOGS = 1000
ROUNDS = 8
NOW = datetime.now(UTC).replace(microsecond=0)


def measure(results: Results) -> None:
    """Hosts' logs, each with both its TPM's signatures, growing in turns; with Ed25519 alone, and with ML-DSA-44 as well."""
    rounds = 2 if results.quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="bench-") as top:
        world = World("bench", now=NOW)
        hosts = [Host(f"bench {number}", root=world.root) for number in range(LOGS)]
        world.records = {host.id: world.host_record(host) for host in hosts}
        world.write_trust(Path(top) / "web")
        requests = _requests(world, hosts, rounds)
        for mldsa, bar in ((False, 800), (True, None)):
            found = _witness(Path(top), requests, mldsa=mldsa)
            results.add(
                Row(
                    f"witness add-checkpoint, {LOGS} logs, Ed25519{' and ML-DSA-44' if mldsa else ''}",
                    found.rate, "/s", bar=bar,
                    against=f"{found.per_core:.0f}/s of its own core; p99 {found.p99_ms:.0f} ms at {CONNECTIONS}"
                    f" at a time; {found.memory_mb:.0f} MB",
                )
            )  # fmt: skip


@dataclass(frozen=True)
class Load:
    """What a controller did with a load.

    Attributes:
        per_core: For each second of its own CPU time: what it would do with a core of its own.
    """

    rate: float
    per_core: float
    p99_ms: float
    memory_mb: float


def _witness(top: Path, requests: Sequence[bytes], *, mldsa: bool) -> Load:
    state = top / f"state-{mldsa}"
    state.mkdir()
    (state / "trust").mkdir()
    (state / "trust" / "root.json").write_bytes((top / "web" / "root.json").read_bytes())
    with Controller(
        state,
        roles=["witness"],
        governance=str(top / "web"),
        witness_name="witness.example/bench",
        witness_mldsa=mldsa,
    ) as controller:
        controller.init().start()
        assert controller.process is not None
        process = psutil.Process(controller.process.pid)
        before = sum(process.cpu_times()[:2])
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
            times, seconds = other.submit(load, controller.port, requests).result()
        used = sum(process.cpu_times()[:2]) - before
        memory = process.memory_info().rss / 1e6
    return Load(
        len(requests) / seconds,
        len(requests) / used,
        1e3 * statistics.quantiles(times, n=100)[98],
        memory,
    )


def load(port: int, requests: Sequence[bytes]) -> tuple[list[float], float]:
    """Sends requests over several connections, in order; each has to be answered with 200.

    Returns:
        The seconds of each, and of all.
    """
    done = asyncio.run(over_connections([port], "/witness/add-checkpoint", requests))
    return done.times, done.seconds


def _requests(world: World, hosts: Sequence[Host], rounds: int) -> list[bytes]:
    logs = [Log(host) for host in hosts]
    found: list[bytes] = []
    for _ in range(rounds):
        for log in logs:
            old = len(log.entries)
            for _ in range(5):
                log.append({}, type_=EntryType.AGENT_START, time=NOW, boot=BOOT)
            note = log.seal(mode=BatchMode.RELEASE, pcr_digest=world.pcr_digest)
            proof = consistency_proof(old, old + 5, lambda level, index, log=log: log.nodes[level, index])  # type: ignore[misc]
            found.append(format_add_checkpoint(AddCheckpoint(old, tuple(proof), note)))
    return found
