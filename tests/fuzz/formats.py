"""Targets: the pure formats, from JSON to receipts."""

import contextlib
import json
from base64 import b64encode
from dataclasses import replace

from attestd.appraisal.document import parse_quote, verify_document
from attestd.audit.verify import _verify_entries
from attestd.authorization.artifact import ChainBrokenError, parse_artifact, verify_chain
from attestd.authorization.chain import format_file
from attestd.authorization.containment import widenings
from attestd.authorization.dsse import (
    PAYLOAD_TYPE,
    EnvelopeSignature,
    PublicKey,
    UntrustedEnvelope,
    format_envelope,
    pae,
    parse_envelope,
    write_envelope,
)
from attestd.authorization.pattern import ArgPattern, contains, describe, matches
from attestd.authorization.statement import parse_statement
from attestd.codes import Denied
from attestd.errors import MalformedError, RollbackError, UsageError, VerificationError
from attestd.gate.decide import decide
from attestd.gate.script import parse_shebang
from attestd.governance.authorities import parse_authorities
from attestd.governance.host import HOST_RECORD_TYPE, parse_host_record
from attestd.governance.platform import parse_platform_policy
from attestd.lineage.entry import MAX_ENTRY_BYTES, EntryType, format_entry, parse_entry
from attestd.lineage.receipt import parse_receipt, verify_receipt
from attestd.strict import (
    canonical,
    convert,
    decode_base64,
    format_time,
    format_time_us,
    parse_canonical,
    parse_json,
    parse_time,
)
from attestd.tlog.checkpoint import BatchMode, parse_checkpoint, parse_origin, parse_tree_head
from attestd.tlog.note import format_note, parse_note
from attestd.tlog.proof import format_proof, parse_proof
from attestd.tlog.tiles import format_bundle, parse_bundle
from attestd.tlog.vkey import format_vkey, parse_vkey
from attestd.tlog.witness import (
    AddCheckpoint,
    format_add_checkpoint,
    format_cosignatures,
    parse_add_checkpoint,
    parse_cosignatures,
)
from tests.fuzz import valid
from tests.fuzz.target import recanonical, target, value_of
from tests.fuzz.valid import FILES, GRANTED, NOTE, TRUST, WORLD
from tests.world import BOOT, NOW, Log, b64, dsse, parse_files, signer

LIMIT = 256 * 1024


@target(
    MalformedError,
    seeds=lambda: [GRANTED.artifact, b'{"a":[1,null,true,"\\u00e9\\ud83d\\ude00"]}'],
    is_json=True,
)
def parsed_json(data: bytes) -> None:
    value = parse_json(data, max_bytes=LIMIT, what="input")
    assert parse_json(canonical(value), max_bytes=8 * LIMIT, what="canonical") == value


@target(
    MalformedError, seeds=lambda: [valid.STATEMENT, b'{"\xc3\xa9":{"\xf0\x9f\x98\x80":-1}}'], is_json=True
)
def canonical_json(data: bytes) -> None:
    value = parse_canonical(recanonical(data), dict[str, object], max_bytes=LIMIT, what="input")
    assert canonical(value) == recanonical(data)


@target(MalformedError, seeds=lambda: [b"AAEC", b"AA==", b"+/8="])
def base64(data: bytes) -> None:
    decode_base64(data.decode("utf-8", "replace"), what="input")


