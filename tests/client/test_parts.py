"""Options, places, lookup and escaping: the client's parts without a connection."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.client import Ended
from attestd.client.files import find_command, open_cwd, read_file, write_receipt
from attestd.client.options import parse
from attestd.plain import plain
from attestd.where import SYSTEM_SOCKET, agent_socket, state_dir


def test_options_end_at_the_command() -> None:
    options = parse(["exec", "--json", "-a", "x", "ls", "--json", "-a"])
    assert (options.mode, options.json, options.authorization) == ("exec", True, b"x")
    assert options.argv == [b"ls", b"--json", b"-a"]


def test_two_dashes_end_the_options_and_only_the_first_pair_counts() -> None:
    assert parse(["exec", "--", "--json", "--", "x"]).argv == [b"--json", b"--", b"x"]
    assert parse(["exec", "-", "x"]).argv == [b"-", b"x"]


def test_every_option_with_a_value_both_ways() -> None:
    options = parse(["check", "--authorization=a=b", "--parent", "p", "--receipt=", "--state-dir", "s", "x"])
    assert (options.authorization, options.parent, options.receipt, options.state_dir) == (
        b"a=b",
        b"p",
        b"",
        b"s",
    )


def test_help_wants_no_command() -> None:
    assert parse(["exec", "-h"]).help
    assert parse(["exec", "--help"]).argv == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["exec"], "no command"),
        (["exec", "--"], "no command"),
        (["exec", ""], "no command"),
        (["exec", "-x", "ls"], "unknown option -x"),
        (["exec", "--json=1", "ls"], "unknown option --json=1"),
        (["exec", "-a"], "option -a needs a value"),
        (["exec", "ls", "\udcff"], "argument 1 of the command is not UTF-8"),
        (["exec", "ls", *["x" * 1023] * 1024], "the command line has 1048579 bytes, the limit is 1048576"),
    ],
)
def test_misuse_is_64_and_points_to_the_help(arguments: list[str], words: str) -> None:
    with pytest.raises(Ended, match=words) as ended:
        parse(arguments)
    assert (ended.value.status, ended.value.code) == (64, "")
    assert ended.value.hint == "attestd exec --help"


@pytest.mark.parametrize(
    ("explicit", "environ", "uid", "directory", "sock"),
    [
        (None, {}, 0, None, SYSTEM_SOCKET),
        (b"/s", {}, 0, b"/s", b"/s/run/agent.sock"),
        (b"/s", {b"ATTESTD_STATE_DIR": b"/t"}, 1, b"/s", b"/s/run/agent.sock"),
        (None, {b"ATTESTD_STATE_DIR": b"/t"}, 1, b"/t", b"/t/run/agent.sock"),
        (b"/s", {b"ATTESTD_SOCKET": b"/x"}, 1, b"/s", b"/x"),
        (None, {b"ATTESTD_SOCKET": b"", b"ATTESTD_STATE_DIR": b""}, 0, None, SYSTEM_SOCKET),
        (None, {b"HOME": b"/h"}, 1, b"/h/.local/state/attestd", SYSTEM_SOCKET),
        (None, {b"HOME": b"/h", b"XDG_STATE_HOME": b"/x"}, 1, b"/x/attestd", SYSTEM_SOCKET),
        (None, {b"HOME": b"/h", b"XDG_STATE_HOME": b"x"}, 1, b"/h/.local/state/attestd", SYSTEM_SOCKET),
        (None, {}, 4_000_000_000, b"/nonexistent/.local/state/attestd", SYSTEM_SOCKET),
    ],
)
def test_where_things_are(
    explicit: bytes | None, environ: dict[bytes, bytes], uid: int, directory: bytes | None, sock: bytes
) -> None:
    assert state_dir(explicit, environ, uid) == directory
    assert agent_socket(explicit, environ, uid) == sock


def test_without_home_the_password_file_says() -> None:
    import pwd

    assert state_dir(None, {}, 1) == os.fsencode(pwd.getpwuid(1).pw_dir) + b"/.local/state/attestd"


def test_a_users_own_agent_comes_before_the_systems(tmp_path: Path) -> None:
    environ = {b"XDG_STATE_HOME": os.fsencode(tmp_path)}
    assert agent_socket(None, environ, 1) == SYSTEM_SOCKET
    sock = tmp_path / "attestd" / "run" / "agent.sock"
    sock.parent.mkdir(parents=True)
    sock.touch()
    assert agent_socket(None, environ, 1) == os.fsencode(sock)


def executable(path: Path, *, mode: int = 0o755) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(path.parent.name)
    path.chmod(mode)
    return path


def opened(name: str, path: str) -> bytes:
    descriptor = find_command(name.encode(), path.encode())
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


def test_lookup_takes_the_first_that_can_be_executed(tmp_path: Path) -> None:
    for name in ("b", "c"):
        executable(tmp_path / name / "x")
    executable(tmp_path / "a" / "x", mode=0o644)
    (tmp_path / "d" / "x").mkdir(parents=True)
    path = ":".join(str(tmp_path / name) for name in ("missing", "d", "a", "b", "c"))
    assert opened("x", path) == b"b"


def test_an_empty_element_is_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "here" / "x")
    monkeypatch.chdir(tmp_path / "here")
    assert opened("x", "/nonexistent:") == b"here"
    assert opened("./x", "") == b"here"


def test_a_name_with_a_slash_is_not_looked_up(tmp_path: Path) -> None:
    executable(tmp_path / "a" / "x")
    with pytest.raises(Ended) as ended:
        find_command(b"missing/x", os.fsencode(tmp_path / "a"))
    assert ended.value.status == 127


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_what_cannot_be_read_cannot_be_measured(tmp_path: Path) -> None:
    executable(tmp_path / "a" / "x", mode=0o111)
    with pytest.raises(Ended, match="must be, to be measured") as ended:
        find_command(b"x", os.fsencode(tmp_path / "a"))
    assert ended.value.status == 126


def test_a_fifo_does_not_hang_the_lookup(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x", 0o755)
    with pytest.raises(Ended, match="not a regular file"):
        find_command(b"x", os.fsencode(tmp_path))


@pytest.mark.parametrize("name", [b"a\0b", b"/a\0b"])
def test_a_name_that_no_file_can_have(name: bytes) -> None:
    with pytest.raises(Ended) as ended:
        find_command(name, b"/bin")
    assert ended.value.status == 126


def test_a_lookup_leaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Ended):
        find_command(b"x", os.fsencode(tmp_path))
    with pytest.raises(Ended):
        read_file(os.fsencode(tmp_path))
    with pytest.raises(Ended):
        write_receipt(os.fsencode(tmp_path), b"x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_current_directory_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can still be opened; agent and runner refuse it, for it has no path."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    descriptor = open_cwd()
    assert os.readlink(f"/proc/self/fd/{descriptor}").endswith(" (deleted)")
    os.close(descriptor)


@given(st.text())
def test_nothing_that_steers_a_terminal_is_printed(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_escaping_leaves_json_as_it_was(text: str) -> None:
    import json

    assert json.loads(plain(json.dumps(text, ensure_ascii=False))) == text
