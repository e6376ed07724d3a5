"""Writes what docs/formats shows as worked examples; run `python -m tests.docs.make_examples`.

Blocks between `<!-- example: NAME -->` and `<!-- /example -->` in the pages, and the files in docs/formats/examples.
Everything comes from `tests.world` (fixed keys, deterministic signatures) through the code that the product runs, so a
page cannot say other than the code does. A test compares; if you changed a format or a sentence on purpose, run this.
"""

import hashlib
import json
import re
import string
from base64 import b64decode
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from attestd.agent.denials import DenialMeter
from attestd.agent.epoch import Moved
from attestd.agent.mesh import result_body
from attestd.appraisal.boot import appraise_boot
from attestd.appraisal.boot_rules import parse_boot_rules
from attestd.appraisal.document import UntrustedQuoteDocument
from attestd.appraisal.ima import appraise_ima, parse_ima_policy
from attestd.audit.recover import void_body
from attestd.authorization import envnames
from attestd.authorization.artifact import parse_artifact, verify_chain
from attestd.authorization.dsse import PAYLOAD_TYPE, pae
from attestd.authorization.pattern import CHARSETS, ArgForm, ArgPattern, matches
from attestd.codes import Denied
from attestd.errors import MalformedError
from attestd.gate.concealment import derive_salt, salted_digest
from attestd.gate.execution import Execution, File
from attestd.gate.policy import policy_request, require_verdict
from attestd.governance import cedar, metadata, policy_text, signed
from attestd.governance.floor import seen_body
from attestd.governance.policy_file import parse_policy_file
from attestd.governance.policy_schema import SCHEMA
from attestd.lineage.entry import EntryType, format_entry
from attestd.lineage.receipt import parse_receipt, verify_receipt
from attestd.strict import canonical, convert, format_time, format_time_us
from attestd.tcg import nv, policy, public
from attestd.tcg.attest import QuoteInfo, parse_attest
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.eventlog.diff import diff_events
from attestd.tcg.eventlog.meaning import read_events
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tcg.eventlog.quirks import QUIRKS, Quirk
from attestd.tcg.eventlog.replay import VerifiedEvents, verify_events
from attestd.tcg.eventlog.userspace import with_phases
from attestd.tcg.ima.replay import replay_list
from attestd.tcg.public import parse_public
from attestd.tcg.quote import split_quote
from attestd.tlog.tree import leaf_hash, node_hash
from attestd.tlog.vkey import ecdsa_vkey, format_vkey, tpm_quote_vkey
from attestd.tpm.keys import _STORAGE_TEMPLATE
from attestd.where import SYSTEM_SOCKET
from attestd.wire import Kind, encode_fields, encode_frame
from tests.appraisal.test_result import Issued
from tests.chains import delegate_key, under
from tests.docs import enrolment_examples, evidence_examples
from tests.governance.make_vectors import ENTITIES, POLICY, golden_world
from tests.tcg.eventlog.build import BOOTS, RECORDED
from tests.tcg.ima.build import data as template_data
from tests.tcg.ima.build import ima_list
from tests.world import SELECTION, Granted, World, b64, digest, key_id, spki

FORMATS = Path(__file__).parents[2] / "docs" / "formats"
EXAMPLES = FORMATS / "examples"
BLOCK = re.compile(r"(<!-- example: ([a-z0-9-]+) -->\n).*?(<!-- /example -->)", re.DOTALL)


# --- the world of the examples -------------------------------------------------------------------------------------


@lru_cache
def world() -> World:
    found = World("docs")
    found.add_team("payments", paths=["/opt/payments/"], uids=[1001, 1002], max_depth=1)
    found.revocations |= {"epoch": 1, "bump": found.bump(1)}
    return found


def patterns() -> list[ArgPattern]:
    """One argument of each form."""
    forms = [
        {"one_of": ["prod", "stage"]},
        {"prefix": "/srv/plans/", "charset": "name", "max": 40},
        {"int": [1, 10]},
    ]
    env, plan, count = (convert(form, ArgForm, what="example") for form in forms)
    return ["deploy", "--env", env, plan, count]


def execution(**changes: Any) -> Execution:
    usual: dict[str, Any] = {
        "argv": ("deploy", "--env", "prod", "/srv/plans/42.json", "3"),
        "env": {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "TZ": "UTC"},
        "inputs": (File("/srv/plans/42.json", digest(b"plan 42")),),
    }
    return world().execution(**{**usual, **changes})