@target(MalformedError, seeds=lambda: [b"2026-01-31T12:00:00Z", b"2024-02-29T23:59:59.999999Z"])
def time(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    assert text in (format_time(parse_time(text)), format_time_us(parse_time(text)))


@target(
    MalformedError, seeds=lambda: [GRANTED.artifact, *valid.vectors("*/vectors/*.auth.json")], is_json=True
)
def envelope(data: bytes) -> None:
    parsed = parse_envelope(data, payload_type=PAYLOAD_TYPE)
    assert parse_envelope(format_envelope(parsed), payload_type=PAYLOAD_TYPE) == parsed


@target(
    MalformedError, seeds=lambda: [GRANTED.artifact, *valid.vectors("*/vectors/*.auth.json")], is_json=True
)
def artifact(data: bytes) -> None:
    parse_artifact(data)


@target(
    MalformedError,
    seeds=lambda: [valid.STATEMENT, *valid.vectors("authorization/vectors/deploy.json")],
    is_json=True,
)
def statement(data: bytes) -> None:
    assert canonical(parse_statement(recanonical(data))) == recanonical(data)


@target(Denied, seeds=lambda: [valid.STATEMENT], is_json=True)
def signed_statement(data: bytes) -> None:
    """Whatever an authority signs is decided by the agent, and by the runner with a receipt that names it."""
    signed = dsse(recanonical(data), WORLD.authors)
    decision = decide(replace(WORLD.request(), artifact=signed), valid.CONTEXT)
    body = format_entry(
        type_=decision.entry_type, time=format_time_us(NOW), seq=0, boot=BOOT, body=dict(decision.body)
    )
    assert len(body) <= MAX_ENTRY_BYTES
    named = {**GRANTED.body, **{name: decision.body[name] for name in ("artifact",) if name in decision.body}}
    _release(_receipt(canonical({**value_of(valid.ENTRIES[-1]), "body": named, "seq": 1})), signed)


@target(MalformedError, seeds=lambda: [valid.CHILD, valid.CHAIN], is_json=True, max_bytes=LIMIT)
def chain(data: bytes) -> None:
    """A chain that parses is written as it was read, and decided."""
    parsed = parse_artifact(data)
    again = format_file([link.envelope for link in parsed.links], parsed.keys)
    assert parse_artifact(again).links == parsed.links
    with contextlib.suppress(ChainBrokenError):
        verify_chain(parsed)
    decide(replace(WORLD.request(), artifact=data), valid.CONTEXT)


@target(Denied, seeds=lambda: [valid.DELEGATED], is_json=True)
def delegated_statement(data: bytes) -> None:
    """Whatever a delegate signs under what an authority signed: only what that allows is ever allowed."""
    key, sig = signer(valid.TEAM)(pae(PAYLOAD_TYPE, recanonical(data)))
    link = UntrustedEnvelope(PAYLOAD_TYPE, recanonical(data), (EnvelopeSignature(key.key_id, sig),))
    parent = parse_artifact(valid.PARENT)
    artifact = canonical(
        {
            "v": 1,
            "chain": [write_envelope(parent.envelope), write_envelope(link)],
            "keys": {key.key_id: b64(key.spki_der)},
        }
    )
    decision = decide(replace(WORLD.request(), artifact=artifact), valid.CONTEXT)
    if decision.denial is None:
        assert decide(replace(WORLD.request(), artifact=valid.PARENT), valid.CONTEXT).denial is None
        assert not widenings(parent.statement, parse_artifact(artifact).statement)
    own = ("artifact", "attribution", "origin", "terms")
    named = {**GRANTED.body, **{name: decision.body[name] for name in own if name in decision.body}}
    _release(_receipt(canonical({**value_of(valid.ENTRIES[-1]), "body": named, "seq": 1})), artifact)


@target(Denied, MalformedError, seeds=lambda: [valid.ENTRIES[-1]], is_json=True)
def sealed_entry(data: bytes) -> None:
    """Whatever a broken agent seals: a receipt with all signatures right."""
    value = value_of(data)
    entry = canonical({**value, "seq": 1}) if isinstance(value, dict) else data or b"{}"
    _release(_receipt(entry), GRANTED.artifact)


def _receipt(entry: bytes) -> bytes:
    log = Log(WORLD.host)
    log.append({}, type_=EntryType.LOG_START, time=NOW, boot=BOOT)
    log.seal(mode=BatchMode.RECORD, pcr_digest=WORLD.pcr_digest)
    seq = log.append_raw(entry)
    return log.receipt(seq, log.seal(mode=BatchMode.RELEASE, pcr_digest=WORLD.pcr_digest))


def _release(receipt: bytes, signed: bytes) -> None:
    WORLD.release(GRANTED, receipt=receipt, artifact=signed, trust=TRUST)


@target(
    MalformedError,
    seeds=lambda: [
        b'["a","a","a"]',
        b'[{"one_of":["a","b"]},"a","b"]',
        b'[{"prefix":"/srv/","charset":"path","max":20},{"prefix":"/srv/1","charset":"digits","max":2},"/srv/12"]',
        b'[{"int":[-10,300]},{"prefix":"1","charset":"digits","max":1},"11"]',
    ],
    is_json=True,
)
def pattern(data: bytes) -> None:
    parsed = parse_json(data, max_bytes=LIMIT, what="patterns")
    parent, child, value = convert(parsed, tuple[ArgPattern, ArgPattern, str], what="patterns")
    assert describe(parent)
    if contains(parent, child) and matches(child, value):
        assert matches(parent, value)


@target(MalformedError, seeds=lambda: [valid.SPKI, valid.ED25519])
def public_key(data: bytes) -> None:
    assert len(PublicKey(data).key_id) == 64


@target(
    MalformedError,
    seeds=lambda: [b"-----BEGIN PUBLIC KEY-----\n%s\n-----END PUBLIC KEY-----\n" % _b64(valid.SPKI)],
)
def public_key_pem(data: bytes) -> None:
    PublicKey.from_pem(data)


def _b64(data: bytes) -> bytes:
    from base64 import b64encode

    return b64encode(data)


@target(
    MalformedError,
    seeds=lambda: [FILES["authorities.json"], *valid.vectors("*/vectors/trust/authorities.json")],
    is_json=True,
)
def authorities(data: bytes) -> None:
    found = parse_authorities(recanonical(data))
    assert found.release_policy
    assert found.epoch_name


@target(MalformedError, VerificationError, seeds=lambda: [FILES["platform/local.json"]], is_json=True)
def platform_policy(data: bytes) -> None:
    parse_platform_policy(recanonical(data), authorities=TRUST.authorities, revoked_keys=frozenset())


@target(
    MalformedError, VerificationError, seeds=lambda: [canonical(WORLD.records[WORLD.host.id])], is_json=True
)
def host_record(data: bytes) -> None:
    signed = dsse(recanonical(data), WORLD.enrollers, payload_type=HOST_RECORD_TYPE)
    parse_host_record(signed, authorities=TRUST.authorities, revoked_keys=frozenset())


@target(
    MalformedError,
    VerificationError,
    seeds=lambda: [
        canonical({name: data.decode() for name, data in FILES.items()}),
        canonical(WORLD.revocations),
    ],
    is_json=True,
)
def trust_files(data: bytes) -> None:
    """A directory as a JSON object; what is no text in it stands for revocations."""
    value = value_of(data)
    files = dict(FILES)
    if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        files = {name: recanonical(text.encode("utf-8", "surrogatepass")) for name, text in value.items()}
    else:
        files["revocations.json"] = recanonical(data)
    parse_files(files)


@target(
    MalformedError,
    seeds=lambda: [NOTE, *[parse_proof(data).checkpoint for data in valid.vectors("*/vectors/*.tlog-proof")]],
)
def note(data: bytes) -> None:
    parsed = parse_note(data)
    assert format_note(parsed.text, parsed.signatures) == data


@target(MalformedError, seeds=lambda: valid.VKEYS)
def vkey(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    assert format_vkey(parse_vkey(text)) == text


@target(MalformedError, seeds=lambda: [valid.TEXT])
def checkpoint(data: bytes) -> None:
    parsed = parse_checkpoint(data)
    assert parsed.text() == data
    assert parse_origin(parsed.origin)


@target(
    MalformedError,
    seeds=lambda: [valid.TEXT, b"example.com/log\n0\n" + valid.TEXT.split(b"\n")[2] + b"\nmore\n"],
)
def tree_head(data: bytes) -> None:
    head = parse_tree_head(data)
    assert (
        "\n".join([head.origin, str(head.size), b64encode(head.root).decode(), *head.extensions, ""]).encode()
        == data
    )


@target(
    MalformedError,
    seeds=lambda: [
        b"old 0\n\n" + NOTE,
        format_add_checkpoint(AddCheckpoint(2**62, (bytes(32), b"\xff" * 32), NOTE)),
    ],
)
def add_checkpoint(data: bytes) -> None:
    assert format_add_checkpoint(parse_add_checkpoint(data)) == data


@target(MalformedError, seeds=lambda: [NOTE.rpartition(b"\n\n")[2]])
def cosignatures(data: bytes) -> None:
    assert format_cosignatures(parse_cosignatures(data)) == data


@target(MalformedError, seeds=lambda: [GRANTED.receipt, valid.RECORDED], max_bytes=LIMIT)
def proof(data: bytes) -> None:
    assert format_proof(parse_proof(data)) == data


@target(MalformedError, VerificationError, seeds=lambda: [GRANTED.receipt, valid.RECORDED], max_bytes=LIMIT)
def receipt(data: bytes) -> None:
    verified = verify_receipt(parse_receipt(data), trust=TRUST)
    assert verified.entry_bytes in valid.ENTRIES


@target(
    MalformedError,
    seeds=lambda: [*valid.ENTRIES, *valid.vectors("governance/vectors/decision.*.json")],
    is_json=True,
)
def entry(data: bytes) -> None:
    assert canonical(parse_entry(recanonical(data))) == recanonical(data)


@target(RollbackError, seeds=lambda: valid.ENTRIES, is_json=True)
def stored_entry(data: bytes) -> None:
    """The verifier of whole logs reads entries in its own, faster way: of canonical JSON it accepts no more."""
    value = value_of(data)
    seq = value.get("seq") if isinstance(value, dict) else 0
    found = recanonical(data)
    _verify_entries([found], max(seq, 0) if isinstance(seq, int) else 0, "")
    with contextlib.suppress(MalformedError):
        parse_canonical(found, dict[str, object], max_bytes=LIMIT, what="entry")
        assert _is_entry(found)


def _is_entry(data: bytes) -> bool:
    try:
        return bool(parse_entry(data))
    except MalformedError:
        return False


@target(MalformedError, seeds=lambda: [format_bundle(valid.ENTRIES), format_bundle([b""] * 256)])
def entry_bundle(data: bytes) -> None:
    assert format_bundle(parse_bundle(data)) == data


@target(MalformedError, VerificationError, seeds=lambda: [valid.quote_document()], is_json=True)
def quote_document(data: bytes) -> None:
    found = verify_document(parse_quote(data), trust=TRUST, challenge=None)
    assert found.values == WORLD.values
    assert found.challenge == valid.CHALLENGE


@target(
    MalformedError,
    seeds=lambda: [b"#!/bin/sh -e\n", b"#!/usr/bin/env python3\nx", b"#! /usr/bin/perl\t-w\n", b"\x7fELF"],
)
def shebang(data: bytes) -> None:
    found = parse_shebang(data[:256])
    if found is not None:
        assert found.interpreter.startswith("/")
        assert len(found.argv) <= 2


@target(UsageError, MalformedError, seeds=lambda: [valid.WORLD.log.origin.encode()])
def origin(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    assert "attestd/{}/{}".format(*parse_origin(text)) == text
    json.dumps(text)
