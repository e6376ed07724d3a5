"""A verifier with a hundred thousand enrolled hosts: how much memory, how long until it is ready, what a request costs.

Each host has an endorsement key of its own, so an id of its own, and a record that is really signed. Attestation and release
keys are of a pool, larger than what a verifier keeps loaded: making them takes longer than signing for them.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import psutil

from attestd.durable import write_atomic
from attestd.governance.host import HOST_RECORD_TYPE
from attestd.strict import canonical
from attestd.tcg.public import host_id
from tests.bench.http import over_connections
from tests.bench.measure import Results, Row
from tests.bench.verifier import Fleet, fill, verifiers
from tests.controller.attesting import CHALLENGE, Remote
from tests.controller.running import Controller
from tests.repository import Repository
from tests.world import EK_HEAD, EcKey, Host, World, dsse, sized

NAME = "bench"
FEW, MANY = 1_000, 100_000
ROUNDS = 4
POOL = 2_048
AT_ONCE = 2_000


class PooledHost(Host):
    """The host of that number."""

    def __init__(self, number: int, *, root: EcKey) -> None:
        keys = _keys(number % POOL, root)
        self.ak, self.ak_public = keys.ak, keys.ak_public
        self.release_key, self.release_public = keys.release_key, keys.release_public
        x, y = (sha256(b"%d %s" % (number, name)).digest() for name in (b"x", b"y"))
        self.ek_public = EK_HEAD + sized(x) + sized(y)
        self.id = host_id(self.ek_public)


@cache
def _keys(number: int, root: EcKey) -> Host:
    return Host(f"{NAME} {number}", root=root)


def records(start: int, stop: int, now: datetime) -> dict[str, bytes]:
    """Host records' files; where they are made."""
    world = World(NAME, now=now)
    hosts = (PooledHost(number, root=world.root) for number in range(start, stop))
    return {
        f"hosts/{host.id}.json": dsse(
            canonical(world.host_record(host)), world.enrollers, payload_type=HOST_RECORD_TYPE
        )
        for host in hosts
    }


def measure(results: Results) -> None:
    """Two verifiers side by side, of a small fleet and of a large one, asked in turns."""
    many = MANY // 50 if results.quick else MANY
    few = FEW // 5 if results.quick else FEW
    with tempfile.TemporaryDirectory(prefix="bench-") as text:
        top, remote = Path(text), Remote(name=NAME)
        remote.world.records = {}
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            starts = range(0, many, AT_ONCE)
            parts = list(
                pool.map(
                    records, starts, (min(n + AT_ONCE, many) for n in starts), [remote.now] * len(starts)
                )
            )
        files = {name: data for part in parts for name, data in part.items()}
        first = dict(list(files.items())[:few])
        repositories = [_published(remote, some, top / str(len(some))) for some in (first, files)]
        with (
            verifiers(top / str(few), count=1) as [small],
            verifiers(top / str(many), count=1) as [large],
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other,
        ):
            fill(large, many)
            ready = [_seconds_to_ready(controller) for controller in (small, large)]
            _rows(results, _Asked(small, large, few, many, remote), other, ready)
            _reload(results, large, repositories[1], top / str(many) / "web", other)


def _published(remote: Remote, files: dict[str, bytes], directory: Path) -> Repository:
    repository = Repository(NAME, now=remote.now)
    repository.publish({**remote.world.files(), **files})
    repository.write(directory / "web")
    return repository


def _seconds_to_ready(controller: Controller) -> float:
    controller.kill()
    began = time.monotonic()
    controller.start()
    return time.monotonic() - began


@dataclass(frozen=True)
class _Asked:
    small: Controller
    large: Controller
    few: int
    many: int
    remote: Remote

    def warm(self, other: ProcessPoolExecutor) -> float:
        """Both have seen each host that attests, and the large one each host; the seconds of that."""
        other.submit(make, self.small.port, self.few, self.few, self.remote.now).result()
        other.submit(make, self.large.port, self.many, self.few * ROUNDS, self.remote.now).result()
        return other.submit(ask_all, self.large.port, self.many).result()


