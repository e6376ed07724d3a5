"""Exit statuses, and that nobody sees a traceback."""

from pathlib import Path

import pytest

from attestd.cli import run
from attestd.codes import Code, Denied
from attestd.controller.configuration import Role
from attestd.errors import (
    AgentError,
    AttestdError,
    ForbiddenError,
    MalformedError,
    RollbackError,
    StoreError,
    TpmError,
    UsageError,
    VerificationError,
)
from tests.cli.conftest import Cli

LINE = "attestd: "


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("attestd.agent.ask.AgentSocket.ask", fail)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("u"), 64),
        (MalformedError("m"), 65),
        (VerificationError("v"), 1),
        (ForbiddenError("f"), 77),
        (AgentError("a"), 69),
        (StoreError("s"), 69),
        (RollbackError("r"), 69),
        (TpmError("t"), 69),
        (AttestdError("x"), 69),
        (Denied(Code.EXPIRED, "too late", "be earlier"), 77),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(32, "Broken pipe"), 141),
        (ZeroDivisionError("seven"), 70),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_exit_status(
    error: BaseException, status: int, nowhere: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, error)
    result = nowhere("status")
    assert result.status == status
    assert result.stdout == ""
    assert all(line.startswith(LINE) for line in result.stderr.splitlines()), result.stderr


def test_a_bug_is_one_line_with_a_number(nowhere: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError("seven\x1b[31m\nTraceback"))
    first, second = nowhere("status").stderr, nowhere("status").stderr
    assert first.count("\n") == 1
    assert "\x1b" not in first
    assert "test_errors.py:" in first
    number = first.partition("internal error ")[2].partition(":")[0]
    assert len(number) == 8
    assert number not in second


def test_a_denial_has_its_hint(nowhere: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, Denied(Code.EXPIRED, "too late", "be earlier"))
    assert nowhere("status").stderr.splitlines() == [
        "attestd: denied: expired: too late",
        "attestd: hint: be earlier",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["status", "--nonsense"],
        ["status", "extra"],
        ["verify", "receipt", "nothere", "--trust", "."],
        ["verify", "receipt", "nothere"],
        ["authorization", "issue"],
        ["authorization", "issue", "--ttl", "1y", "--", "id"],
        ["authorization", "issue", "--max-uses", "0", "--", "id"],
        ["authorization", "issue", "--requester", "no such user", "--", "id"],
        ["authorization", "issue", "--env-set", "novalue", "--", "id"],
        ["authorization", "issue", "--arg", "x=1", "--", "id"],
        ["authorization", "issue", "--arg", "1=[", "--", "id"],
        ["authorization", "issue", "--arg", '1={"one":1}', "--", "id"],
        ["init", "--label", "novalue"],
        ["platform", "extend", "--pcr", "24", "x"],
        ["platform", "extend", "--pcr", "23"],
        ["platform", "extend", "--pcr", "23", "--digest", "xyz"],
        ["audit", "prove"],
        ["quote", "--challenge", "0"],
        ["authority", "keygen", "--kind", "rsa", "x"],
    ],
    ids=" ".join,
)
def test_misuse_is_64(arguments: list[str], nowhere: Cli) -> None:
    result = nowhere(*arguments)
    assert result.status == 64, result
    assert result.stdout == ""
    assert result.stderr.startswith(LINE)


def test_a_role_that_is_none_names_those_that_are(nowhere: Cli) -> None:
    result = nowhere("controller", "init", "--role", "foo")
    assert result.status == 64
    words = "Invalid value for '--role': 'foo' is not one of"
    names = ", ".join(f"'{role}'" for role in ("governance", "enroller", "verifier", "witness", "lineage"))
    assert f"{words} {names}." in result.stderr
    for role in Role:
        assert repr(role.value) in result.stderr
    command = ("controller", "init", "--state-dir", "c", "--role", "verifier")
    for options, words in (
        (("--verifier-name", "A b"), "--verifier-name: Expected `str` matching"),
        (("--verifier-name", "a", "--role", "verifier"), "one stands there twice (--role)"),
    ):
        result = nowhere(*command, *options)
        assert (result.status, words in result.stderr, "controller.toml" in result.stderr) == (
            64,
            True,
            False,
        )


def test_an_unwritable_output_is_misuse(nowhere: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("there").write_text("x")
    assert nowhere("authority", "keygen", "--no-passphrase", "no/such/directory/key").status == 69
    monkeypatch.chdir(nowhere.work)
    assert run(["--version"]) == 0