@lru_cache
def granted() -> Granted:
    """The artifact, decided and sealed."""
    return world().grant(
        execution(),
        argv=patterns(),
        env_pass=("LANG",),
        env_set={"PATH": "/usr/bin:/bin", "TZ": "UTC"},
        metadata={"change": "CHG-123"},
        requested_by="dana@example.org",
    )


@lru_cache
def trust_files() -> Mapping[str, bytes]:
    return world().files()


# --- authorization.md ----------------------------------------------------------------------------------------------


def charsets() -> str:
    rows = "".join(f"| `{name}` | `{_class(members)}` |\n" for name, members in CHARSETS.items())
    return f"| class | characters |\n|---|---|\n{rows}"


def _class(members: frozenset[str]) -> str:
    """Runs of letters and digits, then what is neither."""
    runs = (
        (string.digits, "0-9"),
        (string.ascii_lowercase, "a-z"),
        (string.ascii_uppercase, "A-Z"),
        ("abcdef", "a-f"),
    )
    found, left = [], set(members)
    for run, shown in runs:
        if left.issuperset(run):
            found.append(shown)
            left -= set(run)
    return " ".join([*found, *sorted(left)])


def env_names() -> str:
    def names(values: Any) -> str:
        return ", ".join(f"`{name}`" for name in sorted(values))

    return (
        f"- **Never, by prefix**: {names(f'{name}*' for name in envnames._NEVER_PREFIXES)}\n"
        f"- **Never, by name**: {names(envnames._NEVER)}\n"
        f"- **In `set` only**: {names(f'{name}*' for name in envnames._FIXED_ONLY_PREFIXES)},"
        f" {names(envnames._FIXED_ONLY)}\n"
        f"- **In `set`, although a prefix above names them**: {names(envnames._HARMLESS)}\n"
    )


def matching() -> str:
    cases: list[tuple[ArgPattern, str]] = [
        ("prod", "prod"),
        ("prod", "prod "),
        (patterns()[2], "stage"),
        (patterns()[2], "test"),
        (patterns()[3], "/srv/plans/42.json"),
        (patterns()[3], "/srv/plans/"),
        (patterns()[3], "/srv/plans/a/b"),
        (patterns()[3], "/srv/plans/.."),
        (convert({"prefix": "", "charset": "name", "max": 8}, ArgForm, what="example"), "-rf"),
        (patterns()[4], "10"),
        (patterns()[4], "11"),
        (patterns()[4], "03"),
        (patterns()[4], "+3"),
    ]
    rows = "".join(
        f"| `{canonical(pattern).decode()}` | `{json.dumps(value)}` | {'yes' if matches(pattern, value) else 'no'} |\n"
        for pattern, value in cases
    )
    return f"| pattern | argument | matches |\n|---|---|---|\n{rows}"


def statement() -> str:
    return _json(parse_artifact(granted().artifact).statement)


def envelope() -> str:
    artifact = parse_artifact(granted().artifact)
    message = pae(PAYLOAD_TYPE, artifact.envelope.payload)
    (signature,) = artifact.envelope.signatures
    file = json.loads(granted().artifact)
    return _text(
        f"id             {artifact.id}",
        f"payload        {len(artifact.envelope.payload)} bytes",
        f"signed (PAE)   {message[:72]!r}...",
        f"keyid          {signature.key_id}",
        f"sig            {b64(signature.sig)}",
        f"file           {len(granted().artifact)} bytes, SHA-256 {digest(granted().artifact)}",
        f"members        {', '.join(sorted(file))}",
    )


def chain() -> str:
    parent = world().artifact(
        execution(), argv=patterns(), env_pass=("LANG",), env_set={"PATH": "/usr/bin:/bin", "TZ": "UTC"},
        delegate_to=[key_id(delegate_key("docs team"))], max_depth=1,
    )  # fmt: skip

    def narrow(statement: dict[str, Any]) -> None:
        statement["predicate"]["scope"]["argv"][2:4] = ["stage", "/srv/plans/42.json"]

    child = under(parent, delegate_key("docs team"), edit=narrow)
    artifact = parse_artifact(child)
    verify_chain(artifact)
    wider = under(
        parent, delegate_key("docs team"), edit=lambda value: value["predicate"]["scope"].update(cwd="/")
    )
    return _text(
        f"members          {', '.join(json.loads(child))}",
        f"link 1           {artifact.links[0].id}",
        f"  delegate_to    {artifact.links[0].statement.predicate.lineage.delegate_to[0]}",
        f"link 2, the id   {artifact.id}",
        f"  parent         {artifact.statement.predicate.lineage.parent}",
        f"  keyid          {artifact.envelope.signatures[0].key_id}",
        f"  argv           {canonical(artifact.statement.predicate.scope.argv).decode()}",
        f"file             {len(child)} bytes, SHA-256 {digest(child)}",
        f'with "cwd": "/"  {parse_artifact(wider).fault}',
    )


