"""The documented formats are those of the code: blocks, example files, tables, and the bodies that a real host writes."""

import contextlib
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from attestd.agent.enrolment import EnrolHere
from attestd.agent.rekey import rekey
from attestd.appraisal.document import parse_quote, verify_document
from attestd.audit.store import LogStore
from attestd.codes import EXIT_STATUS, Code
from attestd.distribution.keyring import Keyring
from attestd.distribution.local import TrustSource, load_trust
from attestd.gate.model import CHECKS
from attestd.lineage.entry import EntryType, parse_entry
from attestd.lineage.receipt import parse_receipt, verify_receipt
from attestd.wire import FrameReader, Kind, encode_fields, send_frame
from tests.docs import make_examples
from tests.host import Host

AGAIN = "changed on purpose? run: python -m tests.docs.make_examples"
PAGES = sorted(make_examples.FORMATS.glob("*.md"))
RESERVED = {EntryType.EXECUTION_TERMINATED}


@pytest.fixture(scope="module")
def named():
    return make_examples.blocks()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_what_the_code_produces(page, named):
    text = page.read_text(encoding="utf-8")
    assert make_examples.render(text, named) == text, AGAIN


def test_every_block_is_shown_once(named):
    shown = [found[2] for page in PAGES for found in make_examples.BLOCK.finditer(page.read_text("utf-8"))]
    assert sorted(shown) == sorted(named)


def test_example_files_are_what_the_code_produces():
    top = make_examples.EXAMPLES
    found = {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}
    assert found == make_examples.files(), AGAIN


def example_trust():
    directory = make_examples.EXAMPLES / "trust"
    return load_trust(TrustSource.at(directory, owners={directory.stat().st_uid}))


def test_the_example_receipt_verifies_with_the_example_trust():
    files = make_examples.files()
    trust = example_trust()
    verified = verify_receipt(parse_receipt(files["deploy.tlog-proof"]), trust=trust)
    assert verified.entry.type is EntryType.DECISION_ALLOW
    assert verified.entry.body["artifact"]["id"] in (make_examples.FORMATS / "authorization.md").read_text()


def test_the_example_quote_verifies_with_the_example_trust():
    files = make_examples.files()
    trust = example_trust()
    verified = verify_document(parse_quote(files["quote.json"]), trust=trust, challenge=b"*" * 16)
    assert verified.values == make_examples.world().values


def test_the_table_of_denial_codes_is_complete():
    page = (make_examples.FORMATS / "denial-codes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_]+)` \|.*\| (\d+) \|$", page, re.MULTILINE)
    assert {Code(code): int(status) for code, status in rows} == EXIT_STATUS
    assert [code for code, _ in rows] == [code.value for code in Code]


def test_the_table_of_checks_is_complete():
    page = (make_examples.FORMATS.parent / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([a-z_]+) \|", page, re.MULTILINE)
    assert rows == [(str(number), name) for number, name in enumerate(CHECKS, 1)]


def test_every_entry_type_is_described():
    page = (make_examples.FORMATS / "entry.md").read_text(encoding="utf-8")
    assert set(make_examples.bodies()) | RESERVED == set(EntryType)
    assert all(f"### {type_.value}\n" in page for type_ in make_examples.bodies())
    assert all(f"`{type_.value}`" in page for type_ in RESERVED)


# --- what a real host writes ----------------------------------------------------------------------------------------


def shape(value: Any) -> Any:
    """Member names and kinds of values, as deep as they are ours; null fits anything."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def fits(found: Any, documented: Any) -> bool:
    """Whether two shapes are of one kind."""
    if found == "NoneType" or documented == "NoneType" or found == [] or documented == []:
        return True
    if isinstance(found, dict) and isinstance(documented, dict):
        return found.keys() == documented.keys() and all(
            n in _MAPS or fits(found[n], documented[n]) for n in found
        )
    if isinstance(found, list) and isinstance(documented, list):
        return fits(found[0], documented[0])
    return bool(found == documented)


# Members that are maps, whose names are data.
_MAPS = {"env", "codes", "targets"}


def comparable(body: dict[str, Any]) -> dict[str, Any]:
    return {name: {} if name in _MAPS else shape(value) for name, value in body.items()}


def abandon(host: Host) -> None:
    """Asks for an execution, and goes away when the runner asks for the go."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.settimeout(20)
        sock.connect(str(host.layout.agent_socket))
        cwd, program = os.open(host.work, os.O_RDONLY), os.open("/bin/true", os.O_RDONLY)
        try:
            fields = [b"exec", b"", host.issue("/bin/true"), b"", b"/bin/true"]
            send_frame(sock, Kind.REQUEST, encode_fields(fields), [0, 1, 2, cwd, program])
        finally:
            os.close(cwd)
            os.close(program)
        reader = FrameReader(sock)
        while (frame := reader.receive()) is not None and frame.kind != Kind.READY:
            frame.close()


def test_a_real_host_writes_the_documented_bodies(tmp_path: Path):
    with Host.create() as host:
        host.start()
        assert host.run("/bin/true").status == 0
        assert host.exec("/bin/true").status == 77
        abandon(host)
        host.wait_entry(EntryType.DECISION_VOID)
        host.approve_present_state()
        host.wait_entry(EntryType.GOVERNANCE_UPDATE)
        host.bump_epoch()
        host.wait_entry(EntryType.REVOCATION)
        assert "ok" in host.ask("accept_clock")
        host.wait_settled()
        assert host.stop() == 0
        entries = host.entries()
        keys = EnrolHere(host.layout, Keyring(host.layout.authority), ask=None)
        done = rekey(host.layout, host.configuration, lost=False, enrol=keys)
        with contextlib.closing(LogStore.open(str(done.closed), readonly=True)) as closed:
            last = parse_entry(closed.entry(closed.size - 1))
    documented = {
        type_: [comparable(dict(body)) for _, body in bodies]
        for type_, bodies in make_examples.bodies().items()
    }
    for logged in entries:
        found = comparable(logged.body)
        assert any(fits(found, body) for body in documented[logged.type]), (logged.type, found)
    assert fits(comparable(last.body), documented[last.type][0])
    # Aggregated denials take 21 of them, and are compared by the generator: it asks the meter itself.
    assert {last.type, *(logged.type for logged in entries)} == set(documented) - {
        EntryType.DENIALS_AGGREGATED
    }
