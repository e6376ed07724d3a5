"""Records what a machine measures over several boots: `python -m tests.vm.record [NAME...]` (docs/vm.md).

    sb             unified kernel image, Secure Boot
    sb-again       the same once more
    sb-cmdline     another command line
    sb-kernel      another kernel
    no-sb          Secure Boot off, everything else as in the first

Each with the event log, the PCR values (`bank index HEX`) and the command line; the first with its IMA list besides.
"""

import gzip
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from swtpm.vm.firmware import Boot
from swtpm.vm.machine import Machine

RECORDED = Path(__file__).parent / "recorded"
LOGS = "/sys/kernel/security"
FIRST = Boot()
BOOTS = {
    "sb": FIRST,
    "sb-again": FIRST,
    "sb-cmdline": replace(FIRST, cmdline=f"{FIRST.cmdline} init=/bin/sh"),
    "sb-kernel": replace(FIRST, kernel=1),
    "no-sb": replace(FIRST, secure_boot=False),
}


def read_pcrs(machine: Machine) -> str:
    """All banks, one value a line."""
    lines, bank = [], ""
    for line in machine.run("tpm2_pcrread").out.splitlines():
        if found := re.fullmatch(r" +(\d+) *: 0x([0-9A-F]+)", line):
            lines.append(f"{bank} {found[1]} {found[2]}\n")
        else:
            bank = line.strip(" :")
    return "".join(lines)


def read_boot(machine: Machine, *, ima: bool) -> dict[str, bytes]:
    """What it measured, by the names of the files that hold it; the IMA list is that of these PCR values."""
    while True:
        pcrs = read_pcrs(machine)
        entries = machine.read(f"{LOGS}/ima/binary_runtime_measurements")
        # Reading measures: once all that it needs has been measured, nothing is added any more.
        if read_pcrs(machine) == pcrs:
            break
    files = {
        "pcrs.txt": pcrs.encode(),
        "binary_bios_measurements": machine.read(f"{LOGS}/tpm0/binary_bios_measurements"),
        "cmdline": machine.read("/proc/cmdline"),
        "release": machine.run("uname -r").stdout,
    }
    if ima:
        files["binary_runtime_measurements.gz"] = gzip.compress(entries, mtime=0)
    return files


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="vm-", dir="/tmp") as name, Machine.create(Path(name)) as machine:
        for boot in sys.argv[1:] or BOOTS:
            machine.boot(BOOTS[boot])
            directory = RECORDED / boot
            directory.mkdir(parents=True, exist_ok=True)
            for file, content in read_boot(machine, ima=boot == "sb").items():
                (directory / file).write_bytes(content)
            machine.cut()
            print(boot, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