# --- checkpoint.md, receipt.md -------------------------------------------------------------------------------------


def _note() -> Any:
    return parse_receipt(granted().receipt).note


def checkpoint() -> str:
    return _text(_note().text.decode().rstrip("\n"))


def note() -> str:
    return _text(parse_receipt(granted().receipt).proof.checkpoint.decode().rstrip("\n"))


def note_keys() -> str:
    host, origin = world().host, world().log.origin
    release, quote = ecdsa_vkey(origin, spki(host.release_key)), tpm_quote_vkey(origin, spki(host.ak))
    spki_release, spki_ak = spki(host.release_key).hex(), spki(host.ak).hex()
    hashed = f"{origin}\n".encode() + b"\xffattestd.tpm2-quote.v1" + spki(host.ak)
    return _text(
        f"release SPKI   {spki_release}",
        f"        key id SHA-256(SPKI)[:4] = {release.key_id.hex()}",
        f"        vkey   {format_vkey(release)}",
        f"AK SPKI        {spki_ak}",
        f'        key id SHA-256(name ‖ 0a ‖ ff ‖ "attestd.tpm2-quote.v1" ‖ SPKI)[:4] = {hashlib.sha256(hashed).hexdigest()[:8]}',
        f"        vkey   {format_vkey(quote)}",
    )


def _quote() -> tuple[QuoteInfo, bytes]:
    """The quote line's quote, and the line's payload."""
    origin = world().log.origin
    payload = _note().signature(origin, tpm_quote_vkey(origin, spki(world().host.ak)).key_id)
    body = parse_attest(split_quote(payload)[0]).body
    if not isinstance(body, QuoteInfo):
        raise TypeError(body)
    return body, payload


def quote_line() -> str:
    info, payload = _quote()
    body, signature = split_quote(payload)
    parsed = parse_attest(body)
    bound = extra_data(Purpose.CHECKPOINT, host_id=world().host.id, data=_note().text)
    return _text(
        f"payload        {len(payload)} bytes",
        f"TPM2B_ATTEST   {payload[:2].hex()} (size), then",
        f"  magic, type  {body[:4].hex()} {body[4:6].hex()}  (TPM_GENERATED_VALUE, TPM_ST_ATTEST_QUOTE)",
        f"  extraData    {parsed.extra_data.hex()}",
        f"  clock        {parsed.clock.clock} ms, reset count {parsed.clock.reset_count}, restart count "
        f"{parsed.clock.restart_count}, safe {int(parsed.clock.safe)}",
        f"  selection    {info.selections[0]}",
        f"  pcrDigest    {info.pcr_digest.hex()}",
        f"TPMT_SIGNATURE {signature.hex()}",
        "",
        'expected extraData = SHA-256("attestd/checkpoint/v1" ‖ 00 ‖ host-id ‖ 00 ‖ note text)',
        f"                   = {bound.hex()}",
    )


def receipt() -> str:
    lines = granted().receipt.decode().split("\n")
    return _text(*(_cut(line) for line in lines[:-1]))


def receipt_steps() -> str:
    parsed = parse_receipt(granted().receipt)
    verified = verify_receipt(parsed, trust=world().trust())
    leaf = leaf_hash(parsed.entry_bytes)
    (sibling,) = parsed.proof.proof
    if verified.approval is None:
        raise TypeError("an allow has an approval")
    return _text(
        f"entry          {len(parsed.entry_bytes)} bytes (extra, decoded)",
        f"leaf           SHA-256(00 ‖ entry)           = {leaf.hex()}",
        f"sibling        leaf 0                         = {sibling.hex()}",
        f"root           SHA-256(01 ‖ leaf 0 ‖ leaf 1) = {node_hash(sibling, leaf).hex()}",
        f"               in the checkpoint             = {parsed.checkpoint.root.hex()}",
        f"batch          leaves [{parsed.checkpoint.batch.first}, {parsed.checkpoint.size}), mode {parsed.checkpoint.batch.mode}",
        f"host           {world().host.id}",
        f"quoted PCRs    {_quote()[0].pcr_digest.hex()}",
        f"approved PCRs  {verified.approval.pcr_digest.hex()}  (platform policy 'local' version 1)",
    )


