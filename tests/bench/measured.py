"""What was measured: UEFI logs and IMA lists, beside tpm2_eventlog and bare hashing.

Keylime 7.14's `process_measurement_list` did 107,000 entries a second on a machine whose bare hashing did 780,000: 2.5
times as fast as Keylime is 34 % of bare hashing.
"""

import asyncio
import hashlib
import logging
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from attestd.agent.boots import Boots
from attestd.agent.ima_watch import ImaWatch
from attestd.agent.log_appraisal import LogAppraiser
from attestd.agent.measured_logs import BootReader
from attestd.appraisal.boot_rules import parse_boot_rules
from attestd.appraisal.ima import ImaAppraisal, ImaPolicy, appraise_ima, parse_ima_policy
from attestd.appraisal.logs import LogAppraisal
from attestd.paths import Configuration
from attestd.strict import canonical
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tcg.eventlog.replay import replay
from attestd.tcg.ima.replay import ImaPosition, replay_list, start_of_list, verify_list
from attestd.tcg.pcr import PcrSelection
from tests.bench.measure import Results, Row, alternate, median_ms, ratios, timed
from tests.measured import RECORDED as RECORDED_DATA
from tests.measured import boot_rules
from tests.tcg.eventlog.build import LOGS, RECORDED
from tests.tcg.ima.build import data, entry, pcr10
from tests.world import NOW, World

