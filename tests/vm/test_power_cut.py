"""The power is cut in the middle of releases: what was handed out is in the log, and the machine goes on."""

import base64
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attestd.audit.store import LogStore
from attestd.cli.given_trust import named_trust
from attestd.lineage.receipt import parse_receipt, verify_receipt
from swtpm.vm.machine import Machine
from swtpm.vm.port import Command

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

CLIENTS = 3
RECEIPTS = 15
# Each prints a receipt as soon as it has one: the host keeps what the machine said before its end.
RELEASES = """cd /root; n=0
while attestd exec --receipt /dev/shm/$$.$n -a id.auth.json -- id -un > /dev/null; do
  base64 -w0 /dev/shm/$$.$n && echo; n=$((n + 1))
done"""


def _receipts(clients: list[Command]) -> list[bytes]:
    """Those that arrived whole."""
    lines = [line for client in clients for line in client.printed[1].split(b"\n")[:-1]]
    return [base64.b64decode(line) for line in lines]


def test_nothing_that_was_released_is_lost(machine: Machine, tmp_path: Path) -> None:
    clients = [machine.start(RELEASES) for _ in range(CLIENTS)]
    deadline = time.monotonic() + 120
    while len(_receipts(clients)) < RECEIPTS:
        assert time.monotonic() < deadline, [client.printed for client in clients]
        time.sleep(0.01)
    machine.cut()
    receipts = _receipts(clients)

    machine.boot(machine.booted)
    machine.until("systemctl is-active -q attestd")
    machine.run("attestd audit verify")
    assert machine.run("cd /root; attestd exec -a id.auth.json -- id -un").out == "root\n"
    # And as an outsider sees it, with nothing but the files.
    archive = machine.run("attestd backup /root/backup.tar >&2; cat /root/backup.tar").stdout
    subprocess.run(["tar", "-x"], cwd=tmp_path, input=archive, check=True)
    verify = [Path(sys.executable).with_name("attestd"), "verify", "log", "log.db", "--trust", "trust"]
    subprocess.run(verify, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    store, trust = LogStore.open(str(tmp_path / "log.db"), readonly=True), named_trust(tmp_path / "trust")
    for data in receipts:
        receipt = parse_receipt(data)
        assert verify_receipt(receipt, trust=trust).entry_bytes == store.entry(receipt.proof.index)
    store.close()
