"""A host that governance knows comes to the enroller: its record cannot be read just now, does not verify, or holds till today."""

import json
from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from attestd.controller.enroller.desk import Desk as OperatorsDesk
from attestd.controller.enroller.desk import HostNames
from attestd.controller.enroller.office import Office
from attestd.controller.store.engine import Store
from attestd.controller.store.schema import enrolment_decisions, enrolments
from attestd.errors import StoreError
from attestd.governance.trust import parse_trust
from attestd.strict import format_time
from tests.controller.running import Controller
from tests.controller.test_enroller import Asking, Desk, pending, signed, with_other_keys
from tests.governance.enrolling import allow
from tests.world import Host, described, read_of


class Known:
    """An enroller, and a host of `ek-allow.json` that governance has, which comes again with other keys."""

    def __init__(self, top: Path) -> None:
        self.desk = Desk(top, f"sqlite:///{top / 'controller.db'}")
        world = self.desk.world
        before, stranger = Host("new", root=world.root), Host("stranger", root=world.root)
        allow(world, before, stranger)
        world.records[before.id] = world.host_record(before)
        self.host, self.labels = before.id, world.records[before.id]["labels"]
        self.same, self.stranger = Asking(world, before), Asking(world, stranger)
        self.other = Asking(world, with_other_keys(before, world))
        self.top = top

    @property
    def file(self) -> Path:
        """Its record, in the mirror."""
        [found] = self.top.glob(f"web/**/*{self.host}.json")
        return found

    def listed(self, controller: Controller) -> list[tuple[str, str]]:
        rows = json.loads(controller.attestd("hosts", "--json").stdout)["hosts"]
        return [(row["state"], "; ".join(row["words"])) for row in rows if row["host"] == self.host]

    def change(self, *statements: Any) -> None:
        with closing(Store.open(self.desk.url)) as store, store.write() as connection:
            for statement in statements:
                connection.execute(statement)

    def waited(self, controller: Controller, hours: int) -> Mapping[str, Any]:
        """A record of the other keys that waits since it began, as if it had come then."""
        digest = pending(self.other.enrol(controller)).digest
        old = {"not_before": self.desk.world.now - timedelta(hours=hours)}
        record = self.other.record("software", **old)
        values = {"digest": sha256(record).hexdigest(), "record": record}
        self.change(update(enrolments).where(enrolments.c.digest == digest).values(**values))
        return old

    def decided_ago(self, hours: int) -> None:
        at = int(self.desk.world.now.timestamp()) - hours * 3600
        self.change(update(enrolment_decisions).values(at=at))


@pytest.fixture
def known(tmp_path: Path) -> Known:
    return Known(tmp_path)


def test_its_record_cannot_be_read_now(known: Known) -> None:
    """Else whoever makes one file unreadable for a moment is a new host, of the list, whom nobody looks at."""
    with known.desk.controller() as controller:
        signed(known.stranger.enrol(controller))  # whose each key is, is known by now
        file, whole = known.file, known.file.read_bytes()
        file.unlink()
        for host in (known.other, known.same):
            host.enrol(controller).problem(503)
        controller.wait_said(f"a record of host {known.host} cannot be read now, ask again")
        [(state, words)] = known.listed(controller)
        assert (state, words.startswith("its record is not usable: ")) == ("unusable", True)
        file.write_bytes(whole)
        assert any("other keys than before" in why for why in pending(known.other.enrol(controller)).reasons)
        file.unlink()
        # This process has seen it, but another one has not.
        refused = controller.attestd("approve", known.host, "--yes", status=69)
        assert "cannot be read now, ask again" in refused.stderr
        file.write_bytes(whole)
        assert "the keys before" in controller.attestd("approve", known.host, "--yes").stderr
        assert signed(known.other.enrol(controller)).ended is not None


def test_who_approves_is_told_that_it_cannot_be_read(known: Known) -> None:
    """Each for itself: neither what is shown nor what is decided is without the warning."""
    with known.desk.controller() as controller:
        digest = pending(known.other.enrol(controller)).digest
    files = known.desk.world.files()
    trust = parse_trust(read_of(files), metadata=described(files))
    del files[f"hosts/{known.host}.json"]
    with closing(Store.open(known.desk.url)) as store:
        desk = OperatorsDesk(
            Office(store), lambda: trust, HostNames(), operator="alice", now=lambda: known.desk.world.now
        )
        for ask in (desk.host, lambda host: desk.approve(host, digest)):
            with pytest.raises(StoreError, match="cannot be read now, ask again"):
                ask(known.host)
        assert desk.refuse(known.host, digest).decision == "refused"