# --- entry.md ------------------------------------------------------------------------------------------------------


def bodies() -> dict[EntryType, list[tuple[str, Mapping[str, Any]]]]:
    """One body of each type that this version writes; what is not here it does not write."""
    w = world()
    allow = parse_receipt(granted().receipt)
    leaf = leaf_hash(allow.entry_bytes).hex()
    stored: Any = SimpleNamespace(entry=lambda _: allow.entry_bytes)
    denied = w.decide(granted().artifact, execution=execution(cwd="/home"))
    meter = DenialMeter(lambda: 0.0)
    for code in ("scope_violation", "scope_violation", "expired"):
        meter.aggregate(w.uid, code)
    reference = {
        "artifact": granted().body["artifact"]["id"],
        "leaf": leaf,
        "log_id": w.log.log_id,
        "request": granted().body["id"],
        "seq": 1,
    }
    at, trust = format_time_us(w.now), w.trust()
    governance = seen_body(trust, anchor=digest(w.publish().root))
    start = {"at": at, "cgroup": None, "isolation": "user", "pid": 4242, "uid": w.uid}
    end = {"at": at, "duration_ms": 1730, "error": None, "signal": None, "status": 0}
    clock = {"by_uid": 0, "time": format_time(w.now), "what": "clock accepted"}
    agent = "by the agent"
    issued = Issued(bad=True)
    vouched = result_body(issued.verify(issued.token("two")))
    return {
        EntryType.LOG_START: [
            ("", {"governance": governance, "host": w.host.id, "log": w.log.log_id, "previous": None})
        ],
        EntryType.AGENT_START: [
            ("", {"epoch": 1, "governance": governance, "host": w.host.id, "notes": [], "version": "0.1.0"})
        ],
        EntryType.AGENT_STOP: [("", {"releases": 1})],
        EntryType.DECISION_ALLOW: [("", allow.entry.body)],
        EntryType.DECISION_DENY: [("", denied.body)],
        EntryType.DECISION_VOID: [
            (agent, void_body(stored, 1, reason="the client is gone: [Errno 32] Broken pipe")),
            (
                "by the runner",
                {
                    **reference,
                    "at": at,
                    "code": "identity_mismatch",
                    "reason": "the client gave no go within 10 s",
                },
            ),
        ],
        EntryType.DENIALS_AGGREGATED: [("", body) for body in meter.drain()],
        EntryType.EXECUTION_START: [("", {**reference, **start})],
        EntryType.EXECUTION_EXIT: [("", {**reference, **end})],
        EntryType.ATTESTATION: [("of a verifier", vouched), ("of the clock", clock)],
        EntryType.GOVERNANCE_UPDATE: [("", governance)],
        EntryType.REVOCATION: [("", Moved(1, 2, trust.version).body())],
        EntryType.HOST_REENROLL: [
            (
                "",
                {
                    "ak": parse_public(w.host.ak_public).name.hex(),
                    "host": w.host.id,
                    "release_key": parse_public(w.host.release_public).name.hex(),
                },
            )
        ],
    }


def body_block(type_: EntryType) -> str:
    """The bodies of a type; a decision's checks one a line."""
    shown = []
    for title, body in bodies()[type_]:
        text = json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False)
        text = re.sub(
            r"\{\s+(\"detail\": .*?),\s+(\"n\": \d+),\s+(\"name\": .*?),\s+(\"outcome\": .*?)\s+\}",
            r"{\2, \3, \4, \1}",
            text,
        )
        shown.append((f"// {title}\n" if title else "") + text)
    language = "jsonc" if any(title for title, _ in bodies()[type_]) else "json"
    return f"```{language}\n" + "\n".join(shown) + "\n```\n"


def entry() -> str:
    data = format_entry(
        type_=EntryType.LOG_START,
        time=format_time_us(world().now),
        seq=0,
        boot=world().boot,
        body=dict(bodies()[EntryType.LOG_START][0][1]),
    )
    return _text(data.decode(), "", f"{len(data)} bytes, leaf hash {leaf_hash(data).hex()}")


# --- quote.md ------------------------------------------------------------------------------------------------------