ENTRIES = 100_000
LINES = 50_000
NEW = 50
KEYLIME = 2.5 * 107 / 780
MEMORY = """
from pathlib import Path
from attestd.appraisal.ima import appraise_ima, parse_ima_policy
from attestd.tcg.ima.replay import start_of_list, verify_list
policy = parse_ima_policy(Path("policy").read_bytes())
data, value = Path("list").read_bytes(), Path("value").read_bytes()
assert appraise_ima(verify_list(data, position=start_of_list("sha256"), value=value), policy=policy, aggregates=None).count == 0
# Not ru_maxrss: it has the peak of whoever forked this process.
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


def measure(results: Results) -> None:
    """All rows of this page."""
    event_log(results)
    unchanged(results)
    ima(results)


def event_log(results: Results) -> None:
    """Parse and replay, every bank; and the same by tpm2_eventlog, as a process."""
    path = LOGS / "rhel8-uefi.bin"
    log = path.read_bytes()

    def ours() -> None:
        parsed = parse_event_log(log)
        for bank in parsed.banks:
            replay(parsed, bank)

    own, theirs = alternate(ours, lambda: _tool(path), rounds=10 if results.quick else 40)
    results.add(
        Row("UEFI log of 34 KB, parse and replay 3 banks", median_ms(own), "ms", bar=2, at_most=True),
        Row(
            "the same, times as fast as tpm2_eventlog",
            statistics.median(theirs) / statistics.median(own),
            "x",
            f"a process of {median_ms(theirs):.1f} ms",
            bar=3,
        ),
    )


def unchanged(results: Results) -> None:
    """What logs add to a quote of a boot that did not change, and to a decision under an IMA policy."""
    boot, world = RECORDED_DATA / "uki-sb", World()
    rules = parse_boot_rules(
        canonical(boot_rules(secure_boot="required", separators="required", command_lines=["x"]))
    )
    local = world.trust().platforms["local"]
    quoted = PcrSelection("sha256", tuple(sorted({*local.selection.pcrs, *rules.pcrs})))
    policy = replace(local, boot=rules, quoted=quoted)
    values = {pcr: RECORDED["uki-sb"][1]["sha256"][pcr] for pcr in quoted.pcrs}
    configuration = Configuration(
        eventlog=str(boot / "binary_bios_measurements"), command_line=str(boot / "cmdline")
    )
    with tempfile.TemporaryDirectory() as name:
        reader = BootReader(configuration.log_paths())
        appraiser = LogAppraiser(reader, Boots(Path(name) / "boots"), log=logging.getLogger("bench"))

        def again() -> LogAppraisal | None:
            appraiser.note(policy, values, approved=True, now=NOW)
            return appraiser.boot(policy, values)

        first = timed(again)
        (times,) = alternate(again, rounds=500)
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(map(entry, _items(ENTRIES))))
        file.flush()
        looks = asyncio.run(_looks(Path(file.name), parse_ima_policy(_policy())))
    results.add(
        Row(
            "boot log, appraised again: unchanged, on top of the quote",
            median_ms(times),
            "ms",
            f"{first * 1e3:.1f} ms at first",
            bar=0.1,
            at_most=True,
        ),
        Row(
            f"IMA: a decision, nothing new on top of {ENTRIES:,}",
            median_ms(looks),
            "ms",
            bar=0.1,
            at_most=True,
        ),
    )


async def _looks(path: Path, policy: ImaPolicy) -> list[float]:
    """Before each decision: is there anything new."""
    watch = ImaWatch(path, policy, bank="sha256")
    await watch.look()
    found = watch.state
    assert isinstance(found, LogAppraisal)
    assert (found.looked_at, found.count) == (ENTRIES, 0)
    times = []
    for _ in range(500):
        began = time.perf_counter()
        await watch.look()
        times.append(time.perf_counter() - began)
    watch.close()
    return times


def _tool(path: Path) -> None:
    subprocess.run(
        [shutil.which("tpm2_eventlog") or "tpm2_eventlog", str(path)], stdout=subprocess.DEVNULL, check=True
    )


def _path(number: int) -> str:
    return f"/usr/lib/x86_64-linux-gnu/package-{number % 997}/file-{number}.so"


def _items(count: int, first: int = 0) -> list[bytes]:
    return [
        data(_path(number % LINES).encode(), b"%d" % (number % LINES))
        for number in range(first, first + count)
    ]


def _policy() -> bytes:
    digests = {
        _path(number): [f"sha256:{hashlib.sha256(b'%d' % number).hexdigest()}"] for number in range(LINES)
    }
    return canonical(
        {
            "v": 1,
            "digests": digests,
            "patterns": [],
            "exclude": ["/tmp/**"],
            "keys": {},
            "violations": "refuse",
        }
    )


def ima(results: Results) -> None:
    """Parse, replay and appraise."""
    items = _items(ENTRIES)
    list_, text = b"".join(map(entry, items)), _policy()
    value, policy = replay_list(list_, bank="sha256").end.value, parse_ima_policy(text)
    start = start_of_list("sha256")

    def bare() -> None:
        found = bytes(32)
        for item in items:
            found = hashlib.sha256(found + hashlib.sha256(item).digest()).digest()
        assert found == value

    floor, own = alternate(
        bare,
        lambda: _appraise(list_, start, value, policy),
        rounds=3 if results.quick else 9,
        clock=time.process_time,
    )
    end = verify_list(list_, position=start, value=value).end
    more = _items(NEW, ENTRIES)
    rest, later = b"".join(map(entry, more)), pcr10("sha256", *more, value=value)
    (increments,) = alternate(lambda: _appraise(rest, end, later, policy), rounds=50)
    results.add(
        Row(
            f"IMA: parse, replay, appraise {ENTRIES:,} entries against {LINES:,} lines, CPU time",
            ENTRIES / statistics.median(own),
            "/s",
            f"bare hashing {ENTRIES / statistics.median(floor):,.0f}/s",
        ),
        Row("the same, of bare hashing (2.5 times Keylime)", ratios(floor, own), "%", bar=100 * KEYLIME),
        Row(
            f"IMA: {NEW} more entries on top of {ENTRIES:,}", median_ms(increments), "ms", bar=3, at_most=True
        ),
        Row(
            "IMA: memory of a process that does it all",
            _memory(list_, text, value),
            "MB",
            bar=150,
            at_most=True,
        ),
    )


def _appraise(list_: bytes, position: ImaPosition, value: bytes, policy: ImaPolicy) -> ImaAppraisal:
    found = appraise_ima(verify_list(list_, position=position, value=value), policy=policy, aggregates=None)
    assert found.count == 0
    return found


def _memory(list_: bytes, policy: bytes, value: bytes) -> float:
    with tempfile.TemporaryDirectory() as directory:
        for name, content in (("list", list_), ("policy", policy), ("value", value)):
            (Path(directory) / name).write_bytes(content)
        command = [sys.executable, "-c", MEMORY]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
        return int(done.stdout) / 1000
