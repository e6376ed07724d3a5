"""`make demo`: attestd's story on an embedded software TPM, told by running it. Exit 0 only if all happened as told.

Nothing here is staged: each step is the command line of a new user, except where the story needs a villain (somebody
who edits the database, or who has broken into the agent), and then the villain's few lines are in this file.
"""

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from telling import WIDTH, Result, Story, end, end_runner, paint, until

from attestd.gate.concealment import SALT_BYTES
from attestd.lineage.receipt import parse_receipt
from attestd.tlog.proof import TlogProof, format_proof
from attestd.wire import FrameReader, Kind, encode_fields, send_frame


class Demo(Story):
    def __init__(self, home: Path) -> None:
        self.state = home / "state"
        super().__init__(home, {"ATTESTD_STATE_DIR": str(self.state)})
        self.agent: subprocess.Popen[bytes] | None = None

    def start_agent(self) -> bool:
        """Starts the agent; whether it serves."""
        agent = self.agent = self.start("agent.log", "serve")
        until(lambda: agent.poll() is not None or self.run("status", "--json", quiet=True).status == 0)
        return agent.poll() is None

    def stop_agent(self) -> None:
        end(self.agent)

    def ask_runner(
        self, kind: bytes, payload: bytes, descriptors: list[int]
    ) -> tuple[bytes, list[bytes]] | None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(self.state / "run" / "runner.sock"))
            send_frame(sock, kind, payload, descriptors)
            frame = FrameReader(sock).receive()
            if frame is None:
                return None
            frame.close()
            return frame.kind, frame.fields(64)

    def clean_up(self) -> None:
        self.stop_agent()
        end_runner(self.state)


def hire_command(demo: Demo) -> Path:
    """The command that the story is about: a deploy script, owned by root, as an operator would install it."""
    command = demo.home / "deploy"
    command.write_text(
        '#!/bin/sh\necho "deploying $1 as uid $(id -u), environment: $(env | wc -l) variables"\n'
    )
    command.chmod(0o755)
    return command


def chapter_setup(demo: Demo) -> None:
    demo.chapter("1. A host gets its keys: attestation key and release key live in the TPM")
    demo.expect(
        "init provisions TPM keys, local authorities and the log",
        "ok",
        demo.run("init", lines=14).status == 0,
    )
    print(f"  {paint('$ attestd serve &', '1')}")
    demo.expect("agent and runner are up", "serving", demo.start_agent())


def chapter_run(demo: Demo) -> None:
    demo.chapter("2. An authority authorizes one command; it runs, and leaves a receipt")
    issued = demo.run(
        *("authorization", "issue", "--ttl", "1h", "--max-uses", "unlimited", "-o", "deploy.auth.json", "--"),
        *("./deploy", "prod"),
        lines=12,
    )
    demo.expect("an authorization is a signed file", "deploy.auth.json", issued.status == 0)
    done = demo.run(
        "exec", "-a", "deploy.auth.json", "--receipt", "deploy.tlog-proof", "--", "./deploy", "prod"
    )
    demo.expect("decided, sealed, released, run", "ran", done.status == 0 and "deploying prod" in done.out)


def chapter_denials(demo: Demo, command: Path) -> None:
    demo.chapter("3. Everything else is denied, with a code, a reason and a hint; each denial is sealed too")
    artifact = ("exec", "-a", "deploy.auth.json", "--")
    demo.denied("a command without authorization", "missing_authorization", "exec", "--", "id")
    demo.denied("changed arguments", "scope_violation", *artifact, "./deploy", "staging")
    original = command.read_text()
    command.write_text(original + "echo pwned\n")
    result = demo.denied("a changed binary", "identity_mismatch", *artifact, "./deploy", "prod")
    command.write_text(original)
    demo.expect("it did not run", "no output", "pwned" not in result.out)
    demo.run(
        "authorization", "issue", "--ttl", "1s", "-o", "short.auth.json", "--", "./deploy", "prod", quiet=True
    )
    time.sleep(1.1)
    demo.denied(
        "an expired authorization", "expired", "exec", "-a", "short.auth.json", "--", "./deploy", "prod"
    )


