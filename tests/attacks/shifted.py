"""A wall clock that a test sets, as far as a module of ours reads it; and `attestd serve` with one.

`python -m tests.attacks.shifted STATE_DIR --shift FILE`
"""

import struct
import sys
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import ModuleType

from attestd.agent import clock as agent_clock
from tests.agent.serve_entry import main


def shift(module: ModuleType, path: Path) -> None:
    """From now on the module's `datetime.now` is off by what the file says."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            (seconds,) = struct.unpack("=d", path.read_bytes())
            return datetime.now(tz) + timedelta(seconds=seconds)

    module.datetime = Shifted  # type: ignore[attr-defined]


def take_option() -> Path | None:
    """Removes `--shift FILE` from the command line."""
    if "--shift" not in sys.argv:
        return None
    position = sys.argv.index("--shift")
    path = Path(sys.argv[position + 1])
    del sys.argv[position : position + 2]
    return path


if __name__ == "__main__":
    file = take_option()
    assert file is not None
    shift(agent_clock, file)
    sys.exit(main())
