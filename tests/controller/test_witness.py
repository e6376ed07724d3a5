"""C2SP tlog-witness against a running controller: a test for every MUST of the text, on both databases.

Source: https://c2sp.org/tlog-witness and https://c2sp.org/tlog-cosignature; the sentences are quoted where they are tested.
"""

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from attestd.tlog.cosignature import cosigner, verify_cosignature
from attestd.tlog.note import NoteSignature, format_note, parse_note
from attestd.tlog.tree import EMPTY_ROOT
from attestd.tlog.vkey import SignatureType, VerifierKey, parse_vkey
from attestd.tlog.witness import AddCheckpoint, format_add_checkpoint, parse_cosignatures
from tests.controller.logs import Log
from tests.controller.running import Answered, Controller, PostgreSQL
from tests.world import ed25519_key

PATH = "/witness/add-checkpoint"
NAMES = [f"example.com/log-{number}" for number in range(60)]


@dataclass
class Witness:
    """A controller with the role, and its keys."""

    controller: Controller
    keys: tuple[VerifierKey, ...]
    names: Iterator[str]

    def add(self, body: bytes) -> Answered:
        return self.controller.post(PATH, body)

    def log(self) -> Log:
        """A log that it knows, and has not seen yet."""
        return Log(next(self.names))


def start(state: Path, url: str, logs: str, **configuration: object) -> Controller:
    (state.parent / "logs").write_text(logs)
    return Controller(
        state, roles=["witness"], database=url, witness_name="witness.example/w1",
        witness_logs=str(state.parent / "logs"), **configuration,
    )  # fmt: skip


def keys_of(controller: Controller) -> tuple[VerifierKey, ...]:
    return tuple(
        map(parse_vkey, (controller.state / "controller" / "witness.vkeys").read_text().splitlines())
    )


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def witness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    top = tmp_path_factory.mktemp("witness")
    url = ""
    if request.param == "postgresql":
        server: PostgreSQL = request.getfixturevalue("pg")
        url = server.database()
    rotated = Log("example.com/rotated", key=ed25519_key("another key"))
    lines = [f"{Log(name).vkey}\n" for name in (*NAMES, "example.com/rotated")]
    with start(top / "state", url, "".join([*lines, f"{rotated.vkey} example.com/rotated\n"])) as controller:
        controller.init().start()
        yield Witness(controller, keys_of(controller), iter(NAMES))


def cosigned(witness: Witness, log: Log, answered: Answered, size: int) -> None:
    """The answer is the cosignatures of all keys on this checkpoint."""
    assert answered.status == 200, answered
    lines = parse_cosignatures(answered.body)
    assert [(line.name, line.key_id) for line in lines] == [(key.name, key.key_id) for key in witness.keys]
    note = parse_note(format_note(log.text(size), lines))
    for key in witness.keys:
        assert abs(verify_cosignature(note, key) - time.time()) < 60


def test_it_cosigns_what_grows(witness: Witness) -> None:
    """'If all the checks above pass, the witness MUST update its record ... and respond with a "200 Success"'."""
    log = witness.log()
    log.grow(40)
    sizes = [0, 1, 1, 2, 3, 7, 8, 8, 20, 40]
    before = 0
    for size in sizes:
        cosigned(witness, log, witness.add(log.request(before, size)), size)
        before = size


def test_cosignatures_are_of_both_kinds(witness: Witness) -> None:
    """'The signatures MUST be cosignatures from the witness key(s)'; 'Witnesses SHOULD use ML-DSA-44'; 'the timestamp
    MUST NOT be zero'; each line starts with an em dash and ends with a newline."""
    assert [key.algorithm for key in witness.keys] == [
        SignatureType.COSIGNATURE,
        SignatureType.MLDSA_COSIGNATURE,
    ]
    log = witness.log()
    log.grow(3)
    body = witness.add(log.request(0, 3)).body.decode()
    assert body.endswith("\n")
    assert all(line.startswith("— witness.example/w1 ") for line in body.splitlines())
    assert all(line.payload[:8] != bytes(8) for line in parse_cosignatures(body.encode()))


def test_only_by_post(witness: Witness) -> None:
    """'The request MUST be an HTTP POST.'"""
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        assert witness.controller.ask(method, PATH).status == 405


def test_any_media_type_will_do(witness: Witness) -> None:
    """The specification names none."""
    log = witness.log()
    log.grow(1)
    for media_type in ("text/plain", "application/octet-stream", "application/x-www-form-urlencoded"):
        answered = witness.controller.post(PATH, log.request(0, 1), {"content-type": media_type})
        assert answered.status in (200, 409)


