"""The verifier: attestations a second over HTTP without TLS, the load generator on the other core.

An attestation is two requests, challenge and evidence, and between them a host's TPM signs. The generator signs by real
ECDSA, each quote over its own challenge, but not while time is taken: it asks for the challenges of all hosts, signs, then
posts all evidence. The rate is attestations by the seconds that the two kinds of requests took together.
"""

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import psutil

from attestd.appraisal.evidence import log_digest
from attestd.appraisal.host_state import HostState
from attestd.appraisal.vector import Status
from attestd.controller.store.engine import Store
from attestd.controller.verifier.rows import Change, Rows, Said
from attestd.strict import canonical, decode_base64url, encode_base64url
from attestd.tcg.binding import Purpose
from attestd.tcg.pcr import composite
from tests.appraisal.attesting import Attesting
from tests.bench.http import Connection, over_connections
from tests.bench.measure import Results, Row
from tests.controller.attesting import CHALLENGE, EVIDENCE, Remote
from tests.controller.running import Controller, postgresql
from tests.distribution.repositories import write_key
from tests.tcg.ima.build import ima_list
from tests.world import CLOCK, Host

HOSTS = 1000
ROUNDS = 8
BAR = 1000
HALF = BAR / 2
PACED_S = 8.0


def measure(results: Results) -> None:
    """Hosts whose boot the verifier has seen, each attesting in turns: as it is for all but the first time."""
    rounds, hosts = (1, 200) if results.quick else (ROUNDS, HOSTS)
    with tempfile.TemporaryDirectory(prefix="bench-") as text:
        top = Path(text)
        remote = fleet(hosts)
        remote.world.write_trust(top / "web")
        with verifiers(top, count=1) as controllers:
            few = _attest(controllers, remote, rounds, paced=True)
            _rows(results, "one process, SQLite", few)
            rows = fill(controllers[0], hosts * 100)
            many = _attest(controllers, remote, rounds, paced=False)
            results.add(
                Row(
                    f"CPU of an attestation, {rows:,} hosts' rows in the database", 100 * few.per_core / many.per_core,
                    "%", bar=120, at_most=True, against=f"of that with {hosts:,}; {many.memory_mb:.0f} MB",
                )
            )  # fmt: skip
        with postgresql() as server, verifiers(top, count=2, database=server.database()) as controllers:
            _rows(results, "two processes, PostgreSQL", _attest(controllers, remote, rounds, paced=False))


def fill(controller: Controller, rows: int) -> int:
    """Rows of so many other hosts, in the database alone: governance does not know them."""
    url = f"sqlite:///{controller.state / 'controller' / 'controller.db'}"
    with contextlib.closing(Store.open(url)) as store:
        made, state = Rows(store, max_log_bytes=0), HostState.of(CLOCK, eventlog="a" * 64, ima={})
        said = Said("", datetime.now(UTC), "local", Status.AFFIRMING, 0, 7, 1, "attestd bench")
        names = [sha256(b"%d" % number).hexdigest() for number in range(rows)]
        for start in range(0, rows, 500):
            some = names[start : start + 500]
            made.replace([Change("00", None, state, None, replace(said, host=name)) for name in some])
    return rows


def fleet(hosts: int) -> Remote:
    """Governance of so many hosts in one state."""
    remote = Remote(name="bench")
    records = (Host(f"bench {number}", root=remote.world.root) for number in range(hosts))
    remote.world.records = {host.id: remote.world.host_record(host) for host in records}
    return remote


@dataclass(frozen=True)
class Load:
    """What verifiers did with a load.

    Attributes:
        rate: Attestations a second.
        per_core: For each second of the verifiers' own CPU time.
        paced: Seconds of each request at half the load.
    """

    rate: float
    per_core: float
    memory_mb: float
    paced: Sequence[float]


def _rows(results: Results, what: str, found: Load) -> None:
    results.add(
        Row(
            f"evidence appraised and answered, {what}", found.rate, "/s", bar=BAR,
            against=f"challenge and evidence; {found.per_core:.0f}/s of a core of its own; {found.memory_mb:.0f} MB",
        )
    )  # fmt: skip
    if found.paced:
        results.add(
            Row(
                f"the same at {HALF:.0f}/s: p99 of a request", 1e3 * statistics.quantiles(found.paced, n=100)[98],
                "ms", bar=25, at_most=True, against=f"median {1e3 * statistics.median(found.paced):.1f} ms",
            )
        )  # fmt: skip


@contextmanager
def verifiers(top: Path, *, count: int, database: str = "") -> Iterator[list[Controller]]:
    """Controllers that verify by the governance below `web`."""
    with ExitStack() as stack:
        found = []
        for number in range(count):
            state = top / f"state-{bool(database)}-{number}"
            (state / "trust").mkdir(parents=True)
            (state / "trust" / "root.json").write_bytes((top / "web" / "root.json").read_bytes())
            controller = Controller(
                state, roles=["verifier"], governance=str(top / "web"), verifier_name="one", database=database,
                verifier_key=str(write_key(top, "tpm verifier one")),
            )  # fmt: skip
            if number:
                secret = top / "state-True-0" / "controller" / "verifier.secret"
                (state / "controller").mkdir()
                (state / "controller" / "verifier.secret").write_bytes(secret.read_bytes())
                (state / "controller" / "verifier.secret").chmod(0o600)
            found.append(stack.enter_context(controller).init().start())
        yield found