def test_its_record_does_not_verify(known: Known) -> None:
    """An operator decides, and there is nothing to end."""
    known.desk.world.records[known.host]["tier"] = "none"
    with known.desk.controller() as controller:
        [reason, *_] = pending(known.other.enrol(controller)).reasons
        assert reason.startswith("its record does not verify, so that nobody knows which keys it had: hosts/")
        states = [state for state, _ in known.listed(controller)]
        assert states == ["waiting", "unusable"]
        controller.attestd("approve", known.host, "--yes")
        assert signed(known.other.enrol(controller)).ended is None


def test_an_approval_of_what_ends_late_is_a_fresh_one(known: Known) -> None:
    """It voids what was sealed since it began: who approved that looked at it lately."""
    with known.desk.controller() as controller:
        old = known.waited(controller, 26)
        pending(known.other.enrol(controller, **old))
        controller.attestd("approve", known.host, "--yes")
        known.decided_ago(25)
        at = format_time(known.desk.world.now - timedelta(hours=25))
        words = f"approved at {at}, too long ago for what it ends: look at it again"
        for _ in range(2):
            assert words in pending(known.other.enrol(controller, **old)).reasons
        shown = controller.attestd("approve", known.host, "--yes").stderr
        assert "WARNING: it waited" in shown
        assert "WARNING: the keys before" in shown
        signed(known.other.enrol(controller, **old))


def test_an_approval_of_what_ends_nothing_late_holds(known: Known) -> None:
    with known.desk.controller() as controller:
        pending(known.other.enrol(controller))
        controller.attestd("approve", known.host, "--yes")
        known.decided_ago(25)
        signed(known.other.enrol(controller))


def test_who_is_expected_ends_no_keys(known: Known) -> None:
    """Nobody was warned when they expected it."""
    with known.desk.controller() as controller:
        controller.attestd("enroll", known.host)
        pending(known.other.enrol(controller))
        controller.attestd("approve", known.host, "--yes")
        signed(known.other.enrol(controller))


def test_an_approval_counts_for_what_was_seen(known: Known) -> None:
    """A new host was approved; then governance has it with other keys: nobody saw that these end."""
    desk, before = known.desk, known.desk.world.records.pop(known.host)
    labels = {"role": "ci"}
    with known.desk.controller() as controller:
        assert pending(known.other.enrol(controller, labels=labels)).reasons == (
            "labels role=ci, before none",
        )
        assert "WARNING" not in controller.attestd("approve", known.host, "--yes").stderr
        desk.governed(lambda world: world.records.update({known.host: before}))
        for _ in range(2):
            [*reasons, again] = pending(known.other.enrol(controller, labels=labels)).reasons
            assert "other keys than before: its TPM was cleared or it was installed again" in reasons
            assert again.startswith("approved at ")
            assert again.endswith(", and nobody was told what it ends now: look at it again")
        shown = controller.attestd("approve", known.host, "--yes").stderr
        assert "WARNING: the keys before" in shown
        # The record before is renewed as it was: the same keys end.
        renewed = {**before, "not_after": format_time(desk.world.now + timedelta(days=30))}
        desk.governed(lambda world: world.records.update({known.host: renewed}))
        assert signed(known.other.enrol(controller, labels=labels)).ended is not None


def test_who_was_approved_before_does_not_end_who_came_after(known: Known) -> None:
    """Both were approved, one after the other: the holder of the first keys asks again."""
    desk, host = known.desk, known.other.host
    with desk.controller() as controller:
        pending(known.other.enrol(controller))
        controller.attestd("approve", known.host, "--yes")
        for _ in range(2):  # One enroller of several: the host asks until all have signed.
            signed(known.other.enrol(controller))
        desk.governed(lambda world: world.records.update({known.host: world.host_record(host)}))
        signed(known.other.enrol(controller))
        third = Asking(desk.world, with_other_keys(host, desk.world, "third keys"))
        pending(third.enrol(controller))
        controller.attestd("approve", known.host, "--yes")
        signed(third.enrol(controller))
        desk.governed(lambda world: world.records.update({known.host: world.host_record(third.host)}))
        assert "nobody was told what it ends now" in pending(known.other.enrol(controller)).reasons[-1]
