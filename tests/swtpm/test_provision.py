"""What a new software TPM has, where it is, and that it is never overwritten."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swtpm import daemon, provision


def test_it_is_for_us_alone(swtpm_template: Path) -> None:
    assert sorted(path.name for path in swtpm_template.iterdir()) == ["ca", "state"]
    for path in (swtpm_template / "ca", swtpm_template / "state"):
        assert path.stat().st_mode & 0o777 == 0o700
        for file in path.iterdir():
            assert file.stat().st_mode & 0o777 == 0o600, file


def test_nothing_is_written_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = "import sys; from pathlib import Path; from swtpm.provision import provision; provision(Path(sys.argv[1]))"
    environment = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tpm")],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert list(home.iterdir()) == []
    assert not list((tmp_path / "tpm").glob("new-*"))


def test_it_is_never_overwritten(swtpm_template: Path) -> None:
    before = (swtpm_template / "state" / "tpm2-00.permall").read_bytes()
    with pytest.raises(daemon.SwtpmError, match="never overwritten"):
        provision.provision(swtpm_template)
    assert (swtpm_template / "state" / "tpm2-00.permall").read_bytes() == before


def test_an_attempt_that_failed_leaves_nothing_that_looks_provisioned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision, "PCR_BANKS", ("no-such-bank",))
    with pytest.raises(daemon.SwtpmError, match="swtpm_setup failed with"):
        provision.provision(tmp_path / "tpm")
    assert [path.name for path in (tmp_path / "tpm").iterdir()] == ["ca"]


def test_what_the_new_tpm_refuses_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "_CERTIFICATE_INDEX", 0x01C00002)  # swtpm_setup's own, for RSA
    with pytest.raises(daemon.SwtpmError, match=r"the new software TPM: .*NV Index"):
        provision.provision(tmp_path / "tpm")
    assert [path.name for path in (tmp_path / "tpm").iterdir()] == ["ca"]


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    (tmp_path / "new-crash" / "state").mkdir(parents=True)
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "signkey.pem").write_text("half a key")
    provision.provision(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca", "state"]


@pytest.mark.parametrize("program", ["swtpm_setup", "swtpm_localca"])
def test_a_program_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    real = daemon.tool

    def without(name: str) -> str:
        if name == program:
            monkeypatch.setattr(daemon, "TOOLS_PATH", str(tmp_path))
        return real(name)

    monkeypatch.setattr(provision, "tool", without)
    with pytest.raises(daemon.SwtpmError, match=f"{program} is not installed: apt-get install"):
        provision.provision(tmp_path / "tpm")


def test_a_program_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "_TIMEOUT_S", 0.001)
    with pytest.raises(daemon.SwtpmError, match="timed out"):
        provision.provision(tmp_path / "tpm")
