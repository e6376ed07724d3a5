"""The host records of a set of governance as mappings, which read and verify what they are asked for."""

from collections.abc import ItemsView, Iterator, Mapping, ValuesView

from attestd.governance.host import VerifiedHost
from attestd.governance.host_records import RecordFiles

__all__ = ["HostHistory", "HostRecords", "Reasons"]


class HostRecords(Mapping[str, VerifiedHost]):
    """Host records by host-id.

    Iteration, `len` and `in` are about the hosts that governance names, and read nothing. `get` gives None where a record is
    not usable, as for a host that is not named; `values` and `items` leave it out. `[]` is for who knows that it is usable:
    who asked with `get` keeps what it gave, for the next time it may be another.
    """

    def __init__(self, files: RecordFiles) -> None:
        """Takes the files."""
        self._files = files

    def __getitem__(self, host: str) -> VerifiedHost:
        found = self._files.present(host)
        if found is None:
            raise KeyError(host)
        return found

    def __contains__(self, host: object) -> bool:
        return isinstance(host, str) and self._files.is_named(host)

    def __iter__(self) -> Iterator[str]:
        return self._files.hosts()

    def __len__(self) -> int:
        return self._files.count

    def values(self) -> ValuesView[VerifiedHost]:
        """Those that are usable."""
        return _Usable(self)

    def items(self) -> ItemsView[str, VerifiedHost]:
        """Those that are usable, by host-id."""
        return _UsableItems(self)


class _Usable(ValuesView[VerifiedHost]):
    _mapping: HostRecords

    def __iter__(self) -> Iterator[VerifiedHost]:
        return (found for host in self._mapping if (found := self._mapping.get(host)) is not None)


class _UsableItems(ItemsView[str, VerifiedHost]):
    _mapping: HostRecords

    def __iter__(self) -> Iterator[tuple[str, VerifiedHost]]:
        return ((host, found) for host in self._mapping if (found := self._mapping.get(host)) is not None)


class HostHistory(Mapping[str, tuple[VerifiedHost, ...]]):
    """Earlier records by host-id, the newest first: of each host that has a history, those that are usable."""

    def __init__(self, files: RecordFiles) -> None:
        """Takes the files."""
        self._files = files

    def __getitem__(self, host: str) -> tuple[VerifiedHost, ...]:
        if host not in self._files.history:
            raise KeyError(host)
        return self._files.earlier(host)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files.history)

    def __len__(self) -> int:
        return len(self._files.history)


class Reasons(Mapping[str, str]):
    """Why files are not usable, by name: host records as far as anybody asked for them.

    Iteration, `values` and `items` are each about one moment; `[]` is about the next, and another thread may have read it then.
    """

    def __init__(self, reasons: Mapping[str, str], files: RecordFiles) -> None:
        """Takes the reasons of other files, and the host records."""
        self._reasons, self._files = reasons, files

    def __getitem__(self, name: str) -> str:
        found = self._reasons.get(name) or self._files.reason(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def values(self) -> ValuesView[str]:
        """The reasons."""
        return self._now().values()

    def items(self) -> ItemsView[str, str]:
        """Names and reasons."""
        return self._now().items()

    def _now(self) -> dict[str, str]:
        return {**self._reasons, **self._files.refused()}
