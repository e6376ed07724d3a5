"""Event logs taken apart, and every way in which they may be malformed."""

import struct
import time

import pytest

from attestd.errors import MalformedError
from attestd.tcg.eventlog.parse import MAX_EVENTLOG_BYTES, MAX_EVENTS, parse_event_log
from attestd.tcg.eventlog.quirks import QUIRKS, Quirk
from attestd.tcg.eventlog.types import EventType, type_name
from tests.tcg.eventlog.build import BOTH, RECORDED, event, log, sha1_event, spec_id

SEPARATOR = event(0, EventType.SEPARATOR, bytes(4))
LOCALITY = b"StartupLocality\0"


def locality(value: int, *, pcr: int = 0, data: bytes | None = None) -> bytes:
    return event(pcr, EventType.NO_ACTION, data or LOCALITY + bytes([value]))


def test_crypto_agile():
    parsed = parse_event_log(log(SEPARATOR, event(4, EventType.EFI_ACTION, b"x")))
    assert parsed.agile
    assert parsed.banks == BOTH
    assert parsed.skipped == ()
    assert parsed.quirks == ()
    assert [(e.number, e.pcr, e.type, e.data) for e in parsed.events[1:]] == [
        (1, 0, EventType.SEPARATOR, bytes(4)),
        (2, 4, EventType.EFI_ACTION, b"x"),
    ]
    assert set(parsed.events[1].digests) == set(BOTH)
    assert not parsed.events[0].extends
    assert parsed.events[0].digests == {}
    assert str(parsed.events[2]) == "event 2 (EV_EFI_ACTION, PCR 4)"


@pytest.mark.parametrize(
    "first", [(EventType.S_CRTM_VERSION, b"1\0"), (EventType.NO_ACTION, b"Spec ID Event00\0....")]
)
def test_sha1(first):
    parsed = parse_event_log(sha1_event(0, *first) + sha1_event(7, EventType.SEPARATOR, bytes(4)))
    assert not parsed.agile
    assert parsed.banks == ("sha1",)
    assert [event.pcr for event in parsed.events] == [0, 7]
    assert [event.extends for event in parsed.events] == [first[0] != EventType.NO_ACTION, True]


def test_an_undefined_type_is_an_event_like_any_other():
    parsed = parse_event_log(log(event(3, 0x80001234, b"vendor")))
    assert parsed.events[1].extends
    assert type_name(parsed.events[1].type) == "0x80001234"


def test_a_bank_that_is_not_replayed_is_skipped_by_its_declared_size():
    banks = (*BOTH, "sm3")
    parsed = parse_event_log(log(event(1, EventType.SEPARATOR, bytes(4), banks=banks), banks=banks))
    assert parsed.banks == BOTH
    assert parsed.skipped == (0x12,)
    assert set(parsed.events[1].digests) == set(BOTH)


def test_digests_may_be_absent():
    """Windows leaves banks out."""
    parsed = parse_event_log(log(event(1, EventType.SEPARATOR, bytes(4), banks=("sha256",))))
    assert set(parsed.events[1].digests) == {"sha256"}


@pytest.mark.parametrize(
    ("padding", "quirk"), [(bytes(100), Quirk.ZERO_PADDING), (b"\xff" * 3, Quirk.FF_PADDING)]
)
def test_padding(padding, quirk):
    parsed = parse_event_log(log(SEPARATOR) + padding)
    assert parsed.quirks == (quirk,)
    assert len(parsed.events) == 2
    with pytest.raises(MalformedError):
        parse_event_log(log(SEPARATOR) + padding + b"\x01")


def test_every_quirk_is_explained():
    assert set(QUIRKS) == set(Quirk)


def test_startup_locality():
    assert parse_event_log(log(locality(3), SEPARATOR)).locality == 3
    assert parse_event_log(log(SEPARATOR)).locality == 0


@pytest.mark.parametrize(
    "events",
    [
        (locality(3), locality(3)),
        (SEPARATOR, locality(3)),
        (locality(3, pcr=1),),
        (locality(3, data=LOCALITY),),
        (locality(3, data=LOCALITY + b"\3\0"),),
    ],
)
def test_startup_locality_elsewhere(events):
    with pytest.raises(MalformedError, match="StartupLocality"):
        parse_event_log(log(*events))


