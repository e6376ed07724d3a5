"""Predictions from one recorded boot, held against what the TPM had after the next.

The kernel that was booted is not here: its recorded digest stands for it. Debian's packages hold it, and systemd-measure
and the real logs agree with what is computed from them.
"""

import hashlib
from dataclasses import dataclass

import pytest
from cryptography import x509

from attestd.appraisal.predict import Change, Running, predict
from attestd.appraisal.predict.draft import Draft
from attestd.appraisal.predict.grub import GrubChange, replace_in_grub
from attestd.appraisal.predict.uki import replace_uki
from attestd.errors import VerificationError
from attestd.tcg.eventlog.diff import diff_events
from attestd.tcg.eventlog.efi import certificate_of, parse_variable
from attestd.tcg.eventlog.meaning import read_events
from attestd.tcg.eventlog.reading import Kind
from attestd.tcg.eventlog.replay import replay
from attestd.tcg.eventlog.userspace import with_phases
from attestd.tcg.pe import PeImage, PeSection
from attestd.tcg.uki import UnifiedKernel
from tests.appraisal.predict.build import carrying, recorded
from tests.tcg.eventlog.build import BOOTS, RECORDED

PHASES = ("sysinit", "ready")


def line(name: str) -> str:
    return (BOOTS / name / "cmdline").read_text().rstrip("\n")


def used(draft: Draft) -> x509.Certificate:
    [item, *_] = draft.of(7, Kind.AUTHORITY)
    return x509.load_der_x509_certificate(certificate_of(parse_variable(item.content).value))


class Known(Draft):
    """A draft that knows the digests of two files that are not here."""

    def hash(self, content: bytes) -> bytes:
        known = {b"<kernel>": 26, b"<osrel>": 28}
        if content in known:
            return self._log.events[known[content]].digests[self.bank]
        return super().hash(content)


@dataclass(frozen=True)
class Recorded(PeImage):
    """The image of the second boot."""

    def digest(self, bank: str) -> bytes:
        return recorded("uki-sb-cmdline2").events[24].digests[bank]


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_from_one_uki_to_the_next(bank):
    """`uki-sb` and the files of `uki-sb-cmdline2` give the PCRs of `uki-sb-cmdline2`: all of them."""
    draft = Known(recorded("uki-sb"), bank=bank, command_lines=())
    sections = (
        (".linux", b"<kernel>"),
        (".osrel", b"<osrel>"),
        (".cmdline", line("uki-sb-cmdline2").encode()),
    )
    measured = tuple(PeSection(name, content, len(content)) for name, content in sections)
    image = Recorded(measured, (carrying(used(draft)),), ())
    replace_uki(draft, UnifiedKernel(image, 252, measured), running=[line("uki-sb")])
    held = RECORDED["uki-sb-cmdline2"][1][bank]
    found = replay(with_phases(draft.log(), PHASES), bank)
    assert draft.unknown == {}
    assert found == {pcr: held[pcr] for pcr in found}
    assert {4, 7, 9, 11} <= set(found)
    real = read_events(recorded("uki-sb-cmdline2").events, bank=bank)
    assert diff_events(real, read_events(draft.log().events, bank=bank)) == ()


def test_what_changes_in_words():
    draft = Known(recorded("uki-sb"), bank="sha256", command_lines=[line("uki-sb")])
    measured = (PeSection(".linux", b"<kernel>", 8), PeSection(".cmdline", b"quiet\n", 6))
    image = Recorded(measured, (carrying(used(draft)),), ())
    replace_uki(draft, UnifiedKernel(image, 252, measured), running=[line("uki-sb")])
    after = read_events(draft.log().events, bank="sha256", command_lines=draft.command_lines)
    said = [str(change) for change in diff_events(draft.before, after)]
    assert (
        f"PCR 11: kernel command line in section .cmdline changed: `{line('uki-sb')}` -> `quiet` (event 28)"
        in said
    )
    assert any(words.startswith("PCR 11: missing: UKI section .osrel") for words in said)
    assert any(words.startswith("PCR 9: kernel command line in the load options changed") for words in said)


def test_grub_with_another_command_line():
    """The configuration that was measured is not here: one that hashes to it cannot be made, so it is refused."""
    change = Change(command_line="quiet single", grub_config=b"linux /vmlinuz quiet single\n")
    with pytest.raises(VerificationError, match="which commands GRUB will run is not known"):
        predict(recorded("shim-grub-ms-sb"), bank="sha256", change=change, running=Running())


def test_grub_with_another_configuration():
    """With the digest of the old configuration known for what it is, the commands follow."""

    class Config(Draft):
        def hash(self, content: bytes) -> bytes:
            if b"shimgrub" in content and content.endswith(b"boot\n"):
                return self._log.events[35].digests[self.bank]
            return super().hash(content)

    draft = Config(recorded("shim-grub-ms-sb"), bank="sha256", command_lines=())
    text = line("shim-grub-ms-sb").partition(" ")[2]
    new = f"{text} single"
    config = f"linux /vmlinuz {new.replace('shimgrub', 'X')}\nboot\n".encode()
    replace_in_grub(draft, GrubChange(None, None, config, new.replace("shimgrub", "X"), ()))
    after = draft.log().events
    assert after[39].data == f"grub_cmd: linux /vmlinuz {new.replace('shimgrub', 'X')}\0".encode()
    assert (
        after[43].digests["sha256"]
        == hashlib.sha256(f"/vmlinuz {new.replace('shimgrub', 'X')}".encode()).digest()
    )
    assert after[35].digests["sha256"] == hashlib.sha256(config).digest()
