"""Where what was built is kept, and how tools are run."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["CHECKOUT", "VmError", "cached", "digest", "run", "tool", "working_directory"]

CHECKOUT: Final = Path(__file__).parents[2]
_TIMEOUT_S: Final = 600.0


class VmError(Exception):
    """The machine cannot be built, does not boot or does not answer; the message says what to do."""


def cache_directory() -> Path:
    """`ATTESTD_VM_CACHE`, else `build/vm`, which git ignores: 1 GB, all of which can be built again."""
    path = Path(os.environ.get("ATTESTD_VM_CACHE", CHECKOUT / "build" / "vm"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def digest(*parts: bytes | str | Path) -> str:
    """Names what is made of these: texts, octets, the contents of files, all files below directories."""
    hashed = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            files = sorted(path for path in part.rglob("*") if path.is_file()) if part.is_dir() else [part]
            for file in files:
                if "__pycache__" not in file.parts:
                    hashed.update(f"{file.relative_to(part.parent)}\n".encode())
                    hashed.update(hashlib.sha256(file.read_bytes()).digest())
        else:
            hashed.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return hashed.hexdigest()[:16]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """What `make` writes at the path that it is given, once; kept under a name that says what it was made of.

    Others who want the same wait for it.
    """
    target = cache_directory() / name
    with (cache_directory() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with working_directory() as work:
                made = work / "made"
                make(made)
                # At once and whole: who is killed before this leaves nothing that looks finished.
                made.rename(target)
    return target


@contextmanager
def working_directory() -> Iterator[Path]:
    """A directory on the cache's file system, removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix=".work-", dir=cache_directory()))
    # The machine's root is below it: its users must be able to pass.
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def tool(name: str) -> str:
    """The path of a program that `make vm-setup` installs.

    Raises:
        VmError: It is not installed.
    """
    path = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise VmError(f"{name} is not installed: make vm-setup")
    return path


def run(*command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Runs a tool to its end; returns what it printed.

    Raises:
        VmError: It failed, or takes longer than ten minutes.
    """
    arguments: Sequence[str] = [tool(str(command[0])), *map(str, command[1:])]
    try:
        done = subprocess.run(
            arguments, env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}, cwd=cwd, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=_TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise VmError(f"{command[0]} takes longer than {_TIMEOUT_S:.0f} s: {error.output!r}") from error
    if done.returncode:
        raise VmError(f"{' '.join(arguments)} failed with {done.returncode}: {done.stdout.strip()[-4000:]}")
    return done.stdout
