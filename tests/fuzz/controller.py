"""Targets: what a controller is sent, and the files that it keeps."""

import json
import logging
from pathlib import Path

from attestd.controller.configuration import load_controller_configuration
from attestd.controller.http.limits import peer_of
from attestd.controller.http.operation import Body
from attestd.controller.http.problem import Problem, format_problem
from attestd.controller.witness.anchor import _read
from attestd.controller.witness.keys import create_keys, load_cosigners
from attestd.controller.witness.logs import KnownLogs, load_log_list
from attestd.controller.witness.role import Witness
from attestd.errors import MalformedError, UsageError
from attestd.strict import Strict, canonical
from tests.controller.logs import Log
from tests.fuzz.target import target
from tests.fuzz.valid import NOTE, TRUST, WORLD

LOG = Log()
LOG.grow(9)
ROLE = Witness(
    logs=KnownLogs({LOG.name: (LOG.key,)}, trust=lambda: TRUST, now=lambda: WORLD.now),
    cosigners=(),
    batches=None,  # type: ignore[arg-type]  # not asked: only what is verified before
    store=None,  # type: ignore[arg-type]
    anchors=Path("anchors"),
    log=logging.getLogger("none"),
)


@target(Problem, seeds=lambda: [LOG.request(0, 5), LOG.request(5, 9), b"old 0\n\n" + NOTE])
def witness_request(data: bytes) -> None:
    """What is accepted was signed by the log, over just this size and root; of the host that is named."""
    submission = ROLE._verify(data)
    head = submission.head
    assert (head.origin, submission.host) in ((LOG.name, ""), (WORLD.log.origin, WORLD.host.id))
    assert head.origin != LOG.name or head.root == LOG.root(head.size)


class Shape(Strict, frozen=True):
    """Some body."""

    name: str
    numbers: list[int]


@target(Problem, seeds=lambda: [b'{"name":"x","numbers":[1]}'], is_json=True)
def controller_body(data: bytes) -> None:
    """A problem is always one that can be written."""
    found: list[Problem] = []
    try:
        Body(65_536, b"", Shape).parse(data)
    except Problem as problem:
        found.append(problem)
    for problem in found:
        assert json.loads(format_problem(problem.status, problem.detail, correlation_id="0" * 16))
        raise problem


@target(UsageError, seeds=lambda: [b'roles = ["witness"]\nlisten = "127.0.0.1:1"\nburst = 7\n'])
def controller_configuration(data: bytes) -> None:
    path = Path("controller.toml")
    path.write_bytes(data)
    assert load_controller_configuration(path, {}).connections_per_peer >= 1


@target(UsageError, seeds=lambda: [f"# logs\n{LOG.vkey}\n{LOG.vkey} another origin\n".encode()])
def witness_log_list(data: bytes) -> None:
    path = Path("logs")
    path.write_bytes(data)
    assert all(keys for keys in load_log_list(path).values())


@target(
    MalformedError, seeds=lambda: [canonical({"v": 1, "anchor": "a" * 32, "generation": 7})], is_json=True
)
def witness_anchor(data: bytes) -> None:
    path = Path(f"{'a' * 32}.json")
    path.write_bytes(data)
    assert _read(path) >= 0


def _keys() -> list[bytes]:
    path = Path("seed.json")
    path.unlink(missing_ok=True)
    create_keys(path, "w/1")
    return [path.read_bytes()]


@target(MalformedError, UsageError, seeds=_keys, is_json=True)
def witness_keys(data: bytes) -> None:
    path = Path("witness.json")
    path.write_bytes(data)
    path.chmod(0o600)
    assert load_cosigners(path, "w/1", mldsa=False)


@target(seeds=lambda: [b"192.0.2.1", b"2001:db8::1", b"fe80::1%eth0", b"::ffff:192.0.2.1"])
def peer_address(data: bytes) -> None:
    assert isinstance(peer_of(data.decode("utf-8", "replace")), str)
