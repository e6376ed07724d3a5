"""Cosigning against witnesses that do what they should, and what they should not: real HTTP, a real log, no TPM."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from attestd.agent.cosigning import Cosigning
from attestd.agent.metrics import Metrics
from attestd.agent.sealing import SealService
from attestd.audit.cosignatures import CosignedLog
from attestd.audit.seal import SealResult
from attestd.codes import Code, Denial
from attestd.governance.mesh import MeshTrust, MeshWitness
from attestd.strict import canonical
from attestd.tlog.checkpoint import TreeHead, parse_tree_head
from attestd.tlog.cosignature import Cosigner
from attestd.tlog.note import NoteSignature, parse_note
from attestd.tlog.witness import (
    NOTHING_SEEN,
    AddCheckpoint,
    Latest,
    RefusalStatus,
    evaluate_growth,
    format_cosignatures,
    parse_add_checkpoint,
)
from tests.audit.conftest import log
from tests.audit.harness import BOOT, NOW, Log, allow, record
from tests.controller.certificates import Authority
from tests.distribution.web import Handler, Web, dripping, endless, serving
from tests.world import witness

__all__ = ["log"]

Twist = Callable[["Scripted", Handler, AddCheckpoint, TreeHead], None]
WAIT_S = 3.0


class Scripted:
    """A witness by the rules of the text, until `twist` takes over: None goes back to the rules."""

    def __init__(self, name: str, web: Web) -> None:
        self.cosigner: Cosigner = witness(name)
        self.web, self.name = web, name
        self.latest = NOTHING_SEEN
        self.twist: Twist | None = None
        self.asked: list[AddCheckpoint] = []
        web.behaviours["witness/add-checkpoint"] = self._answer

    def sizes(self) -> list[tuple[int, int]]:
        """From which size to which it was asked."""
        return [(item.old_size, head_of(item).size) for item in self.asked]

    def _answer(self, handler: Handler, _: bytes) -> None:
        request = parse_add_checkpoint(self.web.bodies[-1])
        self.asked.append(request)
        head = head_of(request)
        (self.twist or Scripted.obey)(self, handler, request, head)

    def obey(self, handler: Handler, request: AddCheckpoint, head: TreeHead) -> None:
        refusal = evaluate_growth(request, head, self.latest)
        if refusal is None:
            self.latest = Latest(head.size, head.root)
            handler.answer(format_cosignatures((self.line(request),)))
        elif refusal.status is RefusalStatus.CONFLICT:
            handler.answer(b"%d\n" % self.latest.size, status=409)
        else:
            problem(handler, refusal.status, refusal.sentence)

    def line(self, request: AddCheckpoint, *, at: int | None = None) -> NoteSignature:
        return self.cosigner.cosign(parse_note(request.checkpoint).text, time=at or int(NOW.timestamp()))


def head_of(request: AddCheckpoint) -> TreeHead:
    return parse_tree_head(parse_note(request.checkpoint).text)


def problem(handler: Handler, status: int, words: str) -> None:
    handler.answer(canonical({"detail": words}), status=status)


class Scene:
    """A log, its witnesses, and what asks them."""

    def __init__(self, log: Log, *witnesses: Scripted) -> None:
        self.log, self.witnesses, self.said = log, witnesses, _Said()
        self.sealer = log.sealer()
        self.over: list[int] = []
        self.mesh = MeshTrust(
            {}, {}, 0,
            {item.name: MeshWitness(f"{item.web.url}/witness", item.cosigner.key) for item in witnesses}, 0,
        )  # fmt: skip
        self.last: SealResult | None = None

    @contextlib.asynccontextmanager
    async def asking(self, *, interval_s: float = 60.0, ca: str = "") -> AsyncIterator[Cosigning]:
        logger = logging.Logger("witnesses")  # noqa: LOG001 - one of the test's own
        logger.addHandler(self.said)
        reader = CosignedLog.open(self.log.path, readonly=True)
        self.cosigning = Cosigning(
            CosignedLog.open(self.log.path), reader, mesh=lambda: self.mesh, round_over=self.over.append,
            now=lambda: NOW, ca=ca, wait_s=WAIT_S, interval_s=interval_s, metrics=Metrics(), log=logger,
        )  # fmt: skip
        try:
            yield self.cosigning
        finally:
            await self.cosigning.stop()
            reader.close()

    def seal(self, count: int = 1, *, quorum: int = 1) -> int:
        """Seals so many allows; returns the size."""
        result = self.sealer.seal([allow(number) for number in range(count)], now=NOW, boot=BOOT)
        self.last = result
        self.cosigning.sealed(result.checkpoint.size, result.note, quorum)
        return result.checkpoint.size

    async def release(self, *, quorum: int = 1) -> bytes | Denial:
        size = self.seal(quorum=quorum)
        for found in self.cosigning.witnesses:
            found.backoff.urgent_s = 0.02  # so that nobody waits for a second try
        return await self.cosigning.enough(size, quorum)

    def kept(self) -> list[int]:
        """How many lines each checkpoint has in the log."""
        with contextlib.closing(CosignedLog.open(self.log.path, readonly=True)) as store:
            return [len(parse_note(found.note).signatures) for found in store.checkpoints()]


class _Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")

    def of(self, name: str) -> list[str]:
        return [line for line in self.lines if line.split()[1] == name]


@pytest.fixture
def one() -> Iterator[Scripted]:
    with serving({}) as web:
        yield Scripted("one", web)


@pytest.fixture
def two() -> Iterator[Scripted]:
    with serving({}) as web:
        yield Scripted("two", web)


def lines(note: bytes | Denial) -> set[str]:
    assert isinstance(note, bytes), note
    return {line.name for line in parse_note(note).signatures} & {"one", "two"}


def refused(found: bytes | Denial) -> str:
    assert isinstance(found, Denial)
    assert found.code is Code.MESH_UNAVAILABLE
    return found.sentence


async def until(condition: Callable[[], object], *, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - of things that have no event
            await asyncio.sleep(0.01)


def test_releases_are_cosigned_one_after_the_other(log: Log, one: Scripted, two: Scripted) -> None:
    scene = Scene(log, one, two)

    async def run() -> None:
        async with scene.asking():
            assert lines(await scene.release(quorum=2)) == {"one", "two"}
            sizes = [scene.seal(3, quorum=2) for _ in range(5)]
            for note in await asyncio.gather(*(scene.cosigning.enough(size, 2) for size in sizes)):
                assert lines(note) == {"one", "two"}
            assert scene.cosigning.describe()[0]["cosigned"] == 16

    asyncio.run(run())
    assert one.sizes() == two.sizes() == [(0, 1), (1, 4), (4, 7), (7, 10), (10, 13), (13, 16)]
    assert scene.kept() == [4] * 6
    assert scene.over == [1, 4, 7, 10, 13, 16]
    log.verify()


def test_one_of_two_is_enough_and_the_slow_one_is_not_waited_for(
    log: Log, one: Scripted, two: Scripted
) -> None:
    two.twist = lambda _, handler, __, ___: dripping(handler, b"x" * 1000)
    scene = Scene(log, one, two)

    async def run() -> None:
        async with scene.asking():
            began = time.monotonic()
            for _ in range(3):
                assert lines(await scene.release()) == {"one"}
            assert time.monotonic() - began < WAIT_S

    asyncio.run(run())


def forged(scripted: Scripted, request: AddCheckpoint) -> bytes:
    line = scripted.line(request)
    other = witness("somebody").cosign(parse_note(request.checkpoint).text, time=1)
    return format_cosignatures((NoteSignature(line.name, line.key_id, other.payload),))


def unknown(_: Scripted, request: AddCheckpoint) -> bytes:
    return format_cosignatures((witness("somebody").cosign(parse_note(request.checkpoint).text, time=1),))


def over(scripted: Scripted, request: AddCheckpoint, *edit: bytes) -> bytes:
    text = parse_note(request.checkpoint).text
    assert text != text.replace(*edit, 1)
    return format_cosignatures((scripted.cosigner.cosign(text.replace(*edit, 1), time=1),))


ANSWERS: dict[str, Callable[[Scripted, AddCheckpoint], bytes]] = {
    "forged": forged,
    "unknown": unknown,
    "of another size": lambda scripted, request: over(scripted, request, b"\n1\n", b"\n2\n"),
    "of another log": lambda scripted, request: over(scripted, request, b"/log0\n", b"/log1\n"),
    "twice": lambda scripted, request: format_cosignatures((scripted.line(request),) * 2),
    "of the future": lambda scripted, request: format_cosignatures(
        (scripted.line(request, at=int(NOW.timestamp()) + 700),)
    ),
    "garbage": lambda *_: b"\xff\x00garbage\n",
    "empty": lambda *_: b"",
    "no newline": lambda scripted, request: format_cosignatures((scripted.line(request),))[:-1],
    "too many": lambda scripted, request: format_cosignatures((scripted.line(request),)) * 17,
    "too large": lambda *_: b"x" * 70_000,
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_is_no_cosignature_does_not_count(log: Log, one: Scripted, two: Scripted, kind: str) -> None:
    one.twist = lambda scripted, handler, request, _: handler.answer(ANSWERS[kind](scripted, request))
    scene = Scene(log, one, two)

    async def run() -> None:
        async with scene.asking():
            assert lines(await scene.release()) == {"two"}
            said = refused(await scene.release(quorum=2))
            assert said.startswith("2 of the witnesses must cosign this decision's checkpoint, ")
            assert " did: one: " in said
            # It cosigns as it should: it counts again.
            one.twist = None
            assert lines(await scene.release(quorum=2)) == {"one", "two"}

    asyncio.run(run())
    assert scene.kept()[::2] == [3, 4]
    assert scene.said.of("witness.lost")
    assert scene.said.of("witness.back")
    log.verify()


def away(kind: str) -> Twist:
    def behave(_: Scripted, handler: Handler, __: AddCheckpoint, ___: TreeHead) -> None:
        if kind == "endless":
            endless(handler, b"")
        elif kind == "slow":
            dripping(handler, b"x" * 1000)
        elif kind == "silent":
            time.sleep(2 * WAIT_S)
        elif kind == "reset":
            handler.close_connection = True
        elif kind == "redirect":
            handler.answer(b"", status=307, location="http://127.0.0.1:1/")
        else:
            problem(handler, 503, "not now")

    return behave


AWAY = ("endless", "slow", "silent", "reset", "redirect", "503")


def test_witnesses_that_do_not_answer(log: Log) -> None:
    with contextlib.ExitStack() as stack:
        witnesses = [Scripted(kind, stack.enter_context(serving({}))) for kind in AWAY]
        for found in witnesses:
            found.twist = away(found.name)
        scene = Scene(log, *witnesses)

        async def run() -> None:
            async with scene.asking():
                began = time.monotonic()
                said = refused(await scene.release())
                assert "0 did: " in said
                assert "; and 2 more" in said
                assert time.monotonic() - began < 3 * WAIT_S

        asyncio.run(run())
    assert scene.kept() == [2]


def test_an_answer_that_was_lost(log: Log, one: Scripted) -> None:
    """Killed between commit and answer: it says that it is there already, and cosigns the same again."""

    def dies(scripted: Scripted, handler: Handler, _: AddCheckpoint, head: TreeHead) -> None:
        scripted.latest, scripted.twist = Latest(head.size, head.root), None
        handler.close_connection = True

    scene = Scene(log, one)

    async def run() -> None:
        async with scene.asking():
            await scene.release()
            one.twist = dies
            assert lines(await asyncio.wait_for(_twice(scene), 60)) == {"one"}

    asyncio.run(run())
    assert one.sizes()[-3:] == [(1, 3), (1, 3), (3, 3)]


async def _twice(scene: Scene) -> bytes | Denial:
    """A release of which the first answer is lost, and one more where a second was too long to wait."""
    size = scene.seal(2)
    found = await scene.cosigning.enough(size, 1)
    return await scene.cosigning.enough(size, 1) if isinstance(found, Denial) else found


def test_a_witness_that_is_past_a_checkpoint(log: Log, one: Scripted) -> None:
    """Another process of this log, or a former one, showed it more: no harm, and said so."""
    scene = Scene(log, one)

    async def run() -> None:
        async with scene.asking():
            first = scene.sealer.seal([allow(0)], now=NOW, boot=BOOT)
            second = scene.sealer.seal([allow(1)], now=NOW, boot=BOOT)
            one.latest = Latest(2, second.checkpoint.root)
            scene.cosigning.sealed(1, first.note, 1)
            scene.cosigning._newest = None  # so that nothing but the first is sent
            scene.cosigning.sealed(2, second.note, 1)
            assert "it has cosigned the log of size 2 already" in refused(await scene.cosigning.enough(1, 1))
            assert lines(await scene.cosigning.enough(2, 1)) == {"one"}
            assert scene.cosigning.describe()[0]["problem"] is None

    asyncio.run(run())


def forked(scene: Scene) -> dict[str, object]:
    found = scene.cosigning.describe()[0]
    assert found["forked"]
    assert len(scene.said.of("log.forked")) == 1
    assert scene.said.of("log.forked")[0].startswith("CRITICAL ")
    return found


def test_a_witness_that_tells_more_than_the_log_has(log: Log, one: Scripted) -> None:
    """It lies, or the log was restored: said once, denied at once, and not asked without end."""
    one.twist = lambda _, handler, __, ___: handler.answer(b"1000000\n", status=409)
    scene = Scene(log, one)

    async def run() -> None:
        async with scene.asking():
            began = time.monotonic()
            for _ in range(3):
                assert "cosigned this log at size 1000000, but the log has" in refused(await scene.release())
            assert time.monotonic() - began < 3 * WAIT_S + 1
            forked(scene)

    asyncio.run(run())
    assert len(one.asked) <= 6


def test_a_log_that_does_not_continue_what_was_cosigned(log: Log, one: Scripted) -> None:
    one.latest = Latest(2, bytes(32))
    scene = Scene(log, one)

    async def run() -> None:
        async with scene.asking():
            size = scene.seal(4)
            assert "does not continue the one of size 2" in refused(await scene.cosigning.enough(size, 1))
            forked(scene)

    asyncio.run(run())
    assert one.sizes() == [(0, 4), (2, 4)]


@pytest.mark.parametrize("kind", ["same", "another", "garbage"])
def test_a_witness_that_never_comes_to_an_end(log: Log, one: Scripted, kind: str) -> None:
    def conflict(scripted: Scripted, handler: Handler, request: AddCheckpoint, _: TreeHead) -> None:
        told = {
            "same": b"%d\n" % request.old_size,
            "another": b"%d\n" % len(scripted.asked),
            "garbage": b"-1\n",
        }
        handler.answer(told[kind], status=409)

    one.twist = conflict
    scene = Scene(log, one)

    async def run() -> None:
        async with scene.asking():
            size = scene.seal(20)
            refused(await scene.cosigning.enough(size, 1))

    asyncio.run(run())
    assert len(one.asked) <= 4


@pytest.mark.parametrize("stops", [True, False])
def test_a_witness_that_forgot_is_shown_what_it_cosigned(log: Log, one: Scripted, stops: bool) -> None:
    """ADR 0025; also where it goes on as if nothing had been, which no witness of ours does."""
    scene = Scene(log, one)

    def shown(scripted: Scripted, handler: Handler, request: AddCheckpoint, head: TreeHead) -> None:
        note = parse_note(request.checkpoint)
        if stops and any(line.name == "one" for line in note.signatures):
            problem(handler, 503, "the database is older")
        else:
            scripted.obey(handler, request, head)

    async def run() -> None:
        async with scene.asking():
            await scene.release()
            before = one.latest
            await scene.release()
            one.latest, one.twist = before, shown
            said = refused(await scene.release())
            assert "it cosigned this log at size 2, and says 1 now: its database was restored" in said
            assert scene.cosigning.describe()[0]["rolled_back"]
            assert one.sizes()[-2:] == [(2, 3), (1, 2)]
            assert [line.name for line in parse_note(one.asked[-1].checkpoint).signatures][-1] == "one"
            assert scene.said.of("witness.rolled_back")[0].startswith("CRITICAL ")
            one.twist = lambda _, handler, __, ___: problem(handler, 503, "the database is older")
            refused(await scene.release())
            assert scene.cosigning.describe()[0]["rolled_back"], "it is remembered why"
            one.twist = shown
            if not stops:
                assert lines(await scene.release()) == {"one"}

    asyncio.run(run())


def test_what_it_cosigned_is_known_after_a_restart(log: Log, one: Scripted) -> None:
    scene = Scene(log, one)

    async def run() -> None:
        async with scene.asking():
            await scene.release()
        async with scene.asking():
            await scene.release()

    asyncio.run(run())
    assert one.sizes() == [(0, 1), (1, 2)]


def test_the_newest_checkpoint_is_sent_when_nobody_waits(log: Log, one: Scripted) -> None:
    scene = Scene(log, one)

    def add() -> None:
        result = scene.sealer.seal([record()], now=NOW, boot=BOOT)
        scene.cosigning.sealed(result.checkpoint.size, result.note, 0)

    async def run() -> None:
        async with scene.asking(interval_s=0.3):
            began = time.monotonic()
            add()
            await until(lambda: one.asked)
            for _ in range(20):
                add()
            await until(lambda: one.latest.size == 21)
            assert time.monotonic() - began >= 0.3
            await asyncio.sleep(0.4)
            assert one.sizes() == [(0, 1), (1, 21)], "the latest only, and nothing where nothing is new"
            # One that is away is asked again, and again.
            one.twist = lambda _, handler, __, ___: problem(handler, 503, "not now")
            add()
            await until(lambda: len(one.asked) >= 4)
            one.twist = None
            await until(lambda: one.latest.size == 22)
            await until(lambda: scene.kept()[-1] == 2)

    asyncio.run(run())


def test_a_mesh_that_changes(log: Log, one: Scripted, two: Scripted) -> None:
    scene = Scene(log, one, two)
    both = scene.mesh

    async def run() -> None:
        async with scene.asking():
            assert lines(await scene.release(quorum=2)) == {"one", "two"}
            scene.mesh = MeshTrust({}, {}, 0, {"two": both.witnesses["two"]}, 0)
            assert lines(await scene.release()) == {"two"}
            assert "did: two: " in refused(await scene.release(quorum=2))
            stale = MeshWitness(both.witnesses["one"].url, witness("one anew".replace(" ", "-")).key)
            scene.mesh = MeshTrust({}, {}, 0, {**both.witnesses, "one": stale}, 0)
            assert "none by a key that is trusted" in refused(await scene.release(quorum=2))
            scene.mesh = both
            await asyncio.sleep(0)
            assert lines(await scene.release(quorum=2)) == {"one", "two"}

    asyncio.run(run())


def test_a_way_that_cannot_be_found(log: Log, one: Scripted, two: Scripted, tmp_path: Path) -> None:
    """What says who may vouch for controllers is not there: the witness is named, and asked again once it is."""
    scene, ca = Scene(log, one, two), tmp_path / "ca.pem"
    scene.mesh = MeshTrust(
        {}, {}, 0,
        {**scene.mesh.witnesses, "one": MeshWitness("https://localhost:1/witness", one.cosigner.key)}, 0,
    )  # fmt: skip

    async def run() -> None:
        async with scene.asking(ca=str(ca)) as cosigning:
            assert lines(await scene.release()) == {"two"}
            assert "one: controller_ca" in refused(await scene.release(quorum=2))
            [told] = [item["problem"] for item in cosigning.describe() if item["node"] == "one"]
            assert f"controller_ca {ca}: expected a PEM file of certificates" in told
            ca.write_bytes(Authority("servers").pem)
            scene.seal()
            await until(lambda: "Connection refused" in str(cosigning.describe()[0]["problem"]))

    asyncio.run(run())
    assert len(scene.said.of("witness.lost")) == 2


def test_many_share_a_round(log: Log, one: Scripted) -> None:
    """500 that ask at once are sealed in few batches, and each is one request to the witness."""
    scene = Scene(log, one)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with scene.asking():

            def on_sealed(result: SealResult, quorum: int) -> None:
                loop.call_soon_threadsafe(scene.cosigning.sealed, result.checkpoint.size, result.note, quorum)

            class Port:
                def expect(self, *_: object) -> None:
                    pass

            service = SealService(
                scene.sealer, Port(), max_batch=256, now=lambda: NOW, boot=BOOT, on_sealed=on_sealed,  # type: ignore[arg-type]
            )  # fmt: skip
            scene.cosigning._round_over = service.round_over
            service.start()

            async def release(number: int) -> bytes | Denial:
                receipt = await asyncio.wrap_future(service.submit(allow(number), witnesses=1))
                return await scene.cosigning.enough(receipt.size, 1)

            try:
                for note in await asyncio.gather(*(release(number) for number in range(500))):
                    assert lines(note) == {"one"}
            finally:
                await asyncio.to_thread(service.stop)

    asyncio.run(run())
    assert len(one.asked) <= 25, one.sizes()


def test_a_log_that_cannot_keep_it(log: Log, one: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not durable does not count."""
    from attestd.errors import StoreError

    def full(*_: object) -> None:
        raise StoreError("cannot keep cosignatures in the audit log: disk full")

    monkeypatch.setattr(CosignedLog, "add_cosignatures", full)
    scene = Scene(log, one)

    async def run() -> None:
        async with scene.asking():
            assert "disk full" in refused(await scene.release())

    asyncio.run(run())


def test_more_witnesses_than_a_note_has_room_for(log: Log) -> None:
    """Each that is counted is in the note, and the note can be read: a runner looks into nothing else."""
    with contextlib.ExitStack() as stack:
        webs = [stack.enter_context(serving({})) for _ in range(16)]
        scene = Scene(log, *(Scripted(f"w{number}", web) for number, web in enumerate(webs)))

        async def run() -> None:
            async with scene.asking():
                assert "it came when 14 cosignatures were there" in refused(await scene.release(quorum=16))
                found = await scene.release(quorum=14)
                assert isinstance(found, bytes)
                assert len(parse_note(found).signatures) == 16
                assert all(item.error is None for item in scene.cosigning.witnesses)

        asyncio.run(run())
    log.verify()
