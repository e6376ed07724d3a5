"""`init` takes the PCRs from the event log, and says where the log and the TPM differ."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from attestd.agent.provision import provision_standalone
from attestd.agent.selection import choose_pcrs, differences, require_log_of_this_boot
from attestd.distribution.local import load_own_trust
from attestd.errors import UsageError
from attestd.paths import Configuration, Layout, find_layout, load_configuration
from attestd.tpm.embedded import EmbeddedTpm
from tests.measured import RECORDED
from tests.recorded_boots import extend_as_in
from tests.tcg.eventlog.build import RECORDED as LOGS
from tests.tcg.eventlog.build import event, log

DEVICE = "device:/dev/tpmrm0"


def recorded(name: str, *, tpm: str = "embedded") -> Configuration:
    directory = RECORDED / name
    return Configuration(
        tpm=tpm,
        eventlog=str(directory / "binary_bios_measurements"),
        command_line=str(directory / "cmdline"),
        userspace_log="",
    )


@pytest.mark.parametrize(
    ("name", "pcrs", "loader"),
    [("uki-sb", "0,2,4,7,11,12", "unified kernel"), ("shim-grub-ms-sb", "0,2,4,7,8,9,14", "GRUB")],
)
@pytest.mark.parametrize("tpm", ["embedded", DEVICE])
def test_as_the_log_shows(name: str, pcrs: str, loader: str, tpm: str) -> None:
    found = choose_pcrs(recorded(name, tpm=tpm), pcrs=None)
    assert str(found.selection) == f"sha256:{pcrs}"
    assert loader in found.notes[0]


def test_an_embedded_tpm_without_a_log() -> None:
    found = choose_pcrs(Configuration(), pcrs=None)
    assert str(found.selection) == "sha256:0,2,4,7,11,12"
    assert "measures no boot" in found.notes[0]
    assert choose_pcrs(Configuration(), pcrs="0,4").notes == ()
    assert differences(found, {}) == ()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (log(event(4, 4, bytes(4))), "neither a unified kernel image nor GRUB"),
        (log(), "the event log is empty"),
        (b"", "event log: empty"),
        (None, "No such file"),
    ],
)
def test_asked_where_the_log_does_not_show_it(data: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "eventlog"
    if data is not None:
        path.write_bytes(data)
    configuration = Configuration(tpm=DEVICE, eventlog=str(path), userspace_log="", command_line="/dev/null")
    with pytest.raises(UsageError, match=f"--pcrs is needed.*{words}"):
        choose_pcrs(configuration, pcrs=None)
    if data is None or not data:
        assert words in choose_pcrs(configuration, pcrs="0,4").notes[0]


def test_what_a_person_may_not_choose() -> None:
    assert str(choose_pcrs(recorded("uki-sb"), pcrs="0,4,9").selection) == "sha256:0,4,9"
    with pytest.raises(UsageError, match=r"none of the PCRs 0, 4 holds the kernel command line.*PCR 9, 11"):
        choose_pcrs(recorded("uki-sb"), pcrs="0,4")
    with pytest.raises(UsageError, match="PCR 10 changes with each file"):
        choose_pcrs(recorded("uki-sb"), pcrs="10,11")
    with pytest.raises(UsageError, match="PCR 10 changes"):
        choose_pcrs(Configuration(), pcrs="10")


def test_a_log_of_another_bank(tmp_path: Path) -> None:
    path = tmp_path / "eventlog"
    path.write_bytes(LOGS["debian-10"][0])
    configuration = replace_log(recorded("uki-sb", tpm=DEVICE), path)
    with pytest.raises(UsageError, match="--pcrs is needed"):
        choose_pcrs(configuration, pcrs=None)
    assert str(choose_pcrs(configuration, pcrs="0,4").selection) == "sha256:0,4"


def replace_log(configuration: Configuration, path: Path) -> Configuration:
    return msgspec.structs.replace(configuration, eventlog=str(path))


@pytest.fixture
def layout(swtpm_template: Path, short_dir: Path) -> Iterator[Layout]:
    layout = find_layout(str(short_dir / "s"))
    shutil.copytree(swtpm_template, layout.tpm)
    yield layout
    EmbeddedTpm(layout.tpm).kill()


def test_init_on_a_machine_that_measured_its_boot(layout: Layout) -> None:
    tpm = EmbeddedTpm(layout.tpm)
    tpm.start()
    extend_as_in(tpm, "uki-sb")
    found = provision_standalone(layout, recorded("uki-sb"), pcrs=None, labels={})
    assert str(found.selection) == "sha256:0,2,4,7,11,12"
    assert not any("does not replay" in note for note in found.notes)
    assert load_own_trust(layout).platforms["local"].values[4] == (LOGS["uki-sb"][1]["sha256"][4],), (
        "the state that the recorded machine had is approved"
    )
    kept = load_configuration(layout.configuration, {})
    assert kept.eventlog == recorded("uki-sb").eventlog, "the agent finds the log again"
    assert provision_standalone(layout, kept, pcrs=None, labels={}).fresh is False


def test_init_says_where_the_log_is_not_the_tpms(layout: Layout) -> None:
    tpm = EmbeddedTpm(layout.tpm)
    tpm.start()
    extend_as_in(tpm, "uki-sb")
    with tpm.open() as opened:
        opened.extend(4, {"sha256": bytes(32)})
    found = provision_standalone(layout, recorded("uki-sb"), pcrs=None, labels={})
    differing = [note.partition(" holds")[0] for note in found.notes if "does not replay to" in note]
    assert differing == ["PCR 4"]
    choice = choose_pcrs(recorded("uki-sb"), pcrs="sha1:0,11")
    assert differences(choice, {}) == ()
    require_log_of_this_boot(choice, {})
    assert differences(replace(choice, boot=None), {}) == ()
    require_log_of_this_boot(replace(choice, boot=None), {})


def test_init_with_the_log_of_another_boot(layout: Layout) -> None:
    """Who can put a log there must not choose which PCRs are looked at."""
    tpm = EmbeddedTpm(layout.tpm)
    tpm.start()
    extend_as_in(tpm, "uki-sb")
    for other, pcr in (("uki-sb-cmdline2", 11), ("shim-grub-ms-sb", 8)):
        with pytest.raises(UsageError, match=f"command line in PCR {pcr}, and does not replay"):
            provision_standalone(layout, recorded(other), pcrs=None, labels={})
        assert not layout.log.exists()
        assert not layout.trust.exists() or not any(layout.trust.iterdir())
    assert provision_standalone(layout, recorded("uki-sb"), pcrs=None, labels={}).fresh is True