MALFORMED = {
    "empty": b"",
    "no old": b"1\n\n%s",
    "no space": b"old1\n\n%s",
    "leading zero": b"old 01\n\n%s",
    "negative": b"old -1\n\n%s",
    "spaces": b"old  0\n\n%s",
    "carriage returns": b"old 0\r\n\r\n%s",
    "no empty line": b"old 0\n%s",
    "no checkpoint": b"old 0\n\n",
    "proof not base64": b"old 0\n!!!!\n\n%s",
    "proof not canonical": b"old 0\n" + b"A" * 42 + b"B=\n\n%s",
    "proof of another length": b"old 0\nAAAA\n\n%s",
    "64 proof lines": b"old 0\n" + (b"A" * 43 + b"=\n") * 64 + b"\n%s",
    "not a note": b"old 0\n\nexample.com/x\n1\nAAAA\n",
    "control character": b"old 0\n\n\x01%s",
    "not UTF-8": b"old 0\n\n\xff%s",
    "not a checkpoint": b"old 0\n\nexample.com/x\nfive\n\n\xe2\x80\x94 example.com/x AAAAAAA=\n",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_request_that_is_malformed(witness: Witness, what: str) -> None:
    """'The request body MUST be a sequence of ...': each part wrong in its way."""
    log = Log("example.com/log-0")
    log.grow(1)
    body = MALFORMED[what]
    witness.add(body % log.note(1) if b"%s" in body else body).problem(400)


def test_63_proof_lines_are_read(witness: Witness) -> None:
    """'The client MUST NOT send more than 63 consistency proof lines': so many it may send."""
    log = witness.log()
    log.grow(2)
    witness.add(log.request(0, 1))
    body = format_add_checkpoint(AddCheckpoint(1, (bytes(32),) * 63, log.note(2)))
    assert witness.add(body).status == 422


def test_an_oversized_request(witness: Witness) -> None:
    witness.add(b"old 0\n\n" + b"x" * 70_000).problem(413)


def test_an_unknown_origin(witness: Witness) -> None:
    """'If the checkpoint origin is unknown, the witness MUST respond with a "404 Not Found"'."""
    log = Log("example.com/unknown")
    log.grow(1)
    assert "unknown" in witness.add(log.request(0, 1)).problem(404)
    # Also one of a known key's name, with another origin.
    known = Log(NAMES[0])
    text = Log("example.com/unknown", key=known.private_key).text(0)
    body = format_add_checkpoint(AddCheckpoint(0, (), format_note(text, [known.line(text)])))
    witness.add(body).problem(404)
    long = Log("example.com/" + "x" * 300)
    witness.add(long.request(0, 0)).problem(404)


def test_no_signature_by_a_trusted_key(witness: Witness) -> None:
    """'The witness MUST respond with a "403 Forbidden" ... if ... no signature from a trusted key for the origin is
    present'."""
    log = witness.log()
    log.grow(1)
    for stranger in (
        Log(log.name, key=ed25519_key("stranger")),
        Log("example.com/other", key=log.private_key),
    ):
        text = log.text(1)
        body = format_add_checkpoint(AddCheckpoint(0, (), format_note(text, [stranger.line(text)])))
        witness.add(body).problem(403)
    assert witness.add(log.request(0, 1)).status == 200, "nothing of it was remembered"


def test_a_trusted_key_whose_signature_is_wrong(witness: Witness) -> None:
    """'... or a signature line's key name and ID match a trusted key but the signature itself fails to verify'."""
    log = witness.log()
    log.grow(2)
    wrong = NoteSignature(log.key.name, log.key.key_id, log.private_key.sign(log.text(1)))
    body = format_add_checkpoint(AddCheckpoint(0, (), format_note(log.text(2), [wrong])))
    assert "is wrong" in witness.add(body).problem(403)
    # Also beside one that is right.
    body = format_add_checkpoint(
        AddCheckpoint(0, (), format_note(log.text(2), [log.line(log.text(2)), wrong]))
    )
    witness.add(body).problem(403)


def test_signatures_from_unknown_keys_are_ignored(witness: Witness) -> None:
    """'It MUST ignore signatures from unknown keys'; 'The submitted checkpoint MAY include multiple signatures'."""
    log = witness.log()
    log.grow(1)
    others = [
        NoteSignature("example.com/other", b"abcd", b"garbage"),
        NoteSignature(log.key.name, b"\0\0\0\0", b"garbage"),
        NoteSignature("example.com/other", log.key.key_id, b"garbage"),
        *(NoteSignature(f"witness.example/{n}", b"wxyz", bytes(72)) for n in range(12)),
    ]
    cosigned(witness, log, witness.add(log.request(0, 1, *others)), 1)


def test_any_of_several_keys_of_an_origin(witness: Witness) -> None:
    """'the public key(s) it trusts for the checkpoint origin': as while a log's key is rotated."""
    log, new = Log("example.com/rotated"), Log("example.com/rotated", key=ed25519_key("another key"))
    for each in (log, new):
        each.grow(9)
    cosigned(witness, log, witness.add(log.request(0, 3)), 3)
    cosigned(witness, log, witness.add(new.request(3, 5)), 5)
    cosigned(witness, log, witness.add(log.request(5, 9, new.line(log.text(9)))), 9)


def test_an_old_size_above_the_checkpoints(witness: Witness) -> None:
    """'The old size MUST be equal to or lower than the checkpoint size. Otherwise ... "400 Bad Request"'."""
    log = witness.log()
    log.grow(8)
    witness.add(log.request(0, 8))
    body = format_add_checkpoint(AddCheckpoint(8, (), log.note(7)))
    assert "above" in witness.add(body).problem(400)


def test_an_old_size_that_is_not_the_latest(witness: Witness) -> None:
    """'If it doesn't match, the witness MUST respond with a "409 Conflict" ... The response body MUST consist of the tree
    size of the latest cosigned checkpoint in decimal, followed by a newline ... a Content-Type of text/x.tlog.size'."""
    log = witness.log()
    log.grow(30)

    def conflict(old: int, new: int, size: int) -> None:
        answered = witness.add(log.request(old, new))
        assert (answered.status, answered.body) == (409, b"%d\n" % size)
        assert answered.headers["content-type"] == "text/x.tlog.size"

    conflict(5, 9, 0)  # 'or zero if it never cosigned a checkpoint for that origin'
    assert witness.add(log.request(0, 9)).status == 200
    for old, new in ((0, 20), (8, 20), (10, 20), (0, 9), (0, 3)):
        conflict(old, new, 9)
    assert witness.add(log.request(9, 30)).status == 200
    conflict(9, 30, 30)


def test_a_client_learns_the_size_by_asking_from_zero(witness: Witness) -> None:
    """'it MAY initially make a request with a old size of zero to obtain it'."""
    log = witness.log()
    log.grow(12)
    witness.add(log.request(0, 5))
    size = int(witness.add(log.request(0, 12)).body)
    cosigned(witness, log, witness.add(log.request(size, 12)), 12)


def test_an_empty_tree(witness: Witness) -> None:
    """'A checkpoint of size zero MUST have the root hash of the empty tree ... Otherwise ... "422"'."""
    log = witness.log()
    text = log.text(0, root=bytes(32))
    body = format_add_checkpoint(AddCheckpoint(0, (), format_note(text, [log.line(text)])))
    assert EMPTY_ROOT.hex() in witness.add(body).problem(422)
    cosigned(witness, log, witness.add(log.request(0, 0)), 0)


def test_a_proof_from_nothing(witness: Witness) -> None:
    """'If the old size is zero, the consistency proof MUST be empty'; 'If the proof is not empty when the old size is zero
    ... the witness MUST respond with a "422"'."""
    log = witness.log()
    log.grow(4)
    witness.add(format_add_checkpoint(AddCheckpoint(0, (bytes(32),), log.note(4)))).problem(422)
    assert witness.add(log.request(0, 4)).status == 200


def test_a_proof_that_does_not_verify(witness: Witness) -> None:
    """'... or if a Merkle Consistency Proof doesn't verify, the witness MUST respond with a "422"'."""
    log = witness.log()
    log.grow(20)
    witness.add(log.request(0, 8))
    true = log.proof(8, 20)
    for proof in ((), true[:-1], (*true, bytes(32)), (bytes(32), *true[1:]), log.proof(8, 19), true[::-1]):
        witness.add(format_add_checkpoint(AddCheckpoint(8, proof, log.note(20)))).problem(422)
    cosigned(witness, log, witness.add(log.request(8, 20)), 20)


def test_the_same_size_with_another_root(witness: Witness) -> None:
    """'If the old size matches the checkpoint size, the witness MUST check that the root hashes are also identical. If
    they don't match ... "422"'."""
    log = witness.log()
    log.grow(8)
    witness.add(log.request(0, 8))
    fork = log.fork(7)
    witness.add(format_add_checkpoint(AddCheckpoint(8, (), fork.note(8)))).problem(422)
    witness.add(format_add_checkpoint(AddCheckpoint(8, (bytes(32),), log.note(8)))).problem(422)
    cosigned(witness, log, witness.add(log.request(8, 8)), 8)


def test_a_fork_is_never_cosigned(witness: Witness) -> None:
    """'MUST NOT cosign the checkpoint'; and the journal says whose it was."""
    log = witness.log()
    log.grow(30)
    witness.add(log.request(0, 20))
    for at in (0, 1, 10, 19):
        fork = log.fork(at)
        for old, new in ((20, 25), (20, 30), (20, 20)):
            assert witness.add(fork.request(old, new)).status == 422
    # With a proof that is true of another tree.
    fork = log.fork(19)
    witness.add(format_add_checkpoint(AddCheckpoint(20, log.proof(20, 30), fork.note(30)))).problem(422)
    witness.controller.wait_said(f"witness.inconsistent origin={log.name} size=30 root=[0-9a-f]{{64}} ")
    cosigned(witness, log, witness.add(log.request(20, 30)), 30)


def test_a_replay_rolls_nothing_back(witness: Witness) -> None:
    """The race that the text describes, as a replay: what was cosigned before something later is refused."""
    log = witness.log()
    log.grow(9)
    bodies = [log.request(0, 3), log.request(3, 6), log.request(6, 9)]
    assert [witness.add(body).status for body in bodies] == [200, 200, 200]
    assert [(found.status, found.body) for found in map(witness.add, bodies)] == [(409, b"9\n")] * 3


def test_extension_lines_are_cosigned_with_the_rest(witness: Witness) -> None:
    """'Extension lines MAY be included ... and if present MUST be included in the cosigned message' (tlog-cosignature)."""
    log = witness.log()
    log.grow(2)
    text = log.text(2, extensions="one more line\n")
    answered = witness.add(format_add_checkpoint(AddCheckpoint(0, (), format_note(text, [log.line(text)]))))
    lines = parse_cosignatures(answered.body)
    note = parse_note(format_note(text, lines))
    for key in witness.keys:
        verify_cosignature(note, key)


def test_a_checkpoint_without_room_for_cosignatures(witness: Witness) -> None:
    """It is refused alone: others that wait for the same transaction are none the worse."""
    log, other = witness.log(), witness.log()
    log.grow(2)
    other.grow(200)
    text = log.text(1, extensions="".join(f"{'x' * 60} {n}\n" for n in range(960)))
    large = format_add_checkpoint(AddCheckpoint(0, (), format_note(text, [log.line(text)])))
    found: list[int] = []
    stop = threading.Event()

    def grow() -> None:
        size = 0
        while not stop.is_set() and size < 200:
            found.append(witness.add(other.request(size, size + 1)).status)
            size += 1

    thread = threading.Thread(target=grow)
    thread.start()
    for _ in range(20):
        assert "no room" in witness.add(large).problem(400)
    stop.set()
    thread.join()
    assert set(found) == {200}
    # Sixteen signatures of one key are kept as one.
    cosigned(witness, log, witness.add(log.request(0, 2, *[log.line(log.text(2))] * 15)), 2)


def test_many_at_the_same_time(witness: Witness) -> None:
    """'checking the old size against the latest checkpoint and persisting the new checkpoint must be performed
    atomically': of requests from the same size one is cosigned, the others are told what is."""
    log = witness.log()
    log.grow(20)
    found: list[Answered] = []
    fork = log.fork(9)
    bodies = [log.request(0, size) for size in range(10, 20)] + [
        fork.request(0, size) for size in range(10, 20)
    ]
    threads = [threading.Thread(target=lambda body=body: found.append(witness.add(body))) for body in bodies]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answered.status for answered in found) == [200] + [409] * 19
    size = next(answered.body for answered in found if answered.status == 409)
    assert {answered.body for answered in found if answered.status == 409} == {size}