def chapter_runner(demo: Demo, command: Path) -> None:
    demo.chapter("4. The agent is broken into: what does the runner do with lies?")
    receipt = (demo.home / "deploy.tlog-proof").read_bytes()
    other = demo.home / "other"
    other.write_text("#!/bin/sh\necho pwned\n")
    other.chmod(0o755)
    for claim, code, sent, executable, argument in (
        ("a forged receipt is refused by the runner", "evidence_invalid", forge(receipt), command, "evil"),
        (
            "a true receipt with other bytes is refused by the runner",
            "identity_mismatch",
            receipt,
            other,
            "prod",
        ),
        (
            "a true receipt, used again, is refused by the runner",
            "identity_mismatch",
            receipt,
            command,
            "prod",
        ),
    ):
        answer = lie_to_runner(demo, sent, executable, argument)
        print(f"  {paint('villain → runner', '1;35')}: execute {executable.name} {argument}")
        kind, fields = answer or (b"", [])
        words = ": ".join(item.decode() for item in fields[:2])
        for part in textwrap.wrap(words, WIDTH - 4):
            print(f"    {part}")
        found = fields[0].decode() if fields else "?"
        demo.expect(claim, found, kind == Kind.REJECTED and found == code)


def forge(receipt: bytes) -> bytes:
    """The receipt of a decision that was never taken: one word of the entry is another."""
    parsed = parse_receipt(receipt)
    entry = parsed.entry_bytes.replace(b'"prod"', b'"evil"')
    return format_proof(TlogProof(entry, parsed.proof.index, parsed.proof.proof, parsed.proof.checkpoint))


def lie_to_runner(
    demo: Demo, receipt: bytes, executable: Path, argument: str
) -> tuple[bytes, list[bytes]] | None:
    """What a broken agent can do: open the runner's socket, and hand over whatever it likes."""
    artifact = (demo.home / "deploy.auth.json").read_bytes()
    ours, theirs = socket.socketpair()
    names = (
        "/dev/null",
        "/dev/null",
        "/dev/null",
        str(demo.home),
        str(executable),
        os.path.realpath("/bin/sh"),
    )
    opened = [os.open(name, os.O_RDONLY) for name in names]
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    sizes = (b"1", b"0", b"1")  # of interpreters, inputs, variables
    fields = [
        receipt,
        artifact,
        b"",
        bytes(SALT_BYTES),
        *sizes,
        b"",  # no attestation results
        path.encode(),
        b"./deploy",
        argument.encode(),
    ]
    try:
        return demo.ask_runner(Kind.EXECUTE, encode_fields(fields), [theirs.fileno(), *opened])
    finally:
        for descriptor in opened:
            os.close(descriptor)
        ours.close()
        theirs.close()


def chapter_offline(demo: Demo) -> None:
    demo.chapter("5. An auditor, elsewhere: only the receipt and the trust directory, no TPM, no agent")
    elsewhere = demo.home / "auditor"
    elsewhere.mkdir()
    shutil.copytree(demo.state / "trust", elsewhere / "trust")
    shutil.copy(demo.home / "deploy.tlog-proof", elsewhere)
    base = str(elsewhere)
    done = demo.run("verify", "receipt", f"{base}/deploy.tlog-proof", "--trust", f"{base}/trust", lines=12)
    demo.expect("the receipt verifies offline", "verified", done.status == 0)
    (elsewhere / "forged.tlog-proof").write_bytes(forge((elsewhere / "deploy.tlog-proof").read_bytes()))
    done = demo.run("verify", "receipt", f"{base}/forged.tlog-proof", "--trust", f"{base}/trust")
    demo.expect("one changed word in it: it does not", f"exit {done.status}", done.status == 1)


def chapter_measure(demo: Demo) -> None:
    demo.chapter("6. Something unexpected is measured into an approved PCR: now the TPM refuses")
    implant = demo.home / "implant.ko"
    implant.write_bytes(b"not a kernel module, but measured all the same\n")
    demo.run("platform", "extend", "--pcr", "7", str(implant))
    result = demo.denied(
        "release refused by the TPM itself",
        "environment_untrusted",
        *("exec", "-a", "deploy.auth.json", "--", "./deploy", "prod"),
    )
    demo.expect("the refusal is the TPM's, not the agent's", "TPM", "TPM" in result.err)
    shown = demo.run("platform", "show", lines=14)
    demo.expect("the state is shown PCR by PCR", "PCR 7", shown.status in (0, 1) and "7" in shown.out)
    approved = demo.run("platform", "approve", "--yes", lines=12)
    again = demo.run("exec", "-a", "deploy.auth.json", "--", "./deploy", "prod")
    demo.expect(
        "an authority approves the new state: it runs again",
        "ran",
        approved.status == 0 and again.status == 0,
    )


