"""A log of one host, its software TPM, and the ways to open, seal, tamper with and copy it."""

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from attestd.audit import files
from attestd.audit.recover import Recovery, recover
from attestd.audit.seal import Charge, Pending, Sealer, SealResult
from attestd.audit.store import LogStore
from attestd.audit.verify import LogReport, verify_log
from attestd.codes import Denial
from attestd.lineage.entry import EntryType
from attestd.tlog.checkpoint import origin
from tests.audit.software_tpm import SoftwareTpm

HOST_ID = "ab" * 32
LOG_ID = "log0"
BOOT = "2f1d1bd6-0d2d-4a5e-8f3e-7f3a0a8f6b7e"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ARTIFACT = "5e" * 32


def record(number: int = 0) -> Pending:
    return Pending(EntryType.ATTESTATION, {"number": number})


def delegated(number: int, *, artifact: str, parent: tuple[str, int | None] = (ARTIFACT, None)) -> Pending:
    """An allow of an artifact that was issued under another."""
    body = {"artifact": {"chain": [parent[0], artifact], "id": artifact}, "number": number}
    return Pending(
        EntryType.DECISION_ALLOW,
        body,
        Charge(artifact, None, (parent,)),
        lambda denial: {**body, "code": denial.code.value, "why": denial.sentence},
    )


def allow(number: int = 0, *, artifact: str = ARTIFACT, max_uses: int | None = None) -> Pending:
    def to_denial(denial: Denial) -> dict[str, object]:
        return {"artifact": artifact, "number": number, "code": denial.code.value, "why": denial.sentence}

    body = {"artifact": artifact, "number": number}
    return Pending(EntryType.DECISION_ALLOW, body, Charge(artifact, max_uses), to_denial)


class Log:
    """One log file and its TPM."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.origin = origin(HOST_ID, LOG_ID)
        self.tpm = SoftwareTpm()
        self.keys = self.tpm.keys(self.origin)
        self._stores: list[LogStore] = []
        files.create(
            self.path, origin=self.origin, host_id=HOST_ID, log_id=LOG_ID, created="2026-01-31T12:00:00Z"
        )

    def open(self) -> LogStore:
        self._stores.append(LogStore.open(self.path))
        return self._stores[-1]

    def close(self) -> None:
        while self._stores:
            self._stores.pop().close()

    def sealer(
        self, *, counter: int | None = None, crash_point: Callable[[str], None] = lambda _: None
    ) -> Sealer:
        counter = self.tpm.counter if counter is None else counter
        return Sealer(self.open(), self.tpm, self.keys, counter=counter, crash_point=crash_point)

    def seal(self, *batches: Sequence[Pending]) -> list[SealResult]:
        sealer = self.sealer()
        return [sealer.seal(batch, now=NOW, boot=BOOT) for batch in batches]

    def recover(self) -> Recovery:
        return recover(self.open(), self.tpm, self.keys, clock=self.tpm.clock)

    def verify(self, **options: object) -> LogReport:
        return verify_log(self.path, self.keys, **options)

    def tamper(self, *statements: str) -> None:
        """What someone with the disk does: no trigger stops him, and the schema looks untouched afterwards."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            assert connection.execute(statement).rowcount != 0, f"changes nothing: {statement}"
        for _, sql in triggers:
            connection.execute(sql)
        connection.close()

    def copy_to(self, directory: Path) -> None:
        self.close()
        directory.mkdir()
        shutil.copy(self.path, directory)

    def restore_from(self, directory: Path) -> None:
        self.close()
        for suffix in ("-wal", "-shm"):
            Path(self.path + suffix).unlink(missing_ok=True)
        shutil.copy(directory / Path(self.path).name, self.path)