def test_monitors_read_what_was_cosigned(witness: Witness) -> None:
    """'the response body MUST be a checkpoint ... MUST include the cosignature(s) ... returned from add-checkpoint and the
    cosignature from the log key(s) that the witness verified'; 'never cosigned ... MUST respond with a "404"'."""
    log = witness.log()
    log.grow(9)
    path = f"/witness/{hashlib.sha256(log.name.encode()).hexdigest()}/checkpoint"
    witness.controller.get(path).problem(404)
    witness.add(log.request(5, 9))
    witness.controller.get(path).problem(404)
    for old, new in ((0, 5), (5, 9), (9, 9)):
        garbage = NoteSignature("example.com/other", b"abcd", b"garbage")
        lines = parse_cosignatures(witness.add(log.request(old, new, garbage)).body)
        answered = witness.controller.get(path)
        assert answered.status == 200
        assert parse_note(answered.body).signatures == (log.line(log.text(new)), *lines)
        assert parse_note(answered.body).text == log.text(new)
    witness.controller.get(path.replace("checkpoint", "other")).problem(404)
    for other in ("0" * 64, "0" * 63, path.split("/")[2].upper(), "..%2f..%2fetc"):
        witness.controller.get(f"/witness/{other}/checkpoint").problem(404)


def test_the_keys_can_be_compared(witness: Witness) -> None:
    found = witness.controller.get("/witness/vkeys").body.decode().splitlines()
    assert tuple(map(parse_vkey, found)) == witness.keys


