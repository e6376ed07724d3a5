import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestd.errors import MalformedError
from attestd.lineage.entry import MAX_ENTRY_BYTES, Entry, EntryType, format_entry, parse_entry
from attestd.strict import canonical

TIME = "2026-01-31T12:00:00.000000Z"
BOOT = "0b1c2d3e-4f50-4617-8899-aabbccddeeff"
GOLDEN = (
    b'{"body":{"code":"expired"},"boot":"0b1c2d3e-4f50-4617-8899-aabbccddeeff","seq":7,'
    b'"time":"2026-01-31T12:00:00.000000Z","type":"decision.deny","v":1}'
)


def document(**changes):
    entry = {
        "v": 1,
        "type": "decision.deny",
        "time": TIME,
        "seq": 7,
        "boot": BOOT,
        "body": {"code": "expired"},
    }
    return canonical({**entry, **changes})


def test_the_golden_entry():
    made = format_entry(type_=EntryType.DECISION_DENY, time=TIME, seq=7, boot=BOOT, body={"code": "expired"})
    assert made == GOLDEN == document()
    assert parse_entry(GOLDEN) == Entry(
        v=1, type=EntryType.DECISION_DENY, time=TIME, seq=7, boot=BOOT, body={"code": "expired"}
    )


def test_the_types_are_frozen():
    """The names of formats.md: logs that exist use them."""
    assert {kind.value for kind in EntryType} == set(
        "log.start agent.start agent.stop decision.allow decision.deny decision.void denials.aggregated "  # noqa: SIM905 - as formats.md lists them
        "execution.start execution.exit execution.terminated attestation governance.update revocation "
        "host.reenroll".split()
    )


@pytest.mark.parametrize("kind", list(EntryType))
def test_every_type_is_read_back(kind):
    data = format_entry(type_=kind, time=TIME, seq=0, boot=BOOT, body={})
    assert parse_entry(data).type is kind


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "JSON"),
        (document() + b"\n", "RFC 8785"),
        (document(v=2), "Invalid enum value 2"),
        (document(v="1"), "Expected `int`"),
        (document(type="decision.maybe"), "Invalid enum value 'decision.maybe'"),
        (document(seq=-1), "negative|>= 0"),
        (document(seq=True), "Expected `int`"),
        (document(time="2026-01-31T12:00:00Z"), "six fractional digits|matching regex"),
        (document(time="2026-02-30T12:00:00.000000Z"), "day"),
        (document(boot=1), "Expected `str`"),
        (document(body=[]), "Expected `object`"),
        (document(more=1), "unknown field `more`"),
        (canonical({"v": 1}), "missing required field"),
        (document(body={"a": "x" * MAX_ENTRY_BYTES}), "limit is 65535"),
    ],
)
def test_a_malformed_entry_says_why(data, message):
    with pytest.raises(MalformedError, match=f"^log entry: .*({message})|^time .*({message})"):
        parse_entry(data)


def test_the_largest_entry_is_written_and_read_and_one_byte_more_is_not():
    room = MAX_ENTRY_BYTES - len(document(body={"a": ""}))
    arguments = {"type_": EntryType.DECISION_DENY, "time": TIME, "seq": 7, "boot": BOOT}
    largest = format_entry(**arguments, body={"a": "x" * room})
    assert len(largest) == MAX_ENTRY_BYTES
    assert parse_entry(largest).body == {"a": "x" * room}
    with pytest.raises(MalformedError, match="65536 bytes, the limit is 65535"):
        format_entry(**arguments, body={"a": "x" * (room + 1)})


@pytest.mark.parametrize(
    "changes",
    [{"seq": -1}, {"time": "2026-01-31T12:00:00Z"}, {"time": "2026-02-30T12:00:00.000000Z"}, {"seq": 2**53}],
)
def test_what_a_reader_would_refuse_is_not_written(changes):
    arguments = {"type_": EntryType.LOG_START, "time": TIME, "seq": 0, "boot": BOOT, "body": {}}
    with pytest.raises(MalformedError):
        format_entry(**{**arguments, **changes})


def test_a_body_without_canonical_form_is_not_written():
    with pytest.raises(MalformedError, match="no canonical JSON form"):
        format_entry(type_=EntryType.DECISION_DENY, time=TIME, seq=7, boot=BOOT, body={"pid": 1.5})


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_bytes_from_anywhere_raise_nothing_else(data):
    with pytest.raises(MalformedError):
        parse_entry(data)
