"""At the limits of size: bounded time and memory for what is large, deep, wide or repetitive."""

import contextlib
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.table import TARGETS
from tests.fuzz.target import Target
from tests.fuzz.valid import GRANTED, NOTE, STATEMENT
from tests.tcg.eventlog.build import log
from tests.tcg.ima.build import entry
from tests.world import b64

MAX_S = 3.0  # of CPU; under 1 s on a quiet machine, but cores are shared where tests run
MAX_FACTOR = (
    80  # of an empty list in Python to the three bytes that are one in JSON: 64 and its place in another
)
KEEP = 4 << 20

LIMITS = {
    "parsed-json": 256 * 1024,
    "artifact": 256 * 1024,
    "statement": 256 * 1024,
    # A quarter of what is allowed: the targets bring it into canonical form first, which costs as much again.
    "authorities": 1 << 18,
    "platform-policy": 1 << 18,
    "entry": 65_535,
    "quote-document": 64 * 1024,
    "agent-answer": 2 << 20,
    "agent-operation": 1 << 20,
    "client-explanation": 2 << 20,
    "runner-answers": 128 * 1024,
    "note": 64 * 1024,
    "tree-head": 64 * 1024,
    "witness-request": 64 * 1024,
    "witness-log-list": 64 * 1024,
    "controller-body": 64 * 1024,
    "controller-configuration": 64 * 1024,
    "add-checkpoint": 64 * 1024,
    "cosignatures": 64 * 1024,
    "proof": 256 * 1024,
    "receipt": 256 * 1024,
    "checkpoint": 64 * 1024,
    "vkey": 64 * 1024,
    "wire-fields": 2 << 20,
    "client-request": 2 << 20,
    "runner-request": 2 << 20,
    "client-options": 1 << 20,
    "entry-bundle": 1 << 20,
    "configuration": 64 * 1024,
    "keys-file": 64 * 1024,
    "private-key": 64 * 1024,
    "public-key": 64 * 1024,
    "tpm-public": 64 * 1024,
    "tpm-attest": 64 * 1024,
    "pattern": 64 * 1024,
    "pcr-text": 64 * 1024,
    "base64": 256 * 1024,
    "shebang": 64 * 1024,
    "event-log": 4 << 20,
    # The target replays it ten times over.
    "measurement-list": 1 << 17,
    "ima-ascii": 1 << 20,
    "ima-policy": 1 << 16,
    "boot-rules": 1 << 16,
    "certificate-as-shipped": 64 * 1024,
    "ek-chain": 64 * 1024,
    "ek-public": 64 * 1024,
    "mesh-file": 256 * 1024,
    "evidence": 1 << 18,
    "evidence-challenge": 4096,
    "boot-logs": 1 << 18,
    "host-state": 1 << 18,
    "attestation-result": 32 * 1024,
    "ek-index": 256 * 1024,
    "ek-roots-file": 1 << 20,
    "enrolment-request": 128 * 1024,
    "enrolment-activation": 256 * 1024,
    "enroller-answers": 256 * 1024,
}


def _filled(start: bytes, middle: bytes, end: bytes) -> Callable[[int], bytes]:
    return lambda size: start + middle * ((size - len(start) - len(end)) // len(middle)) + end


def _element(content: bytes) -> bytes:
    """A DER SEQUENCE, as far as two octets of length go."""
    return b"\x30\x82" + min(len(content), 0xFFFF).to_bytes(2, "big") + content


SHAPES: dict[str, Callable[[int], bytes]] = {
    "nothing": lambda _: b"",
    "zeros": bytes,
    "ones": lambda size: b"\xff" * size,
    "deep lists": lambda size: b"[" * size,
    "deep objects": _filled(b"", b'{"a":', b""),
    "deep, closed": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "empty lists": _filled(b"[", b"[],", b"0]"),
    "empty objects": _filled(b"[", b"{},", b"0]"),
    "members": lambda size: b"{" + b",".join(b'"%06x":0' % number for number in range(size // 12)) + b"}",
    "one member again and again": _filled(b"{", b'"a":0,', b'"a":0}'),
    "digits": _filled(b"", b"9", b""),
    "escapes": _filled(b'"', b"\\u0041", b'"'),
    "surrogates": _filled(b'"', b"\\ud800", b'"'),
    "text": _filled(b'"', b"a", b'"'),
    "emoji": _filled(b'"', "\U0001f600".encode(), b'"'),
    "bidi marks": _filled(b'"', "\u202e".encode(), b'"'),
    "lines": _filled(b"", b"\n", b""),
    "spaces": _filled(b"", b" ", b""),
    "signature lines": _filled(NOTE, "— a AAAAAAAA\n".encode(), b""),
    "proof hashes": _filled(
        b"c2sp.org/tlog-proof@v1\nindex 0\n", b64(bytes(32)).encode() + b"\n", b"\n" + NOTE
    ),
    "a receipt and more": _filled(GRANTED.receipt, b"x", b""),
    "a payload": lambda size: (
        b'{"payload":"%s","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":""}]}'
        % (b64(b"[" + b"[]," * ((size - 200) // 4) + b"0]").encode())
    ),
    "a statement with many arguments": lambda size: STATEMENT.replace(
        b'"argv":[', b'"argv":[' + b'"",' * (size // 4)
    ),
    "a statement with many choices": lambda size: STATEMENT.replace(
        b'"argv":[', b'"argv":[' + b'{"one_of":["a"]},' * (size // 20)
    ),
    "dots": _filled(b"a", b".a", b"=1"),
    "tables": _filled(b"", b"[a.b]\n", b""),
    "commas": _filled(b"sha256:0", b",1", b""),
    "base64": _filled(b"", b"AAAA", b""),
    "options": _filled(b"", b"--json\0", b"x"),
    "events of nothing": _filled(log(), struct.pack("<IIII", 1, 4, 0, 0), b""),
    "certificates of nothing": _filled(
        b"", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", b""
    ),
    "a certificate of empty elements": lambda size: _element(_element(b"\x30\0" * ((size - 8) // 2))),
    "a name of empty parts": lambda size: _element(
        _element(b"\x30\0" * 3 + _element(b"\x31\0" * ((size - 32) // 2)))
    ),
    "entries of nothing": _filled(b"", entry(b"", b"a") + entry(b"", b"b"), b""),
}


@pytest.fixture(autouse=True)
def directory(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets write where they stand."""
    monkeypatch.chdir(short_dir)


@pytest.mark.parametrize("name", LIMITS)
def test_time_and_memory(name: str) -> None:
    target = TARGETS[name]
    with contextlib.suppress(*target.allowed):
        target.run(next(iter(target.seeds())))  # what is made once, and kept
    for shape, make in SHAPES.items():
        largest = make(LIMITS[name] - 64)
        tracemalloc.start()
        took_s = run(target, largest)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < KEEP + MAX_FACTOR * len(largest), f"{shape}: {peak >> 20} MiB for {len(largest)} bytes"
        if took_s >= MAX_S:  # watched, it takes three times as long
            took_s = run(target, largest)
        took_s = max(took_s, run(target, make(LIMITS[name] + 1)))
        assert took_s < MAX_S, f"{shape}: {took_s:.2f} s"


def run(target: Target, data: bytes) -> float:
    """How long the processor took."""
    started = time.thread_time()
    with contextlib.suppress(*target.allowed):
        target.run(data)
    return time.thread_time() - started
