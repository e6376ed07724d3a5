"""Following an IMA list: everything is looked at once, and proved by quotes; lists that lie, shrink or vanish deny."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from attestd.agent import ima_watch
from attestd.agent.ima_watch import INLINE_BYTES, ImaWatch
from attestd.appraisal.ima import parse_ima_policy
from attestd.appraisal.logs import LogAppraisal
from attestd.codes import Code, Denial
from attestd.strict import canonical
from tests.tcg.ima.build import data, digest_of, entry, ima_list, pcr10

POLICY = parse_ima_policy(
    canonical(
        {
            "v": 1,
            "digests": {f"/bin/{n}": ["sha256:" + digest_of(b"x").hex()] for n in range(3000)},
            "patterns": [],
            "exclude": [],
            "keys": {},
            "violations": "refuse",
        }
    )
)
GOOD = [data(b"/bin/%d" % n) for n in range(3000)]
EVIL = data(b"/tmp/evil\x1b[2J", b"evil")


def value(*items: bytes | None, padded: bool = False) -> bytes:
    return pcr10("sha256", *items, padded=padded)


class Bench:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_bytes(b"")
        self.watch = ImaWatch(path, POLICY, bank="sha256")

    def append(self, *items: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(ima_list(*items))

    def replace(self, content: bytes) -> None:
        other = self.path.with_suffix(".new")
        other.write_bytes(content)
        other.rename(self.path)

    async def measured(self) -> LogAppraisal:
        await self.watch.look()
        found = self.watch.state
        assert isinstance(found, LogAppraisal), found
        return found

    async def denial(self) -> Denial:
        await self.watch.look()
        found = self.watch.state
        assert isinstance(found, Denial), found
        return found

    async def proves(self, quoted: bytes, read: bytes | None = None) -> bytes | None:
        return await self.watch.prove(quoted if read is None else read, quoted.__eq__)


def on(tmp_path: Path, test: Callable[[Bench], Awaitable[None]]) -> None:
    bench = Bench(tmp_path / "list")

    async def run() -> None:
        await test(bench)
        bench.watch.close()

    asyncio.run(run())


def test_what_is_new_is_looked_at_and_proved_later(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        assert await bench.measured() == LogAppraisal(0, (), 0)
        assert await bench.proves(value()) == value()
        bench.append(*GOOD[:2])
        assert await bench.measured() == LogAppraisal(2, (), 0)
        assert await bench.proves(value(*GOOD[:2])) == value(*GOOD[:2])
        bench.append(GOOD[2], EVIL)
        found = await bench.measured()
        assert (found.looked_at, found.count) == (4, 1)
        assert found.findings[0].startswith("IMA entry 3: /tmp/evil\\u001b[2J: expected no such file")
        # A quote from before, of an entry that is there, and the newest.
        assert await bench.proves(value(*GOOD[:3])) == value(*GOOD[:3])
        assert await bench.proves(value(*GOOD[:3], EVIL)) == value(*GOOD[:3], EVIL)
        bench.append(GOOD[3])
        assert (await bench.measured()).count == 1, "until the next boot"

    on(tmp_path, test)


def test_a_value_that_nobody_could_read(tmp_path: Path) -> None:
    """While files are executed without pause PCR 10 is another one by the time it is read."""

    async def test(bench: Bench) -> None:
        bench.append(*GOOD[:5])
        assert await bench.proves(value(*GOOD[:3]), read=value(*GOOD[:5])) == value(*GOOD[:3])
        assert await bench.proves(value(*GOOD[:5]), read=bytes(32)) == value(*GOOD[:5])
        assert await bench.proves(b"\1" * 32, read=value(*GOOD[:5])) is None, (
            "another PCR changed: quote again"
        )
        assert (await bench.measured()).count == 0

    on(tmp_path, test)


def test_a_kernel_that_pads(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.append(*GOOD[:3])
        assert await bench.proves(value(*GOOD[:2], padded=True), read=bytes(32)) is not None
        assert await bench.proves(value(*GOOD[:3], padded=True)) is not None
        bench.append(GOOD[3])
        assert await bench.proves(value(*GOOD[:4], padded=True)) is not None
        assert await bench.measured() == LogAppraisal(4, (), 0)

    on(tmp_path, test)


@pytest.mark.parametrize("size", [3, 3000], ids=["at once", "in a thread"])
def test_an_entry_that_the_list_hides(tmp_path: Path, size: int) -> None:
    """Extended, and not in the list: whatever it was, nobody tells of it."""

    async def test(bench: Bench) -> None:
        bench.append(*GOOD[: size - 1])
        quoted = value(*GOOD[: size - 1], EVIL)
        assert await bench.proves(quoted) == quoted
        found = await bench.measured()
        assert found.count == 1
        assert found.findings[0].startswith("PCR 10: extended by something that the IMA list does not tell")
        bench.append(EVIL)
        assert await bench.proves(quoted) == quoted
        found = await bench.measured()
        assert found.count == 1
        assert "/tmp/evil" in found.findings[0], "now it does"

    on(tmp_path, test)
    assert (len(ima_list(*GOOD)) > INLINE_BYTES) is True


@pytest.mark.parametrize(
    "list_",
    [
        ima_list(GOOD[0], GOOD[2]),
        ima_list(GOOD[0], GOOD[1], data(b"/bin/2", b"evil")),
        ima_list(GOOD[1], GOOD[0], EVIL),
        ima_list(GOOD[0]) + entry(EVIL, violation=True) + ima_list(GOOD[1]),
        entry(GOOD[0]) + entry(GOOD[1]) + entry(EVIL, b"ima-sig")[:-1] + b"\1",
        b"",
    ],
    ids=["left out", "other digest", "order", "violation", "other bytes", "empty"],
)
def test_lists_that_lie(tmp_path: Path, list_: bytes) -> None:
    async def test(bench: Bench) -> None:
        bench.replace(list_)
        quoted = value(GOOD[0], GOOD[1], EVIL)
        assert await bench.proves(quoted) == quoted
        found = bench.watch.state
        assert isinstance(found, LogAppraisal)
        assert found.count >= 1
        assert "does not tell" in found.findings[0]

    on(tmp_path, test)


def test_another_template_hides_nothing(tmp_path: Path) -> None:
    """The name of the template is in no digest: by another one the same bytes replay, and are still looked at."""

    async def test(bench: Bench) -> None:
        bench.replace(entry(GOOD[0]) + entry(EVIL, b"ima-buf") + entry(GOOD[1], b"unheard-of"))
        quoted = value(GOOD[0], EVIL, GOOD[1])
        assert await bench.proves(quoted) == quoted
        found = await bench.measured()
        assert found.count >= 1
        assert any("entry 1" in finding for finding in found.findings)

    on(tmp_path, test)


def test_a_list_that_is_replaced(tmp_path: Path) -> None:
    """Proved again from its start."""

    async def test(bench: Bench) -> None:
        bench.append(*GOOD[:3])
        await bench.proves(value(*GOOD[:3]))
        bench.replace(ima_list(*GOOD[:4]))
        assert await bench.proves(value(*GOOD[:4])) is not None
        assert await bench.measured() == LogAppraisal(4, (), 0)
        bench.replace(ima_list(GOOD[0], GOOD[1], EVIL))
        assert await bench.proves(value(*GOOD[:4])) is not None
        assert (await bench.measured()).count == 2, (
            "it is not the list of this quote, and it names a bad file"
        )

    on(tmp_path, test)


@pytest.mark.parametrize("how", ["cut", "written anew"])
def test_a_list_that_shrinks(tmp_path: Path, how: str) -> None:
    async def test(bench: Bench) -> None:
        bench.append(*GOOD[:3])
        quoted = value(*GOOD[:3])
        await bench.proves(quoted)
        if how == "cut":
            os.truncate(bench.path, len(ima_list(GOOD[0])))
        else:
            bench.path.write_bytes(ima_list(GOOD[0]))
        assert await bench.proves(quoted) == quoted
        found = await bench.measured()
        assert (found.looked_at, found.count) == (1, 1)
        bench.path.write_bytes(ima_list(*GOOD[:3]))
        assert await bench.proves(quoted) == quoted
        assert await bench.measured() == LogAppraisal(3, (), 0)

    on(tmp_path, test)


@pytest.mark.parametrize("garbage", [ima_list(GOOD[1])[:-1], b"garbage that is no entry at all" * 3, b"\0"])
def test_a_list_that_does_not_parse(tmp_path: Path, garbage: bytes) -> None:
    async def test(bench: Bench) -> None:
        bench.append(GOOD[0])
        await bench.proves(value(GOOD[0]))
        with bench.path.open("ab") as file:
            file.write(garbage)
        denial = await bench.denial()
        assert denial.code is Code.EVIDENCE_INVALID
        assert "the IMA list cannot be appraised" in denial.sentence
        assert await bench.proves(value(GOOD[0])) == value(GOOD[0]), "the PCRs are what they are"
        assert await bench.proves(value(GOOD[0]), read=bytes(32)) is None
        assert isinstance(bench.watch.state, Denial)
        bench.path.write_bytes(ima_list(*GOOD[:2]))
        assert await bench.measured() == LogAppraisal(2, (), 0)

    on(tmp_path, test)


def test_no_list(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.path.unlink()
        denial = await bench.denial()
        assert denial.code is Code.EVIDENCE_INVALID
        assert "No such file" in denial.sentence
        bench.append(GOOD[0])
        assert await bench.measured() == LogAppraisal(1, (), 0)

    on(tmp_path, test)


def test_a_list_beyond_all_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ima_watch, "MAX_LIST_BYTES", len(ima_list(*GOOD[:3])))

    async def test(bench: Bench) -> None:
        bench.append(*GOOD[:2])
        assert await bench.proves(value(*GOOD[:2])) is not None
        bench.append(*GOOD[2:4])
        assert await bench.measured() == LogAppraisal(4, (), 0), "what is proved is not kept"
        assert await bench.proves(value(*GOOD[:4])) is not None
        bench.append(*GOOD[4:8])
        assert "bytes that no quote has proved" in (await bench.denial()).sentence

    on(tmp_path, test)


def test_more_findings_than_anybody_reads(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        for _ in range(2):
            bench.append(*[EVIL] * 80)
            found = await bench.measured()
        assert (found.looked_at, found.count, len(found.findings)) == (160, 160, 100)

    on(tmp_path, test)


def test_many_at_once(tmp_path: Path) -> None:
    """Decisions and quotes share it; each entry is looked at once."""

    async def test(bench: Bench) -> None:
        bench.append(*GOOD, EVIL)
        quoted = value(*GOOD, EVIL)
        looks: list[Any] = [bench.watch.look() for _ in range(10)]
        await asyncio.gather(*looks, *(bench.proves(quoted) for _ in range(3)))
        found = await bench.measured()
        assert (found.looked_at, found.count) == (3001, 1)

    on(tmp_path, test)
