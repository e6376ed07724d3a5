"""Boots that this host has seen: their logs, kept to say in words what another boot changed. They decide nothing."""

import contextlib
import hashlib
import os
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from attestd.durable import make_directory, write_atomic
from attestd.errors import MalformedError
from attestd.strict import (
    Base64Bytes,
    PcrName,
    Strict,
    Utc,
    canonical,
    convert,
    decode_base64,
    format_time_us,
    parse_json,
    parse_time,
)

__all__ = ["Boot", "Boots", "parse_boot"]

MAX_BOOTS: Final = 8
# Two logs of 4 MiB in base64, a command line, and the rest.
MAX_BOOT_BYTES: Final = 12 << 20
_NAME: Final = re.compile(r"\A[0-9a-f]{64}\.json\Z")


class _BootFile(Strict, frozen=True):
    v: Literal[1]
    eventlog: Base64Bytes
    userspace: Base64Bytes
    command_line: str
    kernel: str
    bank: Literal["sha1", "sha256", "sha384"]
    pcrs: dict[PcrName, Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{2}){20,64}\Z")]]
    approved: list[str]
    first_seen: Utc
    last_seen: Utc


@dataclass(frozen=True)
class Boot:
    """One boot: what the agent was told of it, and what the TPM's PCRs were.

    Attributes:
        eventlog: The firmware's log, as the kernel hands it out.
        userspace: systemd's log; empty: none.
        command_line: The kernel's, as in `/proc/cmdline`; by it a UKI's is recognised in the log.
        kernel: The kernel's release.
        bank: The bank of `pcrs`.
        pcrs: Quoted values; those of the approved state, if it was ever in one.
        approved: The platform policies that approved its state, sorted; none: it was never approved.
    """

    eventlog: bytes
    userspace: bytes
    command_line: str
    kernel: str
    bank: str
    pcrs: Mapping[int, bytes]
    approved: tuple[str, ...]
    first_seen: datetime
    last_seen: datetime

    @property
    def digest(self) -> str:
        """Its name: SHA-256 of the firmware's log. Two boots that measured the same are one."""
        return hashlib.sha256(self.eventlog).hexdigest()

    def to_bytes(self) -> bytes:
        """The file."""
        return canonical(
            {
                "v": 1,
                "eventlog": b64encode(self.eventlog).decode(),
                "userspace": b64encode(self.userspace).decode(),
                "command_line": self.command_line,
                "kernel": self.kernel,
                "bank": self.bank,
                "pcrs": {str(pcr): value.hex() for pcr, value in self.pcrs.items()},
                "approved": list(self.approved),
                "first_seen": format_time_us(self.first_seen),
                "last_seen": format_time_us(self.last_seen),
            }
        )


def parse_boot(data: bytes) -> Boot:
    """Parses a kept boot.

    Raises:
        MalformedError: Not such a file.
    """
    what = "kept boot"
    file = convert(parse_json(data, max_bytes=MAX_BOOT_BYTES, what=what), _BootFile, what=what)
    return Boot(
        eventlog=decode_base64(file.eventlog, what=what),
        userspace=decode_base64(file.userspace, what=what),
        command_line=file.command_line,
        kernel=file.kernel,
        bank=file.bank,
        pcrs={int(pcr): bytes.fromhex(value) for pcr, value in file.pcrs.items()},
        approved=tuple(file.approved),
        first_seen=parse_time(file.first_seen),
        last_seen=parse_time(file.last_seen),
    )


class Boots:
    """The last boots, in a directory of the agent's."""

    def __init__(self, directory: Path) -> None:
        """Names the directory; nothing is read yet."""
        self._directory = directory
        self._boots: dict[str, Boot] | None = None
        self._noted: set[str] = set()

    def all(self) -> tuple[Boot, ...]:
        """The boots that are kept, that which was seen last first."""
        if self._boots is None:
            self._boots = {boot.digest: boot for boot in self._read()}
        return tuple(sorted(self._boots.values(), key=lambda boot: boot.last_seen, reverse=True))

    def find(self, digest: str) -> Boot | None:
        """The boot of that name."""
        return next((boot for boot in self.all() if boot.digest == digest), None)

    def last_approved(self, platform: str) -> Boot | None:
        """The boot seen last whose state a platform policy approved; this one, if its state was approved before."""
        return next((boot for boot in self.all() if platform in boot.approved), None)

    def note(self, boot: Boot) -> None:
        """Keeps a boot, or what is new of it. One that was approved keeps its approved values.

        Raises:
            StoreError: It cannot be written.
        """
        known = self.find(boot.digest)
        if known is not None:
            boot = _joined(known, boot)
            if boot.digest in self._noted and replace(boot, last_seen=known.last_seen) == known:
                return
        make_directory(self._directory, 0o700)
        write_atomic(self._directory / f"{boot.digest}.json", boot.to_bytes(), mode=0o600)
        self._noted.add(boot.digest)
        kept = {**(self._boots or {}), boot.digest: boot}
        self._boots = kept
        for old in _superfluous(self.all()):
            with contextlib.suppress(OSError):
                (self._directory / f"{old.digest}.json").unlink()
            del kept[old.digest]

    def _read(self) -> list[Boot]:
        """What is there and whole: a damaged file explains nothing, and denies nothing either."""
        found: list[Boot] = []
        try:
            names = [name for name in os.listdir(self._directory) if _NAME.match(name)]
        except OSError:
            return []
        for name in names:
            with contextlib.suppress(OSError, MalformedError):
                with (self._directory / name).open("rb") as file:
                    boot = parse_boot(file.read(MAX_BOOT_BYTES + 1))
                if name == f"{boot.digest}.json":
                    found.append(boot)
        return found


def _joined(known: Boot, seen: Boot) -> Boot:
    """What is known of a boot and what is seen of it now."""
    approved = tuple(sorted({*known.approved, *seen.approved}))
    first = min(known.first_seen, seen.first_seen)
    if known.approved and not seen.approved:
        # What changed since in this very boot is told against the state that was approved.
        return replace(known, first_seen=first, last_seen=seen.last_seen)
    return replace(seen, pcrs={**known.pcrs, **seen.pcrs}, approved=approved, first_seen=first)


def _superfluous(boots: Sequence[Boot]) -> list[Boot]:
    """Beyond the limit the oldest go; not the last approved one: however often others boot, it is what they differ from."""
    keep = list(boots[:MAX_BOOTS])
    last_approved = next((boot for boot in boots if boot.approved), None)
    if last_approved is not None and last_approved not in keep:
        keep[-1] = last_approved
    return [boot for boot in boots if boot not in keep]