def quote_document() -> bytes:
    w, challenge = world(), bytes([0x2A]) * 16
    body, signature = w.host.quote(Purpose.QUOTE, challenge, selection=SELECTION, pcr_digest=w.pcr_digest)
    return UntrustedQuoteDocument(
        v=1,
        host=w.host.id,
        challenge=b64(challenge),
        attest=b64(body),
        signature=b64(signature),
        pcrs={"sha256": {str(index): value.hex() for index, value in w.values.items()}},
    ).to_bytes()


# --- trust.md ------------------------------------------------------------------------------------------------------


def trust_file(name: str) -> str:
    return _json(json.loads(trust_files()[name]))


def host_record() -> str:
    envelope = json.loads(trust_files()[f"hosts/{world().host.id}.json"])
    return _json(json.loads(b64decode(envelope["payload"])))


def metadata_file(name: str) -> str:
    """A metadata file; of signatures and keys no more than shows where they stand."""
    value = json.loads(world().publish().metadata[name])
    for signature in value["signatures"]:
        signature["sig"] = f"{signature['sig'][:16]}..."
    return _json(value)


def tuf_bounds() -> str:
    limits = "".join(f"| {role} | {size >> 10} KiB |\n" for role, size in signed.MAX_BYTES.items())
    return (
        f"| file | at most |\n|---|---|\n{limits}| a target | {signed.MAX_TARGET_BYTES >> 20} MiB |\n\n"
        f"At most {metadata.MAX_ROOTS:,} roots after the anchor, {metadata.MAX_ROLES} delegated roles in"
        f" {metadata.MAX_DEPTH} levels with {metadata.MAX_PATTERNS} patterns, {signed.MAX_SNAPSHOT_ROLES} roles in the"
        f" snapshot, {metadata.MAX_TARGETS:,} targets of {metadata.MAX_TOTAL_BYTES >> 20} MiB; delegated targets times patterns: {metadata.MAX_MATCHES:,}.\n"
    )


def trust_digest() -> str:
    files = {name: digest(data) for name, data in sorted(trust_files().items())}
    trust = world().trust()
    return _text(
        *(f"{value}  {name}" for name, value in files.items()),
        "",
        "digest = SHA-256(RFC 8785 of {name: SHA-256 of the file, ...})",
        f"       = {hashlib.sha256(canonical(files)).hexdigest()}",
        f"version = that of the snapshot = {trust.version}",
    )


# --- tpm.md --------------------------------------------------------------------------------------------------------


def tpm_names() -> str:
    w = world()
    rows = [
        (name, key.public_key())
        for name, key in (("root", w.root), ("platform", w.platform_key), ("epoch", w.epoch_key))
    ]
    lines = []
    for name, key in rows:
        lines += [
            f"{name:<9} public  {public.authority_public(key).hex()}",
            f"{'':<9} Name    {public.authority_name(key).hex()}",
        ]
    return _text(*lines)


def tpm_indices() -> str:
    name = public.authority_name(world().epoch_key.public_key())
    first, bump = nv.epoch_branches(name)
    return _text(
        f'epoch branch 1  PolicySigned(epoch authority, "attestd.epoch.init")      {first.hex()}',
        f'epoch branch 2  PolicyAuthorize(epoch authority, "attestd.epoch.set")    {bump.hex()}',
        f"epoch policy    PolicyOR(1, 2)                                           {policy.policy_or((first, bump)).hex()}",
        f"epoch public    {nv.epoch_public(name, written=True).hex()}",
        f"epoch Name      {nv.epoch_name(name).hex()}",
        f"counter public  {nv.counter_public(written=True).hex()}",
        f"counter Name    {nv.nv_name(nv.counter_public(written=True)).hex()}",
    )


def tpm_templates() -> str:
    release = policy.release_policy(public.authority_name(world().root.public_key()))
    return _text(
        f"attestation key  {public.attestation_key_template().hex()}",
        f"release key      {public.release_key_template(release).hex()}",
        f"storage key      {_STORAGE_TEMPLATE.hex()}",
    )


