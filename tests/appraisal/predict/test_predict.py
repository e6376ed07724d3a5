"""Predictions of boots that are made up: each change, and each reason not to predict."""

import hashlib
from dataclasses import replace

import pytest

from attestd.appraisal.predict import PREDICTED, Change, Prediction, Running, predict
from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tcg.eventlog.parse import UntrustedEventLog
from attestd.tcg.eventlog.replay import initial_value, replay
from attestd.tcg.eventlog.types import EventType
from attestd.tcg.eventlog.userspace import with_phases
from attestd.tcg.pe import parse_pe
from tests.appraisal.predict.build import (
    BY_OTHER,
    CERTIFICATE,
    KEY,
    OTHER,
    SIGNED,
    Grub,
    carrying,
    image,
    initrd,
    keys,
    lists,
    options,
    parsed,
    recorded,
    section,
    started,
    tag,
)
from tests.tcg.build_pe import STUB, authority, certificate, pe, signature
from tests.tcg.eventlog.build import event, variable

LINE, NEW_LINE = "root=/dev/a quiet", "root=/dev/a init=/bin/sh"
OLD_KERNEL, NEW_KERNEL = image(b"old kernel", SIGNED), image(b"new kernel", SIGNED)


def run(log: UntrustedEventLog, change: Change, **running) -> Prediction:
    return predict(log, bank="sha256", change=change, running=Running(**running))


def comes_true(found: Prediction, after: UntrustedEventLog, phases: tuple[str, ...] = ()) -> None:
    """What is predicted is what the next boot's log replays to."""
    held = replay(with_phases(after, phases), "sha256")
    expected = {
        pcr: held.get(pcr, initial_value("sha256", pcr)) for pcr in PREDICTED if pcr not in found.unknown
    }
    assert found.values == expected


def refused(words: str, log: UntrustedEventLog, change: Change, **running) -> None:
    with pytest.raises(VerificationError, match=words):
        run(log, change, **running)


def uki_image(line: bytes | None, kernel: bytes = OLD_KERNEL, *signatures: bytes, **more: bytes) -> bytes:
    sections = {".text": b"stub", ".sdmagic": STUB, ".linux": kernel}
    sections |= {} if line is None else {".cmdline": line}
    return pe(
        {**sections, **{f".{name}": data for name, data in more.items()}}, signatures=signatures or (SIGNED,)
    )


def uki_log(
    line: bytes | None,
    kernel: bytes = OLD_KERNEL,
    *behind: bytes,
    handed: str | None = LINE,
    inner: tuple[bytes, ...] = (),
    secure: bool = True,
    **more: bytes,
) -> UntrustedEventLog:
    """The boot of `uki_image`."""
    whole = hashable(uki_image(line, kernel, **more))
    sections = [*section(".linux", kernel)]
    for name in ("cmdline", "initrd"):
        content = line if name == "cmdline" else more.get(name)
        sections += [] if content is None else section(f".{name}", content)
    return parsed(
        *keys(secure=secure, used=(CERTIFICATE,) if secure else ()),
        started(r"\EFI\systemd\systemd-bootx64.efi", b"loader"),
        started(r"\EFI\Linux\a.efi", whole),
        *sections,
        *(started("", hashable(data)) for data in inner),
        *([] if handed is None else [options(handed)]),
        *behind,
    )


def hashable(data: bytes) -> bytes:
    """What the firmware hashes of an image."""
    return b"".join(parse_pe(data).hashed)


# Unified kernel images


@pytest.mark.parametrize("ending", [b"", b"\n", b"\0"])
def test_uki(ending):
    old, new = LINE.encode() + ending, NEW_LINE.encode() + ending
    handed, hands = ((text.decode().partition("\0")[0]) for text in (old, new))
    found = run(
        uki_log(old, handed=handed),
        Change(uki=uki_image(new, NEW_KERNEL)),
        command_line=LINE,
        phases=("sysinit",),
    )
    comes_true(found, uki_log(new, NEW_KERNEL, handed=hands), ("sysinit",))
    assert found.unknown == {}
    assert any(
        "the UKI is what this boot started as \\EFI\\Linux\\a.efi" in item for item in found.assumptions
    )
    assert any("phases sysinit into PCR 11" in item for item in found.assumptions)
    assert [change.pcr for change in found.changes] == [4, 9, 11, 11]


