"""The host records of a set of governance: which there are is known, and each is read and verified when it is asked for.

A fleet of a hundred thousand hosts takes a minute to verify, and who loads governance needs one of them, or each now and
then. What verified is remembered by what the metadata says of its file, not by its name: so a file that changes places is
another one, and the next set of governance goes on with what did not change. Pure: bytes come from a `Read`.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from attestd.errors import MalformedError, StoreError, VerificationError
from attestd.governance.authorities import Authorities
from attestd.governance.host import VerifiedHost, parse_host_record
from attestd.governance.metadata import verify_target
from attestd.governance.targets import TargetList

__all__ = [
    "HOSTS",
    "KnownRecords",
    "Read",
    "RecordFiles",
    "of_its_time",
    "record_name",
]

_T = TypeVar("_T")

Read = Callable[[str], bytes]
"""Gives a target's bytes by its name.

Raises:
    StoreError: It is not there, or cannot be read.
    VerificationError, MalformedError: It is no such file.
"""

HOSTS: Final = "hosts/"
_PRESENT: Final = re.compile(r"\Ahosts/([0-9a-f]{64})\.json\Z")
_EARLIER: Final = re.compile(r"\Ahosts/history/([0-9a-f]{64})-(0|[1-9][0-9]{0,8})\.json\Z")
# More than this many that no set names any more, and they are let go of.
_SLACK: Final = 4096
# Of this many records it is remembered why they could not be read; of the latest.
_MOST_UNREADABLE: Final = 1024
_ID: Final = 64


@dataclass(frozen=True)
class KnownRecords:
    """All that governance says of one host, each file of which was read.

    Attributes:
        present: Its record; None: governance names none, or it does not verify.
        earlier: Earlier ones that verify, the newest first.
        refused: Why others do not verify, whatever else happens: what they would say of the host nobody knows.
    """

    present: VerifiedHost | None
    earlier: tuple[VerifiedHost, ...]
    refused: tuple[str, ...]

    @property
    def usable(self) -> tuple[VerifiedHost, ...]:
        """Those that verify, the present one first."""
        return (() if self.present is None else (self.present,)) + self.earlier


@dataclass
class _Memory:
    """What records came to, by what the metadata says of them: of one `authorities.json` and one set of revoked keys.

    Sets of governance that follow each other share it, and so do threads: dictionaries take one step at a time, and what two
    threads find out at once is the same.
    """

    present: dict[bytes, VerifiedHost] = field(default_factory=dict)
    earlier: dict[bytes, VerifiedHost] = field(default_factory=dict)
    # By name: why it does not verify, and what the metadata said of it then.
    refused: dict[str, tuple[bytes, str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.present) + len(self.earlier) + len(self.refused)

    def keep(self, *sets: TargetList) -> None:
        """Lets go of what none of these sets is about."""
        named = {files.packed(name) for files in sets for name in files if name.startswith(HOSTS)}
        # New dictionaries: another thread may look at these. What it adds to them meanwhile is verified again.
        self.present = {packed: host for packed, host in list(self.present.items()) if packed in named}
        self.earlier = {packed: host for packed, host in list(self.earlier.items()) if packed in named}
        self.refused = {name: why for name, why in list(self.refused.items()) if name in sets[0]}


class RecordFiles:
    """The files below `hosts/`, read and verified one at a time, as often as it takes.

    A record that does not verify stays unusable, for its bytes are those that were signed. One that cannot be read, or is
    not the file that the metadata names, is unusable now, and looked at again when it is asked for again.
    """

    def __init__(
        self,
        files: TargetList,
        *,
        read: Read,
        authorities: Authorities,
        revoked_keys: frozenset[str],
        basis: str,
        previous: "RecordFiles | None",
    ) -> None:
        """Takes what the metadata names, and looks at no file.

        Args:
            files: All targets.
            read: Gives their bytes.
            authorities: Whose enrollers, and how many.
            revoked_keys: Signatures by these count for nothing.
            basis: The same for the same authorities and revoked keys.
            previous: The set before.
        """
        self.files, self.basis = files, basis
        self._read, self._authorities, self._revoked = read, authorities, revoked_keys
        self._memory = _Memory()
        self._unreadable: dict[str, str] = {}  # Of this set only: the next may well find them.
        if previous is not None and previous.basis == basis:
            self._memory = previous._memory  # noqa: SLF001 - its own
        self.misnamed: dict[str, str] = {}
        self.count = 0
        self.history: dict[str, tuple[int, ...]] = {}
        if previous is not None and files.is_same(previous.files):
            self.misnamed, self.count, self.history = previous.misnamed, previous.count, previous.history
        else:
            self._name()
        if len(self._memory) > self.count + sum(map(len, self.history.values())) + _SLACK:
            # Also what the set before is about: somebody may be deciding by it.
            self._memory.keep(files, files if previous is None else previous.files)

    def _name(self) -> None:
        history: dict[str, list[int]] = {}
        for name in self.files:
            if not name.startswith(HOSTS):
                continue
            if _PRESENT.match(name):
                self.count += 1
            elif earlier := _EARLIER.match(name):
                history.setdefault(earlier[1], []).append(int(earlier[2]))
            elif name.count("/") == 1 or name.startswith("hosts/history/"):
                self.misnamed[name] = "expected hosts/HOST.json, or hosts/history/HOST-NUMBER.json"
            else:
                raise MalformedError(f"trust: unknown file {name!r}: expected hosts/HOST.json")
        self.history = {host: tuple(sorted(numbers, reverse=True)) for host, numbers in history.items()}

    def read(self, name: str) -> bytes:
        """A record's bytes, as the metadata names them.

        Raises:
            StoreError: It is not there, or cannot be read.
            VerificationError, MalformedError: What is there is not that file.
        """
        data = self._read(name)
        verify_target(name, self.files[name], data)
        return data

    def present(self, host: str) -> VerifiedHost | None:
        """A host's record; None: there is none, or `refused` says why it is not usable."""
        return self._record(record_name(host), host, is_earlier=False) if self.is_named(host) else None

    def earlier(self, host: str) -> tuple[VerifiedHost, ...]:
        """A host's earlier records that are usable, the newest first."""
        names = (f"{HOSTS}history/{host}-{number}.json" for number in self.history.get(host, ()))
        found = (self._record(name, host, is_earlier=True) for name in names)
        return tuple(record for record in found if record is not None)

    def is_named(self, host: str) -> bool:
        """Whether governance names a record of this host."""
        return len(host) == _ID and record_name(host) in self.files and record_name(host) not in self.misnamed

    def hosts(self) -> Iterator[str]:
        """The hosts that governance names."""
        return (found[1] for name in self.files if (found := _PRESENT.match(name)) is not None)

    def look(self, names: Iterable[str] | None = None) -> int:
        """Looks at records, by their files' names, so that `refused` tells of them; None: at all.

        Returns:
            How many records were looked at.
        """
        count = 0
        for name in self.files if names is None else names:
            if (present := _PRESENT.match(name)) is not None:
                self.present(present[1])
            elif (earlier := _EARLIER.match(name)) is not None:
                self.earlier(earlier[1])
            else:
                continue
            count += 1
        return count

    def unread(self, host: str) -> list[str]:
        """The files of a host's records, earlier ones too, that cannot be read now."""
        names = self._names(host)
        self.present(host)
        self.earlier(host)
        return [name for name in names if name in self._unreadable]

    def is_unreadable(self, name: str) -> bool:
        """Whether a record could not be read, or was not that file, when somebody asked for it last."""
        return name in self._unreadable

    def known(self, host: str) -> KnownRecords:
        """All that governance says of a host; who decides by what it does not say asks here.

        Raises:
            StoreError: One of its files cannot be read now, or is not the file that the metadata names.
        """
        present, earlier, refused = None, [], []
        for name in self._names(host):
            is_present = name == record_name(host)
            found = self._record(name, host, is_earlier=not is_present)
            if found is None:
                why = f"{name}: {self.reason(name)}"
                if not self._is_refused(name):
                    raise StoreError(f"a record of host {host} cannot be read now, ask again: {why}")
                refused.append(why)
            elif is_present:
                present = found
            else:
                earlier.append(found)
        return KnownRecords(present, tuple(earlier), tuple(refused))

    def is_refused(self, name: str) -> bool:
        """Whether a record does not verify, whatever else happens; False also where it cannot be read now."""
        self.look([name])
        return self._is_refused(name)

    def _names(self, host: str) -> list[str]:
        present = [record_name(host)] if self.is_named(host) else []
        return present + [f"{HOSTS}history/{host}-{number}.json" for number in self.history.get(host, ())]

    def _is_refused(self, name: str) -> bool:
        known = self._memory.refused.get(name)
        return name in self.misnamed or (known is not None and known[0] == self.files.packed(name))

    def refused(self) -> dict[str, str]:
        """Why records are not usable, as far as anybody asked for them."""
        names = (*list(self._memory.refused), *list(self._unreadable))
        return {name: why for name in names if (why := self.reason(name)) is not None} | self.misnamed

    def reason(self, name: str) -> str | None:
        """Why a file is not usable, as `refused`."""
        known = self._memory.refused.get(name)
        if known is not None and name in self.files and known[0] == self.files.packed(name):
            return known[1]
        return self._unreadable.get(name) or self.misnamed.get(name)

    def _record(self, name: str, host: str, *, is_earlier: bool) -> VerifiedHost | None:
        packed = self.files.packed(name)
        memory = self._memory.earlier if is_earlier else self._memory.present
        found = memory.get(packed)
        if found is None or found.host != host:
            found = self._verified(name, packed, host, is_earlier=is_earlier)
            if found is not None:
                memory[packed] = found
        if found is not None:
            self._unreadable.pop(name, None)
        return found

    def _verified(self, name: str, packed: bytes, host: str, *, is_earlier: bool) -> VerifiedHost | None:
        refused = self._memory.refused
        if (known := refused.get(name)) is not None and known[0] == packed:
            return None
        try:
            data = self.read(name)
        except (StoreError, VerificationError, MalformedError) as error:
            self._not_read(name, str(error))
            return None
        self._unreadable.pop(name, None)
        parse = partial(self._parse, data, host)
        try:
            found = of_its_time(parse, self._authorities) if is_earlier else parse(self._authorities)
        except (VerificationError, MalformedError) as error:
            refused[name] = packed, str(error)
            return None
        refused.pop(name, None)
        return found

    def _not_read(self, name: str, why: str) -> None:
        self._unreadable.pop(name, None)
        self._unreadable[name] = why  # as the last
        for old in list(self._unreadable)[:-_MOST_UNREADABLE]:
            self._unreadable.pop(old, None)

    def _parse(self, data: bytes, host: str, authorities: Authorities) -> VerifiedHost:
        found = parse_host_record(data, authorities=authorities, revoked_keys=self._revoked)
        if found.host != host:
            raise VerificationError(f"it holds what belongs in {found.host}.json")
        return found


def record_name(host: str) -> str:
    """The file of a host's present record."""
    return f"{HOSTS}{host}.json"


def of_its_time(parse: Callable[[Authorities], _T], authorities: Authorities) -> _T:
    """What a file of the history says: it was signed under the present TPM authorities, or under those that they replaced.

    Raises:
        MalformedError, VerificationError: Under none; why not under the present ones.
    """
    try:
        return parse(authorities)
    except (MalformedError, VerificationError):
        for former in authorities.former:
            with contextlib.suppress(MalformedError, VerificationError):
                return parse(former)
        raise
