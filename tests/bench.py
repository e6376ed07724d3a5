"""`make bench`: the hot paths against their floors, side by side in one run. A table, then one line of JSON.

Each comparison alternates the measured thing with its floor and shows medians, so that a noisy machine disturbs both.
"""

import asyncio
import hashlib
import json
import logging
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from rich.console import Console
from rich.table import Table

from attestd.agent.assemble import assembled
from attestd.agent.core import Core
from attestd.agent.provision import provision_standalone
from attestd.audit.offline import log_keys
from attestd.audit.seal import Charge, Pending
from attestd.audit.store import LogStore
from attestd.audit.verify import verify_log
from attestd.authorization.artifact import parse_artifact
from attestd.authorization.issue import DEFAULT_PATH, draft_statement, issue, resource
from attestd.distribution.local import load_own_trust
from attestd.distribution.signer import load_authority
from attestd.gate.body import as_denied
from attestd.gate.decide import decide
from attestd.gate.execution import Execution, File
from attestd.gate.model import Request
from attestd.lineage.checkpoint import LogKeys
from attestd.lineage.entry import EntryType
from attestd.paths import Configuration, Layout, find_layout
from attestd.strict import canonical
from attestd.tcg.quote import verify_quote
from attestd.tlog.tree import leaf_hash

ATTESTD = Path(sys.executable).with_name("attestd")
ROUNDS = 60
AT_ONCE = 64
RELEASES = 1024
ENTRIES = 50_000
Row = tuple[str, float, str, str]


def median_ms(times: Sequence[float]) -> float:
    return statistics.median(times) * 1e3


