"""Runs one input; runs coverage-guided fuzzing of one target in a process of its own."""

import hashlib
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.mutate import mutate_json
from tests.fuzz.target import Target

REGRESSIONS = Path(__file__).parent / "regressions"
MAX_S = 1.0  # of processor time for one input
MAX_RSS_MB = 1024
MAX_WORDS = 8192
HANG_S = 20


def run_one(target: Target, data: bytes) -> bool:
    """Runs one input.

    Returns:
        Whether it was accepted; False: a documented error.

    Raises:
        BaseException: Any other error.
        AssertionError: It took too long, or what was accepted is not what it should be.
    """
    started = time.thread_time()
    words = None
    try:
        target.run(data)
    except target.allowed as error:
        words = str(error)
    took_s = time.thread_time() - started
    assert took_s < MAX_S, f"{took_s:.1f} s for {len(data)} bytes"
    # Errors go to journals and terminals.
    assert words is None or len(words) < MAX_WORDS, f"{len(words)} characters of error"
    return words is None


def regressions(target: Target) -> Iterator[Path]:
    """Inputs that once crashed the target."""
    return iter(sorted((REGRESSIONS / target.name).glob("*")))


def fuzz(target: Target, *, seconds: float, directory: Path, corpus: Path | None, seed: int = 0) -> None:
    """Fuzzes a target until the time is up or it crashes, then exits the process (atheris does).

    Args:
        target: The target.
        seconds: For how long.
        directory: An empty one, for its files; a crashing input is left there as `crash-…`, `timeout-…` or `oom-…`.
        corpus: Where interesting inputs are kept from run to run; None: not.
        seed: Of what is chosen at random; 0: another one each time.
    """
    import atheris

    os.chdir(directory)
    seeds = directory / "seeds"
    seeds.mkdir()
    for data in [*target.seeds(), *[path.read_bytes() for path in regressions(target)]]:
        (seeds / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    arguments = [
        sys.argv[0], f"-max_total_time={math.ceil(seconds) + 1}", f"-max_len={target.max_bytes}", f"-timeout={HANG_S}",
        f"-rss_limit_mb={MAX_RSS_MB}", f"-artifact_prefix={directory}/", "-print_final_stats=1", "-verbosity=1",
        f"-seed={seed}",
    ]  # fmt: skip
    arguments += [str(corpus)] if corpus is not None else []

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        return mutate_json(data, max_size, seed, atheris.Mutate)

    options = {"custom_mutator": mutate} if target.is_json else {}
    deadline = time.monotonic() + seconds

    def run(data: bytes) -> None:
        _run(target, data, directory)
        if (
            time.monotonic() > deadline
        ):  # It counts in whole seconds itself, of which there are two for each target.
            os._exit(0)

    atheris.Setup([*arguments, str(seeds)], run, **options)
    atheris.Fuzz()


def _run(target: Target, data: bytes, directory: Path) -> None:
    try:
        run_one(target, data)
    except BaseException:
        (directory / f"crash-{hashlib.sha256(data).hexdigest()}").write_bytes(data)
        raise
