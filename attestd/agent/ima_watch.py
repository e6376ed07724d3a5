"""Follows the IMA list: each entry is looked at once, before the next decision, and proved by the next quote.

The list only grows until the next boot, and so do the findings. A descriptor is kept open, so that what is new is all
that is read. Where something is not as it was (another file, a shorter one, an error) the list is read from its start:
then the quote has to prove all of it again.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from attestd.appraisal.ima import ImaPolicy, appraise_ima
from attestd.appraisal.logs import MAX_TOLD, LogAppraisal, in_words
from attestd.codes import Code, Denial
from attestd.errors import MalformedError, StoreError, VerificationError
from attestd.tcg.ima.replay import IMA_PCR, ImaPosition, find_value, replay_rest, start_of_list, verify_list

__all__ = ["ImaWatch"]

# A million entries: as much as is not proved yet is in memory.
MAX_LIST_BYTES: Final = 128 << 20
# Beyond this, some 5 ms of work, others need not wait: it is done in a thread.
INLINE_BYTES: Final = 64 << 10
_CHUNK: Final = 1 << 20


class ImaWatch:
    """One IMA list under one policy. Used from the agent's loop only."""

    def __init__(self, path: Path, policy: ImaPolicy, *, bank: str) -> None:
        """Names the list; nothing is read yet.

        Args:
            path: The binary list.
            policy: What may be measured.
            bank: The bank of the quotes that prove it.
        """
        self._path, self._policy, self._bank = path, policy, bank
        self._file: BinaryIO | None = None
        self._lock = asyncio.Lock()
        self._forget()

    def _forget(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
        self._proved: ImaPosition = start_of_list(self._bank)
        self._seen: ImaPosition = self._proved
        self._pending = bytearray()  # from what is proved on
        self._findings: list[str] = []
        self._count = 0
        self._problem: Denial | None = None
        self._unproved: str | None = None
        self._is_quoted = False

    def close(self) -> None:
        """Closes the list."""
        self._forget()

    @property
    def is_quoted(self) -> bool:
        """Whether a quote was held against this list since it was read from its start: until then it is only a claim."""
        return self._is_quoted and self._problem is None

    @property
    def state(self) -> LogAppraisal | Denial:
        """What the list shows so far; or the denial that reading it came to."""
        if self._problem is not None:
            return self._problem
        unproved = () if self._unproved is None else (self._unproved,)
        return LogAppraisal(
            self._seen.entries, (*unproved, *self._findings[:MAX_TOLD]), len(unproved) + self._count
        )

    async def look(self) -> None:
        """Reads and appraises what is new: it does not have to be proved to be a reason to deny."""
        async with self._lock:
            await self._look()

    async def _look(self) -> None:
        if self._problem is not None:
            self._forget()
        try:
            # The kernel hands out 4 KiB a call, and walks the list up to there: the first time that takes long.
            new = await asyncio.to_thread(self._read) if self._file is None else self._read()
            if len(new) > INLINE_BYTES:
                await asyncio.to_thread(self._appraise, new)
            elif new:
                self._appraise(new)
        except (StoreError, MalformedError) as error:
            self._problem = Denial(
                Code.EVIDENCE_INVALID, f"the IMA list cannot be appraised: {error}", "see attestd doctor"
            )

    async def prove(self, value: bytes, matches: Callable[[bytes], bool]) -> bytes | None:
        """Looks for the prefix of the list that a quote proves; to be called after the quote was taken.

        Args:
            value: What the PCR held before or after the quote.
            matches: Whether the quote is over that value.

        Returns:
            The quoted value; None: it is neither that one nor any that the list leads to.
        """
        async with self._lock:
            await self._look()
            if self._problem is not None:
                return value if matches(value) else None
            found = await self._run(lambda: self._prove(value, matches))
            if found is None and self._seen.entries:
                self._forget()  # What was read before may be of another list than the one that is there now.
                await self._look()
                found = await self._run(lambda: self._prove(value, matches))
            if found is None and matches(value):
                self._is_quoted = True
                self._unproved = (
                    f"PCR {IMA_PCR}: extended by something that the IMA list does not tell: it holds {value.hex()}, and none"
                    f" of the list's {self._seen.entries} entries leads there"
                )
                return value
            if found is not None:
                self._unproved, self._is_quoted = None, True
            return found

    async def _run(self, call: Callable[[], bytes | None]) -> bytes | None:
        return await asyncio.to_thread(call) if len(self._pending) > INLINE_BYTES else call()

    def _prove(self, value: bytes, matches: Callable[[bytes], bool]) -> bytes | None:
        data = bytes(self._pending)
        try:
            quoted = value if matches(value) else find_value(data, position=self._proved, matches=matches)
            if quoted is None:
                return None
            verified = verify_list(data, position=self._proved, value=quoted, max_bytes=MAX_LIST_BYTES)
        except (VerificationError, MalformedError):
            return None
        del self._pending[: verified.end.offset - self._proved.offset]
        self._proved = verified.end
        return quoted

    def _appraise(self, new: bytes) -> None:
        self._pending += new
        start = self._seen.offset - self._proved.offset
        rest = replay_rest(bytes(self._pending[start:]), position=self._seen, max_bytes=MAX_LIST_BYTES)
        # PCRs 0 to 9 are not all quoted; but the quote of PCR 10 by this TPM ties the list to this boot.
        found = appraise_ima(rest, policy=self._policy, aggregates=None)
        self._seen = rest.end
        self._findings += map(in_words, found.findings[: MAX_TOLD - len(self._findings)])
        self._count += found.count

    def _read(self) -> bytes:
        """What the list has beyond what was read."""
        try:
            named = self._path.stat()
            if self._file is not None and self._is_another(named):
                self._forget()
            if self._file is None:
                self._file = self._path.open("rb", buffering=0)
            parts: list[bytes] = []
            left = MAX_LIST_BYTES - len(self._pending)
            while left > 0 and (part := self._file.read(min(left, _CHUNK))):
                parts.append(part)
                left -= len(part)
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}") from error
        if left <= 0:
            raise StoreError(f"{self._path}: over {MAX_LIST_BYTES} bytes that no quote has proved")
        return b"".join(parts)

    @property
    def _read_bytes(self) -> int:
        return self._proved.offset + len(self._pending)

    def _is_another(self, named: os.stat_result) -> bool:
        """A regular file that was replaced or cut. The kernel's own list has no size, and stays."""
        if self._file is None:
            return False
        opened = os.fstat(self._file.fileno())
        same = (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)
        return not same or 0 < opened.st_size < self._read_bytes