def test_events_that_extend_nothing_need_no_pcr():
    parsed = parse_event_log(log(event(0xFFFFFFFF, EventType.NO_ACTION, b"NvIndexInstance\0"), SEPARATOR))
    assert not parsed.events[1].extends


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (bytes(MAX_EVENTLOG_BYTES + 1), "the limit is 4194304"),
        (b"\x01" * 10, "truncated in event 0"),
        (log(SEPARATOR)[:-5], "truncated in event 1"),
        (log(SEPARATOR)[:-1], "says 4 bytes of data, 3 follow"),
        (log(SEPARATOR)[:75], "truncated in event 1"),
        (log(event(0, EventType.SEPARATOR, bytes(4), size=0xFFFFFFFF)), "says 4294967295 bytes"),
        (log(event(0, EventType.SEPARATOR, bytes(4), count=0xFFFFFFFF)), "4294967295 digests"),
        (
            log(event(0, EventType.SEPARATOR, bytes(4), banks=("sha256", "sha256"))),
            "each hash of the Spec ID",
        ),
        (log(event(0, EventType.SEPARATOR, bytes(4), banks=("sha384",))), "0x000c"),
        (log(event(24, EventType.SEPARATOR, bytes(4))), "names PCR 24"),
        (log(event(0xFFFFFFFF, EventType.SEPARATOR, bytes(4))), "names PCR 4294967295"),
        (sha1_event(24, EventType.SEPARATOR, bytes(4)), "names PCR 24"),
        (sha1_event(0, EventType.SEPARATOR, bytes(4), size=5), "says 5 bytes"),
        (log(SEPARATOR, event(0, EventType.NO_ACTION, spec_id())), "second Spec ID"),
        (log(header=spec_id(vendor=b"ab", vendor_size=3)), "its members need"),
        (log(header=spec_id(vendor=b"ab", vendor_size=1)), "its members need"),
        (log(header=spec_id(count=3)), "truncated"),
        (log(header=spec_id(count=0)), "0 hash algorithms"),
        (log(header=spec_id(count=17)), "17 hash algorithms"),
        (log(header=spec_id(count=0xFFFFFFFF)), "hash algorithms"),
        (log(header=spec_id()[:16]), "truncated"),
        (log(header=spec_id()[:-1]), "truncated"),
        (log(header=spec_id(("sha1", "sha1"))), "the same hash algorithm twice"),
        (log(header=spec_id(sizes={"sha1": 20, "sha256": 20})), "0x000b with digests of 20 bytes"),
        (log(header=spec_id(("sm3",), sizes={"sm3": 0})), "0x0012 with digests of 0 bytes"),
        (log(header=spec_id(("sm3",), sizes={"sm3": 0xFFFF})), "digests of 65535 bytes"),
    ],
)
def test_malformed(data, words):
    with pytest.raises(MalformedError, match=words):
        parse_event_log(data)


def test_cut_anywhere_it_is_malformed_or_shorter():
    """Nothing but the documented error; and what still parses is a prefix of the events."""
    data = RECORDED["uki-sb"][0]
    whole = parse_event_log(data).events
    for end in range(1, len(data), 7):
        try:
            part = parse_event_log(data[:end]).events
        except MalformedError:
            continue
        assert part == whole[: len(part)]


def test_too_many_events():
    head = log()
    tiny = struct.pack("<IIII", 1, EventType.SEPARATOR, 0, 0)
    assert len(parse_event_log(head + tiny * (MAX_EVENTS - 1)).events) == MAX_EVENTS
    with pytest.raises(MalformedError, match="more than 32768 events"):
        parse_event_log(head + tiny * MAX_EVENTS)


def test_the_largest_log_is_read_in_bounded_time():
    """4 MiB that look as if padding could begin at every event."""
    head = log()
    tiny = struct.pack("<IIII", 0, 0, 0, 0)
    start = time.thread_time()
    data = head + tiny * ((MAX_EVENTLOG_BYTES - len(head) - 1) // len(tiny)) + b"\x01"
    with pytest.raises(MalformedError):
        parse_event_log(data)
    assert time.thread_time() - start < 5