def _rows(results: Results, asked: _Asked, other: ProcessPoolExecutor, ready: Sequence[float]) -> None:
    seconds = asked.warm(other)
    processes = [
        psutil.Process(made.process.pid) for made in (asked.small, asked.large) if made.process is not None
    ]
    used = [0.0, 0.0]
    for number in range(ROUNDS):
        for which, process in enumerate(processes):
            before = sum(process.cpu_times()[:2])
            other.submit(attest, which, number * asked.few * which, asked.few).result()
            used[which] += sum(process.cpu_times()[:2]) - before
    memory = [process.memory_info().rss / 1e6 for process in processes]
    bar = not results.quick
    results.add(
        Row(
            f"memory of a verifier, {asked.many:,} hosts, each of which has asked it", memory[1], "MB", bar=300,
            at_most=True, against=f"with {asked.few:,}: {memory[0]:.0f} MB; {1e3 * seconds / asked.many:.1f} ms for the first question",
        )
    )  # fmt: skip
    results.add(
        Row(
            f"start to ready, {asked.many:,} hosts", ready[1], "s", f"with {asked.few:,}: {ready[0]:.1f} s",
        )
    )  # fmt: skip
    results.add(
        Row(
            f"CPU of an attestation, {asked.many:,} enrolled hosts", 100 * used[1] / used[0], "%",
            bar=120 if bar else None, at_most=True, against=f"of that with {asked.few:,}, in turns, other hosts each time",
        )
    )  # fmt: skip


def _reload(
    results: Results, controller: Controller, repository: Repository, web: Path, other: ProcessPoolExecutor
) -> None:
    """One host's record goes while others ask."""
    files = repository.contents("targets")
    there = set(repository.files())
    del files[min(name for name in files if name.startswith("hosts/"))]
    repository.publish(files)
    asking = other.submit(ask_for, controller.port, 4.0)
    time.sleep(1.0)
    for name, data in repository.files().items():
        if name not in there or name == "metadata/timestamp.json":
            write_atomic(web / name, data, mode=0o644)
    times = sorted(asking.result())
    controller.wait_said("governance.read version=2 ")
    results.add(
        Row(
            f"a host's record goes, among {len(files):,} targets: p99 of others' questions meanwhile",
            1e3 * times[int(0.99 * len(times))], "ms", f"the longest {1e3 * times[-1]:.0f} ms",
        )
    )  # fmt: skip


# --- the other process ---------------------------------------------------------------------------------------------

_FLEETS: list[Fleet] = []


def make(port: int, hosts: int, attesting: int, now: datetime) -> None:
    """Some of a verifier's hosts, from all over the fleet, each of which attests once."""
    remote = Remote(name=NAME)
    remote.now = now
    numbers = range(0, hosts, max(1, hosts // attesting))[:attesting]
    made: list[Host] = [PooledHost(number, root=remote.world.root) for number in numbers]
    _FLEETS.append(Fleet([port], remote, made))
    attest(len(_FLEETS) - 1, 0, attesting)


def attest(which: int, start: int, count: int) -> None:
    """So many hosts of a verifier."""
    fleet = _FLEETS[which]
    made = fleet.hosts
    fleet.hosts = made[start : start + count]
    evidence, _ = fleet.evidence()
    asyncio.run(over_connections(fleet.ports, "/v1/evidence", evidence))
    fleet.hosts = made


def _question(number: int, root: EcKey) -> bytes:
    return canonical({"v": 1, "host": PooledHost(number, root=root).id, "platform": "local"})


def ask_all(port: int, hosts: int) -> float:
    """Every host asks for a challenge; the seconds of that."""
    root = _FLEETS[0].attesting.world.root
    asks = [_question(number, root) for number in range(hosts)]
    return asyncio.run(over_connections([port], CHALLENGE, asks)).seconds


def ask_for(port: int, seconds: float) -> list[float]:
    """Hosts ask one after another for so long; what each question took."""
    [_, fleet] = _FLEETS
    asks, times, end = fleet.asks(), list[float](), time.monotonic() + seconds
    while time.monotonic() < end:
        times += asyncio.run(over_connections([port], CHALLENGE, asks[:200], connections=4)).times
    return times
