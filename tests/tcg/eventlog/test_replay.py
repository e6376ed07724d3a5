"""What a log stands for, and which part of it PCR values prove."""

import pytest

from attestd.errors import UsageError, VerificationError
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tcg.eventlog.replay import initial_value, replay, verify_events
from attestd.tcg.eventlog.types import EventType
from tests.tcg.eventlog.build import BOTH, event, extend, log, separators

ZERO = bytes(32)
LOG = parse_event_log(
    log(
        event(0, EventType.NO_ACTION, b"StartupLocality\0\x03"),
        event(0, EventType.S_CRTM_VERSION, b"1"),
        event(4, EventType.EFI_ACTION, b"a"),
        event(7, EventType.NO_ACTION, b"not extended"),
        event(4, EventType.EFI_ACTION, b"b"),
        event(9, EventType.IPL, b"c"),
    )
)


@pytest.mark.parametrize("bank", BOTH)
def test_replay(bank):
    zero = bytes(len(extend(bank, b"", b"")))
    assert replay(LOG, bank) == {
        0: extend(bank, zero[:-1] + b"\x03", b"1"),
        4: extend(bank, zero, b"a", b"b"),
        9: extend(bank, zero, b"c"),
    }


@pytest.mark.parametrize(
    ("pcr", "value"),
    [(0, ZERO[1:] + b"\4"), (1, ZERO), (16, ZERO), (17, b"\xff" * 32), (22, b"\xff" * 32), (23, ZERO)],
)
def test_initial_values(pcr, value):
    assert initial_value("sha256", pcr, locality=4) == value


def test_a_dynamic_launch_resets_what_it_extends():
    launched = parse_event_log(log(event(17, EventType.EVENT_TAG, b"module")))
    value = extend("sha256", ZERO, b"module")
    assert replay(launched, "sha256") == {17: value}
    verified = verify_events(launched, bank="sha256", values={17: value, 18: b"\xff" * 32})
    assert len(verified.events) == 1


def test_the_longest_prefix_is_proved():
    a, ab = extend("sha256", ZERO, b"a"), extend("sha256", ZERO, b"a", b"b")
    whole = verify_events(LOG, bank="sha256", values={4: ab, 9: extend("sha256", ZERO, b"c")})
    assert [item.data for item in whole.events] == [b"a", b"b", b"c"]
    assert (whole.pcrs, whole.later) == ((4, 9), 0)
    early = verify_events(LOG, bank="sha256", values={4: a, 9: ZERO})
    assert [item.data for item in early.events] == [b"a"]
    assert early.later == 2
    none = verify_events(LOG, bank="sha256", values={4: ZERO})
    assert (none.events, none.later) == ((), 2)
    assert verify_events(LOG, bank="sha256", values={15: ZERO}).events == ()


def test_each_pcr_is_at_the_same_moment():
    """c came after b: a quote that shows the one without the other is not of this log."""
    a, c = extend("sha256", ZERO, b"a"), extend("sha256", ZERO, b"c")
    with pytest.raises(VerificationError, match="not the log of this quote: PCR 4"):
        verify_events(LOG, bank="sha256", values={4: a, 9: c})


def test_a_value_in_between_but_another_at_the_end():
    """The message names PCRs even when each alone matches at some time."""
    doubled = parse_event_log(log(*separators(pcrs=(1, 2, 1))))
    once = extend("sha256", ZERO, bytes(4))
    with pytest.raises(VerificationError, match="PCR 2") as caught:
        verify_events(doubled, bank="sha256", values={1: once, 2: extend("sha256", once, bytes(4))})
    assert once.hex() in str(caught.value)
    with pytest.raises(VerificationError, match="PCR 2"):
        verify_events(doubled, bank="sha256", values={1: extend("sha256", once, bytes(4)), 2: ZERO})


@pytest.mark.parametrize("kind", [EventType.NO_ACTION, EventType.EFI_ACTION])
def test_the_type_decides_nothing(kind):
    """An attacker marks an extended event as one that is not, or adds one: the replay differs from the PCR."""
    true = [event(4, EventType.EFI_ACTION, b"good"), event(4, EventType.EFI_ACTION, b"evil")]
    values = {4: extend("sha256", ZERO, b"good", b"evil")}
    verify_events(parse_event_log(log(*true)), bank="sha256", values=values)
    hidden = event(4, EventType.NO_ACTION, b"evil")
    added = event(4, EventType.EFI_ACTION, b"more")
    forged = [true[0], hidden] if kind == EventType.NO_ACTION else [added, *true]
    with pytest.raises(VerificationError):
        verify_events(parse_event_log(log(*forged)), bank="sha256", values=values)


def test_misuse():
    with pytest.raises(UsageError, match="anything would do"):
        verify_events(LOG, bank="sha256", values={})
    with pytest.raises(UsageError, match="no bank 'sha384', expected one of sha1, sha256"):
        verify_events(LOG, bank="sha384", values={0: ZERO})
    with pytest.raises(UsageError):
        replay(LOG, "sha512")
    only_sm3 = parse_event_log(log(banks=("sm3",)))
    with pytest.raises(UsageError, match="expected one of none"):
        replay(only_sm3, "sha256")


def test_a_bank_with_a_hole_is_not_replayed():
    holed = parse_event_log(log(event(1, EventType.SEPARATOR, bytes(4), banks=("sha256",))))
    assert set(replay(holed, "sha256")) == {1}
    with pytest.raises(VerificationError, match=r"event 1 \(EV_SEPARATOR, PCR 1\) has no sha1 digest"):
        replay(holed, "sha1")
    with pytest.raises(VerificationError):
        verify_events(holed, bank="sha1", values={1: bytes(20)})
