"""Export of the log as static files, for any C2SP tlog-tiles client, or any web server."""

import os
import shutil
import tempfile
from pathlib import Path

from attestd.audit.store import LogStore, StoredCheckpoint
from attestd.errors import StoreError, UsageError
from attestd.tlog.tiles import format_bundle, tiles

__all__ = ["export_log"]


def export_log(store: LogStore, directory: str) -> StoredCheckpoint:
    """Writes `checkpoint`, `tile/<level>/...` and `tile/entries/...` for the newest checkpoint.

    The directory appears whole or not at all. Nobody else may read it (0700): entries name commands and users.
    Does not verify the log: `verify_log` does, and so does everyone who reads the export with the log's keys.

    Source: https://c2sp.org/tlog-tiles.

    Args:
        store: The log; it may grow meanwhile.
        directory: Where; must not exist.

    Returns:
        The checkpoint that was exported.

    Raises:
        UsageError: The directory exists, or the log has no checkpoint yet.
        StoreError: The log cannot be read, or the files cannot be written.
    """
    checkpoint = store.last_checkpoint()
    if checkpoint is None:
        raise UsageError("the audit log has no checkpoint to export yet")
    target = Path(os.path.abspath(directory))
    if target.exists():
        raise UsageError(f"{directory} exists: name a directory that does not")
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            _write(store, checkpoint, draft)
            os.sync()  # all files at once: one fsync each would take minutes
            draft.rename(target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as error:
        raise StoreError(f"cannot export the audit log to {directory}: {error}") from error
    return checkpoint


def _write(store: LogStore, checkpoint: StoredCheckpoint, draft: Path) -> None:
    for tile in tiles(checkpoint.size):
        span = tile.span
        _write_file(draft / tile.path, b"".join(store.nodes(8 * tile.level, span.start, span.stop)))
        if tile.level == 0:
            entries = (entry for _, entry in store.entries(span.start, span.stop))
            _write_file(draft / tile.bundle_path, format_bundle(entries))
    _write_file(draft / "checkpoint", checkpoint.note)


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