def test_uki_whose_stub_cleans_the_command_line():
    found = run(uki_log(b" a\tb \n", handed="a b"), Change(uki=uki_image(b"c\td\n")), command_line=" a\tb ")
    comes_true(found, uki_log(b"c\td\n", handed="c d"))


def test_uki_with_the_same_command_line_needs_not_know_it():
    found = run(uki_log(LINE.encode()), Change(uki=uki_image(LINE.encode(), NEW_KERNEL)))
    comes_true(found, uki_log(LINE.encode(), NEW_KERNEL))


def test_uki_whose_command_line_is_not_known():
    found = run(uki_log(LINE.encode()), Change(uki=uki_image(b"other")))
    assert "--running-cmdline" in found.unknown[9]
    assert 9 not in found.values
    found = run(uki_log(LINE.encode()), Change(uki=uki_image(b"other")), command_line="something else")
    assert 9 in found.unknown
    found = run(uki_log(LINE.encode(), handed=None), Change(uki=uki_image(b"other")))
    assert found.unknown == {}, "where the kernel measures none, none needs to be known"


def test_uki_with_or_without_a_command_line():
    assert "the other has none" in run(uki_log(LINE.encode()), Change(uki=uki_image(None))).unknown[9]
    assert "the other has none" in run(uki_log(None), Change(uki=uki_image(b"x"))).unknown[9]
    comes_true(run(uki_log(None), Change(uki=uki_image(None, NEW_KERNEL))), uki_log(None, NEW_KERNEL))


def test_uki_whose_kernel_is_started_by_the_firmware():
    found = run(
        uki_log(None, inner=(OLD_KERNEL,), secure=False), Change(uki=uki_image(None, NEW_KERNEL)), phases=()
    )
    comes_true(found, uki_log(None, NEW_KERNEL, inner=(NEW_KERNEL,), secure=False))
    with pytest.raises(MalformedError, match="the kernel in the UKI"):
        run(uki_log(None, inner=(OLD_KERNEL,)), Change(uki=uki_image(None, b"no image")))
    refused(
        "more than its kernel", uki_log(None, inner=(OLD_KERNEL, NEW_KERNEL)), Change(uki=uki_image(None))
    )


def test_uki_with_an_initrd():
    old, new = uki_log(None, OLD_KERNEL, initrd(b"one"), initrd=b"one"), uki_image(None, initrd=b"two")
    comes_true(run(old, Change(uki=new)), uki_log(None, OLD_KERNEL, initrd(b"two"), initrd=b"two"))
    combined = uki_log(None, OLD_KERNEL, initrd(b"one and credentials"), initrd=b"one")
    assert "more than one file" in run(combined, Change(uki=new)).unknown[9]
    assert run(combined, Change(uki=uki_image(None, NEW_KERNEL, initrd=b"one"))).unknown == {}
    assert "the other has none" in run(old, Change(uki=uki_image(None))).unknown[9]


@pytest.mark.parametrize(
    "events",
    [
        [],
        [started("a", b"a")],
        [*section(".linux", b"k")],
        [started("a", b"a"), section(".linux", b"k")[0]],
        [started("a", b"a"), *section(".unknown", b"k")],
    ],
)
def test_no_uki_in_the_log(events):
    refused("has no UKI", parsed(*keys(secure=False, used=()), *events), Change(uki=uki_image(None)))


# Who signed it


def test_an_unsigned_image_under_secure_boot():
    refused("not signed", uki_log(None), Change(uki=pe({".sdmagic": STUB, ".linux": b"k"})))
    found = run(uki_log(None, secure=False), Change(uki=pe({".sdmagic": STUB, ".linux": b"k"})))
    assert found.unknown == {}


def test_another_signer():
    found = run(uki_log(None), Change(uki=uki_image(None, OLD_KERNEL, BY_OTHER)))
    assert found.unknown[7].startswith("the UKI is signed by CN=other")
    assert "CN=db" in found.unknown[7]


