"""The runbooks about boots of docs/operations.md, on a host whose software TPM measured a recorded one."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.forked import shared_command_line
from tests.host import Result
from tests.measured import CHANGED, RECORDED, UKI, MeasuredHost
from tests.recorded_boots import boot_new, next_boots

TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
RUNBOOKS: dict[str, str] = dict(re.findall(r"<!-- measured: ([a-z-]+) -->\n```sh\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[MeasuredHost]:
    """It boots the second state; the first is approved."""
    for name, data in next_boots().items():
        (tmp_path / name).write_bytes(data)
    list_ = (RECORDED / UKI / "binary_runtime_measurements").read_bytes()
    (tmp_path / "binary_runtime_measurements").write_bytes(list_)
    with MeasuredHost.create() as host:
        host.configure()
        host.reboot(CHANGED)
        host.start()
        host.approve_present_state()
        assert runs(host)
        host.reboot(UKI)
        host.start()
        yield host


def follow(name: str, host: MeasuredHost, work: Path) -> str:
    script = RUNBOOKS[name].replace("/srv", str(work))
    done = subprocess.run(
        ["/bin/bash", "-e", "-c", f'attestd() {{ {shared_command_line()} "$@"; }}\n{script}'],
        cwd=work, env={"PATH": "/usr/bin:/bin", "ATTESTD_STATE_DIR": str(host.state)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def runs(host: MeasuredHost) -> bool:
    result: Result = host.run("/usr/bin/id", "-u")
    assert result.status in (0, 77), result
    return result.status == 0


def test_all_are_here():
    assert set(RUNBOOKS) == {
        "kernel-update",
        "kernel-update-with-rules",
        "unexpected-state",
        "approve-it",
        "break-glass",
        "ima-policy",
    }


def test_kernel_update(host: MeasuredHost, tmp_path: Path):
    """After the reboot it runs without another approval."""
    follow("approve-it", host, tmp_path)
    assert runs(host)
    shown = follow("kernel-update", host, tmp_path)
    assert "-> `quiet`" in shown
    assert runs(host)
    boot_new(host)
    host.start()
    assert runs(host)


def test_kernel_update_with_rules(host: MeasuredHost, tmp_path: Path):
    follow("approve-it", host, tmp_path)
    follow("kernel-update-with-rules", host, tmp_path)
    follow("kernel-update", host, tmp_path)
    assert runs(host)
    assert len(host.trust.platforms["local"].boot.images) == 2


def test_unexpected_state(host: MeasuredHost, tmp_path: Path):
    assert not runs(host)
    shown = follow("unexpected-state", host, tmp_path)
    assert "kernel command line in section .cmdline changed" in shown
    follow("approve-it", host, tmp_path)
    assert runs(host)


def test_break_glass(host: MeasuredHost, tmp_path: Path):
    assert not runs(host)
    follow("break-glass", host, tmp_path)
    assert runs(host)


def test_ima_policy(host: MeasuredHost, tmp_path: Path):
    follow("approve-it", host, tmp_path)
    shown = follow("ima-policy", host, tmp_path)
    assert "425 paths" in shown
    host.measure(b"/opt/not/in/it")
    assert not runs(host)