def chapter_two_persons(demo: Demo) -> None:
    demo.chapter(
        "7. Two persons, and a revocation: authorities sign, publish, and every decision follows at once"
    )
    release = demo.home / "release"
    release.write_text('#!/bin/sh\necho "releasing $1"\n')
    release.chmod(0o755)
    alice = str(demo.state / "authority" / "local.pem")
    demo.run("authority", "keygen", "--no-passphrase", "bob", quiet=True)
    demo.run(
        *("governance", "rule", "release", "--path", str(release), "--key", alice, "--key", "bob.pub"),
        *("--threshold", "2"),
    )
    publish(demo)
    artifact = ("exec", "-a", "release.auth.json", "--", "./release", "v1")
    demo.run(
        *("authorization", "issue", "--max-uses", "unlimited", "-o", "release.auth.json", "--"),
        *("./release", "v1"),
        quiet=True,
    )
    demo.denied("one of two signatures is not enough", "insufficient_approvals", *artifact)
    demo.run("authorization", "approve", "--yes", "--key", "bob.pem", "release.auth.json", lines=3)
    done = demo.run(*artifact)
    demo.expect("with the second person's it runs", "ran", done.status == 0 and "releasing v1" in done.out)
    demo.run("authorization", "revoke", "release.auth.json")
    demo.denied("revoked: it never runs again", "revoked", *artifact)


def publish(demo: Demo) -> None:
    """What is staged is shown in words, signed and published."""
    demo.run("governance", "diff")
    demo.run("governance", "sign", "--yes", quiet=True)
    demo.run("governance", "publish")


def chapter_history(demo: Demo) -> None:
    demo.chapter("8. History cannot be rewritten: edit the database, or put back an older copy")
    log = demo.state / "agent" / "log.db"
    good = demo.run("audit", "verify")
    demo.expect("the log verifies, leaf by leaf, against the TPM's signatures", "verified", good.status == 0)
    demo.stop_agent()
    with contextlib.closing(sqlite3.connect(log)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    older, newest = demo.home / "older.db", demo.home / "newest.db"
    shutil.copy(log, older)
    demo.start_agent()
    demo.run("exec", "-a", "deploy.auth.json", "--", "./deploy", "prod", quiet=True)
    demo.stop_agent()
    with contextlib.closing(sqlite3.connect(log)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(log, newest)
    villain_edits(log)
    demo.villain("lifts the triggers, changes one word in one old decision, puts the triggers back")
    found = demo.run("audit", "verify")
    demo.expect("tampering is found", f"exit {found.status}", found.status == 1)
    replace_log(log, older)
    demo.villain("puts back the log of a minute ago, with its true signatures")
    refused = not demo.start_agent()
    last = (demo.home / "agent.log").read_text().splitlines()[-1]
    demo.show("attestd serve", Result(69, last, ""))
    demo.expect("a rolled back log: the agent refuses to serve", "refused", refused)
    replace_log(log, newest)
    demo.expect("with the true log it serves again", "serving", demo.start_agent())


def villain_edits(log: Path) -> None:
    with contextlib.closing(sqlite3.connect(log)) as database:
        triggers = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            database.execute(f'DROP TRIGGER "{name}"')
        (seq, entry) = database.execute(
            "SELECT seq, entry FROM leaves WHERE instr(entry, CAST('staging' AS BLOB)) LIMIT 1"
        ).fetchone()
        database.execute(
            "UPDATE leaves SET entry = ? WHERE seq = ?", (entry.replace(b"staging", b"mailing"), seq)
        )
        for _, sql in triggers:
            database.execute(sql)
        database.commit()


def replace_log(log: Path, copy: Path) -> None:
    for suffix in ("-wal", "-shm"):
        log.with_name(log.name + suffix).unlink(missing_ok=True)
    shutil.copy(copy, log)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="attestd-demo-") as directory:
        demo = Demo(Path(directory))
        chapters: list[Callable[[], None]] = [
            lambda: chapter_setup(demo),
            lambda: chapter_run(demo),
            lambda: chapter_denials(demo, demo.home / "deploy"),
            lambda: chapter_runner(demo, demo.home / "deploy"),
            lambda: chapter_offline(demo),
            lambda: chapter_measure(demo),
            lambda: chapter_two_persons(demo),
            lambda: chapter_history(demo),
        ]
        print(paint("attestd on an embedded software TPM, in a temporary directory", "1"))
        try:
            hire_command(demo)
            for chapter in chapters:
                chapter()
        finally:
            demo.clean_up()
        return 0 if demo.summary("attestd: seal, then release") else 1


if __name__ == "__main__":
    sys.exit(main())
