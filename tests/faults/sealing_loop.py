"""A process that seals and "releases" until it is killed, forked anew for each line on stdin.

`python -m tests.faults.sealing_loop STATE_DIR TRACES`: recovers as the agent does, then seals allows, and writes a line
to TRACES for each after its receipt could be handed out. No clients, no runner: a kill costs milliseconds.
"""

import os
import signal
import sys
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attestd.agent.tpm_access import TpmAccess
from attestd.agent.tpm_port import TpmPort
from attestd.audit.recover import recover, unsettled_allows, void_body
from attestd.audit.seal import Charge, Pending, Sealer
from attestd.audit.store import LogStore
from attestd.distribution.local import load_own_trust
from attestd.errors import TpmUnavailableError
from attestd.governance.trust import Trust
from attestd.lineage.checkpoint import LogKeys
from attestd.lineage.entry import EntryType
from attestd.paths import Configuration, Layout, find_layout
from attestd.strict import format_time_us
from attestd.tcg.attest import QuoteInfo, parse_attest
from attestd.tpm._tcti import _binding
from attestd.tpm.owner import TpmOwner

BATCH = 3
ARTIFACT = "5e" * 32


def main() -> None:
    layout, traces = find_layout(sys.argv[1]), Path(sys.argv[2])
    _binding()
    trust = load_own_trust(layout)  # once, for it is half of what a start costs
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for number, _ in enumerate(sys.stdin):
        pid = os.fork()
        if pid == 0:
            try:
                _seal(layout, trust, traces, number)
            except Exception:  # noqa: BLE001 - the edge of a process
                traceback.print_exc()
            os._exit(1)
        print(pid, flush=True)


def _seal(layout: Layout, trust: Trust, traces: Path, number: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    owner = TpmOwner(TpmAccess(Configuration(), layout).open_loaded)
    store = LogStore.open(str(layout.log))
    host, policy = trust.hosts[store.host_id], trust.platforms["local"]
    port = TpmPort(owner, host=store.host_id, selection=policy.selection, deadline_s=10)
    body = parse_attest(port.quote(bytes(32)).attest).body
    assert isinstance(body, QuoteInfo)
    port.expect(
        policy, policy.approval_for(body.pcr_digest, epoch=trust.revocations.epoch, at=datetime.now(UTC))
    )
    keys = LogKeys(store.origin, host.release_spki, host.ak_spki)
    recovery = recover(store, port, keys, clock=port.clock())
    sealer = Sealer(store, port, keys, counter=recovery.counter, resets=recovery.resets)
    # Only what this process's predecessors left can be open: the whole log would be read again at each kill.
    since = format_time_us(datetime.now(UTC) - timedelta(seconds=60))
    unsettled = set(unsettled_allows(store, since=since)) if recovery.voids else set()
    voids = [
        Pending(EntryType.DECISION_VOID, dict(void_body(store, seq, reason="killed")))
        for seq in recovery.voids
        if seq in unsettled
    ]
    output = os.open(traces, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if voids:
        sealer.seal(voids, now=datetime.now(UTC), boot="boot")
    count = 0
    while True:
        tokens = [f"{number}.{count + index}" for index in range(BATCH)]
        count += BATCH
        pendings = [
            Pending(
                EntryType.DECISION_ALLOW,
                {"artifact": ARTIFACT, "token": token},
                Charge(ARTIFACT, None),
                _never,
            )
            for token in tokens
        ]
        try:
            result = sealer.seal(pendings, now=datetime.now(UTC), boot="boot")
        except TpmUnavailableError:
            continue
        for token, sealed in zip(tokens, result.sealed, strict=True):
            if sealed.type is EntryType.DECISION_ALLOW:
                os.write(output, f"{token}\n".encode())


def _never(denial: object) -> dict[str, object]:
    return {"denied": str(denial)}


if __name__ == "__main__":
    main()
