"""Makes event logs, right and wrong."""

import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path

from attestd.tcg.eventlog.types import EventType

LOGS = Path(__file__).parent / "logs"
BOOTS = Path(__file__).parent.parent / "data"
IDS = {"sha1": 4, "sha256": 11, "sha384": 12, "sha512": 13, "sm3": 0x12}
SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64, "sm3": 32}
BOTH = ("sha1", "sha256")
GLOBAL = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
SECURITY = bytes.fromhex("cbb219d73a3d9645a3bcdad00e67656f")
SHIM = bytes.fromhex("50ab5d6046e00043abb63dd810dd8b23")


def digest(bank: str, content: bytes) -> bytes:
    return bytes(32) if bank == "sm3" else hashlib.new(bank, content).digest()


def spec_id(banks: Sequence[str] = BOTH, *, vendor: bytes = b"", **changes) -> bytes:
    """TCG_EfiSpecIDEvent; `count`, `sizes`, `signature` lie."""
    sizes = changes.get("sizes", SIZES)
    head = struct.pack("<16sIBBBBI", b"Spec ID Event03", 0, 0, 2, 0, 2, changes.get("count", len(banks)))
    pairs = b"".join(struct.pack("<HH", IDS[bank], sizes[bank]) for bank in banks)
    return head + pairs + bytes([changes.get("vendor_size", len(vendor))]) + vendor


def sha1_event(
    pcr: int, kind: int, data: bytes, content: bytes | None = None, *, size: int | None = None
) -> bytes:
    measured = data if content is None else content
    found = bytes(20) if kind == EventType.NO_ACTION else digest("sha1", measured)
    return struct.pack("<II20sI", pcr, kind, found, len(data) if size is None else size) + data


def event(
    pcr: int,
    kind: int,
    data: bytes,
    content: bytes | None = None,
    *,
    banks: Sequence[str] = BOTH,
    size: int | None = None,
    count: int | None = None,
) -> bytes:
    """TCG_PCR_EVENT2, whose digests are of `content`, or of its data."""
    measured = data if content is None else content
    digests = b""
    for bank in banks:
        found = bytes(SIZES[bank]) if kind == EventType.NO_ACTION else digest(bank, measured)
        digests += struct.pack("<H", IDS[bank]) + found
    head = struct.pack("<III", pcr, kind, len(banks) if count is None else count)
    return head + digests + struct.pack("<I", len(data) if size is None else size) + data


def log(*events: bytes, banks: Sequence[str] = BOTH, header: bytes | None = None) -> bytes:
    return sha1_event(0, EventType.NO_ACTION, spec_id(banks) if header is None else header) + b"".join(events)


def variable(name: str, value: bytes, guid: bytes = GLOBAL) -> bytes:
    text = name.encode("utf-16-le")
    return struct.pack("<16sQQ", guid, len(name), len(value)) + text + value


def separators(banks: Sequence[str] = BOTH, pcrs: Sequence[int] = range(8)) -> list[bytes]:
    return [event(pcr, EventType.SEPARATOR, bytes(4), banks=banks) for pcr in pcrs]


def extend(bank: str, value: bytes, *contents: bytes) -> bytes:
    for content in contents:
        value = hashlib.new(bank, value + digest(bank, content)).digest()
    return value


def recorded_logs() -> dict[str, tuple[bytes, dict[str, dict[int, bytes]]]]:
    """Every recorded log, with the PCR values of its TPM, by bank."""
    expected = json.loads((LOGS / "expected_pcrs.json").read_text())
    found = {
        name: (
            (LOGS / f"{name}.bin").read_bytes(),
            {
                bank: {int(index): bytes.fromhex(value) for index, value in values.items()}
                for bank, values in banks.items()
            },
        )
        for name, banks in expected.items()
    }
    for boot in sorted(path for path in BOOTS.iterdir() if path.is_dir()):
        pcrs: dict[str, dict[int, bytes]] = {}
        for line in (boot / "pcrs.txt").read_text().splitlines():
            bank, index, value = line.split()
            pcrs.setdefault(bank, {})[int(index)] = bytes.fromhex(value)
        found[boot.name] = ((boot / "binary_bios_measurements").read_bytes(), pcrs)
    return found


RECORDED = recorded_logs()
