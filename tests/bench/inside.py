"""The agent's own part: from a request value to receipt bytes, one at a time, many at once, and with a slow TPM."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from attestd.agent.sealing import Receipt
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.quote import verify_quote
from attestd.tcg.signature import parse_signature
from attestd.tpm._commands import Cc
from tests.bench.measure import Results, Row, alternate, median_ms, p99_ms, ratios
from tests.faults.inside import Inside, inside
from tests.host import Host
from tests.witnessed import publish_mesh, url_of, vkey_of, witness_of

AT_ONCE = 64
SLOW_AT_ONCE = 256
SLOW_S = 0.2


async def receipt(agent: Inside) -> float:
    """From a request value to receipt bytes: seconds."""
    start = time.perf_counter()
    answer = await agent.ask()
    if not isinstance(answer, Receipt):
        raise SystemExit(f"denied: {answer}")
    answer.to_bytes()
    return time.perf_counter() - start


async def closed_loop(agent: Inside, *, at_once: int, each: int) -> tuple[float, list[float]]:
    """So many requesters, each with its next request as soon as the last is answered: a rate, and all latencies."""

    async def requester() -> list[float]:
        return [await receipt(agent) for _ in range(each)]

    await asyncio.gather(*(receipt(agent) for _ in range(at_once)))  # Until all of them have asked.
    start = time.perf_counter()
    found = await asyncio.gather(*(requester() for _ in range(at_once)))
    return at_once * each / (time.perf_counter() - start), [item for times in found for item in times]


async def releases(agent: Inside, results: Results) -> None:
    await receipt(agent)
    times = [await receipt(agent) for _ in range(30 if results.quick else 200)]
    results.add(
        Row("request to receipt, one at a time, p50", median_ms(times), "ms", bar=7, at_most=True),
        Row("the same, p99", p99_ms(times), "ms"),
    )
    cpu = time.process_time()
    each = 16 if results.quick else 48
    rate, times = await closed_loop(agent, at_once=AT_ONCE, each=each)
    cpu_us = (time.process_time() - cpu) / (AT_ONCE * each) * 1e6
    results.add(
        Row(f"releases a second, {AT_ONCE} at a time", rate, "/s", f"p99 {p99_ms(times):.0f} ms", bar=1500),
        Row("the same, the agent's CPU time a release", cpu_us, "µs", f"allows {1e6 / cpu_us:.0f}/s"),
    )


async def witnessed(agent: Inside, results: Results) -> None:
    host = agent.host
    with witness_of(host, "1") as one, witness_of(host, "2") as two:
        nodes = {
            name: (url_of(found.start()), vkey_of(found)) for name, found in (("one", one), ("two", two))
        }
        publish_mesh(host, nodes)
        agent.authorize(witnesses=2)
        await receipt(agent)
        times = [await receipt(agent) for _ in range(10 if results.quick else 50)]
        before = agent.batches()
        each = 8 if results.quick else 32
        rate, many = await closed_loop(agent, at_once=AT_ONCE, each=each)
        batches = agent.batches() - before
        results.add(
            Row("request to receipt with two witnesses, one at a time, p50", median_ms(times), "ms"),
            Row(
                f"releases a second with two witnesses, {AT_ONCE} at a time", rate, "/s",
                f"p99 {p99_ms(many):.0f} ms, {AT_ONCE * (each + 1) / batches:.0f} a checkpoint",
            ),
        )  # fmt: skip
        agent.authorize()
        publish_mesh(host, {}, version=2)


async def slow(agent: Inside, results: Results) -> None:
    def delay(code: int) -> None:
        if code in (Cc.SIGN, Cc.QUOTE):
            time.sleep(SLOW_S)

    agent.injector.before = delay
    rate, times = await closed_loop(agent, at_once=SLOW_AT_ONCE, each=3 if results.quick else 10)
    agent.injector.before = lambda _: None
    results.add(
        Row(f"releases a second, 200 ms a signature, {SLOW_AT_ONCE} at a time", rate, "/s", bar=400),
        Row("the same, p99", p99_ms(times), "ms", f"p50 {median_ms(times):.0f} ms", bar=1000, at_most=True),
    )


async def quotes(agent: Inside, results: Results) -> None:
    core = agent.core
    trust = core.trust_directory.current()
    host, policy = trust.hosts[core.host], trust.platforms["local"]
    raw = await asyncio.wrap_future(core.port.evidence(policy.selection))
    bound = extra_data(Purpose.EVIDENCE, host_id=core.host, data=raw.challenge)
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

    ours, floor = alternate(verify, bare, rounds=15 if results.quick else 41, clock=time.process_time)
    results.add(
        Row(
            "quote verification, of bare ECDSA",
            ratios(floor, ours),
            "%",
            f"{1e5 / median_ms(ours):.0f}/s, bare {1e5 / median_ms(floor):.0f}/s",
            bar=85,
        )
    )


@asynccontextmanager
async def agent_of(host: Host) -> AsyncIterator[Inside]:
    with pytest.MonkeyPatch.context() as patch:
        async with inside(host, patch) as agent:
            yield agent


async def measure(host: Host, results: Results) -> None:
    """All rows of the agent's own part."""
    async with agent_of(host) as agent:
        await releases(agent, results)
        await slow(agent, results)
        await witnessed(agent, results)
        await quotes(agent, results)
