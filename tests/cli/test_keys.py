"""Passphrases and PINs: from a terminal, from a file, never from an argument; and every command that signs asks."""

import os
import pty
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attestd.authorization.artifact import parse_artifact
from tests.cli.conftest import Cli
from tests.host import Host
from tests.runner.harness import read_until
from tests.softhsm import PIN

SECRET = "correct horse"
OTHER = "battery staple"
ATTESTD = (sys.executable, "-I", "-m", "attestd")


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may sit at one."""
    monkeypatch.setattr("attestd.cli.keys._has_terminal", lambda: False)
    monkeypatch.delenv("ATTESTD_PASSPHRASE_FILE", raising=False)


@pytest.fixture
def secret(cli: Cli) -> Path:
    """A file with the passphrase."""
    assert cli.work
    return written("secret", f"{SECRET}\n")


def written(name: str, text: str, mode: int = 0o600) -> Path:
    path = Path(name)
    path.write_text(text)
    path.chmod(mode)
    return path


class Person:
    """A command at a terminal, and who answers its questions."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [*ATTESTD, *map(str, arguments)]
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execv(command[0], command)  # noqa: S606
        self.seen = b""

    def answer(self, question: str, words: str) -> None:
        self.seen += read_until(self.terminal, question.encode())
        os.write(self.terminal, f"{words}\n".encode())

    def end(self) -> tuple[int, str]:
        while True:
            try:
                part = os.read(self.terminal, 65536)
            except OSError:
                part = b""
            if not part:
                break
            self.seen += part
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), self.seen.decode()

    def interrupt(self) -> int:
        os.kill(self.pid, signal.SIGINT)
        return self.end()[0]


def test_at_a_terminal(cli: Cli) -> None:
    person = Person("authority", "keygen", "key")
    person.answer("new passphrase of key key.pem: ", SECRET)
    person.answer("once more: ", SECRET)
    status, seen = person.end()
    assert (status, SECRET in seen) == (0, False), seen
    assert "ENCRYPTED" in Path("key.pem").read_text()
    person = Person("authorization", "issue", "--key", "key.pem", "--", "id")
    person.answer("passphrase of key key.pem: ", SECRET)
    status, seen = person.end()
    assert (status, SECRET in seen) == (0, False), seen
    made = cli.ok("authority", "show", "key.pub", "--json").json["key_id"]
    (signature,) = parse_artifact(Path("id.auth.json").read_bytes()).envelope.signatures
    assert signature.key_id == made


def test_mistyped(cli: Cli) -> None:
    assert cli.work
    person = Person("authority", "keygen", "key")
    person.answer("new passphrase", SECRET)
    person.answer("once more: ", OTHER)
    status, seen = person.end()
    assert (status, "differ" in seen) == (64, True), seen
    person = Person("authority", "keygen", "key")
    person.answer("new passphrase", "")
    status, seen = person.end()
    assert (status, "--no-passphrase" in seen) == (64, True), seen
    person = Person("authority", "keygen", "key")
    person.seen += read_until(person.terminal, b"new passphrase")
    assert person.interrupt() == 130
    assert os.listdir() == []


def test_without_a_terminal_it_is_said_what_to_do(cli: Cli) -> None:
    made = cli("authority", "keygen", "key")
    assert (made.status, os.listdir()) == (64, [])
    assert "--passphrase-file FILE, or --no-passphrase" in made.stderr
    cli.ok("authority", "keygen", "--passphrase-file", written("secret", SECRET), "key")
    used = cli("authorization", "issue", "--key", "key.pem", "--", "id")
    assert used.status == 64
    assert "passphrase of key key.pem is needed" in used.stderr
    assert "--passphrase-file" in used.stderr


