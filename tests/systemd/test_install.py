"""`make install`: what is where, that it starts as fast as it can, and that `make uninstall` takes exactly that away."""

import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.conftest import needs_root

ROOT = Path(__file__).parents[2]
SITE = sysconfig.get_paths()["purelib"]
# The package alone, without network: what it depends on is found where these tests find it.
PIP = {
    "PIP_NO_COMPILE": "1",
    "PIP_NO_DEPS": "1",
    "PIP_NO_INDEX": "1",
    "PIP_IGNORE_INSTALLED": "1",
    "PIP_NO_BUILD_ISOLATION": "0",
    "PYTHONPATH": SITE,
}


def make(target: str, destination: Path, *variables: str) -> None:
    done = subprocess.run(
        ["make", "-s", target, f"DESTDIR={destination}", *variables],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=280, umask=0o027,
        env={"PATH": os.environ["PATH"], **PIP},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def files(top: Path) -> set[str]:
    """What is there, but for the venv's inside."""
    found = {str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir() or path.is_symlink()}
    return {name for name in found if not re.search(r"lib/attestd/(lib|include)", name)}


OTHERS = {
    "etc/attestd/attestd.toml",
    "usr/local/bin/other",
    "usr/local/lib/systemd/system/other.service",
    "var/lib/attestd-runner/runner.db",
    "var/lib/attestd/log.db",
}
STALE = "usr/local/lib/attestd/lib/python3.11/site-packages/attestd/old.py"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Another prefix than the default, over an earlier version, among files of others, and of ours that stay."""
    top = tmp_path_factory.mktemp("installed")
    for name in (*OTHERS, STALE):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()
    make("install", top, "PREFIX=/usr/local", f"PIP={sys.executable} -m pip")  # starts faster than Debian's
    yield top
    shutil.rmtree(top)


def run(installed: Path, *words: str, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    """An installed script, by the interpreter that its first line names."""
    script, *arguments = words
    first = (installed / "usr/local/lib/attestd/bin" / script).read_text().splitlines()[0]
    assert first == "#!/usr/local/lib/attestd/bin/python3 -IS"
    python = f"{installed}/usr/local/lib/attestd/bin/python3"
    return subprocess.run(
        [python, "-IS", *options, f"{installed}/usr/local/lib/attestd/bin/{script}", *arguments],
        capture_output=True, text=True, check=False, timeout=60, cwd="/",
        env={"ATTESTD_SOCKET": "/nonexistent", "PYTHONPATH": "/nonexistent"},
    )  # fmt: skip


def test_what_is_where(installed: Path) -> None:
    assert files(installed) - OTHERS == {
        "usr/local/bin/attestd",
        *(f"usr/local/lib/attestd/{name}" for name in ("pyvenv.cfg", "bin/attestd", "bin/attestd-runner")),
        *(
            f"usr/local/lib/attestd/bin/{name}"
            for name in ("python", "python3", f"python{sysconfig.get_python_version()}")
        ),
        *(f"usr/local/lib/systemd/system/attestd.{kind}" for kind in ("service", "socket")),
        *(f"usr/local/lib/systemd/system/attestd-runner.{kind}" for kind in ("service", "socket")),
        "usr/local/lib/systemd/system/attestd-controller.service",
        "usr/local/lib/sysusers.d/attestd.conf",
        "usr/local/lib/tmpfiles.d/attestd.conf",
    }
    assert (installed / "usr/local/bin/attestd").resolve() == installed / "usr/local/lib/attestd/bin/attestd"
    for path in (installed / "usr").rglob("*"):
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) in (0o755, 0o644), path


def test_the_units_start_what_is_installed(installed: Path) -> None:
    for unit in (installed / "usr/local/lib/systemd/system").glob("attestd*.service"):
        program = re.search(r"^ExecStart=(\S+)", unit.read_text(), re.MULTILINE)
        assert program is not None
        assert os.access(f"{installed}{program[1]}", os.X_OK)


def test_the_commands_run(installed: Path) -> None:
    assert run(installed, "attestd", "exec", "--", "/bin/true").returncode == 69
    assert "agent_unavailable" in run(installed, "attestd", "exec", "--", "/bin/true").stderr
    # The other ways in need packages, which are not installed here: they get as far as the first.
    assert "No module named 'click'" in run(installed, "attestd", "--version").stderr
    assert "No module named" in run(installed, "attestd-runner", "--help").stderr


def test_start_up_is_not_slower_than_it_must_be(installed: Path) -> None:
    """No `site`, which costs more than all that `exec` imports, and nothing else that a checkout would not import."""
    said = run(installed, "attestd", "exec", "--", "/bin/true", options=("-X", "importtime")).stderr
    loaded = {
        line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")
    }
    assert "attestd.client.run" in loaded
    assert not {"site", "os", "runpy", "sitecustomize", "importlib.util", "re"} & loaded


def test_uninstall_removes_exactly_that(installed: Path, tmp_path: Path) -> None:
    assert not (installed / STALE).exists()
    shutil.copytree(installed, tmp_path, symlinks=True, dirs_exist_ok=True)
    make("uninstall", tmp_path, "PREFIX=/usr/local")
    assert files(tmp_path) == OTHERS
    assert not (tmp_path / "usr/local/lib/attestd").exists()


@needs_root
@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="needs the package systemd")
def test_users_and_directories(tmp_path: Path) -> None:
    """systemd's own tools, on an empty root: the user, and each directory with its owner and mode."""
    for kind in ("sysusers", "tmpfiles"):
        place = tmp_path / f"usr/lib/{kind}.d"
        place.mkdir(parents=True)
        shutil.copy(ROOT / f"systemd/attestd.{kind}.conf", place / "attestd.conf")
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", "attestd.conf"], check=True, capture_output=True
    )
    user = next(
        line.split(":")
        for line in (tmp_path / "etc/passwd").read_text().splitlines()
        if line.startswith("attestd:")
    )
    assert user[5:] == ["/var/lib/attestd", "/usr/sbin/nologin"]
    assert "tss:" in (tmp_path / "etc/group").read_text()
    assert re.search(r"^tss:.*attestd$", (tmp_path / "etc/group").read_text(), re.MULTILINE)
    command = ["systemd-tmpfiles", f"--root={tmp_path}", "--create", "attestd.conf"]
    subprocess.run(command, check=True, capture_output=True)
    assert not (tmp_path / "var/lib/attestd").exists(), "its owner is for init and the unit to set"
    directories = (
        "etc/attestd",
        "etc/attestd/trust",
        "etc/attestd/authority",
        "run/attestd",
        "run/attestd-runner",
    )
    found = {name: (tmp_path / name).stat() for name in directories}
    assert {name: stat.S_IMODE(status.st_mode) for name, status in found.items()} == {
        "etc/attestd": 0o755,
        "etc/attestd/trust": 0o755,
        "etc/attestd/authority": 0o700,
        "run/attestd": 0o755,
        "run/attestd-runner": 0o755,
    }
    assert {(status.st_uid, status.st_gid) for status in found.values()} == {(0, 0)}
