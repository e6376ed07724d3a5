"""A machine on which `attestd init` ran and whose services run, as a snapshot: made once an hour and checkout."""

import time
from pathlib import Path
from typing import Final

from swtpm.vm.firmware import Boot, uki
from swtpm.vm.machine import Machine
from swtpm.vm.root import root_image
from swtpm.vm.tools import cached, digest

PCRS: Final = "0,2,4,7,11"
UNITS: Final = "attestd.socket attestd-runner.socket attestd-runner.service attestd.service"
READY: Final = "ready"
ALICE: Final = 1000
ISSUE: Final = "attestd authorization issue --force --max-uses unlimited"

# As docs/operations.md says, and an authorization for each of two users.
_SETUP: Final = f"""set -e
attestd init --tpm device:/dev/tpmrm0 --pcrs {PCRS}
systemctl enable --now {UNITS}
cd /root; {ISSUE} -o id.auth.json -- id -un
cd /home/alice; {ISSUE} --requester alice -o id.auth.json -- id -un; chmod a+r id.auth.json
"""


def prepared() -> Path:
    """The directory of one that is switched off: copy it."""

    def make(target: Path) -> None:
        target.mkdir()
        with Machine.create(target) as machine:
            machine.boot(Boot())
            machine.run(_SETUP, timeout_s=900)
            machine.snapshot(READY)

    # Its clock stands still in the snapshot; after a cold start it is the host's, and attestd trusts no jump by a day.
    hour = int(time.time()) // 3600
    key = digest(root_image().name, uki(Boot()).name, _SETUP, Path(__file__))
    return cached(f"prepared-{key}-{hour}", make)


def copy_prepared(directory: Path) -> Machine:
    """A machine of one's own, switched off: `restore(READY)` brings it to life."""
    return Machine(prepared(), snapshots={READY: Boot()}).copy(directory)