def tpm_policy() -> str:
    w = world()
    epoch, state = w.epoch_name, w.pcr_digest
    one = (1).to_bytes(8, "big")
    steps: list[tuple[str, bytes]] = []

    def step(what: str, value: bytes) -> bytes:
        steps.append((what, value))
        return value

    d = step(
        "PolicyNV(epoch ≤ 1)",
        policy.policy_nv(policy.ZERO, nv_name=epoch, operand=one, operation=policy.Eo.UNSIGNED_LE),
    )
    d = step("PolicyCommandCode(TPM2_Sign)", policy.policy_command_code(d, policy.CC_SIGN))
    d = step("PolicyAuthValue", policy.policy_auth_value(d))
    d = step(
        "PolicyPCR(state)                 = approved by the platform key",
        policy.policy_pcr(d, SELECTION, state),
    )
    if d != policy.platform_policy(epoch_name=epoch, epoch=1, selection=SELECTION, pcr_digest=state):
        raise ValueError("platform_policy")
    name = public.authority_name(w.platform_key.public_key())
    d = step(
        "PolicyAuthorize(platform key)",
        policy.policy_authorize(authority_name=name, policy_ref=policy.REF_PLATFORM),
    )
    d = step(
        "PolicyNV(epoch ≤ 1)              = approved by the root",
        policy.policy_nv(d, nv_name=epoch, operand=one, operation=policy.Eo.UNSIGNED_LE),
    )
    if d != policy.root_policy(platform_name=name, epoch_name=epoch, max_epoch=1):
        raise ValueError("root_policy")
    step(
        "PolicyAuthorize(root)            = authPolicy of the release key",
        policy.release_policy(public.authority_name(w.root.public_key())),
    )
    return _text(
        f"selection  {SELECTION}  =  {SELECTION.marshal().hex()}",
        f"pcrDigest  {state.hex()}",
        "",
        *(line for what, value in steps for line in (what, f"           {value.hex()}")),
    )


def tpm_epoch() -> str:
    w = world()
    return _text(
        f"NV_Write(2) cpHash   {policy.nv_write_cp_hash(nv_name=w.epoch_name, data=(2).to_bytes(8, 'big')).hex()}",
        f"approved for 1 → 2   {policy.epoch_set_policy(epoch_name=w.epoch_name, epoch=2).hex()}",
    )


# --- wire.md -------------------------------------------------------------------------------------------------------


def wire_kinds() -> str:
    kinds = {name: value for name, value in vars(Kind).items() if not name.startswith("_")}
    return _text(*(f"{value.decode()}  {value.hex()}  {name}" for name, value in kinds.items()))


def wire_frame() -> str:
    payload = encode_fields([b"exec", b"tty1,receipt", b"", b"", b"deploy", b"--env", b"prod"])
    frame = encode_frame(Kind.REQUEST, payload)
    rows = [frame[at : at + 16] for at in range(0, len(frame), 16)]
    lines = (f"{row.hex(' '):<48} {''.join(chr(c) if 32 <= c < 127 else '.' for c in row)}" for row in rows)
    return _text(
        *(line.rstrip() for line in lines),
        "",
        f"{len(frame)} bytes; the service's socket is {SYSTEM_SOCKET.decode()}",
    )


# --- policy.md -----------------------------------------------------------------------------------------------------


def policy_file(data: bytes, kind: str = "cedar") -> str:
    return f"```{kind}\n{data.decode().rstrip()}\n```\n"


def policy_verdicts() -> str:
    """The golden policies, asked about variations of one execution."""
    golden = golden_world()
    lines = []
    for title, changes, terms in (
        ("uid 1001 runs deploy --env prod", {}, {}),
        ("uid 1002 does", {"requester_uid": 1002}, {}),
        ("another file at /usr/bin/deploy", {"executable": File("/usr/bin/deploy", digest(b"other"))}, {}),
        ("by an artifact without max_uses, for a week", {}, {"max_uses": None, "ttl_s": 604_800}),
    ):
        request = policy_request(
            golden.execution(**changes),
            terms={**golden.decide().body["terms"], **terms},
            platform="local",
            host=golden.trust().hosts[golden.host.id],
            findings=(),
            depth=0,
            now=golden.now,
        )
        try:
            lines.append(f"{title}: {require_verdict('exec', request, policies=golden.trust().policies)}")
        except Denied as denied:
            lines.append(f"{title}: {denied.denial.code}: {denied.denial.sentence}")
    return _text(*lines)


def policy_refusals() -> str:
    lines = []
    for text in (
        'permit (principal in Group::"admins", action, resorce);',
        'permit (principal, action, resource) when { context.tier == Tier::"hardwere" };',
        "permit (principal, action, resource) when { context has artifct };",
        'forbid (principal == User::"root", action, resource);',
        "forbid (principal, action, resource) when { context.artifact.max_uses > 3 };",
        'permit (principal in Group::"\u0430dmins", action, resource);',
    ):
        try:
            parse_policy_file(text.encode(), name="exec", what="policy/exec.cedar")
        except MalformedError as error:
            lines += [text if text.isascii() else f"{text}   (the first letter is Cyrillic)", f"  {error}"]
    return _text(*lines)


