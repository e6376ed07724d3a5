"""Rows as they were when a challenge was made: the evidence that answers it is appraised without reading them again."""

from typing import Final

from attestd.controller.batch import Batches
from attestd.controller.verifier.rows import Row

__all__ = ["RecentRows"]

MAX_ROWS: Final = 4096
# Rows with findings may be large, and are few.
MAX_STATE_BYTES: Final = 4096


class RecentRows:
    """Rows that were read a moment ago. One that was replaced since is refused when it is to be replaced (`Rows.replace`)."""

    def __init__(self, reads: Batches[str, Row | None]) -> None:
        """Takes what reads rows."""
        self._reads = reads
        self._found: dict[str, Row | None] = {}

    async def read(self, host: str) -> Row | None:
        """The row as it is now; it is remembered for the next `take`.

        Raises:
            StoreError: The database fails.
        """
        row = await self._reads.submit(host)
        self._found.pop(host, None)
        if row is None or len(row.state) <= MAX_STATE_BYTES:
            self._found[host] = row
            if len(self._found) > MAX_ROWS:
                del self._found[next(iter(self._found))]
        return row

    async def take(self, host: str) -> Row | None:
        """The row as it was at the last `read`, once; else as it is now.

        Raises:
            StoreError: The database fails.
        """
        if host in self._found:
            return self._found.pop(host)
        return await self._reads.submit(host)