def test_a_signer_whom_the_authority_issued():
    key, _ = authority("leaf")
    leaf = certificate("leaf", key.public_key(), "db", KEY)
    assert run(uki_log(None), Change(uki=uki_image(None, OLD_KERNEL, signature(key, leaf)))).unknown == {}
    forged = certificate("leaf", key.public_key(), "db", key)
    assert 7 in run(uki_log(None), Change(uki=uki_image(None, OLD_KERNEL, signature(key, forged)))).unknown


def test_the_first_signature_that_the_database_covers_counts():
    """Another certificate of the database would verify it first, and be logged."""
    both = lists(OTHER, CERTIFICATE)
    log = parsed(*keys(db=both), started("a", b"a"), *section(".linux", OLD_KERNEL))
    assert run(log, Change(uki=uki_image(None, OLD_KERNEL, SIGNED, BY_OTHER))).unknown == {}
    assert 7 in run(log, Change(uki=uki_image(None, OLD_KERNEL, BY_OTHER, SIGNED))).unknown
    assert 7 in run(log, Change(uki=uki_image(None, OLD_KERNEL, carrying(CERTIFICATE)))).unknown


def test_a_log_that_names_nobody():
    junk = [event(7, EventType.EFI_VARIABLE_DRIVER_CONFIG, variable("db", b"no lists"))]
    log = parsed(*junk, *keys(used=()), started("a", b"a"), *section(".linux", OLD_KERNEL))
    assert "(none)" in run(log, Change(uki=uki_image(None))).unknown[7]


# Kernels that a boot loader starts


def direct(
    line: str, kernel: bytes, ramdisk: bytes = b"initrd", handed: str | None = None
) -> UntrustedEventLog:
    return parsed(
        *keys(),
        started(r"\EFI\systemd\systemd-bootx64.efi", b"loader"),
        event(12, EventType.IPL, f"{line}\0".encode("utf-16-le")),
        started(r"\debian\vmlinuz", hashable(kernel)),
        options(line if handed is None else handed),
        initrd(ramdisk),
    )


def test_a_kernel_by_systemd_boot():
    change = Change(kernel=NEW_KERNEL, command_line=NEW_LINE, initrd=b"new")
    found = run(direct(LINE, OLD_KERNEL), change, initrd=b"initrd", command_line=LINE)
    comes_true(found, direct(NEW_LINE, NEW_KERNEL, b"new"))
    assert any("started last: \\debian\\vmlinuz" in item for item in found.assumptions)
    odd = run(direct(LINE, OLD_KERNEL, handed="something else"), Change(command_line=NEW_LINE))
    assert 9 in odd.unknown


def test_an_initrd_by_systemd_boot():
    refused("--running-initrd", direct(LINE, OLD_KERNEL), Change(initrd=b"new"))
    assert 9 in run(direct(LINE, OLD_KERNEL), Change(initrd=b"new"), initrd=b"another").unknown


def test_nothing_for_a_boot_loader_to_change():
    refused("in its UKI", uki_log(None), Change(kernel=NEW_KERNEL))
    refused("in its UKI", uki_log(LINE.encode()), Change(command_line=NEW_LINE))
    empty = parsed(*keys())
    refused("no image in PCR 4", empty, Change(kernel=NEW_KERNEL))
    refused("expected one in PCR 12", empty, Change(command_line=NEW_LINE))
    refused("no command of GRUB", empty, Change(renamed=(("a", "b"),)))
    refused("no command of GRUB", empty, Change(grub_config=b""))


# GRUB


def grub(boot: Grub, *behind: bytes, secure: bool = True) -> UntrustedEventLog:
    return parsed(*keys(secure=secure), started(r"\EFI\grubx64.efi", b"grub"), *boot.events(), *behind)


def test_a_kernel_by_grub():
    old = Grub(kernel=OLD_KERNEL, images=(hashable(OLD_KERNEL),) * 2)
    new = replace(old, kernel=NEW_KERNEL, images=(hashable(NEW_KERNEL),) * 2)
    found = run(grub(old), Change(kernel=NEW_KERNEL))
    comes_true(found, grub(new))
    assert any("from memory (event" in item for item in found.assumptions)
    comes_true(run(grub(Grub()), Change(kernel=b"any bytes")), grub(Grub(kernel=b"any bytes")))


