"""Where things live, and what the configuration may say."""

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from attestd.errors import StoreError, UsageError
from attestd.paths import (
    KERNEL_LOGS,
    MAX_CONFIGURATION_BYTES,
    Configuration,
    Layout,
    find_client_layout,
    find_layout,
    load_configuration,
)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("ATTESTD_", "XDG_"))]:
        monkeypatch.delenv(name)


def user(monkeypatch: pytest.MonkeyPatch, uid: int, home: Path | str = "/home/u") -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setenv("HOME", str(home))


def paths(layout: Layout) -> list[Path]:
    return [value for field in fields(layout) if isinstance(value := getattr(layout, field.name), Path)]


def test_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """The places of formats.md, which units and packages rely on."""
    user(monkeypatch, 0)
    layout = find_layout(None)
    assert layout.system
    assert layout.configuration == Path("/etc/attestd/attestd.toml")
    assert (layout.trust, layout.authority) == (Path("/etc/attestd/trust"), Path("/etc/attestd/authority"))
    assert (layout.agent, layout.runner) == (Path("/var/lib/attestd"), Path("/var/lib/attestd-runner"))
    assert layout.agent_socket == Path("/run/attestd/agent.sock")
    assert layout.runner_socket == Path("/run/attestd-runner/runner.sock")
    layout.require_short_sockets()


def test_everything_is_below_one_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    user(monkeypatch, 0)
    layout = find_layout(str(tmp_path))
    assert not layout.system
    assert all(tmp_path in path.parents for path in paths(layout))
    assert len(set(paths(layout))) == len(paths(layout))
    assert layout.agent_socket == tmp_path / "run/agent.sock"
    for derived in (layout.log, layout.keys, layout.authorizations):
        assert layout.agent in derived.parents
    assert layout.host.parent == layout.runner, "which host this is, is not the agent's to say"


def test_which_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    user(monkeypatch, 1000)
    assert find_layout(None).agent == Path("/home/u/.local/state/attestd/agent")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert find_layout(None).agent == Path("/state/attestd/agent")
    monkeypatch.setenv("ATTESTD_STATE_DIR", str(tmp_path / "env"))
    assert find_layout(None).agent == tmp_path / "env/agent"
    assert find_layout(str(tmp_path / "option")).agent == tmp_path / "option/agent"
    user(monkeypatch, 0)
    assert find_layout(None).agent == tmp_path / "env/agent"


def test_a_relative_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Taken from where it was said: the agent and its runner may stand elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert find_layout("state").trust == tmp_path / "state/trust"


def test_a_state_directory_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff")
    assert os.fsencode(find_layout(f"{tmp_path}/{name}").trust).endswith(b"/\xff/trust")


def test_sockets_too_long_for_the_kernel(tmp_path: Path) -> None:
    top = "/" + "x" * (107 - len("/x/run/runner.sock") + 1)
    fits = find_layout(top)
    assert len(str(fits.runner_socket)) == 107
    fits.require_short_sockets()
    with pytest.raises(UsageError, match="choose a shorter --state-dir"):
        find_layout(top + "x").require_short_sockets()
    with pytest.raises(UsageError, match="108 bytes"):  # bytes count, not characters
        find_layout(top[:-1] + "ü").require_short_sockets()


def test_a_clients_layout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without an installation of their own reads the system's trust."""
    user(monkeypatch, 1000, tmp_path)
    assert find_client_layout(None).system
    assert find_client_layout(str(tmp_path / "x")).trust == tmp_path / "x/trust"
    (tmp_path / ".local/state/attestd/trust").mkdir(parents=True)
    assert find_client_layout(None).trust == tmp_path / ".local/state/attestd/trust"
    monkeypatch.setenv("ATTESTD_STATE_DIR", str(tmp_path / "env"))
    assert find_client_layout(None).trust == tmp_path / "env/trust"
    monkeypatch.delenv("ATTESTD_STATE_DIR")
    user(monkeypatch, 0)
    assert find_client_layout(None).system


def test_a_home_that_may_not_be_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    user(monkeypatch, 1000, tmp_path / "file")
    (tmp_path / "file").write_text("")
    assert find_client_layout(None).system


# configuration


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    return tmp_path / "attestd.toml"


def test_no_configuration(configuration: Path) -> None:
    assert load_configuration(configuration, {}) == Configuration()
    assert Configuration().tpm == "embedded"


def test_file_and_environment(configuration: Path) -> None:
    configuration.write_text('tpm = "device:/dev/tpmrm0"\nmax_batch = 7\n')
    assert load_configuration(configuration, {}) == Configuration(tpm="device:/dev/tpmrm0", max_batch=7)
    environ = {"ATTESTD_MAX_BATCH": "9", "ATTESTD_TPM": "7", "ATTESTD_OTHER": "x", "TPM": "y"}
    assert load_configuration(configuration, environ) == Configuration(tpm="7", max_batch=9)


@pytest.mark.parametrize(
    "text",
    [
        "tpm = 1",
        "tmp = 'typo'",
        "max_batch = '7'",
        "max_batch = 7.5",
        "max_batch = true",
        "max_batch = 0",
        "max_batch = 4097",
        "tpm_deadline_s = 0",
        "tpm_deadline_s = -1",
        "evidence_interval_s = 0",
        "max_batch",
        "[agent]",
        "tpm = 'a'\ntpm = 'b'",
    ],
)
def test_values_that_make_no_sense(configuration: Path, text: str) -> None:
    configuration.write_text(text)
    with pytest.raises(UsageError, match=r"attestd\.toml"):
        load_configuration(configuration, {})


@pytest.mark.parametrize("value", ["", "x", "1.5", "-1", "1" * 5000])
def test_variables_that_make_no_sense(configuration: Path, value: str) -> None:
    with pytest.raises(UsageError):
        load_configuration(configuration, {"ATTESTD_MAX_BATCH": value})


def test_not_utf8(configuration: Path) -> None:
    configuration.write_bytes(b"tpm = '\xff'")
    with pytest.raises(UsageError):
        load_configuration(configuration, {})


def test_never_read_in_part(configuration: Path) -> None:
    """The end of a configuration that is too long would silently not count."""
    comment = b"#" * (MAX_CONFIGURATION_BYTES - len("\nmax_batch = 7"))
    configuration.write_bytes(comment + b"\nmax_batch = 7")
    assert load_configuration(configuration, {}).max_batch == 7
    configuration.write_bytes(comment + b"\n\nmax_batch = 7")
    with pytest.raises(UsageError, match="over"):
        load_configuration(configuration, {})


def test_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="directory"):
        load_configuration(tmp_path, {})


@pytest.mark.parametrize(
    ("tpm", "expected"),
    [("device:/dev/tpmrm0", KERNEL_LOGS), ("embedded", {}), ("swtpm:path=/tmp/x", {})],
)
def test_logs_are_the_kernels_where_the_tpm_is_this_machines(tpm: str, expected: Mapping[str, Path]) -> None:
    found = Configuration(tpm=tpm).log_paths()
    for name in KERNEL_LOGS:
        assert getattr(found, name) == expected.get(name)
    assert found.command_line == Path("/proc/cmdline")


def test_logs_that_are_named() -> None:
    found = Configuration(tpm="device:/dev/tpmrm0", eventlog="/log", ima_list="").log_paths()
    assert (found.eventlog, found.ima_list) == (Path("/log"), None)
