"""Where metrics go: a file for the node exporter's textfile collector, or HTTP on this host alone."""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from attestd.agent.core import Core
from attestd.appraisal.quote import Appraisal
from attestd.durable import write_atomic
from attestd.errors import StoreError, UsageError
from attestd.prometheus import MEDIA_TYPE, Labels, format_family

__all__ = ["WRITE_S", "parse_address", "serving_metrics", "write_metrics"]

WRITE_S: Final = 15.0
_REQUEST_S: Final = 5.0
_MAX_HEAD_BYTES: Final = 8192
_Gauge = tuple[str, str, dict[Labels, float]]


def format_metrics(core: Core) -> str:
    """Everything: what was counted, and how things stand now."""
    gauges = (*_host(core), *_platforms(core), *_mesh(core))
    return core.metrics.format() + "".join(format_family(*family) for family in gauges)


def _host(core: Core) -> list[_Gauge]:
    gauges: list[_Gauge] = [
        ("attestd_releases", "Executions handed to the runner since the start.", {(): core.releases}),
        ("attestd_log_entries", "Size of the audit log.", {(): core.store.size}),
        ("attestd_log_bytes", "Size of the audit log's file.", {(): core.layout.log.stat().st_size}),
        ("attestd_disk_free_bytes", "Free on the log's file system.", {(): core.health.free()}),
        ("attestd_disk_reserve_bytes", "Below this, decisions are denied.", {(): core.health.reserve}),
        (
            "attestd_queue_entries",
            "What waits: entries to be sealed, calls for the TPM.",
            {(("queue", "seal"),): core.seals.waiting, (("queue", "tpm"),): core.port.owner.waiting},
        ),
        (
            "attestd_tpm_wedged_seconds",
            "How long the TPM is past a deadline.",
            {(): core.port.owner.wedged_s},
        ),
        (
            "attestd_condition",
            "1 where an operational trust condition holds, 0 where it denies everything.",
            {(("name", name),): float(found is None) for name, found in core.conditions().items()},
        ),
        ("attestd_runner_up", "Whether the runner answers.", {(): float(core.runner_up)}),
        ("attestd_executions_running", "What runs now.", {(): float(core.runner_info.get("running", 0))}),
        ("attestd_denials_waiting", "Aggregated denials not sealed yet.", {(): core.denials.waiting}),
    ]
    if core.verification.last is not None:
        last = core.verification.last
        gauges += [
            ("attestd_log_verified_entries", "Up to where the log is verified.", {(): last.size}),
            ("attestd_log_verified_time_seconds", "When it was verified last.", {(): last.time.timestamp()}),
        ]
    return gauges


def _platforms(core: Core) -> list[_Gauge]:
    return [
        (
            "attestd_evidence_age_seconds",
            "Age of the evidence for a platform policy.",
            {
                (("platform", name),): (core.now() - found.at).total_seconds()
                for name, found in core.evidence.latest().items()
                if isinstance(found, Appraisal)
            },
        ),
        (
            "attestd_platform_approved",
            "Whether the platform is in a state that a policy approves.",
            {
                (("platform", name),): float(isinstance(found, Appraisal) and found.approval is not None)
                for name, found in core.evidence.latest().items()
            },
        ),
    ]


def _mesh(core: Core) -> list[_Gauge]:
    return [
        (
            "attestd_verifier_up",
            "Whether a verifier gave a result when it was asked last.",
            {(("verifier", name),): float(up) for name, up in core.verifiers.up.items()},
        ),
        (
            "attestd_verifier_affirms",
            "Whether the result of a verifier that is held found nothing.",
            {
                (("verifier", found.verifier), ("platform", found.claims.attestd.platform.name)): float(
                    found.is_affirming
                )
                for found in core.verifiers.results()
            },
        ),
        (
            "attestd_witness_cosigned_entries",
            "Up to which size a witness has cosigned the log.",
            {(("witness", found.name),): float(found.cosigned) for found in core.cosigning.witnesses},
        ),
        (
            "attestd_witness_up",
            "Whether a witness cosigned what it was asked last.",
            {(("witness", found.name),): float(found.error is None) for found in core.cosigning.witnesses},
        ),
    ]


async def write_metrics(path: Path, core: Core) -> None:
    """Replaces the file: whoever reads it sees all of one moment.

    Raises:
        StoreError: It cannot be written.
    """
    await asyncio.to_thread(write_atomic, path, format_metrics(core).encode(), mode=0o644)


def parse_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:9750`: an address of this host alone, for metrics tell what runs and nobody is asked who they are.

    Raises:
        UsageError: Not such an address.
    """
    host, _, port = text.rpartition(":")
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    if not loopback or not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise UsageError(f"metrics_address {text!r}: expected an address of this host alone, 127.0.0.1:PORT")
    return host.strip("[]"), int(port)


@contextlib.asynccontextmanager
async def serving_metrics(address: str, core: Core) -> AsyncIterator[None]:
    """Answers `GET /metrics`, as long as the context lasts.

    Raises:
        UsageError: Not an address of this host.
        StoreError: The port is taken.
    """
    host, port = parse_address(address)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(head, core))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # Whoever asked went away, or never asked.
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(answer, host, port, limit=_MAX_HEAD_BYTES)
    except OSError as error:
        raise StoreError(f"metrics_address {address}: {error.strerror}") from error
    async with server:
        yield


def _response(head: bytes, core: Core) -> bytes:
    method, _, rest = head.partition(b" ")
    if method != b"GET" or rest.partition(b" ")[0] != b"/metrics":
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    body = format_metrics(core).encode()
    lines = f"HTTP/1.1 200 OK\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return lines.encode() + body
