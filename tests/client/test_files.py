"""What the client opens: regular files, and nothing else."""

import os
from pathlib import Path

import pytest

from attestd.client.files import open_regular


def test_a_regular_file_is_opened_through_links_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        descriptor = open_regular(os.fsencode(tmp_path / name))
        try:
            assert os.read(descriptor, 16) == b"content"
        finally:
            os.close(descriptor)


def test_devices_directories_and_fifos_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = os.listdir("/proc/self/fd")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/null"), Path("/dev/tty")):
        if path.exists():
            assert open_regular(os.fsencode(path)) == -1
    assert os.listdir("/proc/self/fd") == before


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_regular(os.fsencode(tmp_path / "missing"))
