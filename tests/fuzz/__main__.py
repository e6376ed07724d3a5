"""`python -m tests.fuzz --seconds N [--target T]`: coverage-guided fuzzing, by hand and in CI."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import atheris

# Before anything else imports them: only what is imported here is instrumented.
with atheris.instrument_imports(include=["attestd", "swtpm", "tomllib"]):
    from tests.fuzz.engine import REGRESSIONS, fuzz
    from tests.fuzz.table import TARGETS

LAST_LINES = 40
STARTED_S = 0.3  # what a target takes besides fuzzing
LEAST_S = 0.25


def main() -> int:
    """Fuzzes.

    Returns:
        How many targets crashed.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="wall time in all")
    parser.add_argument(
        "--target", action="append", choices=sorted(TARGETS), help="only this one; may be repeated"
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument(
        "--corpus", type=Path, help="keeps what was found interesting there, for the next run"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of what is chosen at random (default: a new one)"
    )
    options = parser.parse_args()
    names = options.target or sorted(TARGETS)
    failed = run(names, seconds=options.seconds, jobs=options.jobs, corpus=options.corpus, seed=options.seed)
    print(f"fuzz: {len(names)} targets, {len(failed)} crashed: {', '.join(failed) or 'none'}")
    return len(failed)


def run(names: list[str], *, seconds: int, jobs: int, corpus: Path | None, seed: int) -> list[str]:
    """Fuzzes some targets within a time; returns those that crashed."""
    deadline = time.monotonic() + seconds
    waiting, running, failed = list(names), dict[int, tuple[str, Path]](), list[str]()
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/tmp") as top:
        while waiting or running:
            while waiting and len(running) < jobs:
                left_s = (deadline - time.monotonic()) * jobs / len(waiting) - STARTED_S
                name = waiting.pop(0)
                directory = Path(top) / name
                directory.mkdir()
                running[start(name, max(LEAST_S, left_s), directory, corpus, seed)] = name, directory
            pid, status = os.wait()
            name, directory = running.pop(pid)
            if status:
                failed.append(name)
                report(name, directory)
    return failed


def start(name: str, seconds: float, directory: Path, corpus: Path | None, seed: int) -> int:
    """Forks: the instrumented modules are there already. Returns the process's id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        kept = None if corpus is None else (corpus.absolute() / name)
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
        fuzz(TARGETS[name], seconds=seconds, directory=directory, corpus=kept, seed=seed)
    except BaseException:  # noqa: BLE001 - a child that must not return
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def report(name: str, directory: Path) -> None:
    """Says what crashed, and keeps the input as a regression case."""
    lines = (directory / "log").read_text(errors="replace").splitlines()
    print(f"--- {name}", *lines[-LAST_LINES:], sep="\n")
    for path in directory.glob("*-*"):
        if path.name.startswith(("crash-", "timeout-", "oom-", "leak-")):
            kept = REGRESSIONS / name / path.name.rpartition("-")[2][:16]
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(path.read_bytes())
            print(f"--- {name}: the input is {kept.relative_to(Path.cwd())}")


if __name__ == "__main__":
    sys.exit(main())
