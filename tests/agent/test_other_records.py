"""Records of other hosts, which any local user can have downloaded: who waits for whom, and how many there are at most."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from attestd.agent import executions, other_records
from attestd.agent.asked import Asked
from attestd.agent.core import Core
from attestd.agent.governance import Updater
from attestd.agent.other_records import FAILED_S, OtherRecords
from attestd.codes import Code, Denial
from attestd.distribution.local import TrustDirectory
from attestd.governance.metadata import Metadata, target_path
from attestd.governance.trust import Trust
from attestd.paths import Configuration, TrustSource
from tests.distribution.published import files_below
from tests.distribution.web import Handler, Web, failing, serving
from tests.host import wait_for
from tests.world import Host, World, mesh_file

FLEET = 6
ALICE, BOB, CAROL = 1001, 1002, 1003


class Removing(Updater):
    """An update ends, and takes away what was just downloaded, as often as it is told."""

    times = 0

    def add(self, metadata: Metadata, names: Sequence[str]) -> str | None:
        problem = super().add(metadata, names)
        if self.times:
            self.times -= 1
            self.update(None)
            for name in names:
                (self._source.mirror / "targets" / target_path(name, metadata.targets[name].sha256)).unlink()
        return problem


class Site:
    """One host's mirror and the fleet's server, whose records wait for `open`."""

    def __init__(self, server: Web, directory: Path, world: World, hosts: list[str]) -> None:
        self.server, self.world, self.others = server, world, hosts
        source = TrustSource(directory / "anchor", directory / "mirror", frozenset([directory.stat().st_uid]))
        configuration = msgspec.structs.replace(Configuration(), governance_url=server.url)
        self.updater = Removing(source, configuration, host=world.host.id, log=logging.getLogger("test"))
        self.updater.update(None)
        self.trust: Trust = TrustDirectory(source).current()
        self.now = 1000.0
        self.records = OtherRecords(world.host.id, self.updater, clock=lambda: self.now)
        self.open = threading.Event()
        self.busy = self.most = 0
        server.asked.clear()

    def hold(self) -> None:
        """Records are given to nobody before `open` is set."""

        def held(handler: Handler, data: bytes) -> None:
            self.busy += 1
            self.most = max(self.most, self.busy)
            self.open.wait(60)
            self.busy -= 1
            handler.answer(data)

        self.behave(held)

    def behave(self, behaviour: Callable[[Handler, bytes], None] | None) -> None:
        names = [name for name in self.server.files if name.startswith("targets/hosts/")]
        self.server.behaviours = {} if behaviour is None else dict.fromkeys(names, behaviour)

    async def get(self, host: str, uid: int = ALICE) -> Denial | None:
        return await self.records.get(host, self.trust, uid)

    async def later(self, host: str, uid: int = ALICE) -> "asyncio.Task[Denial | None]":
        """A request that has come to where it waits."""
        task = asyncio.create_task(self.get(host, uid))
        await asyncio.sleep(0.1)
        return task

    def downloaded(self) -> int:
        return sum(name.startswith("targets/hosts/") for name in self.server.asked)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, list[str], Path]:
    world = World("other records")
    hosts = [Host(f"other records {number}", root=world.root) for number in range(FLEET)]
    world.records |= {host.id: world.host_record(host) for host in hosts}
    return world, [host.id for host in hosts], world.write_trust(tmp_path_factory.mktemp("published"))


@pytest.fixture
def site(published: tuple[World, list[str], Path], tmp_path: Path) -> Iterator[Site]:
    world, hosts, directory = published
    (tmp_path / "anchor").mkdir()
    (tmp_path / "anchor/root.json").write_bytes((directory / "root.json").read_bytes())
    with serving(files_below(directory)) as server:
        found = Site(server, tmp_path, world, hosts)
        yield found
        found.open.set()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 120))


def said(denial: Denial | None, words: str) -> None:
    assert denial is not None
    assert denial.code is Code.LINEAGE_BROKEN
    assert words in denial.sentence


def test_what_is_here_waits_for_nobody(site: Site) -> None:
    """This host's own records, another's that were downloaded before, and a host that governance does not name."""

    async def test() -> None:
        assert await site.get(site.others[0]) is None
        site.hold()
        waiting = [
            await site.later(site.others[number], uid) for number, uid in ((1, ALICE), (2, BOB), (3, CAROL))
        ]
        for host in (site.world.host.id, site.others[0], "ab" * 32):
            assert await asyncio.wait_for(site.get(host), 30) is None
        assert not any(task.done() for task in waiting)
        await asyncio.to_thread(wait_for, "they ask", lambda: site.busy == other_records.AT_ONCE)
        assert site.most == other_records.AT_ONCE
        site.open.set()
        assert await asyncio.gather(*waiting) == [None] * 3

    run(test())
    assert all(site.trust.hosts.get(host) for host in site.others[:4])


def test_a_user_waits_for_one_host(site: Site) -> None:
    """64 requests of one user: one download, and the others know at once; who asks for the same host waits for the same."""

    async def test() -> None:
        site.hold()
        first, same, theirs = [await site.later(site.others[0], uid) for uid in (ALICE, ALICE, BOB)]
        for host in site.others[1:] * 12:
            said(await asyncio.wait_for(site.get(host), 30), f"are being downloaded for uid {ALICE}")
        first.cancel()
        site.open.set()
        assert (await same, await theirs) == (None, None)
        assert site.downloaded() == 1
        assert await site.get(site.others[1]) is None, "the next one"

    run(test())


def test_what_failed_is_not_tried_again_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_records, "MOST", 2)

    async def test() -> None:
        site.behave(failing)
        said(await site.get(site.others[0]), "could not be downloaded: ")
        said(await site.get(site.others[0], BOB), "a moment ago: ")
        assert site.downloaded() == 1
        site.behave(None)
        site.now += FAILED_S
        assert await site.get(site.others[0]) is None
        site.behave(failing)
        for host in site.others[1:4]:
            said(await site.get(host), "could not")
        assert list(site.records._failed) == site.others[2:4]

    run(test())


def test_who_walks_the_fleet(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gets so many, and leaves some for others; what is here stays usable, and the next version begins anew."""
    monkeypatch.setattr(other_records, "MOST", 3)
    monkeypatch.setattr(other_records, "MOST_A_USER", 2)

    async def test() -> None:
        found = [await site.get(host) for host in site.others]
        assert found[:2] == [None, None]
        for denial in found[2:]:
            said(denial, f"of 2 for uid {ALICE}: at most 3 are, and 2 for one user")
        assert await site.get(site.others[2], BOB) is None
        said(await site.get(site.others[3], BOB), "those of 3 other hosts")
        assert site.downloaded() == 3
        assert await site.get(site.others[0]) is None
        site.records._version -= 1
        assert await site.get(site.others[3], BOB) is None

    run(test())


