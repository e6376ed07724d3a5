"""Governance as the runner sees it: verified by itself, from its own root of trust, above its own floor.

The agent may write the mirror, and the agent is expected to be broken into. So what the runner verified once it goes
on to demand: its floor is in its own directory, durable before anything is decided by it. Then a revocation that was on
disk for a second cannot be taken back, by no choice of older files, however well they are signed; nor by newer files
that leave it out.
"""

import logging
from pathlib import Path
from typing import Any, Final, Literal

from attestd.codes import Code, Denied
from attestd.distribution.local import TrustDirectory, TrustSource
from attestd.durable import write_atomic
from attestd.errors import AttestdError, StoreError
from attestd.governance.floor import Floor
from attestd.governance.metadata import Versions
from attestd.governance.trust import MAX_REVOCATIONS_BYTES, Revocations, Trust
from attestd.journal import event
from attestd.runner.loop import Loop
from attestd.strict import Sha256Hex, Strict, canonical, parse_canonical

__all__ = ["Governance"]

LOOK_S: Final = 1.0
MAX_RECORD_BYTES: Final = MAX_REVOCATIONS_BYTES + 64 * 1024


class _Record(Strict, frozen=True):
    """`governance.json` in the runner's own directory: the highest versions it has seen, and what was revoked then."""

    v: Literal[1]
    anchor: Sha256Hex
    revocations: Revocations
    versions: Versions


class Governance:
    """What the runner trusts now."""

    def __init__(self, source: TrustSource, record: Path, *, log: logging.Logger) -> None:
        """Reads the floor.

        Args:
            source: Where governance is.
            record: The runner's own file; missing before it first saw something.
            log: For the journal.

        Raises:
            StoreError: It cannot be read.
            MalformedError: It is damaged.
        """
        self._record, self._log = record, log
        found = _read(record)
        self._recorded = None if found is None else Floor(found.anchor, found.versions)
        revoked = None if found is None else found.revocations
        self._directory = TrustDirectory(source, floor=self._recorded, revoked=revoked)
        self._said = ""

    def current(self) -> Trust:
        """What is trusted now; the floor is raised before.

        Raises:
            Denied: `governance_mismatch`: what is there does not verify, is older than what was seen, or its versions
                cannot be recorded.
        """
        try:
            trust = self._directory.look()
            floor = self._directory.floor
            if floor is not None and floor != self._recorded:
                record = _Record(
                    v=1, anchor=floor.anchor, revocations=trust.revocations, versions=floor.versions
                )
                write_atomic(self._record, canonical(record), mode=0o600)
                self._recorded = floor
        except AttestdError as error:
            raise Denied(
                Code.GOVERNANCE_MISMATCH, f"the runner refuses: {error}", "see attestd doctor"
            ) from error
        return trust

    def watch(self, loop: Loop) -> None:
        """Looks now, and each second from now on, so that nothing is on disk for longer without being noticed."""
        try:
            problem = self.problem()
        except Exception:  # noqa: BLE001 - the edge of the loop: whoever asks for a release meets it again, and is refused
            self._log.exception(event("governance.failed"))
            problem = self._said
        if problem != self._said:
            self._said = problem
            if problem:
                self._log.warning(event("governance.refused", error=problem))
            else:
                self._log.info(event("governance.verified"))
        loop.after(LOOK_S, lambda: self.watch(loop))

    def problem(self) -> str:
        """Why nothing is trusted now; empty if something is."""
        try:
            self.current()
        except Denied as denied:
            return denied.denial.sentence
        return ""

    def describe(self) -> dict[str, Any]:
        """For whoever asks what the runner sees: version and digest, or the problem; and the floor."""
        problem = self.problem()
        floor = None if self._recorded is None else self._recorded.versions.to_json()
        if problem:
            return {"problem": problem, "floor": floor}
        trust = self.current()
        return {"version": trust.version, "digest": trust.digest, "problem": None, "floor": floor}


def _read(path: Path) -> _Record | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    return parse_canonical(data, _Record, max_bytes=MAX_RECORD_BYTES, what=str(path))
