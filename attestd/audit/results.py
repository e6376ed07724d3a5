"""The attestation results in a log: each verified, as far as governance tells by now, as who audits it can: offline.

What is wrong is a lie of who sealed it. What cannot be told, or counts no more, is counted, with the reason.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from attestd.appraisal.claims import ResultClaims
from attestd.appraisal.result import RESULT_ENTRY, key_of, read_claims, record_of, verify_result
from attestd.errors import MalformedError, VerificationError
from attestd.governance.mesh import MeshTrust
from attestd.governance.trust import Trust
from attestd.lineage.entry import Entry
from attestd.strict import parse_time

__all__ = ["ResultCheck"]

_RESULT: Final = "token"
_MOMENT: Final = timedelta(microseconds=1)


@dataclass
class ResultCheck:
    """Takes the `attestation` entries of one host's log, and counts.

    Attributes:
        trust: By which governance.
        host: Whose log it is.
        verified: How many results verify, and count.
        others: How many do not count, or were not checked, by why.
    """

    trust: Trust
    host: str
    verified: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def take(self, entry: Entry) -> None:
        """Verifies the result in an entry; one without is of another kind, and nothing happens.

        1. The entry says of the result what that says itself, and it is about this host.
        2. The version of `mesh.json` that the entry names is that version.
        3. It verifies by the keys of that version, as `verify_result` says, with whichever record of the host has the release
           key that it names.
        4. It was issued by the time of the entry.

        Not checked, and counted as such, where governance has not what the entry goes by: the version of `mesh.json`, the record of
        the host. Counted, where it counts no more: the verifier's key was revoked since, its version had ended, or it was over.

        Raises:
            VerificationError: One of these does not hold.
        """
        if _RESULT not in entry.body:
            if entry.body.get("what") == RESULT_ENTRY:
                raise VerificationError(
                    f"entry {entry.seq}: an attestation result without what the verifier signed"
                )
            return
        try:
            why = self._why_not(entry, str(entry.body[_RESULT]))
        except (MalformedError, VerificationError) as error:
            raise VerificationError(
                f"entry {entry.seq}: its attestation result does not verify: {error}"
            ) from error
        if why:
            self.others[why] += 1
        else:
            self.verified += 1

    def _why_not(self, entry: Entry, token: str) -> str:
        """Why it does not count, or could not be checked; empty: it verifies."""
        claims, time = read_claims(token), parse_time(entry.time)
        _require_said(entry.body, claims, self.host)  # 1
        mesh = self._mesh(entry.body.get("mesh"))  # 2
        if mesh is None:
            return "not checked: the version of mesh.json that they name is not in this governance"
        if key_of(token) in self.trust.revocations.keys:
            return "not counted: the verifier's key was revoked since"
        record = record_of(claims, self.trust.records(self.host))
        if record is None:
            return "not checked: sealed under a host record that is not in this governance"
        issued, expires = (datetime.fromtimestamp(second, UTC) for second in (claims.iat, claims.exp))
        # 3, 4; that it had ended is no lie of who sealed it, who may not have known.
        at = min(time, expires - _MOMENT)
        verify_result(token, mesh=replace(mesh, until=None), host=record, nonce=None, now=at)
        if not mesh.counts_at(issued):
            return "not counted: issued when its version of mesh.json had ended"
        return "" if time < expires else "not counted: over when they were sealed"

    def _mesh(self, named: object) -> MeshTrust | None:
        if not isinstance(named, dict) or type(version := named.get("version")) is not int:
            raise VerificationError("the entry does not say by which version of mesh.json it was believed")
        try:
            mesh = self.trust.mesh_version(version)
        except VerificationError:
            return None
        if named.get("digest") != mesh.digest:
            raise VerificationError(
                f"version {version} of mesh.json: expected SHA-256 {mesh.digest}, the entry names another one"
            )
        return mesh


def _require_said(body: Mapping[str, Any], claims: ResultClaims, host: str) -> None:
    said = {
        "host": claims.host,
        "verifier": claims.iss,
        "platform": claims.attestd.platform.name,
        "status": claims.submods.platform.status.value,
        "findings": claims.attestd.findings.count,
    }
    for name, expected in said.items():
        found = host if name == "host" else body.get(name)
        if found != expected:
            raise VerificationError(
                f"{name}: the result says {expected!r}, the {'log is of' if name == 'host' else 'entry says'} {found!r}"
            )