def test_a_cosignature_of_ours_that_stands_on_it_already(witness: Witness) -> None:
    """As when a log asks again, after it had lost the answer: nothing is wrong with that."""
    log = witness.log()
    log.grow(9)
    lines = parse_cosignatures(witness.add(log.request(0, 5)).body)
    cosigned(witness, log, witness.add(log.request(5, 5, *lines)), 5)
    assert witness.add(log.request(5, 9)).status == 200
    assert witness.add(log.request(0, 5, *lines)).status == 409
    # A forged one is ignored, as any line of an unknown key; else anybody could end the witness.
    forged = cosigner("witness.example/w1", ed25519_key("forger")).cosign(log.text(9), time=1)
    copied = NoteSignature(forged.name, witness.keys[0].key_id, forged.payload)
    cosigned(witness, log, witness.add(log.request(9, 9, copied, forged)), 9)


def test_what_was_cosigned_survives_a_crash(tmp_path: Path, url: str) -> None:
    """'The witness MUST persist the new checkpoint before responding.' Killed after each answer, while others wait."""
    log = Log()
    log.grow(200)
    with start(tmp_path / "state", url, f"{log.vkey}\n", witness_mldsa=False) as controller:
        controller.init()
        size = 0
        for _ in range(4):
            controller.start()
            for _ in range(5):
                assert controller.post(PATH, log.request(size, size + 3)).status == 200
                size += 3
            controller.kill()
        controller.start()
        answered = controller.post(PATH, log.request(0, 200))
        assert (answered.status, answered.body) == (409, b"%d\n" % size)


