"""Unified kernel images: what their stub measures, held against systemd's own program."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from attestd.errors import MalformedError
from attestd.tcg.pe import parse_pe
from attestd.tcg.uki import parse_uki
from tests.tcg.build_pe import STUB, pe, uki

MEASURE = shutil.which("systemd-measure", path="/usr/lib/systemd:/usr/bin")
PARTS = {
    "uname": b"6.1",
    "cmdline": b"quiet",
    "linux": b"kernel",
    "osrel": b"ID=debian",
    "initrd": b"initrd",
    "pcrpkey": b"key",
    "pcrsig": b"signature of the values",
    "splash": b"bitmap",
    "sbat": b"sbat,1",
    "ucode": b"microcode",
    "dtb": b"tree",
}


def measured(data: bytes) -> list[str]:
    return [section.name for section in parse_uki(parse_pe(data)).measured]


@pytest.mark.parametrize(
    ("version", "names"),
    [
        (252, ".linux .osrel .cmdline .initrd .splash .dtb .pcrpkey"),
        (253, ".linux .osrel .cmdline .initrd .splash .dtb .pcrpkey"),
        (254, ".linux .osrel .cmdline .initrd .splash .dtb .uname .sbat .pcrpkey"),
        (256, ".linux .osrel .cmdline .initrd .ucode .splash .dtb .uname .sbat .pcrpkey"),
        (260, ".linux .osrel .cmdline .initrd .ucode .splash .dtb .uname .sbat .pcrpkey"),
    ],
)
def test_each_version_has_its_sections_in_the_frozen_order(version, names):
    assert measured(uki(**PARTS, stub=STUB.replace(b"252", b"%d" % version))) == names.split()


def test_sections():
    found = parse_uki(parse_pe(uki(linux=b"kernel", cmdline=b"", osrel=b"x")))
    assert (found.stub, found.section(".linux"), found.section(".cmdline")) == (252, b"kernel", None)
    assert [section.name for section in found.measured] == [".linux", ".osrel"]


@pytest.mark.skipif(MEASURE is None, reason="systemd-measure is not installed")
def test_as_systemd_measure_says(tmp_path: Path):
    options = []
    for name in ("linux", "osrel", "cmdline", "initrd", "splash", "dtb", "pcrpkey"):
        (tmp_path / name).write_bytes(PARTS[name])
        options.append(f"--{name}={tmp_path / name}")
    command = [str(MEASURE), "calculate", "--bank=sha256", "--phase=sysinit:ready", *options]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    value = bytes(32)
    for section in parse_uki(parse_pe(uki(**PARTS))).measured:
        for content in (section.name.encode() + b"\0", section.content):
            value = hashlib.sha256(value + hashlib.sha256(content).digest()).digest()
    for phase in (b"sysinit", b"ready"):
        value = hashlib.sha256(value + hashlib.sha256(phase).digest()).digest()
    assert re.search(r"11:sha256=([0-9a-f]{64})", said)[1] == value.hex()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (uki(linux=b"kernel", stub=b"no stub"), "expected systemd-stub 252"),
        (uki(linux=b"kernel", stub=STUB.replace(b"252", b"251")), "expected systemd-stub 252"),
        (uki(cmdline=b"quiet"), "no kernel"),
        (uki(linux=b""), "no kernel"),
        (pe({".sdmagic": STUB, ".linux": b"k"}, virtual=0x201), "513 bytes in memory, 512 in the file"),
        (uki(linux=b"kernel", profile=b"x", hwids=b"y"), "it has .hwids, .profile"),
        (uki(linux=b"kernel", linux2=b"x").replace(b".linux2", b".linux\0"), "two sections .linux"),
    ],
)
def test_refused(data, words):
    with pytest.raises(MalformedError, match=words):
        parse_uki(parse_pe(data))