def test_a_command_line_by_grub():
    old = Grub()
    new = replace(old, line=NEW_LINE, config=old.config.replace(LINE.encode(), NEW_LINE.encode()))
    change = Change(command_line=NEW_LINE, grub_config=new.config)
    for form in ("BOOT_IMAGE=/vmlinuz-1 {}", "/vmlinuz-1 {}", "{}"):
        found = run(grub(old, options(form.format(LINE), "")), change)
        comes_true(found, grub(new, options(form.format(NEW_LINE), "")))
    assert 9 in run(grub(old, options("?")), change).unknown
    refused("--grub-config", grub(old), Change(command_line=NEW_LINE))
    refused("nothing but these texts", grub(old), replace(change, grub_config=new.config + b"more"))
    refused(r"replaced \(none\)", grub(old), Change(grub_config=b"more"))
    comes_true(run(grub(old), Change(command_line=LINE, initrd=b"initrd")), grub(old))


def test_texts_that_cannot_be_put_back():
    """A text that stands in the old configuration already would become the old one's."""
    old = Grub(config=b"linux /vmlinuz-1 root=/dev/a quiet # other\n")
    refused(
        "nothing but these texts",
        grub(old),
        Change(command_line="other", grub_config=b"linux /vmlinuz-1 other # other\n"),
    )


def test_a_kernel_with_another_name():
    old = Grub()
    config = old.config.replace(b"-1", b"-2")
    change = Change(kernel=b"2", initrd=b"initrd", grub_config=config, renamed=(("-1", "-2"),))
    found = run(grub(old), change)
    comes_true(found, grub(replace(old, kernel=b"2", path="/vmlinuz-2", initrds="/initrd-2", config=config)))
    refused("/initrd-1 is renamed", grub(old), replace(change, initrd=None))
    refused("/vmlinuz-1 is renamed", grub(old), replace(change, kernel=None))


def test_an_initrd_by_grub():
    log = grub(Grub(), initrd(b"initrd"))
    found = run(log, Change(initrd=b"new"))
    assert found.unknown == {}
    assert found.values[9] != replay(log, "sha256")[9]
    assert 9 in run(grub(Grub(), initrd(b"two of them")), Change(initrd=b"new")).unknown
    refused("exactly one initrd", grub(Grub(initrds="/initrd-1 /more")), Change(initrd=b"new"))
    refused("exactly one initrd", recorded("rhel8-uefi"), Change(initrd=b"new"))


def test_a_log_of_grub_that_is_odd():
    second = event(8, EventType.IPL, b"kernel_cmdline: other\0", b"other")
    refused("2 kernel command lines", grub(Grub(), second), Change(kernel=NEW_KERNEL))
    other = event(9, EventType.IPL, b"/vmlinuz-1", b"other bytes")
    refused("3 files", grub(Grub(), other), Change(kernel=NEW_KERNEL))
    several = replace(Grub(), images=(b"a", b"b"))
    refused("several images from memory", grub(several), Change(kernel=NEW_KERNEL))
    hidden = event(8, EventType.IPL, b"grub_cmd: one", b"another")
    config = Grub().config.replace(LINE.encode(), NEW_LINE.encode())
    change = Change(command_line=NEW_LINE, grub_config=config)
    assert "does not show" in run(grub(Grub(), hidden), change).unknown[8]


# Boot loaders and variables


def test_shim_and_other_images():
    loader = image(b"new loader", SIGNED)
    mok = event(14, EventType.IPL, b"MokList\0", b"list")
    before = parsed(
        *keys(), started(r"\EFI\shimx64.efi", b"shim"), mok, started(r"\EFI\debian\grubx64.efi", b"grub")
    )
    found = run(before, Change(shim=loader, images={"debian/GRUBX64.EFI": loader}))
    comes_true(
        found,
        parsed(
            *keys(),
            started(r"\EFI\shimx64.efi", hashable(loader)),
            mok,
            started(r"\EFI\debian\grubx64.efi", hashable(loader)),
        ),
    )
    assert any("SbatLevel" in item for item in found.assumptions)
    refused("expected one image of that name.*found .*shimx64", before, Change(images={"x.efi": loader}))
    refused("expected one image", before, Change(images={".efi": loader}))
    refused("found none", parsed(*keys()), Change(images={".efi": loader}))
    refused("no shim", parsed(*keys(), started("a", b"a")), Change(shim=loader))
    refused("no shim", parsed(*keys(), mok), Change(shim=loader))


