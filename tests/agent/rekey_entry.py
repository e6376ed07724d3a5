"""`attestd rekey` for tests, that is killed before or after a step, or within one.

`python -m tests.agent.rekey_entry STATE_DIR POINT`, POINT being `before:STEP`, `after:STEP` or a function that is cut off.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from attestd.agent import rekey
from attestd.agent import rotate as agent_rotate
from attestd.audit import rotate
from attestd.cli import run
from attestd.distribution.repository import Repository
from attestd.tpm.device import Tpm

# What is called within a step; the kill comes after that call.
WITHIN = {
    "announced_not_counted": (rekey.Sealer, "_commit", 1),
    "staged": (Repository, "stage", 1),
    "signed": (Repository, "sign", 1),
    "undefined": (Tpm, "undefine", 1),
    "next_log": (agent_rotate, "draft_next", 1),
    "first_leaf_not_counted": (rekey.Sealer, "_commit", 2),
    "linked": (rotate.os, "link", 1),
    "swapped": (rotate.os, "rename", 1),
}


def cut(function: Callable[..., Any], *, after: bool, call: int = 1) -> Callable[..., Any]:
    left = [call]

    def wrapper(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        found = function(*arguments, **named) if after or left[0] else None
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return wrapper


def main() -> int:
    state, point = sys.argv[1:]
    moment, _, step = point.partition(":")
    if step:
        work = rekey._Rekey
        setattr(work, step, cut(getattr(work, step), after=moment == "after"))
    else:
        owner, name, call = WITHIN[point]
        setattr(owner, name, cut(getattr(owner, name), after=True, call=call))
    return run(["rekey", "--yes", "--state-dir", state])


if __name__ == "__main__":
    sys.exit(main())
