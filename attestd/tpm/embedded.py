"""The software TPM of a state directory: provisioned once, one swtpm process, found again when it still runs."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attestd.errors import TpmError, TpmUnavailableError, UsageError
from attestd.tpm.device import Tpm
from attestd.tpm.timed import Observe
from swtpm.daemon import MAX_SOCKET_PATH, Daemon, SwtpmError
from swtpm.provision import provision

__all__ = ["EmbeddedTpm"]


class EmbeddedTpm:
    """A software TPM (tier `software`): for development and tests; it protects nothing from root.

    The process outlives whoever started it, `kill -9` included, so that PCRs stay as they are until an orderly
    `stop`. There is no resource manager: two users would take each other's slots, so `open` lets in one process.
    """

    def __init__(self, state_dir: Path) -> None:
        """Does nothing yet.

        Args:
            state_dir: Its own directory; made with mode 0700 where it does not exist.
        """
        self._directory = state_dir.absolute()
        self._daemon = Daemon(self._directory)

    @property
    def tcti(self) -> str:
        """The tpm2-tss TCTI string."""
        return self._daemon.tcti

    @property
    def is_provisioned(self) -> bool:
        """Whether it has state: keys, indices and certificates are in there."""
        return (self._directory / "state").exists()

    def start(self) -> bool:
        """Provisions it if that was never done, and starts it if it does not run. Safe against another starter.

        Returns:
            Whether it was started now, which is a TPM reset; False if it ran.

        Raises:
            UsageError: The directory's path is too long for sockets.
            TpmUnavailableError: swtpm is missing, fails or hangs.
        """
        if len(os.fsencode(self._daemon.socket_path)) > MAX_SOCKET_PATH:
            raise UsageError(
                f"{self._daemon.socket_path}: a socket's path has at most {MAX_SOCKET_PATH} bytes: "
                "use a shorter state directory (--state-dir)"
            )
        with self._lock("lock"), _translated():
            if not self.is_provisioned:
                provision(self._directory)
            if self._daemon.pid() is not None and self._daemon.answers():
                return False
            self._daemon.kill()
            self._daemon.start(self._directory / "state")
        return True

    def open(self, *, observe: Observe | None = None) -> Tpm:
        """Connects, alone; flushes what a predecessor that was killed left loaded.

        Args:
            observe: See `Tpm`.

        Raises:
            TpmUnavailableError: It does not run, or another process (the agent) has it open.
        """
        user = self._acquire("user.lock", wait=False)
        try:
            return Tpm(self.tcti, exclusive=True, on_close=lambda: os.close(user), observe=observe)
        except BaseException:
            os.close(user)
            raise

    def stop(self) -> None:
        """Stops it in order, nobody having it open: counters are saved, the next start is a TPM reset.

        Raises:
            TpmUnavailableError: Another process has it open, or it hangs; it is left running.
        """
        with self._lock("lock"), self._lock("user.lock", wait=False), _translated():
            self._daemon.stop()

    def kill(self) -> None:
        """Ends it as a power cut would: what was not saved is lost."""
        with self._lock("lock"):
            self._daemon.kill()

    @contextmanager
    def _lock(self, name: str, *, wait: bool = True) -> Iterator[None]:
        descriptor = self._acquire(name, wait=wait)
        try:
            yield
        finally:
            os.close(descriptor)

    def _acquire(self, name: str, *, wait: bool) -> int:
        """Takes a lock file; it is the kernel that releases it, at the latest with the process."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TpmUnavailableError(f"the software TPM's directory cannot be used: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise TpmUnavailableError(
                f"the software TPM in {self._directory} is in use by another process: is the agent running?"
            ) from error
        return descriptor


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SwtpmError as error:
        raise TpmUnavailableError(str(error)) from error
    except OSError as error:
        raise TpmError(f"software TPM: {error}") from error
