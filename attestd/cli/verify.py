"""`attestd verify`: offline, with nothing but files."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from attestd.appraisal.document import MAX_QUOTE_BYTES, VerifiedQuoteDocument, parse_quote, verify_document
from attestd.appraisal.quote import appraise_quote
from attestd.appraisal.result import MAX_RESULT_BYTES, read_claims, record_of, verify_result
from attestd.audit.offline import verify_stored
from attestd.authorization.artifact import MAX_ARTIFACT_BYTES, parse_artifact
from attestd.cli.artifact_view import chain_facts, validity_text
from attestd.cli.base import NounGroup, json_option, read_input, trust_option
from attestd.cli.entry_view import entry_facts
from attestd.cli.given_trust import named_trust, report
from attestd.cli.log_view import log_json, show_log, with_progress
from attestd.cli.output import BAD, GOOD, Output, mark, text
from attestd.cli.params import FILE, HEX
from attestd.cli.result_view import result_facts, result_json
from attestd.errors import VerificationError
from attestd.gate.standing import verify_standing
from attestd.governance.mesh import MeshTrust
from attestd.governance.trust import Trust
from attestd.lineage.receipt import VerifiedReceipt, parse_receipt, verify_receipt
from attestd.plain import counted
from attestd.strict import format_time, parse_time
from attestd.tlog.proof import MAX_PROOF_BYTES

__all__ = ["verify_artifact_file", "verify_command"]


@click.group(
    "verify",
    cls=NounGroup,
    example="""
attestd verify receipt run.tlog-proof --trust trust/
attestd verify log log.db --trust trust/
""",
)
def verify_command() -> None:
    """Verify evidence offline, with nothing but files.

    Needs no TPM, no agent and no state: only a trust directory, or what governance publishes (a copy of it, from
    anywhere) and the root of trust: --trust web --root 1.root.json. Whoever gives a copy cannot change it, but chooses how old it is:
    what was revoked since is not in it. Of which version it is, and until when it holds, is said. Nothing is written, so no newer one
    is remembered from one call to the next: name the oldest that will do with --min-version, each time.

    Exit status: 0 verifies; 1 does not verify; 65 malformed.
    """


def verify_artifact_file(file: Path, trust: Trust, output: Output) -> int:
    """`verify artifact`, and `authorization verify`."""
    artifact = parse_artifact(read_input(file, max_bytes=MAX_ARTIFACT_BYTES))

    def verify() -> dict[str, Any]:
        verified, rule = verify_standing(artifact, trust=trust)
        validity = verified.statement.predicate.validity
        if not output.as_json:
            output.line(mark(True), text(" the signatures verify, and are those of who may sign this", GOOD))
            output.facts(
                [
                    ("id", verified.id),
                    ("signed by", [f"key {key_id}" for key_id in verified.signers[0]]),
                    (
                        "rule",
                        f"{rule.name!r}: {rule.threshold} of {counted(len(rule.keys), 'key')} must sign",
                    ),
                    (
                        "for",
                        f"{verified.statement.subject[0].name} as uid {verified.statement.predicate.scope.uid}",
                    ),
                    ("valid", validity_text(validity, datetime.now(UTC))),
                ]
            )
            if len(verified.links) > 1:
                output.title("Where it comes from")
                output.facts(chain_facts(artifact, verified.signers))
        return {
            "id": verified.id,
            "signed_by": list(verified.signers[0]),
            "chain": [
                {
                    "id": link.id,
                    "signed_by": list(signed),
                    "delegate_to": list(link.statement.predicate.lineage.delegate_to),
                    "max_depth": link.statement.predicate.lineage.max_depth,
                }
                for link, signed in zip(verified.links, verified.signers, strict=True)
            ],
            "rule": rule.name,
            "threshold": rule.threshold,
            "not_before": validity.not_before,
            "not_after": validity.not_after,
        }

    return report(output, "the artifact", verify, trust=trust)


@verify_command.command("artifact", example="attestd verify artifact id.auth.json --trust trust/")
@trust_option
@json_option
@click.argument("file", type=FILE)
def artifact_command(
    *, trust: Path, root: Path | None, min_version: int | None, as_json: bool, file: Path
) -> int:
    """Verify who signed an authorization, and that they may.

    Whether it is valid at this moment is shown, but decides nothing here.
    """
    return verify_artifact_file(file, named_trust(trust, root, min_version), Output(as_json=as_json))


@verify_command.command("receipt", example="attestd verify receipt run.tlog-proof --trust trust/")
@trust_option
@json_option
@click.argument("file", type=FILE)
def receipt_command(
    *, trust: Path, root: Path | None, min_version: int | None, as_json: bool, file: Path
) -> int:
    """Verify a receipt: what was sealed, where, in which state.

    Of a decision.allow it proves "sealed for release"; that the command ran is proved by the receipt of its
    execution.start: the runner counted the verifiers that it names as well, and starts nothing otherwise.
    """
    receipt = parse_receipt(read_input(file, max_bytes=MAX_PROOF_BYTES))
    known = named_trust(trust, root, min_version)
    output = Output(as_json=as_json)

    def verify() -> dict[str, Any]:
        verified = verify_receipt(receipt, trust=known)
        if not output.as_json:
            _show_receipt(output, verified)
        host = verified.host
        return {
            "id": verified.leaf,
            "seq": verified.entry.seq,
            "type": verified.entry.type.value,
            "time": verified.entry.time,
            "host": verified.at.host,
            "log": verified.at.log_id,
            "tier": host.tier,
            "userspace": host.userspace,
            "released": verified.approval is not None,
            "checkpoint_size": verified.at.checkpoint.size,
            "witnesses": _seen(verified),
            "verifiers": verified.entry.body.get("verifiers") or [],
            "body": verified.entry.body,
        }

    return report(output, "the receipt", verify, trust=known)


def _show_receipt(output: Output, verified: VerifiedReceipt) -> None:
    host, at = verified.host, verified.at
    meaning = (
        "sealed for release, in an approved state" if verified.approval is not None else "sealed in this log"
    )
    output.line(mark(True), text(f" the receipt verifies: {verified.entry.type.value}, {meaning}", GOOD))
    output.facts(entry_facts(verified.entry, verified.leaf))
    output.facts(
        [
            ("host", f"{host.host} (tier {host.tier}, user space {host.userspace})"),
            (
                "log",
                f"{at.log_id}, checkpoint of {counted(at.checkpoint.size, 'entry')}, mode {at.checkpoint.batch.mode.value}",
            ),
            ("TPM clock", f"{at.clock.clock} ms, reset {at.clock.reset_count}"),
            ("PCRs", f"{', '.join(map(str, at.selections))} = {at.pcr_digest.hex()}"),
            *([("mesh.json", _version(verified.mesh))] if verified.approval is not None else []),
            *(("cosigned", f"by {name}, {time}") for name, time in _seen(verified).items()),
        ]
    )


def _version(mesh: MeshTrust) -> str:
    if not mesh.version:
        return "none then"
    ended = "in force" if mesh.until is None else f"for what was sealed before {format_time(mesh.until)}"
    return f"version {mesh.version}, {ended}"


def _seen(verified: VerifiedReceipt) -> dict[str, str]:
    return {name: format_time(datetime.fromtimestamp(time, UTC)) for name, time in verified.witnesses.items()}


@verify_command.command(
    "quote",
    example="""
