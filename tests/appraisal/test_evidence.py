"""The evidence document: its bounds, and what is not one."""

import json
from typing import Any

import pytest

from attestd.appraisal.evidence import (
    MAX_EVIDENCE_BYTES,
    draft_evidence,
    make_boot_logs,
    parse_evidence,
    parse_evidence_challenge,
)
from attestd.appraisal.verifier import parse_boot_logs
from attestd.errors import MalformedError
from attestd.strict import canonical
from tests.appraisal.attesting import Attesting

ATTESTING = Attesting()
GOOD = ATTESTING.answer()


def changed(**members: Any) -> bytes:
    return json.dumps({**json.loads(GOOD), **members}).encode()


def test_what_is_made_parses() -> None:
    assert canonical(parse_evidence(GOOD)) == GOOD
    asked = ATTESTING.ask()
    assert parse_evidence_challenge(canonical(asked)) == asked
    assert parse_boot_logs(canonical(ATTESTING.logs)) == ATTESTING.logs


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        GOOD + b"x",
        GOOD.replace(b'"v":1', b'"v":1,"v":1'),
        GOOD.replace(b'"v":1', b'"v":1.0'),
        changed(v=2),
        changed(passed=True),
        changed(host="AB" * 32),
        changed(challenge="A"),
        changed(platform="../x"),
        changed(pcrs={}),
        changed(pcrs={"sha256": {}}),
        changed(pcrs={"sha1": {"0": "00" * 20}}),
        changed(pcrs={"sha256": {"24": "00" * 32}}),
        changed(pcrs={"sha256": {"00": "00" * 32}}),
        changed(agent=""),
        changed(agent="\x1b[2J"),
        changed(quote="A" * 5000),
        changed(quote="+"),
        changed(ima={"offset": -1, "entries": ""}),
        changed(ima={"offset": 2**53, "entries": ""}),
        changed(ima={"offset": 0}),
        changed(eventlog={"sha256": "x", "log": None}),
        b" " * (MAX_EVIDENCE_BYTES + 1),
    ],
)
def test_no_evidence(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_evidence(data)


def test_as_large_as_it_gets_and_larger() -> None:
    """16 MiB of IMA entries and 4 MiB of event logs, and not one byte more."""
    logs = make_boot_logs(firmware=bytes(3 << 20), userspace=bytes(1 << 20), command_line="")
    ima = bytes(16 << 20)
    assert parse_evidence(ATTESTING.answer(logs=logs, ima=(0, ima)))
    with pytest.raises(MalformedError):
        make_boot_logs(firmware=bytes(3 << 20), userspace=bytes((1 << 20) + 3), command_line="")
    with pytest.raises(MalformedError):
        make_boot_logs(firmware=b"", userspace=b"", command_line="x" * 70_000)
    with pytest.raises(MalformedError):
        ATTESTING.answer(ima=(0, ima + b"x"))


def test_a_draft_is_held_to_the_same_bounds() -> None:
    with pytest.raises(MalformedError):
        draft_evidence(
            ATTESTING.ask(), attest=bytes(5000), signature=b"", values={}, logs=None, ima=None, agent="a"
        )