def policy_bounds() -> str:
    return _text(
        f"bytes of a file            {policy_text.MAX_POLICY_BYTES}",
        f"bytes of a scope's files   {cedar.MAX_TOTAL_BYTES}",
        f"policies of a file         {policy_text.MAX_POLICIES}",
        f"nesting of brackets        {policy_text.MAX_BRACKETS}",
        f"operators of a policy      {policy_text.MAX_OPERATORS}",
        f"characters of a string     {policy_text.MAX_STRING}",
        f"bytes of a context         {cedar.MAX_CONTEXT_BYTES}",
    )


# --- denial-codes.md -----------------------------------------------------------------------------------------------


def denial() -> str:
    found = world().decide(
        granted().artifact, execution=execution(argv=("deploy", "--env", "test", "/srv/plans/42.json", "3"))
    )
    if found.denial is None:
        raise ValueError("expected a denial")
    return _text(
        f"attestd: denied: {found.denial.code}: {found.denial.sentence}",
        f"attestd: hint: {found.denial.hint}",
        f"(exit {found.denial.exit_status})",
    )


def salted() -> str:
    key, request = bytes(range(32)), granted().body["id"]
    salt = derive_salt(key, request)
    return _text(
        f"key          {key.hex()}",
        f"request id   {request}",
        f"salt         {salt.hex()}",
        "hashed       salt ‖ 'attestd.secret.v1' ‖ 0x00 ‖ 'argv[2]' ‖ 0x00 ‖ 'hunter2'",
        f'argv[2]      {{"salted":"{salted_digest(salt, "argv[2]", "hunter2")}"}}',
    )


# --- eventlog.md ---------------------------------------------------------------------------------------------------


MACHINE, CHANGED = "uki-sb", "uki-sb-cmdline2"
KNOWN = "sha256:" + digest(b"the allowed file")


@lru_cache
def boot(name: str) -> tuple[VerifiedEvents, str]:
    """A recorded boot of tests/tcg/data, as its TPM's values prove it, and its command line."""
    data, banks = RECORDED[name]
    log = with_phases(parse_event_log(data), ("sysinit", "ready"))
    values = {pcr: value for pcr, value in banks["sha256"].items() if pcr not in {10, 15, 16, *range(17, 24)}}
    line = (BOOTS / name / "cmdline").read_text().strip()
    return verify_events(log, bank="sha256", values=values), line


def eventlog_quirks() -> str:
    rows = (f"| `{quirk.value}` | {QUIRKS[quirk]} |" for quirk in Quirk)
    return "| quirk | what, and where |\n|---|---|\n" + "\n".join(rows) + "\n"


def eventlog_words() -> str:
    (before, first), (after, second) = boot(MACHINE), boot(CHANGED)
    old, new = (
        read_events(found.events, bank="sha256", command_lines=(first, second)) for found in (before, after)
    )
    return _text(
        *(str(item) for item in new if item.event.number in {4, 9, 14, 24, 30, 33, 34}),
        "",
        *map(str, diff_events(old, new)),
    )


def _boot_rules() -> dict[str, Any]:
    verified, line = boot(MACHINE)
    digests = {item.number: item.digests["sha256"].hex() for item in verified.events}
    certificate = "1a4c098bb8fc1438aa9b7388b21c00058bf587179bb9eb55ceb1d7d4ec874f31"
    return {
        "v": 1,
        "bank": "sha256",
        "secure_boot": "required",
        "separators": "required",
        "certificates": [certificate],
        "images": [digests[24]],
        "command_lines": [line],
        "sections": {".linux": [digests[26]], ".osrel": [digests[28]], ".cmdline": [digests[30]]},
        "digests": {"2": [], "9": []},
    }


def boot_findings() -> str:
    rules = parse_boot_rules(canonical(_boot_rules()))
    if appraise_boot(boot(MACHINE)[0], rules=rules).findings:
        raise ValueError("the rules are of this boot")
    found = appraise_boot(boot(CHANGED)[0], rules=rules)
    return _text(*map(str, found.findings))


