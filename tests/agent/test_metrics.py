"""Metrics: well-formed for every reader, and true."""

import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from attestd.agent.exposition import parse_address
from attestd.agent.metrics import Metrics
from attestd.errors import UsageError
from attestd.prometheus import format_family
from tests.agent.test_exec import denied
from tests.host import Host, wait_for

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\.)*",?)+)\})? (-?[0-9.e+-]+|\+Inf|NaN)')


def parsed(text: str) -> dict[str, float]:
    """Samples by name and labels, after checking the form: HELP and TYPE once, before the family's samples."""
    assert text.endswith("\n")
    found: dict[str, float] = {}
    families: list[str] = []
    for line in text.splitlines():
        if line.startswith("# HELP "):
            families.append(line.split()[2])
        elif line.startswith("# TYPE "):
            assert line.split()[2] == families[-1]
            assert line.split()[3] in {"counter", "gauge", "histogram"}
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1].startswith(families[-1]), line
            assert line.rpartition(" ")[0] not in found, line
            found[line.rpartition(" ")[0]] = float(match[3])
    assert len(families) == len(set(families))
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def scraped(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parsed(answer.read().decode())


def test_both_ways_tell_the_truth(stopped: Host) -> None:
    port, path = free_port(), stopped.top / "attestd.prom"
    host = stopped.start(
        env={"ATTESTD_METRICS_FILE": str(path), "ATTESTD_METRICS_ADDRESS": f"127.0.0.1:{port}"}
    )
    first = parsed(wait_for("the file is written", lambda: path.exists() and path.read_text()))
    assert first["attestd_runner_up"] == 1
    assert path.stat().st_mode & 0o777 == 0o644, "for the node exporter"
    assert host.run("/bin/true").status == 0
    denied(host.exec("/bin/true"), "missing_authorization")
    host.wait_settled()
    entries = host.entries()
    since = sum(1 for item in entries if item.type != "log.start")
    # A batch is counted after its requesters were answered.
    wait_for("all batches are counted", lambda: scraped(port)["attestd_batch_entries_sum"] >= since)
    found = scraped(port)
    assert found["attestd_batch_entries_sum"] == since
    assert found['attestd_decisions_total{outcome="allow",code=""}'] == 1
    assert found['attestd_decisions_total{outcome="deny",code="missing_authorization"}'] == 1
    assert found["attestd_releases"] == 1
    assert found["attestd_log_entries"] == len(entries)
    assert found["attestd_seal_seconds_count"] == found['attestd_seal_seconds_bucket{le="+Inf"}'] > 0
    assert found['attestd_tpm_command_seconds_count{command="quote"}'] >= found["attestd_seal_seconds_count"]
    assert found['attestd_tpm_command_seconds_count{command="sign"}'] == 1
    assert {found[f'attestd_condition{{name="{name}"}}'] for name in ("clock", "log", "runner", "tpm")} == {1}
    assert found['attestd_platform_approved{platform="local"}'] == 1
    assert 0 <= found['attestd_evidence_age_seconds{platform="local"}'] < 60
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"x" * 100_000)  # no request: hung up on, and the next one is served
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).status == 200
    assert host.stop() == 0


def test_aggregated_denials_are_counted(stopped: Host) -> None:
    port = free_port()
    host = stopped.start(env={"ATTESTD_METRICS_ADDRESS": f"127.0.0.1:{port}"})
    for _ in range(22):
        assert host.exec("/bin/true").status == 77

    def counted() -> float | None:
        return scraped(port).get('attestd_denials_aggregated_total{code="missing_authorization"}')

    assert wait_for("the aggregated leaf", counted) == 2


def test_a_port_that_is_taken_does_not_end_the_agent(stopped: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = stopped.start(env={"ATTESTD_METRICS_ADDRESS": f"127.0.0.1:{taken.getsockname()[1]}"})
        assert host.run("/bin/true").status == 0
        assert "metrics.not_served" in host.agent_log


@pytest.mark.parametrize(
    "text", ["", "9750", "0.0.0.0:9750", "192.0.2.1:1", "localhost:1", "127.0.0.1:0", "127.0.0.1:x"]
)
def test_only_addresses_of_this_host(text: str) -> None:
    with pytest.raises(UsageError, match="metrics_address"):
        parse_address(text)


def test_addresses() -> None:
    assert parse_address("127.0.0.1:9750") == ("127.0.0.1", 9750)
    assert parse_address("[::1]:9750") == ("::1", 9750)


def test_histogram_buckets_are_cumulative() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.002, 0.3, 99.0):
        metrics.tpm_command("sign", seconds)
    found = parsed(metrics.format())
    at = {
        bound: found[f'attestd_tpm_command_seconds_bucket{{command="sign",le="{bound}"}}']
        for bound in ("0.001", "0.0025", "0.25", "0.5", "10", "+Inf")
    }
    assert at == {"0.001": 1, "0.0025": 2, "0.25": 2, "0.5": 3, "10": 3, "+Inf": 4}
    assert found['attestd_tpm_command_seconds_sum{command="sign"}'] == pytest.approx(99.303)
    assert found["attestd_seal_failures_total"] == 0


def test_labels_are_escaped() -> None:
    text = format_family("x_y", "Words.", {(("name", 'a"b\\c\nd'),): 1.5})
    assert text == '# HELP x_y Words.\n# TYPE x_y gauge\nx_y{name="a\\"b\\\\c\\nd"} 1.5\n'
    assert parsed(text.replace("x_y", "xy"))


def test_the_file_of_a_directory_that_is_not_there(stopped: Host) -> None:
    """Metrics that cannot be written are no reason to deny anything."""
    host = stopped.start(env={"ATTESTD_METRICS_FILE": str(Path(stopped.top) / "none" / "x.prom")})
    assert host.run("/bin/true").status == 0
    assert "cannot be written" in host.agent_log