attestd quote --challenge 00112233 -o host.quote.json
attestd verify quote host.quote.json --trust trust/ --challenge 00112233
""",
)
@trust_option
@click.option(
    "--challenge", type=HEX, help="What the quote must be over: without it, nothing shows that it is fresh."
)
@json_option
@click.argument("file", type=FILE)
def quote_command(
    *,
    trust: Path,
    root: Path | None,
    min_version: int | None,
    challenge: bytes | None,
    as_json: bool,
    file: Path,
) -> int:
    """Verify a quote: which TPM, which challenge, which PCRs.

    Whether these are an approved state is shown, but decides nothing here.
    """
    document = parse_quote(read_input(file, max_bytes=MAX_QUOTE_BYTES))
    known = named_trust(trust, root, min_version)
    output = Output(as_json=as_json)

    def verify() -> dict[str, Any]:
        verified = verify_document(document, trust=known, challenge=challenge)
        states = _states(verified, known)
        if not output.as_json:
            _show_quote(output, verified, states, fresh=challenge is not None)
        return {
            "host": verified.host.host,
            "tier": verified.host.tier,
            "challenge": verified.challenge.hex(),
            "challenge_given": challenge is not None,
            "pcr_digest": verified.quote.pcr_digest.hex(),
            "pcrs": {
                verified.selection.bank: {str(index): value.hex() for index, value in verified.values.items()}
            },
            "approved_by": {name: not findings for name, findings in states.items()},
            "reset_count": verified.quote.clock.reset_count,
            "restart_count": verified.quote.clock.restart_count,
            "clock_ms": verified.quote.clock.clock,
        }

    return report(output, "the quote", verify, trust=known)


def _states(verified: VerifiedQuoteDocument, trust: Trust) -> dict[str, tuple[str, ...]]:
    """For each platform policy over these PCRs, what differs from it: nothing if the state is approved."""
    return {
        name: appraise_quote(
            verified.quote,
            policy=policy,
            reference=policy.reference(),
            values=verified.values,
            epoch=trust.revocations.epoch,
            at=datetime.now(UTC),
        ).findings
        for name, policy in trust.platforms.items()
        if policy.selection == verified.selection
    }


def _show_quote(
    output: Output, verified: VerifiedQuoteDocument, states: dict[str, tuple[str, ...]], *, fresh: bool
) -> None:
    output.line(mark(True), text(" the quote verifies", GOOD))
    clock = verified.quote.clock
    output.facts(
        [
            ("host", f"{verified.host.host} (tier {verified.host.tier})"),
            (
                "challenge",
                f"{verified.challenge.hex()}{'' if fresh else ' (as the file says: not shown to be fresh)'}",
            ),
            ("TPM clock", f"{clock.clock} ms, reset {clock.reset_count}, restart {clock.restart_count}"),
            *((f"PCR {index}", value.hex()) for index, value in verified.values.items()),
            *(
                (f"platform {name}", text("; ".join(findings), BAD) if findings else text("approved", GOOD))
                for name, findings in states.items()
            ),
        ]
    )


@verify_command.command(
    "result",
    example="""
