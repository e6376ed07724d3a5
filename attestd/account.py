"""The user that the system's agent runs as, and how root becomes it: for a while, or for good.

The agent is expected to be broken into, so its directory is hostile ground for root: symbolic links there could make
root write anywhere. What is done there is done as the agent's user.
"""

import contextlib
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass

from attestd.paths import Layout

__all__ = ["Account", "account_named", "acting_as", "agent_account", "become"]


@dataclass(frozen=True)
class Account:
    """A user.

    Attributes:
        groups: All groups, the TPM's among them.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def agent_account(layout: Layout) -> Account | None:
    """The agent's user; None where this process is the agent's user already, or there is no such user.

    Only root can become another user, and only the system's layout has an agent with a user of its own.
    """
    return account_named(layout.agent_user)


def account_named(name: str | None) -> Account | None:
    """The user of a service; None: this process is that user already, there is no such user, or none is named.

    Only root can become another user.
    """
    if name is None or os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(user.pw_name, user.pw_uid, user.pw_gid, tuple(os.getgrouplist(user.pw_name, user.pw_gid)))


@contextlib.contextmanager
def acting_as(account: Account | None) -> Iterator[None]:
    """Root, with all its threads, is this user within; None changes nothing.

    The saved user id stays root's, which is the way back. A program that is started within has no such way: execve
    copies the effective user id over the saved one. The kernel lets no process of the user trace or read this one.
    """
    if account is None:
        yield
        return
    groups = os.getgroups()
    os.setgroups(account.groups)
    os.setresgid(account.gid, account.gid, 0)
    os.setresuid(account.uid, account.uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


def become(account: Account) -> None:
    """Root becomes this user for good."""
    os.setgroups(account.groups)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
