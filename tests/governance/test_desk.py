"""What operator and enroller say to each other: of one form, and a record is found by the beginning of its name."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from attestd.errors import MalformedError, UsageError
from attestd.governance.desk import (
    Decision,
    HostAnswer,
    HostList,
    HostRow,
    HostState,
    Verdict,
    Waiting,
    find_waiting,
    parse_host_answer,
    parse_host_list,
    parse_verdict,
)
from attestd.strict import canonical

HOST, OTHER, DIGEST = "ab" * 32, "abababababac" + "00" * 26, "cd" * 32


def row(host: str = HOST, state: HostState = HostState.WAITING, digest: str | None = DIGEST) -> HostRow:
    return HostRow(
        host=host,
        state=state,
        tier="software",
        labels={},
        until="",
        words=("a new host",),
        digest=digest,
        attested=None,
    )


DECISION = Decision(host=HOST, digest="", decision="expected", operator="alice", words="", at="")
WAITING = Waiting(digest=DIGEST, record="e30=", reasons=(), at="", before=None, labels_before={}, warnings=())


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        (parse_host_list, HostList(hosts=(row(),), decisions=(DECISION,), next=OTHER)),
        (parse_host_answer, HostAnswer(host=HOST, rows=(row(),), waiting=WAITING, decisions=())),
        (parse_verdict, Verdict(host=HOST, decision="approved", digest=DIGEST, fresh=True, governance=False)),
    ],
)
def test_what_is_said_is_read(parse: Callable[[bytes], Any], value: Any) -> None:
    assert parse(canonical(value)) == value
    for wrong in (b"", b"{}", b"[]", canonical(value)[:-1] + b',"more":1}'):
        with pytest.raises(MalformedError):
            parse(wrong)


def test_what_is_shown_is_all_of_it() -> None:
    """Whatever somebody sees before they approve is in its digest."""
    others = [
        structs.replace(WAITING, **{name: value})
        for name, value in {
            "digest": "00" * 32, "record": "", "reasons": ("r",), "at": "t", "before": "00", "labels_before": {"a": "b"},
            "warnings": ("w",),
        }.items()
    ]  # fmt: skip
    assert len(others) == len(WAITING.__struct_fields__)
    assert len({item.shown for item in (WAITING, *others)}) == len(others) + 1


def test_a_record_is_found_by_a_beginning() -> None:
    rows = [row(), row(OTHER, digest=None), row("ef" * 32, state=HostState.ENROLLED, digest=None)]
    assert find_waiting(rows, HOST) == find_waiting(rows, HOST[:12]) == find_waiting(rows, DIGEST[:8]) == HOST
    assert find_waiting(rows, OTHER[:12]) == OTHER
    for name in (HOST[:7], HOST[:10], "ef" * 32, "00" * 4, ""):
        with pytest.raises(UsageError, match="of one record that waits; found"):
            find_waiting(rows, name)
