"""Challenges: what the MAC is over, and which way a TPM's clock went."""

from datetime import timedelta

import pytest

from attestd.appraisal.challenge import ClockMove, compare_clocks, make_challenge, verify_challenge
from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.strict import decode_base64url, encode_base64url
from attestd.tcg.attest import ClockInfo
from tests.world import NOW

HOST, KEY = "ab" * 32, bytes(range(32))
END = NOW + timedelta(minutes=1)


def make(**changes: object) -> str:
    given = {"host": HOST, "platform": "local", "key": KEY, "expires": END, "random": bytes}
    return make_challenge(**{**given, **changes})  # type: ignore[arg-type] # a table of arguments


def verify(challenge: str, **changes: object) -> bytes:
    given = {"host": HOST, "platform": "local", "key": KEY, "now": NOW}
    return verify_challenge(challenge, **{**given, **changes})  # type: ignore[arg-type] # likewise


def test_a_challenge() -> None:
    challenge = make()
    assert len(challenge) == 75, "RFC 9711: an eat_nonce has 8 to 88"
    assert verify(challenge) == decode_base64url(challenge, what="challenge")
    assert make(random=lambda size: b"\1" * size) != challenge


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "cd" * 32},
        {"platform": "other"},
        {"key": bytes(32)},
        {"now": END},
        {"now": END + timedelta(days=1)},
    ],
)
def test_another(changes: dict[str, object]) -> None:
    with pytest.raises(VerificationError):
        verify(make(), **changes)


def test_until_its_last_second() -> None:
    verify(make(), now=END - timedelta(microseconds=1))


def test_names_do_not_run_together() -> None:
    with pytest.raises(VerificationError):
        verify(make(host="ab", platform="cd"), host="abc", platform="d")


@pytest.mark.parametrize("bit", range(0, 56 * 8, 7))
def test_each_bit(bit: int) -> None:
    data = bytearray(decode_base64url(make(), what="challenge"))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(VerificationError):
        verify(encode_base64url(bytes(data)))


@pytest.mark.parametrize("text", ["", "A", "A" * 74, "A" * 75 + "=", "+" * 75, "\u00e9" * 75, "A" * 76])
def test_no_challenge(text: str) -> None:
    with pytest.raises(MalformedError):
        verify(text)


def test_a_key_that_can_be_guessed() -> None:
    with pytest.raises(UsageError):
        make(key=bytes(31))
    with pytest.raises(UsageError):
        verify(make(), key=b"")


@pytest.mark.parametrize(
    ("now", "move"),
    [
        ((7, 1, 101), ClockMove.FORWARD),
        ((7, 2, 1), ClockMove.FORWARD),
        ((8, 0, 0), ClockMove.FORWARD),
        ((7, 1, 100), ClockMove.REPLAYED),
        ((7, 1, 99), ClockMove.BACK),
        ((7, 0, 500), ClockMove.BACK),
        ((6, 9, 500), ClockMove.CLEARED),
        ((0, 0, 0), ClockMove.CLEARED),
    ],
)
def test_clocks(now: tuple[int, int, int], move: ClockMove) -> None:
    last = ClockInfo(100, 7, 1, safe=True)
    resets, restarts, clock = now
    assert compare_clocks(last, ClockInfo(clock, resets, restarts, safe=False)) is move