attestd verify result result.jwt --trust trust/
attestd verify result result.jwt --trust trust/ --json
""",
)
@trust_option
@click.option("--at", "time", metavar="TIME", help="When it is to hold, RFC 3339, UTC; now, if not given.")
@click.option(
    "--mesh",
    type=click.IntRange(min=1),
    metavar="VERSION",
    help="By which version of mesh.json: the one that its log entry names; the one in force, if not given.",
)
@json_option
@click.argument("file", type=FILE)
def result_command(
    *,
    trust: Path,
    root: Path | None,
    min_version: int | None,
    time: str | None,
    mesh: int | None,
    as_json: bool,
    file: Path,
) -> int:
    """Verify an attestation result: whose it is, of which host.

    It holds if one of the verifiers in the trust directory's mesh.json signed it, for a host as it is enrolled there, or was before it had other keys, and it
    is not over, or was not at the time that is given: the log keeps results, `attestd audit show --json` has them, and says by
    which version of mesh.json each was believed. Whether the verifier affirms the host is shown, but decides nothing here.
    """
    token = read_input(file, max_bytes=MAX_RESULT_BYTES).strip().decode("ascii", "replace")
    claims = read_claims(token)
    known = named_trust(trust, root, min_version)
    at = datetime.now(UTC) if time is None else parse_time(time)
    output = Output(as_json=as_json)

    def verify() -> dict[str, Any]:
        records = known.records(claims.host)
        if not records:
            raise VerificationError(f"host {claims.host} is not enrolled{known.why_none(claims.host)}")
        host = record_of(claims, records) or records[0]
        if not host.not_before <= at < host.not_after:
            raise VerificationError(
                f"host {claims.host} was enrolled with these keys from {format_time(host.not_before)} to"
                f" {format_time(host.not_after)}, and it is {format_time(at)}"
            )
        if claims.host in known.revocations.hosts:
            raise VerificationError(f"host {claims.host} is revoked")
        believed = known.mesh if mesh is None else known.mesh_version(mesh)
        verify_result(token, mesh=believed, host=host, nonce=None, now=at)
        if not output.as_json:
            output.line(mark(True), text(" the attestation result verifies", GOOD))
            output.facts(result_facts(claims))
        return result_json(claims)

    return report(output, "the attestation result", verify, trust=known)


@verify_command.command("log", example="attestd verify log log.db --trust trust/")
@trust_option
@json_option
@click.argument("path", type=click.Path(exists=True, path_type=Path))
def log_command(*, trust: Path, root: Path | None, min_version: int | None, as_json: bool, path: Path) -> int:
    """Verify a whole audit log: signatures, hashes, order, results.

    PATH is a log.db, or a directory that audit export wrote. Attestation results are verified by the keys of the version of mesh.json
    that their entries name, and the host record of then; what DIR has not is counted as not checked, and what a revoked
    key signed, or counts no more, as not counted: neither makes the log wrong. That a log is the newest cannot be seen in it: `attestd audit
    verify` compares it with the TPM.
    """
    known = named_trust(trust, root, min_version)
    output = Output(as_json=as_json)

    def verify() -> dict[str, Any]:
        found = with_progress(
            lambda processes, progress: verify_stored(
                path, trust=known, processes=processes, progress=progress
            )
        )
        if not output.as_json:
            show_log(output, found)
        return log_json(found)

    return report(output, "the log", verify, trust=known)
