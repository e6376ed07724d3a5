"""Hosts by pages: each bounded, in one order, and no more of governance is looked at than a page shows."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import insert

from attestd.cli.controller_desk import walk
from attestd.controller.enroller.desk import Desk, HostNames
from attestd.controller.enroller.office import Office
from attestd.controller.enroller.records import KeptState
from attestd.controller.store.engine import Store, migrate
from attestd.controller.store.schema import enrolments
from attestd.errors import VerificationError
from attestd.governance.desk import MAX_PAGE, HostList, HostQuery, HostState
from attestd.governance.host import VerifiedHost
from attestd.strict import canonical
from tests.world import World

NOW = datetime.now(UTC).replace(microsecond=0)
MANY = 100_000


def name(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()


class Fleet(Mapping[str, VerifiedHost]):
    """A hundred thousand hosts, of which it is counted how many somebody looked at, and how often at all names."""

    def __init__(self, record: VerifiedHost) -> None:
        self.record = record
        self.names = dict.fromkeys(map(name, range(MANY)))
        self.looked = self.listed = 0

    def __getitem__(self, host: str) -> VerifiedHost:
        self.names[host]
        self.looked += 1
        return structs.replace(self.record, host=host)

    def __iter__(self) -> Iterator[str]:
        self.listed += 1
        return iter(self.names)

    def __len__(self) -> int:
        return MANY


class Place:
    """An operator of that fleet, and what waits at the office."""

    def __init__(self, store: Store) -> None:
        world = World("enrolled", now=NOW)
        self.trust = world.trust()
        self.fleet = Fleet(self.trust.hosts[world.host.id])
        self.trust = dataclasses.replace(self.trust, hosts=self.fleet)
        self.office, self._store = Office(store), store
        self.desk = Desk(self.office, lambda: self.trust, HostNames(), operator="alice", now=lambda: NOW)
        self.record = canonical(world.host_record(world.host))

    def keep(self, hosts: list[str], state: KeptState) -> None:
        rows = [
            {
                "host": host,
                "state": state,
                "digest": name(number),
                "record": self.record,
                "reasons": "[]",
                "at": int(NOW.timestamp()),
            }
            for number, host in enumerate(hosts)
        ]
        with self._store.write() as connection:
            connection.execute(insert(enrolments), rows)

    def pages(self, **query: Any) -> list[HostList]:
        """All of them, as one that follows `next`."""
        found = [self.desk.hosts(HostQuery(**query))]
        while (after := found[-1].next) is not None:
            found.append(self.desk.hosts(HostQuery(**{**query, "after": after})))
        return found


@pytest.fixture
def operator(url: str) -> Iterator[Place]:
    migrate(url)
    with closing(Store.open(url)) as store:
        yield Place(store)


def test_a_page_looks_at_no_more_than_it_shows(operator: Place) -> None:
    fleet, first = operator.fleet, sorted(operator.fleet.names)
    page = operator.desk.hosts(HostQuery())
    assert [row.host for row in page.hosts] == first[:MAX_PAGE]
    assert (page.next, fleet.looked, fleet.listed) == (first[MAX_PAGE - 1], MAX_PAGE, 1)
    # The last one; names were sorted once.
    last = operator.desk.hosts(HostQuery(after=first[-11], limit=10))
    assert [row.host for row in last.hosts] == first[-10:]
    assert (last.next, fleet.looked, fleet.listed) == (None, MAX_PAGE + 10, 1)
    assert operator.desk.hosts(HostQuery(after="f" * 64)) == HostList(hosts=(), decisions=(), next=None)
    # What waits is found without them.
    operator.keep([first[7], "0" * 64, "f" * 64], KeptState.WAITING)
    found = operator.pages(limit=2, state=HostState.WAITING)
    assert [[row.host for row in page.hosts] for page in found] == [["0" * 64, first[7]], ["f" * 64]]
    assert fleet.looked == MAX_PAGE + 11
    # Another version of governance has other names.
    operator.trust = dataclasses.replace(operator.trust, digest="another")
    operator.desk.hosts(HostQuery(limit=1))
    assert fleet.listed == 2


def test_what_is_in_one_place_alone_stands_in_its_order(operator: Place) -> None:
    """Governance has three, one of them other keys than were signed here last; others wait, were signed, or revoked."""
    known = sorted(name(number) for number in range(3))
    operator.fleet.names = dict.fromkeys(known)
    ids = {
        word: sha256(word.encode()).hexdigest()
        for word in ("waits", "signed", "revoked", "refused", "expected")
    }
    operator.keep([ids["waits"], known[1]], KeptState.WAITING)
    operator.keep([ids["signed"]], KeptState.ADMITTED)
    operator.desk.revoke(ids["revoked"], "stolen")
    operator.desk.revoke(known[2], "stolen")
    operator.desk.expect(ids["expected"], {})
    expected = {
        known[0]: ["enrolled"], known[1]: ["waiting", "enrolled"], known[2]: ["revoked"],
        ids["waits"]: ["waiting"], ids["signed"]: ["not published"], ids["revoked"]: ["revoked"], ids["expected"]: [],
    }  # fmt: skip
    whole = [(host, state) for host in sorted(expected) for state in expected[host]]
    for limit in (1, 2, 3, 7, MAX_PAGE):
        pages = operator.pages(limit=limit)
        assert [(row.host, row.state) for page in pages for row in page.hosts] == whole
        decided = [(item.host, item.decision) for page in pages for item in page.decisions]
        assert sorted(decided) == sorted(
            [(ids["revoked"], "revoked"), (known[2], "revoked"), (ids["expected"], "expected")]
        )
        assert len(pages) == -(-len(expected) // limit)
    for state in HostState:
        pages = operator.pages(limit=2, state=state)
        rows = [(row.host, row.state) for page in pages for row in page.hosts]
        assert rows == [row for row in whole if row[1] == state]
        named = {item.host for page in pages for item in page.decisions}
        assert named <= {host for host, _ in rows}


def test_the_command_line_walks(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    migrate(url)
    with closing(Store.open(url)) as store:
        operator = Place(store)
        hosts = sorted(name(number) for number in range(2 * MAX_PAGE + 1))
        operator.keep(hosts, KeptState.WAITING)
        pages = list(walk(operator.desk, HostState.WAITING))
        assert [row.host for page in pages for row in page.hosts] == hosts
        assert len(pages) == 3

        class Stuck(Desk):
            """Says for ever that there is more."""

            def hosts(self, _: HostQuery) -> HostList:
                return HostList(hosts=(), decisions=(), next="0" * 64)

        stuck = Stuck(operator.office, lambda: operator.trust, HostNames(), operator="", now=lambda: NOW)
        with pytest.raises(VerificationError, match="does not get on"):
            list(walk(stuck, None))
