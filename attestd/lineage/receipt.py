"""A receipt: the proof that an entry was sealed, on which TPM, in which platform state.

A receipt is a C2SP tlog-proof whose `extra` carries the entry's exact bytes. For a `decision.allow` it proves
"sealed for release"; that the command ran is the receipt of `execution.start`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from typing import Final

from attestd.errors import GovernanceBehindError, UsageError, VerificationError
from attestd.governance.host import VerifiedHost
from attestd.governance.mesh import MeshTrust
from attestd.governance.platform import Approval
from attestd.governance.trust import Trust
from attestd.lineage.checkpoint import LogKeys, VerifiedCheckpoint
from attestd.lineage.cosigned import Line, cosigned_by, counting_lines
from attestd.lineage.entry import Entry, EntryType, parse_entry
from attestd.plain import counted
from attestd.strict import format_time, parse_time
from attestd.tlog.checkpoint import Checkpoint, parse_checkpoint, parse_origin
from attestd.tlog.note import NoteSignature, UntrustedNote, format_note, parse_note
from attestd.tlog.proof import TlogProof, format_proof, parse_proof
from attestd.tlog.tree import leaf_hash, verify_inclusion

__all__ = [
    "UntrustedReceipt",
    "VerifiedReceipt",
    "join_receipts",
    "parse_receipt",
    "sealed_by",
    "strip_receipt",
    "verify_receipt",
]

_ABSENT: Final = "(nothing)"
# Clocks of a host and of who publishes differ by less, or what is told of governance that is behind is told wrongly.
_CLOCKS: Final = timedelta(hours=1)


@dataclass(frozen=True)
class UntrustedReceipt:
    """A receipt that parses. Nothing in it is verified."""

    proof: TlogProof
    note: UntrustedNote
    checkpoint: Checkpoint
    entry: Entry
    entry_bytes: bytes


@dataclass(frozen=True)
class VerifiedReceipt:
    """A receipt that verifies.

    Attributes:
        leaf: The leaf hash, hex: the id of the decision.
        host: The host record whose keys sealed it: the present one, or an earlier one of the same host.
        approval: For a `decision.allow`, the approved state in which it was sealed.
        mesh: The version of `mesh.json` whose witnesses were counted.
        witnesses: Who cosigned its checkpoint, and when they saw it, in seconds since the epoch.
    """

    entry: Entry
    entry_bytes: bytes
    leaf: str
    at: VerifiedCheckpoint
    host: VerifiedHost
    approval: Approval | None
    mesh: MeshTrust
    witnesses: Mapping[str, int]


@lru_cache(maxsize=8)  # of at most 256 KiB each: the runner looks into one before it verifies it
def parse_receipt(data: bytes) -> UntrustedReceipt:
    """Parses a `.tlog-proof`.

    Raises:
        MalformedError: Not a receipt.
        VerificationError: It carries no entry.
    """
    proof = parse_proof(data)
    if proof.extra is None:
        raise VerificationError("receipt: the proof carries no entry (no extra line)")
    note = parse_note(proof.checkpoint)
    return UntrustedReceipt(
        proof=proof,
        note=note,
        checkpoint=parse_checkpoint(note.text),
        entry=parse_entry(proof.extra),
        entry_bytes=proof.extra,
    )


def sealed_by(note: UntrustedNote, *, trust: Trust) -> tuple[VerifiedHost, LogKeys]:
    """Whose keys a checkpoint says it is signed by, among all that its host ever had: nothing is verified.

    Returns:
        The host record, the present one where none matches; and the keys of the log under it.

    Raises:
        MalformedError: The text is no checkpoint.
        VerificationError: There is no record of its host.
    """
    origin = parse_checkpoint(note.text).origin
    records = trust.records(parse_origin(origin).host_id)
    if not records:
        host_id = parse_origin(origin).host_id
        raise VerificationError(f"checkpoint: no host record for host {host_id}{trust.why_none(host_id)}")
    lines = {line.key_id for line in note.signatures if line.name == origin}
    candidates = [(host, _log_keys(origin, host.release_spki, host.ak_spki)) for host in records]
    return next((found for found in candidates if found[1].attestation.key_id in lines), candidates[0])


def verify_receipt(receipt: UntrustedReceipt, *, trust: Trust) -> VerifiedReceipt:
    """Verifies a receipt offline.

    1. The checkpoint's signature lines verify against a record of its host: the present one or, by the key id, an
       earlier one. Who lets something run also requires that it is the present one.
    2. The entry's bytes are the leaf at the proof's index, and say so themselves (`seq`).
    3. The host was enrolled with these keys at the entry's time, and is not revoked.
    For a `decision.allow` also:
    4. Batch rule: its leaf lies in the batch of this checkpoint, and the batch was sealed for release.
    5. The quote's selection and composite are an approval of the platform policy version that the entry names, and
       no window of that version had closed on it at the entry's time.
    6. It names a version of `mesh.json`, in force or earlier, that had not ended at the entry's time; and by the keys of that
        version as many witnesses cosigned the checkpoint, before it ended, as the entry says must, which is as many as that version
        and the platform policy ask for, or more. Who lets something run also requires that it is the version in force.

    A cosignature by one of those keys that is wrong, or there twice, does not verify, whether it is needed or not. An entry
    that is no `decision.allow` needs none: which of the witnesses in force cosigned it is told all the same.

    It does not check that the decision's artifact verifies, nor that the command ran, nor that cosignatures are not of the
    future: the caller does.

    Raises:
        MalformedError: The checkpoint or the quote line does not parse.
        GovernanceBehindError: All holds as far as it can be seen by this governance, which is older than what the entry names: the
            platform policy or `mesh.json` that it names is not here. A host may name what never was; governance that was issued
            after the entry shows it.
        VerificationError: One of the above does not hold.
    """
    entry, entry_bytes = receipt.entry, receipt.entry_bytes
    host, keys = sealed_by(receipt.note, trust=trust)  # 1
    at = keys.verify(receipt.note)
    leaf = leaf_hash(entry_bytes)
    verify_inclusion(  # 2
        leaf=leaf,
        index=receipt.proof.index,
        size=at.checkpoint.size,
        proof=receipt.proof.proof,
        root=at.checkpoint.root,
    )
    if entry.seq != receipt.proof.index:
        raise VerificationError(
            f"receipt: the entry says seq {entry.seq}, its index is {receipt.proof.index}"
        )
    if not host.not_before <= parse_time(entry.time) < host.not_after:  # 3
        raise VerificationError(f"receipt: at {entry.time} host {at.host} was not enrolled with these keys")
    if at.host in trust.revocations.hosts:
        raise VerificationError(f"receipt: host {at.host} is revoked")
    released = entry.type is EntryType.DECISION_ALLOW
    mesh = _decided_by(entry, trust) if released else trust.mesh  # 6
    witnesses = cosigned_by(receipt.note, mesh)
    return VerifiedReceipt(
        entry=entry,
        entry_bytes=entry_bytes,
        leaf=leaf.hex(),
        at=at,
        host=host,
        approval=_require_released(entry, at, trust, mesh, cosigned=len(witnesses)) if released else None,
        mesh=mesh,
        witnesses=witnesses,
    )


def strip_receipt(receipt: UntrustedReceipt, verified: VerifiedReceipt) -> bytes:
    """The receipt with no other signature lines than those that verified and count: nothing is left in it that anybody could add.

    Args:
        receipt: The receipt.
        verified: What `verify_receipt` made of it.
    """
    host, origin = verified.host, verified.at.checkpoint.origin
    keys = _log_keys(origin, host.release_spki, host.ak_spki)
    believed = {(origin, keys.attestation.key_id), *counting_lines(receipt.note, verified.mesh)}
    if verified.at.released:  # otherwise nobody looked at it
        believed.add((origin, keys.release.key_id))
    lines = (line for line in receipt.note.signatures if (line.name, line.key_id) in believed)
    return format_proof(replace(receipt.proof, checkpoint=format_note(receipt.note.text, lines)))


def join_receipts(kept: UntrustedReceipt, more: UntrustedReceipt, *, mesh: MeshTrust) -> bytes | None:
    """What is to be kept of two receipts of one leaf, so that none of who vouched for it is lost.

    Only cosignatures that count now are weighed: since the first was kept, keys may have been revoked, and versions of `mesh.json`
    may have ended.

    Of one checkpoint: the first, with the lines that the second has beside, of one key the earlier; lines that count no more are left
    out. Of two: the second, if the witnesses of the first cosigned its checkpoint as well, and either more did, or each as early and
    one earlier; or if only the second has as many as the entry says must.

    Args:
        kept: The first.
        more: The second; in both nothing is left that did not verify and count when it was brought (`strip_receipt`).
        mesh: The version whose witnesses were counted in the second.

    Returns:
        The receipt; None: it is the first, for the second adds nothing, or there is no room for that in a note.
    """
    if more.checkpoint.origin != kept.checkpoint.origin:
        return None  # Entries do not name their log: another host can seal the same bytes, and nothing of it is this one's.
    had, has = _counting(kept, mesh), _counting(more, mesh)
    if more.note.text != kept.note.text:
        if not _is_better(_witnesses(had), _witnesses(has), asked=_asked(more.entry)):
            return None
        joined, lines = more, list(more.note.signatures)
    else:
        # The end of a version, which only moves earlier, ends later lines first.
        better = {key for key, time in has.items() if key not in had or time < had[key]}
        if not better:
            return None
        joined, origin = kept, kept.checkpoint.origin
        stays = [line for line in kept.note.signatures if line.name == origin or _key(line) in had]
        lines = [line for line in stays if _key(line) not in better]
        lines += [line for line in more.note.signatures if _key(line) in better]
    try:
        return format_proof(replace(joined.proof, checkpoint=format_note(joined.note.text, lines)))
    except UsageError:
        return None


def _key(line: NoteSignature) -> Line:
    return line.name, line.key_id


def _counting(receipt: UntrustedReceipt, mesh: MeshTrust) -> Mapping[Line, int]:
    """The lines that count now: none, where one that verified once does so no more, and the receipt with it."""
    try:
        return counting_lines(receipt.note, mesh)
    except VerificationError:
        return {}


def _witnesses(lines: Mapping[Line, int]) -> dict[str, int]:
    """The witnesses by name, and when each cosigned first."""
    first: dict[str, int] = {}
    for (name, _), time in lines.items():
        first[name] = min(first.get(name, time), time)
    return first


def _is_better(had: Mapping[str, int], has: Mapping[str, int], *, asked: int) -> bool:
    if len(had) < asked <= len(has) or had.keys() < has.keys():
        return True
    return had.keys() == has.keys() and has != had and all(has[name] <= had[name] for name in had)


def _asked(entry: Entry) -> int:
    """How many witnesses an entry says must have cosigned it: one that releases nothing, none."""
    return _integer(entry.body.get("witness_quorum")) if entry.type is EntryType.DECISION_ALLOW else 0


def _decided_by(entry: Entry, trust: Trust) -> MeshTrust:
    """The version of `mesh.json` that a decision names; that there was none, if it names none."""
    named = entry.body.get("mesh", _ABSENT)
    if named is not None and not isinstance(named, dict):
        raise VerificationError(
            "receipt: the decision does not say by which version of mesh.json it was made"
        )
    try:
        mesh = trust.before_mesh() if named is None else trust.mesh_version(_integer(named.get("version")))
    except VerificationError as error:
        raise _not_here(str(error), entry, trust) from error
    if named is not None and named.get("digest") != mesh.digest:
        raise VerificationError(
            f"receipt: version {mesh.version} of mesh.json: expected SHA-256 {mesh.digest}, the decision names another one"
        )
    if mesh.until is not None and not mesh.counts_at(parse_time(entry.time)):
        raise VerificationError(
            f"receipt: decided at {entry.time} {mesh.words}, which counts for what was decided before"
            f" {format_time(mesh.until)}: expected a later version"
        )
    return mesh


def _require_released(
    entry: Entry, at: VerifiedCheckpoint, trust: Trust, mesh: MeshTrust, *, cosigned: int
) -> Approval:
    batch = at.checkpoint.batch
    if not batch.first <= entry.seq < at.checkpoint.size or not at.released:  # 4
        raise VerificationError(
            f"receipt: leaf {entry.seq} is not in a batch sealed for release: the checkpoint's batch is"
            f" [{batch.first}, {at.checkpoint.size}), mode {batch.mode.value}"
        )
    named = entry.body.get("platform")
    witnesses = _integer(entry.body.get("witness_quorum"))
    if not isinstance(named, dict) or witnesses < 0:
        raise VerificationError("receipt: the decision names no platform policy or no witness quorum")
    policy = trust.platform_version(str(named.get("name")), _integer(named.get("version")))
    if policy is None or policy.digest != named.get("digest"):
        problem = (
            f"receipt: platform policy {named.get('name')!r} version {named.get('version')!r} with digest"
            f" {named.get('digest')!r} is not in the trust directory"
        )
        raise VerificationError(problem) if policy else _not_here(problem, entry, trust)
    if at.selections != (policy.selection,):  # 5
        raise VerificationError("receipt: the quote is over other PCRs than the platform policy approves")
    approval = policy.approval_for(at.pcr_digest, epoch=0, at=parse_time(entry.time))
    if approval is None:
        raise VerificationError(
            f"receipt: the quoted platform state was no approved one of the policy it names at {entry.time}"
        )
    least = max(policy.witness_quorum, mesh.witness_quorum)
    if witnesses < least:  # 6
        raise VerificationError(
            f"receipt: expected a witness quorum of {least} or more, {mesh.words} and platform policy {policy.name!r}, the"
            f" decision says {witnesses}"
        )
    if cosigned < witnesses:
        ended = "" if mesh.until is None else f" before it ended at {format_time(mesh.until)}"
        raise VerificationError(
            f"receipt: {counted(witnesses, 'witness')} must have cosigned its checkpoint, {cosigned} of"
            f" {len(mesh.witness_names)} in {f'version {mesh.version} of ' * bool(mesh.version)}mesh.json have{ended}"
        )
    return approval


def _not_here(problem: str, entry: Entry, trust: Trust) -> VerificationError:
    """Governance here may be older than the entry. One that was issued after it would have what the entry names, if it was published."""
    governance = entry.body.get("governance")
    named = _integer(governance.get("version")) if isinstance(governance, dict) else -1
    is_older = trust.issued is None or trust.issued < parse_time(entry.time) + _CLOCKS
    if named > trust.version and is_older:
        return GovernanceBehindError(problem, here=trust.version, named=named)
    return VerificationError(problem)


def _integer(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


@lru_cache(maxsize=1024)
def _log_keys(origin: str, release_spki: bytes, ak_spki: bytes) -> LogKeys:
    """Loading a key costs as much as verifying with it."""
    return LogKeys(origin, release_spki, ak_spki)
