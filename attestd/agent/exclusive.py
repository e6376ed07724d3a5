"""One process at a time has an installation's log and TPM to itself: the agent, or what changes them without it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from attestd.account import acting_as, agent_account
from attestd.audit.files import migrate
from attestd.audit.rotate import finish_rotation
from attestd.errors import StoreError, UsageError
from attestd.paths import Layout

__all__ = ["exclusive"]


@contextlib.contextmanager
def exclusive(layout: Layout, *, rekeying: bool = False) -> Iterator[None]:
    """Holds the lock; it is the kernel that releases it, at the latest with the process.

    It is on the log's directory itself: a file could be deleted, and be made anew by a second agent.

    What an earlier attestd wrote is brought to this one's schema first, and a rotation that was cut off is finished.

    Args:
        layout: The installation.
        rekeying: For `attestd rekey`, which can do without a log, and finishes one that was cut off.

    Raises:
        UsageError: An agent is running, or the TPM's keys are half replaced.
        StoreError: There is no log, its directory cannot be used, or a newer attestd wrote it.
        RollbackError: Its schema was edited.
    """
    try:
        with acting_as(agent_account(layout)):
            if not rekeying:
                layout.log.stat()
            descriptor = os.open(layout.agent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise StoreError(f"{layout.agent} holds no log: initialise this host with attestd init") from error
    except OSError as error:
        raise StoreError(f"{error.filename}: {error.strerror}: whose is {layout.agent}?") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"an agent is running on {layout.agent} already: attestd status shows it"
            ) from error
        with acting_as(agent_account(layout)):
            if layout.next_keys.exists() and not rekeying:
                raise UsageError(f"{layout.next_keys}: the keys are half replaced: attestd rekey finishes it")
            if layout.log.exists():
                migrate(str(layout.log))
                finish_rotation(layout.log)
        yield
    finally:
        os.close(descriptor)
