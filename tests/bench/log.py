"""The log: appending in bulk, verifying a million entries, signatures of checkpoints."""

import asyncio
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from hashlib import sha256

import psutil
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from attestd.audit.seal import Pending
from attestd.audit.store import LogStore
from attestd.audit.stored import verify_stored_checkpoints
from attestd.audit.verify import verify_log
from attestd.lineage.checkpoint import LogKeys
from attestd.lineage.entry import EntryType
from attestd.tcg.quote import split_quote
from attestd.tcg.signature import parse_signature
from attestd.tlog.note import parse_note
from tests.bench.inside import agent_of
from tests.bench.measure import Results, Row, alternate, median_ms, ratios
from tests.faults.inside import Inside
from tests.host import Host

BATCH = 1000
LEAF_BYTES = 400
PADDING = "x" * 245


async def append(host: Host, results: Results) -> None:
    """Grows the log to what it is after some months."""
    entries = 100_000 if results.quick else 1_000_000
    async with agent_of(host) as agent:
        first = agent.core.store.size
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.to_thread(_append, agent, entries)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        sample = agent.core.store.entry(first + entries // 2)
        assert LEAF_BYTES - 5 <= len(sample) <= LEAF_BYTES + 5, len(sample)
    results.add(
        Row(
            f"bulk append, durable, {BATCH} a checkpoint, {LEAF_BYTES} bytes each",
            entries / wall,
            "/s",
            f"{entries:,} entries; CPU time allows {entries / cpu:,.0f}/s",
            bar=50_000,
        )
    )


def _append(agent: Inside, entries: int) -> None:
    """As in the agent: one thread hands in, another seals."""
    sealer, boot = agent.core.seals._sealer, agent.core.boot
    batches: queue.Queue[list[Pending]] = queue.Queue(2)

    def hand_in() -> None:
        for start in range(0, entries, BATCH):
            numbers = range(start, start + BATCH)
            batches.put([Pending(EntryType.ATTESTATION, {"n": n, "padding": PADDING}) for n in numbers])

    maker = threading.Thread(target=hand_in)
    maker.start()
    for _ in range(0, entries, BATCH):
        sealer.seal(batches.get(), now=datetime.now(UTC), boot=boot)
    maker.join()


def keys_of(host: Host) -> LogKeys:
    record = host.trust.hosts[host.id]
    with closing(LogStore.open(str(host.layout.log), readonly=True)) as store:
        return LogKeys(store.origin, record.release_spki, record.ak_spki)


def verify(host: Host, results: Results) -> None:
    path, keys = str(host.layout.log), keys_of(host)
    size = verify_log(path, keys, processes=2).size

    def hash_all() -> float:
        """Only the hashing is timed, not the reading."""
        seconds = 0.0
        with closing(LogStore.open(path, readonly=True)) as store:
            for start in range(0, size, 10_000):
                entries = [data for _, data in store.entries(start, min(start + 10_000, size))]
                began = time.perf_counter()
                for entry in entries:
                    sha256(entry).digest()
                seconds += time.perf_counter() - began
        return seconds

    floors, ours = [], []
    for _ in range(3):
        floors.append(hash_all())
        began = time.perf_counter()
        verify_log(path, keys, processes=2)
        ours.append(time.perf_counter() - began)
    rate = size / (median_ms(ours) / 1e3)
    results.add(
        Row(
            "audit verify, two processes, of a bare SHA-256 loop over the leaves",
            ratios(floors, ours),
            "%",
            f"{size:,} entries, {rate:,.0f}/s; bare {size / (median_ms(floors) / 1e3):,.0f}/s",
            bar=20,
        ),
        Row("audit verify, memory of all its processes", _memory(host), "MB", bar=200, at_most=True),
    )
    signatures(path, keys, results)


def _memory(host: Host) -> float:
    """The most that `attestd audit verify` and its processes hold resident together."""
    from tests.bench.processes import ATTESTD

    command = [str(ATTESTD), "audit", "verify", "--state-dir", str(host.state)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    most, ended = 0, threading.Event()

    def sample() -> None:
        nonlocal most
        while not ended.wait(0.05):
            with suppress(psutil.Error):
                parent = psutil.Process(process.pid)
                family = [parent, *parent.children(recursive=True)]
                most = max(most, sum(_private(member) for member in family))

    sampler = threading.Thread(target=sample)
    sampler.start()
    output, _ = process.communicate()
    ended.set()
    sampler.join()
    if process.returncode:
        raise SystemExit(output.decode())
    return most / 1e6


def _private(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


def signatures(path: str, keys: LogKeys, results: Results) -> None:
    """All that verifying stored checkpoints takes, against their bare ECDSA verifications."""
    with closing(LogStore.open(path, readonly=True)) as store:
        stored = list(store.checkpoints())[-400:]
    scheme, work = ec.ECDSA(SHA256()), list[tuple[ec.EllipticCurvePublicKey, bytes, bytes]]()
    for item in stored:
        note = parse_note(item.note)
        attest, signature = split_quote(note.signature(keys.origin, keys.attestation.key_id))
        key = keys.attestation.public_key
        assert isinstance(key, ec.EllipticCurvePublicKey)
        work.append((key, parse_signature(signature).der(), attest))

    def bare() -> None:
        for key, der, data in work:
            key.verify(der, data, scheme)

    def whole() -> None:
        assert sum(1 for _ in verify_stored_checkpoints(keys, stored)) == len(stored)

    times: Callable[..., tuple[list[float], ...]] = alternate
    ours, floor = times(whole, bare, rounds=5 if results.quick else 15, clock=time.process_time)
    results.add(
        Row(
            "checkpoint signatures, of bare ECDSA",
            ratios(floor, ours),
            "%",
            f"{len(work) / (median_ms(ours) / 1e3):.0f}/s",
            bar=80,
        )
    )
