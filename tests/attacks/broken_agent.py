"""`attestd serve` that was broken into: it does everything as it should, but never steps the TPM's log counter.

So it can seal and release in a copy of the log, and leave the log and the counter as they were.
"""

import sys

from attestd.agent.tpm_port import TpmPort
from tests.agent.serve_entry import main

_read = TpmPort.read_counter
_counted: list[int] = []


def read_counter(port: TpmPort) -> int:
    if not _counted:
        _counted.append(_read(port))
    return _counted[0]


def step_counter(port: TpmPort) -> int:
    _counted[0] = read_counter(port) + 1
    return _counted[0]


if __name__ == "__main__":
    TpmPort.read_counter, TpmPort.step_counter = read_counter, step_counter  # type: ignore[method-assign]
    sys.exit(main())