def _attest(controllers: Sequence[Controller], remote: Remote, rounds: int, *, paced: bool) -> Load:
    processes = [psutil.Process(made.process.pid) for made in controllers if made.process is not None]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        ports, hosts = [made.port for made in controllers], len(remote.world.records)
        other.submit(warm, ports, hosts, remote.now).result()
        before = sum(sum(process.cpu_times()[:2]) for process in processes)
        seconds = other.submit(attest, rounds).result()
        used = sum(sum(process.cpu_times()[:2]) for process in processes) - before
        times = other.submit(attest_paced, PACED_S if rounds > 1 else 2.0).result() if paced else []
        memory = max(process.memory_info().rss for process in processes) / 1e6
    return Load(rounds * hosts / seconds, rounds * hosts / used, memory, times)


# --- the other process ---------------------------------------------------------------------------------------------


@dataclass
class Fleet:
    """Hosts that attest; all in one state."""

    ports: list[int]
    attesting: Attesting
    hosts: list[Host]
    # Faster than quotes are made, so that those of the next generator are later.
    clock: int = field(default_factory=lambda: time.time_ns() // 10_000)
    document: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        policy, values = self.attesting.policy, self.attesting.quoted()
        self.selection, self.digest = policy.quoted, composite(policy.quoted, values)
        entries = ima_list(*self.attesting.items)
        self.logs = {
            "sha256": log_digest(self.attesting.logs),
            "log": msgspec.to_builtins(self.attesting.logs),
        }
        self.entries = {"offset": 0, "entries": encode_base64url(entries)}
        self.ends = len(entries)
        self.document = {
            "v": 1,
            "platform": "local",
            "pcrs": {"sha256": {str(pcr): value.hex() for pcr, value in values.items()}},
            "agent": "attestd bench",
        }

    def asks(self) -> list[bytes]:
        return [canonical({"v": 1, "host": host.id, "platform": "local"}) for host in self.hosts]

    def sign(self, host: Host, challenge: bytes) -> bytes:
        """Evidence as an agent sends it, when the verifier knows the boot: no logs, no new entries."""
        asked = msgspec.json.decode(challenge)
        self.clock += 1
        body, signature = host.quote(
            Purpose.EVIDENCE,
            decode_base64url(asked["challenge"], what="challenge"),
            selection=self.selection,
            pcr_digest=self.digest,
            clock=msgspec.structs.replace(CLOCK, clock=CLOCK.clock + self.clock),
        )
        known = asked["eventlog"] == self.logs["sha256"]
        ima = {"offset": self.ends, "entries": ""} if asked["ima"] else self.entries
        return canonical(
            self.document
            | {"host": host.id, "challenge": asked["challenge"], "ima": ima}
            | {"eventlog": self.logs | ({"log": None} if known else {})}
            | {"quote": encode_base64url(body), "signature": encode_base64url(signature)}
        )

    def evidence(self) -> tuple[list[bytes], float]:
        """All hosts' evidence, each over a challenge of its own; the seconds that it took to be asked."""
        asked = asyncio.run(over_connections(self.ports, CHALLENGE, self.asks()))
        signed = [self.sign(host, body) for host, body in zip(self.hosts, asked.answers, strict=True)]
        return signed, asked.seconds


_FLEET: list[Fleet] = []


def warm(ports: list[int], hosts: int, now: datetime) -> None:
    """Makes the hosts, and lets each attest once: it sends its logs, and has its row."""
    attesting = Attesting(name="bench", now=now)
    made = [Host(f"bench {number}", root=attesting.world.root) for number in range(hosts)]
    _FLEET.append(Fleet(ports, attesting, made))
    attest(1)


def attest(rounds: int) -> float:
    """All hosts, so many times; the seconds that requests took."""
    [fleet] = _FLEET
    seconds = 0.0
    for _ in range(rounds):
        evidence, took = fleet.evidence()
        seconds += took + asyncio.run(over_connections(fleet.ports, EVIDENCE, evidence)).seconds
    return seconds


def attest_paced(seconds: float) -> list[float]:
    """As many a second as half the bar, evidence and the next challenge of each host in turns; what each request took."""
    [fleet] = _FLEET
    evidence, _ = fleet.evidence()
    count = min(len(evidence), int(seconds * HALF))
    return asyncio.run(_paced(fleet, evidence[:count]))


async def _paced(fleet: Fleet, evidence: Sequence[bytes]) -> list[float]:
    times: list[float] = []
    idle: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for port in fleet.ports * 32:
        idle.put_nowait(await Connection.open(port))
    asks = fleet.asks()

    async def one(number: int, at: float) -> None:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        for path, body in ((EVIDENCE, evidence[number]), (CHALLENGE, asks[number])):
            began = time.perf_counter()  # That there is no connection for it is the other side's doing too.
            connection = await idle.get()
            await connection.post(path, body)
            times.append(time.perf_counter() - began)
            idle.put_nowait(connection)

    start = time.perf_counter() + 0.1
    await asyncio.gather(*(one(number, start + number / HALF) for number in range(len(evidence))))
    while not idle.empty():
        idle.get_nowait().close()
    return times
