"""Rate and aggregation of denials."""

import pytest

from attestd.agent import denials as module
from attestd.agent.denials import MAX_SINGLE, WINDOW_S, DenialMeter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_of_each_user_and_minute_get_leaves() -> None:
    clock = Clock()
    meter = DenialMeter(clock)
    assert [meter.admit(1) for _ in range(MAX_SINGLE + 3)] == [True] * MAX_SINGLE + [False] * 3
    assert meter.admit(2)
    clock.now = WINDOW_S - 0.001
    assert not meter.admit(1)
    clock.now = WINDOW_S
    assert meter.admit(1)


def test_the_window_slides() -> None:
    clock = Clock()
    meter = DenialMeter(clock)
    for second in range(MAX_SINGLE):
        clock.now = float(second)
        assert meter.admit(1)
    clock.now = WINDOW_S + 2
    assert [meter.admit(1) for _ in range(4)] == [True, True, True, False]


def test_the_rest_is_counted_by_user_and_code_once() -> None:
    meter = DenialMeter(Clock())
    for uid, code in ((7, "expired"), (3, "revoked"), (7, "expired"), (7, "revoked")):
        meter.aggregate(uid, code)
    bodies = meter.drain()
    assert bodies == [{"uid": 3, "codes": {"revoked": 1}}, {"uid": 7, "codes": {"expired": 2, "revoked": 1}}]
    assert meter.drain() == []
    meter.aggregate(7, "expired")
    meter.restore(bodies[1])
    assert meter.drain() == [{"uid": 7, "codes": {"expired": 3, "revoked": 1}}]


def test_users_that_were_quiet_for_a_minute_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UIDS", 10)
    clock = Clock()
    meter = DenialMeter(clock)
    for uid in range(10):
        meter.admit(uid)
    clock.now = WINDOW_S
    meter.admit(10)
    assert set(meter._singles) == {10}


def test_many_user_ids_share_what_all_of_them_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SINGLE_IN_ALL", 5)
    clock = Clock()
    meter = DenialMeter(clock)
    assert [meter.admit(uid) for uid in range(7)] == [True] * 5 + [False] * 2
    clock.now = WINDOW_S
    assert meter.admit(7)


def test_of_many_user_ids_the_quiet_ones_share_a_leaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AGGREGATED", 2)
    meter = DenialMeter(Clock())
    for uid, count in ((4, 3), (5, 1), (6, 1), (7, 2)):
        for _ in range(count):
            meter.aggregate(uid, "expired")
    meter.aggregate(6, "revoked")
    bodies = meter.drain()
    assert bodies[:1] == [{"uid": 4, "codes": {"expired": 3}}]
    assert bodies[-1]["uid"] is None
    assert sum(sum(body["codes"].values()) for body in bodies) == 8
    meter.restore(bodies[-1])
    meter.aggregate(5, "expired")
    assert {body["uid"] for body in meter.drain()} == {None, 5}