def test_variables():
    old = parsed(*keys(), started("a", b"a"))
    db = lists(CERTIFICATE, OTHER)
    comes_true(run(old, Change(variables={"db": db})), parsed(*keys(db=db), started("a", b"a")))
    old = parsed(
        event(7, EventType.EFI_VARIABLE_DRIVER_CONFIG, variable("PK", b"")), *keys(), started("a", b"a")
    )
    pk = event(7, EventType.EFI_VARIABLE_DRIVER_CONFIG, variable("PK", db))
    comes_true(run(old, Change(variables={"PK": db})), parsed(pk, *keys(), started("a", b"a")))
    old = parsed(*keys(), started("a", b"a"))
    comes_true(run(old, Change(variables={"db": b"\7\0\0\0" + db})), parsed(*keys(db=db), started("a", b"a")))
    assert run(old, Change(variables={"dbx": lists(digests=[b"x" * 32])})).unknown == {}
    refused("lacks what verified this boot: CN=db", old, Change(variables={"db": lists(OTHER)}))
    refused("forbids what verified this boot: CN=db", old, Change(variables={"dbx": lists(CERTIFICATE)}))
    digest = hashlib.sha256(b"a").digest()
    refused("forbids an image", old, Change(variables={"dbx": lists(digests=[digest])}))
    refused("no EFI signature lists", old, Change(variables={"db": b"nonsense"}))
    refused("0 variables KEK", old, Change(variables={"KEK": db}))
    refused("expected one of PK", old, Change(variables={"SecureBoot": b"\0"}))


# The whole


def test_changes_that_make_no_sense():
    log = recorded("uki-sb")
    for change in (
        Change(),
        Change(uki=b"", kernel=b""),
        Change(uki=b"", command_line=""),
        Change(uki=b"", initrd=b""),
    ):
        with pytest.raises(UsageError):
            run(log, change)
    with pytest.raises(UsageError, match="no bank"):
        predict(log, bank="sha512", change=Change(kernel=b""), running=Running())
    with pytest.raises(MalformedError, match="UKI: truncated"):
        run(log, Change(uki=b""))
    with pytest.raises(MalformedError, match="the kernel: truncated"):
        run(direct(LINE, OLD_KERNEL), Change(kernel=b""))


def test_what_the_log_does_not_explain():
    log = uki_log(None)
    now = replay(with_phases(log, ("sysinit",)), "sha256")
    odd = {0: now[0], 10: b"x" * 32, 11: now[11], 12: bytes(32), 15: b"y" * 32}
    found = run(log, Change(uki=uki_image(None, NEW_KERNEL)), phases=("sysinit",), values=odd)
    assert list(found.unknown) == [15]
    assert (b"y" * 32).hex() in found.unknown[15]
    assert "PCRs 8, 13, 14, which" in "".join(found.assumptions)
    assert set(found.values) == set(PREDICTED) - {15}
    all_known = {pcr: now.get(pcr, bytes(32)) for pcr in PREDICTED}
    found = run(log, Change(uki=uki_image(None)), phases=("sysinit",), values=all_known)
    assert found.unknown == {}
    assert not any("does not name" in item for item in found.assumptions)


def test_load_options_in_another_bank_of_the_same_log():
    """One bank is predicted; the others are left out of the log that is."""
    found = predict(
        uki_log(LINE.encode()),
        bank="sha1",
        change=Change(uki=uki_image(NEW_LINE.encode())),
        running=Running(command_line=LINE),
    )
    assert found.log.banks == (found.bank,) == ("sha1",)
    assert found.values == {
        pcr: replay(uki_log(NEW_LINE.encode(), handed=NEW_LINE), "sha1").get(pcr, initial_value("sha1", pcr))
        for pcr in PREDICTED
    }


def test_other_tags_of_the_kernel_stay():
    log = uki_log(None, OLD_KERNEL, tag(0x12345678, b"x"))
    found = run(log, Change(uki=uki_image(None, NEW_KERNEL)))
    comes_true(found, uki_log(None, NEW_KERNEL, tag(0x12345678, b"x")))