def p99_ms(times: Sequence[float]) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * 0.99))] * 1e3


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Bench:
    """One host with an embedded software TPM in a temporary directory."""

    def __init__(self, home: Path) -> None:
        os.environ["ATTESTD_STATE_DIR"] = str(home / "state")
        self.layout: Layout = find_layout(None)
        self.configuration = Configuration()
        self.host = provision_standalone(self.layout, self.configuration, pcrs=None, labels={}).host
        self.artifact = self.issue()
        self.file = home / "true.auth.json"
        self.file.write_bytes(self.artifact)
        self.observed = self.execution()
        self.rows: list[Row] = []

    def issue(self) -> bytes:
        executable = os.path.realpath("/bin/true")
        trust = load_own_trust(self.layout)
        statement = draft_statement(
            subjects=[resource(executable, hashlib.sha256(Path(executable).read_bytes()).hexdigest())],
            argv=["/bin/true"],
            cwd="/",
            uid=os.geteuid(),
            requester_uid=os.geteuid(),
            host_id=self.host,
            platform="local",
            policy="exec",
            policy_version=trust.version,
            now=datetime.now(UTC),
            ttl_s=3600,
            requested_by="bench",
            max_uses=None,
        )
        return issue(statement, signers=[load_authority(str(self.layout.authority / "local.pem")).sign])

    def row(self, name: str, value: float, unit: str, against: str) -> None:
        self.rows.append((name, value, unit, against))

    # -- whole process ---------------------------------------------------------------------------------------------

    def whole_process(self) -> None:
        commands = {
            "python": [sys.executable, "-I", "-S", "-c", "pass"],
            "sudo": ["sudo", "-n", "/bin/true"],
            "exec": [str(ATTESTD), "exec", "-a", str(self.file), "--", "/bin/true"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, check=True, cwd="/", stdin=subprocess.DEVNULL)
                times[name].append(time.perf_counter() - start)
        python, sudo = median_ms(times["python"]), median_ms(times["sudo"])
        against = f"empty python {python:.1f} ms, sudo {sudo:.1f} ms"
        self.row("exec -- /bin/true, whole process, p50", median_ms(times["exec"]), "ms", against)
        self.row("the same, p99", p99_ms(times["exec"]), "ms", "")
        self.row("exec over an empty python, p50", median_ms(times["exec"]) - python, "ms", "")

    # -- in the agent ----------------------------------------------------------------------------------------------

    def execution(self) -> Execution:
        executable = os.path.realpath("/bin/true")
        return Execution(
            executable=File(executable, hashlib.sha256(Path(executable).read_bytes()).hexdigest()),
            interpreters=(),
            argv=("/bin/true",),
            cwd="/",
            uid=os.geteuid(),
            env={"PATH": DEFAULT_PATH},
            inputs=(),
            requester_uid=os.geteuid(),
        )

    async def receipt(self, core: Core) -> bytes:
        """From a request value to receipt bytes."""
        request = Request(secrets.token_hex(16), self.artifact, self.observed, observation=None, parent=None)
        artifact = parse_artifact(self.artifact)
        await core.refresh_evidence(artifact.statement)
        decision = decide(request, core.context())
        if decision.denial is not None or decision.artifact is None:
            raise SystemExit(f"denied: {decision.denial}")
        pending = Pending(
            EntryType.DECISION_ALLOW,
            decision.body,
            charge=Charge(decision.artifact.id, None),
            to_denial=lambda denial: as_denied(decision.body, denial),
        )
        sealed = await core.seal(pending, platform=decision.platform)
        if sealed.sealed.denial is not None:
            raise SystemExit(f"denied: {sealed.sealed.denial}")
        return sealed.to_bytes()

    async def in_agent(self) -> None:
        async with assembled(self.layout, self.configuration, logging.getLogger("bench")) as agent:
            core = agent.core
            core.runner_info = {"isolation": "none", "uid": os.geteuid()}
            await self.receipt(core)
            times = []
            for _ in range(ROUNDS * 2):
                start = time.perf_counter()
                await self.receipt(core)
                times.append(time.perf_counter() - start)
            self.row("request to receipt, one at a time, p50", median_ms(times), "ms", "")
            self.row("the same, p99", p99_ms(times), "ms", "")
            start = time.perf_counter()
            for _ in range(RELEASES // AT_ONCE):
                await asyncio.gather(*(self.receipt(core) for _ in range(AT_ONCE)))
            rate = RELEASES / (time.perf_counter() - start)
            self.row(f"releases a second, {AT_ONCE} at a time", rate, "/s", "")
            await self.quotes(core)
            await self.grow(core)
            self.keys = log_keys(core.store.origin, core.trust_directory.current())

    async def quotes(self, core: Core) -> None:
        trust = core.trust_directory.current()
        host, policy = trust.hosts[self.host], trust.platforms["local"]
        raw = await asyncio.wrap_future(core.port.evidence(policy.selection))
        from attestd.tcg.binding import Purpose, extra_data
        from attestd.tcg.signature import parse_signature

        bound = extra_data(Purpose.EVIDENCE, host_id=self.host, data=raw.challenge)
        der, scheme = parse_signature(raw.signature).der(), ec.ECDSA(SHA256())

        def verify() -> None:
            for _ in range(100):
                verify_quote(
                    ak_public_key=host.ak,
                    attest=raw.attest,
                    signature=raw.signature,
                    extra_data=bound,
                    selection=policy.selection,
                    values=raw.values,
                )

        def bare() -> None:
            for _ in range(100):
                host.ak.verify(der, raw.attest, scheme)

        ours, floor = alternate(verify, bare)
        self.row("quote verification", 100 / ours, "/s", f"bare ECDSA {100 / floor:.0f}/s")
        self.row("the same, of bare ECDSA", 100 * floor / ours, "%", "")

    async def grow(self, core: Core) -> None:
        """Many entries, a checkpoint each thousand or so: what a log is after some weeks."""
        body = {"what": "bench", "padding": "x" * 256}
        while core.store.size < ENTRIES:
            pending = (Pending(EntryType.ATTESTATION, {**body, "n": n}) for n in range(1000))
            await asyncio.gather(*(core.seal(item) for item in pending))

    def audit(self) -> None:
        path = str(self.layout.log)
        store = LogStore.open(path, readonly=True)
        entries = [data for _, data in store.entries(0, store.size)]
        store.close()

        def bare() -> None:
            for entry in entries:
                hashlib.sha256(entry).digest()

        keys: LogKeys = self.keys
        ours, floor = alternate(lambda: verify_log(path, keys, processes=2), bare, rounds=3)
        self.row(
            "audit verify, two processes",
            len(entries) / ours,
            "/s",
            f"bare SHA-256 {len(entries) / floor:.0f}/s",
        )
        self.row("the same, of bare SHA-256", 100 * floor / ours, "%", "")
        sample = entries[:10_000]
        seconds = timed(lambda: [leaf_hash(entry) for entry in sample])
        self.row("leaf hashes", len(sample) / seconds, "/s", "")


def alternate(
    first: Callable[[], Any], second: Callable[[], Any], *, rounds: int = 15
) -> tuple[float, float]:
    pairs = [(timed(first), timed(second)) for _ in range(rounds)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def serving(bench: Bench, call: Callable[[], None]) -> None:
    """Runs something against a served agent, and ends agent and runner by pid."""
    with (bench.layout.agent / "bench.log").open("wb") as log:
        agent = subprocess.Popen([ATTESTD, "serve"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        status: dict[str, Any] = {}
        while time.monotonic() < deadline and not status:
            asked = subprocess.run([ATTESTD, "status", "--json"], capture_output=True, check=False)
            status = json.loads(asked.stdout) if asked.returncode == 0 else {}
        if not status:
            raise SystemExit(f"the agent did not start: {(bench.layout.agent / 'bench.log').read_text()}")
        try:
            call()
        finally:
            os.kill(int(status["runner"]["pid"]), signal.SIGTERM)
    finally:
        agent.terminate()
        agent.wait(timeout=20)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="attestd-bench-") as directory:
        bench = Bench(Path(directory))
        serving(bench, bench.whole_process)
        asyncio.run(bench.in_agent())
        bench.audit()
    table = Table(title="attestd bench: medians, alternated with their floors")
    for column in ("what", "measured", "against"):
        table.add_column(column, justify="right" if column == "measured" else "left")
    for name, value, unit, against in bench.rows:
        table.add_row(name, f"{value:,.1f} {unit}", against)
    Console().print(table)
    rows = [
        {"what": name, "milli": round(value * 1000), "unit": unit, "against": against}
        for name, value, unit, against in bench.rows
    ]
    print(canonical({"v": 1, "rows": rows}).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