def _ima_policy() -> dict[str, Any]:
    return {
        "v": 1,
        "digests": {"/usr/bin/deploy": [KNOWN]},
        "patterns": [{"path": "/usr/lib/modules/**", "digests": [], "keys": ["vendor"]}],
        "exclude": ["/var/log/*"],
        "keys": {"vendor": b64(spki(world().platform_key))},
        "violations": "exclude",
    }


def ima_findings() -> str:
    policy = parse_ima_policy(canonical(_ima_policy()))
    names = (b"/usr/bin/deploy", b"/var/log/deploy", b"/usr/lib/modules/6.1/x.ko", b"/tmp/evil")
    list_ = ima_list(*(template_data(name, b"another file") for name in names))
    found = appraise_ima(replay_list(list_, bank="sha256"), policy=policy, aggregates=None)
    return _text(*map(str, found.findings))


# --- pages ---------------------------------------------------------------------------------------------------------


def blocks() -> dict[str, str]:
    """Every block by name."""
    named = {
        "charsets": charsets,
        "env-names": env_names,
        "matching": matching,
        "statement": statement,
        "envelope": envelope,
        "chain": chain,
        "checkpoint": checkpoint,
        "note": note,
        "note-keys": note_keys,
        "quote-line": quote_line,
        "receipt": receipt,
        "receipt-steps": receipt_steps,
        "entry": entry,
        "authorities": lambda: trust_file("authorities.json"),
        "revocations": lambda: trust_file("revocations.json"),
        "platform": lambda: trust_file("platform/local.json"),
        "host-record": host_record,
        "team": lambda: trust_file("teams/payments/authorities.json"),
        "tuf-bounds": tuf_bounds,
        "tuf-versions": lambda: _json(world().trust().versions.to_json()),
        "tuf-root": lambda: metadata_file("1.root.json"),
        "tuf-targets": lambda: metadata_file("1.targets.json"),
        "tuf-snapshot": lambda: metadata_file("1.snapshot.json"),
        "tuf-timestamp": lambda: metadata_file("timestamp.json"),
        "trust-digest": trust_digest,
        "tpm-names": tpm_names,
        "tpm-indices": tpm_indices,
        "tpm-templates": tpm_templates,
        "tpm-policy": tpm_policy,
        "tpm-epoch": tpm_epoch,
        "policy-schema": lambda: policy_file(SCHEMA),
        "policy-example": lambda: policy_file(POLICY),
        "policy-entities": lambda: policy_file(ENTITIES, "json"),
        "policy-verdicts": policy_verdicts,
        "policy-refusals": policy_refusals,
        "policy-bounds": policy_bounds,
        "wire-kinds": wire_kinds,
        "wire-frame": wire_frame,
        "denial": denial,
        "salted": salted,
        "quote-document": lambda: _json(json.loads(quote_document())),
        "eventlog-quirks": eventlog_quirks,
        "eventlog-words": eventlog_words,
        "boot-rules": lambda: _json(_boot_rules()),
        "boot-findings": boot_findings,
        "ima-policy": lambda: _json(_ima_policy()),
        "ima-findings": ima_findings,
    }
    found = (
        {name: make() for name, make in named.items()}
        | enrolment_examples.blocks()
        | evidence_examples.blocks()
    )
    return found | {f"body-{type_.value.replace('.', '-')}": body_block(type_) for type_ in bodies()}


def render(page: str, named: Mapping[str, str]) -> str:
    """A page with its blocks as they are now."""
    return BLOCK.sub(lambda found: f"{found[1]}{named[found[2]]}{found[3]}", page)


def files() -> dict[str, bytes]:
    """The example files: an artifact, its receipt, and the trust directory that verifies it."""
    return {
        "deploy.auth.json": granted().artifact,
        "deploy.tlog-proof": granted().receipt,
        "quote.json": quote_document(),
        **{f"trust/{name}": data for name, data in world().publish().files().items()},
    }


def _json(value: Any) -> str:
    plain = json.loads(canonical(value))
    return "```json\n" + json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n```\n"


def _text(*lines: str) -> str:
    return "```text\n" + "\n".join(lines) + "\n```\n"


def _cut(line: str) -> str:
    return line if len(line) <= 400 else f"{line[:60]}... ({len(line)} characters)"


def main() -> None:
    named = blocks()
    for page in FORMATS.glob("*.md"):
        page.write_text(render(page.read_text(encoding="utf-8"), named), encoding="utf-8")
    for name, data in files().items():
        path = EXAMPLES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