def test_of_two_processes_one_cosigns(tmp_path: Path, pg: PostgreSQL) -> None:
    """'... atomically', also between processes: two controllers on one PostgreSQL are shown two histories at once."""
    url = pg.database()
    logs = [Log(f"example.com/{number}") for number in range(25)]
    for log in logs:
        log.grow(3)
    listed = "".join(f"{log.vkey}\n" for log in logs)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        start(tmp_path / "one" / "state", url, listed, witness_mldsa=False) as one,
        start(tmp_path / "two" / "state", url, listed, witness_mldsa=False) as two,
    ):
        one.init().start()
        (two.state / "controller").mkdir(mode=0o700)
        keys = two.state / "controller" / "witness.json"
        keys.write_bytes((one.state / "controller" / "witness.json").read_bytes())
        keys.chmod(0o600)
        assert "no anchor of this database" in two.attestd("init", status=64).stderr
        two.init("--join").start()
        for old in (0, 3):
            found: dict[str, list[int]] = {log.name: [] for log in logs}

            def ask(controller: Controller, log: Log, name: str, old: int = old) -> None:
                found[name].append(controller.post(PATH, log.request(old, old + 3)).status)  # noqa: B023

            threads = []
            for log in logs:
                log.grow(3)
                other = log.fork(old)
                for controller, history in ((one, log), (two, other)):
                    threads.append(threading.Thread(target=ask, args=(controller, history, log.name)))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if old == 0:
                assert all(sorted(statuses) == [200, 409] for statuses in found.values()), found
                # Whoever won: from here on all go on from what both processes know.
                logs = [
                    log if one.post(PATH, log.request(3, 3)).status == 200 else log.fork(0) for log in logs
                ]
            else:
                assert all(statuses.count(200) <= 1 for statuses in found.values()), found
