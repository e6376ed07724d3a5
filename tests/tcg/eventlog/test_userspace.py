"""What user space measured: systemd's log, and its phases where there is none."""

import hashlib
import json
from typing import Any

import pytest

from attestd.errors import MalformedError, VerificationError
from attestd.tcg.eventlog.meaning import read_events
from attestd.tcg.eventlog.parse import MAX_EVENTLOG_BYTES, parse_event_log
from attestd.tcg.eventlog.replay import verify_events
from attestd.tcg.eventlog.userspace import known_phases, parse_userspace_log, with_events, with_phases
from tests.tcg.eventlog.build import RECORDED, event, log


def record(text: str | None = "sysinit", pcr: Any = 11, **changed: Any) -> bytes:
    """As systemd 256 writes one."""
    measured = (text or "secret").encode()
    digests = [
        {"hashAlg": name, "digest": hashlib.new(name, measured).hexdigest()} for name in ("sha1", "sha256")
    ]
    content = {
        **({} if text is None else {"string": text}),
        "bootId": "8a" * 16,
        "timestamp": 1234567,
        "eventType": "phase",
    }
    value = {"pcr": pcr, "digests": digests, "content_type": "systemd", "content": content, **changed}
    return b"\x1e" + json.dumps(value).encode() + b"\n"


def test_records_go_on_where_the_firmware_ended():
    firmware = parse_event_log(log(event(11, 13, b"a")))
    events = parse_userspace_log(record("sysinit") + record(None, 15), first=len(firmware.events))
    assert [(item.number, item.pcr, item.data) for item in events] == [(2, 11, b"sysinit"), (3, 15, b"")]
    whole = with_events(firmware, events)
    [_, phase, secret] = read_events(whole.events, bank="sha256")
    assert str(phase) == "PCR 11: boot phase: sysinit (event 2)"
    assert not secret.proved
    assert parse_userspace_log(b"", first=0) == ()


def test_hashes_that_are_not_replayed_are_left_out():
    digests = [{"hashAlg": "sm3-256", "digest": "ab" * 32}, {"hashAlg": "sha256", "digest": "ab" * 32}]
    [item] = parse_userspace_log(record(digests=digests), first=0)
    assert item.digests == {"sha256": b"\xab" * 32}


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"\x1e{}\n",
        b"\x1e\n",
        record()[:-1],
        record()[1:],
        b"x" + record(),
        record() + b"\n",
        record(pcr=24),
        record(pcr=-1),
        record(pcr="11"),
        record(pcr=1.5),
        record(digests=[]),
        record(digests=[{"hashAlg": "sha256", "digest": "ab"}]),
        record(digests=[{"hashAlg": "sha256", "digest": "ab" * 32}] * 2),
        record(digests=[{"hashAlg": "sha256", "digest": "AB" * 32}]),
        record(digests=[{"hashAlg": "sha256"}]),
        record(content=None),
        record("x" * 70_000),
        bytes(MAX_EVENTLOG_BYTES + 1),
    ],
    ids=len,
)
def test_malformed(data):
    with pytest.raises(MalformedError, match="user space log"):
        parse_userspace_log(data, first=0)


@pytest.mark.parametrize("name", ["uki-sb", "uki-sb-cmdline2"])
@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_phases_of_recorded_boots(name, bank):
    data, banks = RECORDED[name]
    firmware = parse_event_log(data)
    values = {pcr: value for pcr, value in banks[bank].items() if pcr != 10}
    with pytest.raises(VerificationError, match="PCR 11"):
        verify_events(firmware, bank=bank, values=values)
    phases = known_phases(firmware, bank=bank, value=values[11])
    assert phases == ("sysinit", "ready")
    verified = verify_events(with_phases(firmware, phases), bank=bank, values=values)
    assert [str(item) for item in read_events(verified.events[-2:], bank=bank)] == [
        "PCR 11: boot phase: sysinit (event 34)",
        "PCR 11: boot phase: ready (event 35)",
    ]


def test_phases_with_an_initrd():
    firmware = parse_event_log(log())
    for phases in (
        (),
        ("enter-initrd", "leave-initrd", "sysinit"),
        ("sysinit", "ready", "shutdown", "final"),
    ):
        value = bytes(32)
        for phase in phases:
            value = hashlib.sha256(value + hashlib.sha256(phase.encode()).digest()).digest()
        assert known_phases(firmware, bank="sha256", value=value) == phases
    assert known_phases(firmware, bank="sha256", value=b"\1" * 32) is None
