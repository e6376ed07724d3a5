"""A cgroup (v2) of its own for each execution, where the runner may make one: all of it can be ended, and be told."""

import os
from pathlib import Path
from typing import Final

__all__ = ["PREFIX", "Cgroup", "find_parent", "remove_empty"]

PREFIX: Final = "attestd-"


def find_parent() -> Path | None:
    """The runner's own cgroup, if it may make children there; else None, and executions share the runner's."""
    try:
        own = next(
            line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")
        )
        mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
        # proc_pid_mountinfo(5): the mount point is field 5, the type the first one after the separator.
        mount = next(fields[4] for fields in mounts if fields[fields.index("-") + 1] == "cgroup2")
    except (OSError, StopIteration):
        return None
    parent = Path(mount + own.rstrip("/"))
    return parent if os.access(parent, os.W_OK) else None


def remove_empty(parent: Path | None) -> None:
    """Removes what earlier runners left, if nobody is left in it."""
    if parent is not None:
        for path in parent.glob(f"{PREFIX}*"):
            Cgroup(path).remove()


class Cgroup:
    """One execution's cgroup."""

    def __init__(self, path: Path) -> None:
        """Names it."""
        self.path = path

    def enter(self) -> bool:
        """Makes the cgroup and moves this process there; False if that is not possible here."""
        try:
            self.path.mkdir()
            (self.path / "cgroup.procs").write_text("0")
        except OSError:
            self.remove()
            return False
        return True

    def kill(self) -> bool:
        """Kills every process in it (Linux 5.14); False if that is not possible."""
        try:
            (self.path / "cgroup.kill").write_text("1")
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Removes it; with processes left in it (a daemon that the command started) it stays."""
        try:
            self.path.rmdir()
        except OSError:
            return