def test_from_a_file(cli: Cli, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.ok("authority", "keygen", "--passphrase-file", secret, "key")
    public = Path("key.pub").read_text()
    assert cli.ok("authority", "show", "--passphrase-file", secret, "key.pem", "--json").json["pem"] == public
    cli.ok("authorization", "issue", "--key", "key.pem", "--passphrase-file", secret, "--", "id")
    wrong = cli(
        "authorization",
        "approve",
        "--key",
        "key.pem",
        "--passphrase-file",
        written("x", OTHER),
        "id.auth.json",
    )
    assert wrong.status == 64
    assert "wrong passphrase" in wrong.stderr
    assert OTHER not in wrong.stderr
    monkeypatch.setenv("ATTESTD_PASSPHRASE_FILE", str(secret))
    cli.ok("authorization", "issue", "--key", "key.pem", "-o", "two.auth.json", "--", "id")
    cli.ok("authority", "keygen", "second")
    cli.ok("authorization", "approve", "--yes", "--key", "second.pem", "two.auth.json")
    swapped = cli("authorization", "issue", "--key", "second.pub", "--", "id")
    assert (swapped.status, "expected the private one" in swapped.stderr) == (64, True), swapped
    assert len(parse_artifact(Path("two.auth.json").read_bytes()).envelope.signatures) == 2


def test_files_that_hold_no_secret(cli: Cli) -> None:
    cases = {
        "open": (written("open", SECRET, 0o640), 64, "chmod 600"),
        "empty": (written("empty", "\nsecond line"), 64, "first line"),
        "long": (written("long", "x" * 5000), 64, "4 KiB"),
        "none": (Path("none"), 69, "No such file"),
    }
    for path, status, words in cases.values():
        result = cli("authority", "keygen", "--passphrase-file", path, "key")
        assert (result.status, words in result.stderr) == (status, True), result
    assert not Path("key.pem").exists()


def test_a_pipe_will_do(cli: Cli) -> None:
    """As `<(pass show key)` in a shell: nothing is on the disk."""
    assert cli.work
    command = " ".join(map(shlex.quote, ATTESTD))
    done = subprocess.run(
        ["/bin/bash", "-c", f"{command} authority keygen --passphrase-file <(echo {shlex.quote(SECRET)}) key"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done
    cli.ok("authority", "show", "--passphrase-file", written("secret", SECRET), "key.pem")


def test_protect(cli: Cli, secret: Path) -> None:
    cli.ok("authority", "keygen", "--no-passphrase", "key")
    public = Path("key.pub").read_bytes()
    assert cli("authority", "protect", "key.pem").status == 64
    protected = cli.ok("authority", "protect", "--new-passphrase-file", secret, "key.pem", "--json").json
    assert protected["encrypted"] is True
    assert "ENCRYPTED" in Path("key.pem").read_text()
    # The file of the present one is not taken for the new one.
    refused = cli("authority", "protect", "--passphrase-file", secret, "key.pem")
    assert (refused.status, "--new-passphrase-file" in refused.stderr) == (64, True), refused
    other = written("other", OTHER)
    cli.ok("authority", "protect", "--passphrase-file", secret, "--new-passphrase-file", other, "key.pem")
    assert cli("authority", "show", "--passphrase-file", secret, "key.pem").status == 64
    shown = cli.ok("authority", "protect", "--passphrase-file", other, "--no-passphrase", "key.pem")
    assert "in the clear" in shown.stdout
    cli.ok("authorization", "issue", "--key", "key.pem", "--", "id")
    assert Path("key.pub").read_bytes() == public
    assert cli("authority", "protect", "--no-passphrase", written("nokey", "x")).status == 65


def test_protect_at_a_terminal(cli: Cli, secret: Path) -> None:
    cli.ok("authority", "keygen", "--passphrase-file", secret, "key")
    person = Person("authority", "protect", "key.pem")
    person.answer("passphrase of key key.pem: ", SECRET)
    person.answer("new passphrase of key key.pem: ", OTHER)
    person.answer("once more: ", OTHER)
    assert person.end()[0] == 0
    cli.ok("authority", "show", "--passphrase-file", written("other", OTHER), "key.pem")


def test_the_keys_of_a_standalone_host_protected(own: Host, own_cli: Cli) -> None:
    """Unattended, `init` makes them in the clear; a person encrypts them, and is asked from then on."""
    secret, local = written("secret", SECRET), own.layout.authority / "local.pem"
    own_cli.ok("authorization", "issue", "--", "/bin/true")
    for name in ("local", "platform", "root", "epoch"):
        own_cli.ok(
            "authority", "protect", "--new-passphrase-file", secret, own.layout.authority / f"{name}.pem"
        )
    assert own_cli("authorization", "issue", "--force", "--", "/bin/true").status == 64
    own.start()
    own_cli.ok(
        "authorization", "issue", "--force", "--passphrase-file", secret, "--cwd", own.work, "--", "/bin/true"
    )
    assert own.exec("/bin/true", authorization=Path("true.auth.json").read_bytes()).status == 0
    own.extend(11)
    assert own_cli("platform", "approve", "--yes").status == 64
    own_cli.ok("platform", "approve", "--yes", "--passphrase-file", secret)
    assert own_cli.ok("init", "--json").json["fresh"] is False
    assert "ENCRYPTED" in local.read_text()


def test_keys_in_tokens(cli: Cli, token: str) -> None:
    secret = written("pin", PIN)
    for number, kind in ((21, "p256"), (22, "ed25519")):
        uri = f"hsm:{number}?label={token}"
        made = cli.ok(
            "authority", "keygen", "--kind", kind, "--hsm", uri, "--passphrase-file", secret, f"k{number}", "--json"
        ).json  # fmt: skip
        assert made["key"] == uri
        assert not Path(f"k{number}.pem").exists()
        again = cli.ok("authority", "import", uri, "again", "--json").json
        assert again["key_id"] == made["key_id"]
        Path("again.pub").unlink()
        key = ("--key", uri, "--public-key", f"k{number}.pub")
        cli.ok("authorization", "issue", "--force", *key, "--passphrase-file", secret, "--", "id")
        (signature,) = parse_artifact(Path("id.auth.json").read_bytes()).envelope.signatures
        assert signature.key_id == made["key_id"]
        wrong = cli(
            "authorization", "issue", "--force", *key, "--passphrase-file", written("w", "4321"), "--", "id"
        )
        assert (wrong.status, "wrong PIN" in wrong.stderr) == (64, True)
        assert cli("authorization", "issue", "--force", *key, "--", "id").status == 64
        assert (
            cli.ok("authority", "show", uri, "--public-key", f"k{number}.pub", "--json").json["key_id"]
            == made["key_id"]
        )


def test_doctor_names_keys_in_the_clear(own: Host, own_cli: Cli) -> None:
    """As a word, not as a finding."""
    clear = next(item for item in examined(own_cli) if item["area"] == "authority keys")
    assert "local.pem" in str(clear["found"])
    assert clear["remedy"] is None
    secret = written("secret", SECRET)
    for path in own.layout.authority.glob("*.pem"):
        own_cli.ok("authority", "protect", "--new-passphrase-file", secret, path)
    assert not [item for item in examined(own_cli) if item["area"] == "authority keys"]


def examined(cli: Cli) -> list[dict[str, object]]:
    return list(cli("doctor", "--json").json["examined"])