@pytest.mark.parametrize("times", [1, 2, 9])
def test_an_update_takes_away_what_was_just_downloaded(site: Site, times: int) -> None:
    """It is downloaded again, but not for ever."""
    site.updater.times = times
    denial = asyncio.run(site.get(site.others[0]))
    if times < 3:
        assert denial is None
        assert site.trust.records(site.others[0])
    else:
        said(denial, "could not be downloaded: what was downloaded is not there")
    assert site.downloaded() == min(times + 1, 3)


def test_without_a_server_nothing_is_downloaded(site: Site) -> None:
    site.updater.url = ""
    assert asyncio.run(site.get(site.others[0])) is None
    assert site.downloaded() == 0


def test_a_parent_that_names_newer_governance(site: Site) -> None:
    """What a parent's receipt names is not here yet: it is not believed, and who asks is told to update governance."""
    world = World("other records")
    assert world.trust().version == site.trust.version
    world.extra["mesh.json"] = mesh_file()
    newer = world.receipt(world.grant().body)
    asked = SimpleNamespace(parent=newer, uid=ALICE)
    core = SimpleNamespace(trust=lambda: site.trust, other_records=site.records)

    async def test() -> None:
        denial = await executions._parent(cast(Asked, asked), cast(Core, core))
        assert isinstance(denial, Denial)
        assert denial.code is Code.GOVERNANCE_MISMATCH
        assert denial.sentence.startswith("the parent's receipt does not verify here: version 1 of mesh.json")
        assert denial.hint == "governance here is version 1, the receipt names 2: attestd governance update"

    run(test())
