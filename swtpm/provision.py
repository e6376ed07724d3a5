"""Provisions the state of a software TPM: endorsement keys with certificates of a private local CA, PCR banks.

Needs `swtpm`, `swtpm_setup` and `swtpm_localca` (Debian: swtpm, swtpm-tools) and tpm2-pytss. Everything is below
the given directory; nothing is read from, or written to, a home directory or /etc.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from swtpm.daemon import TOOLS_PATH, Daemon, SwtpmError, tool

__all__ = ["PCR_BANKS", "SwtpmError", "provision"]

PCR_BANKS: Final = ("sha1", "sha256", "sha384")
_CERTIFICATE_INDEX: Final = 0x01C0000A  # P-256 EK certificate (TCG EK Credential Profile, 2.2.1.4)
_NV_CHUNK: Final = 512
_TIMEOUT_S: Final = 60.0
_MODEL: Final = (
    "--platform-manufacturer",
    "attestd",
    "--platform-version",
    "1",
    "--platform-model",
    "software",
)


def provision(state_dir: Path) -> None:
    """Makes the state of a new software TPM, all or nothing. Takes 1 to 2 s.

    An RSA-2048 and a P-384 EK with certificates come from swtpm_setup; it knows no P-256 (which every TPM verifies
    and signs with fast), so its EK certificate is issued by the same CA and put in the profile's NV index.

    Args:
        state_dir: Gets `state/` (for `swtpm --tpmstate`) and `ca/` (the CA that signed the certificates).

    Raises:
        SwtpmError: It has state already, or a tool is missing or failed.
    """
    state_dir = state_dir.absolute()
    target = state_dir / "state"
    if target.exists():
        raise SwtpmError(f"{target} exists: a software TPM is never overwritten")
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = state_dir / "ca"
    # Of an attempt that did not end: nobody relies on it.
    for leftover in (authority, *state_dir.glob("new-*")):
        shutil.rmtree(leftover, ignore_errors=True)
    authority.mkdir(mode=0o700)
    with tempfile.TemporaryDirectory(prefix="new-", dir=state_dir) as name:
        work = Path(name)
        state = work / "state"
        state.mkdir(mode=0o700)
        config = _write_configuration(authority)
        identity = secrets.token_hex(8)
        _setup(state, config, identity)
        _add_p256(state, work, authority, identity)
        for file in (*state.iterdir(), *authority.iterdir()):
            file.chmod(0o600)
        # The state appears at once and whole: a crash before this line leaves nothing that looks provisioned.
        state.rename(target)


def _write_configuration(authority: Path) -> Path:
    options = authority / "options"
    options.write_text(" ".join(_MODEL) + "\n")
    localca = authority / "localca.conf"
    localca.write_text(
        f"statedir = {authority}\n"
        f"signingkey = {authority}/signkey.pem\n"
        f"issuercert = {authority}/issuercert.pem\n"
        f"certserial = {authority}/certserial\n"
    )
    setup = authority / "setup.conf"
    setup.write_text(
        f"create_certs_tool = {tool('swtpm_localca')}\n"
        f"create_certs_tool_config = {localca}\n"
        f"create_certs_tool_options = {options}\n"
    )
    return setup


def _setup(state: Path, config: Path, identity: str) -> None:
    _run(
        [
            tool("swtpm_setup"), "--tpm2", "--tpmstate", str(state), "--config", str(config), "--vmid", identity,
            "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--not-overwrite",
            "--pcr-banks", ",".join(PCR_BANKS),
        ]
    )  # fmt: skip


def _add_p256(state: Path, work: Path, authority: Path, identity: str) -> None:
    # Asking for an index that is not there is no error to print.
    os.environ.setdefault("TSS2_LOG", "all+NONE")
    from tpm2_pytss import ESAPI, ESYS_TR, TSS2_Exception  # noqa: PLC0415 (takes 0.1 s, needed once in a host's life)
    from tpm2_pytss.utils import NVReadEK, create_ek_template  # noqa: PLC0415

    try:
        with _running(state) as tcti, ESAPI(tcti) as tpm:
            _, template = create_ek_template("EK-ECC256", NVReadEK(tpm))
            handle, public, *_ = tpm.create_primary(None, template, ESYS_TR.ENDORSEMENT)
            tpm.flush_context(handle)
            point = public.publicArea.unique.ecc
            x, y = (bytes(coordinate).rjust(32, b"\0") for coordinate in (point.x, point.y))
            _put_certificate(tpm, _certificate(x, y, work, authority, identity))
    except TSS2_Exception as error:
        raise SwtpmError(f"the new software TPM: {error}") from error


def _put_certificate(tpm: Any, certificate: bytes) -> None:
    """Writes and locks the profile's NV index, with the attributes that swtpm_setup gives its own."""
    from tpm2_pytss import ESYS_TR  # noqa: PLC0415 (as above)
    from tpm2_pytss.constants import TPM2_ALG, TPMA_NV  # noqa: PLC0415
    from tpm2_pytss.types import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC  # noqa: PLC0415

    attributes = (
        TPMA_NV.PPWRITE | TPMA_NV.WRITEDEFINE | TPMA_NV.PPREAD | TPMA_NV.OWNERREAD | TPMA_NV.AUTHREAD
        | TPMA_NV.NO_DA | TPMA_NV.PLATFORMCREATE
    )  # fmt: skip
    public = TPMS_NV_PUBLIC(
        nvIndex=_CERTIFICATE_INDEX,
        nameAlg=TPM2_ALG.SHA256,
        attributes=attributes,
        dataSize=len(certificate),
    )
    index = tpm.nv_define_space(None, TPM2B_NV_PUBLIC(public), auth_handle=ESYS_TR.PLATFORM)
    for offset in range(0, len(certificate), _NV_CHUNK):
        chunk = certificate[offset : offset + _NV_CHUNK]
        tpm.nv_write(index, chunk, offset, auth_handle=ESYS_TR.PLATFORM)
    tpm.nv_write_lock(index, auth_handle=ESYS_TR.PLATFORM)


def _certificate(x: bytes, y: bytes, work: Path, authority: Path, identity: str) -> bytes:
    _run(
        [
            tool("swtpm_localca"), "--type", "ek", "--ek", f"x={x.hex()},y={y.hex()},id=secp256r1",
            "--dir", str(work), "--vmid", identity, "--tpm2", "--optsfile", str(authority / "options"),
            "--configfile", str(authority / "localca.conf"), "--tpm-spec-family", "2.0",
            "--tpm-spec-level", "0", "--tpm-spec-revision", "164", "--tpm-manufacturer", "id:00001014",
            "--tpm-model", "swtpm", "--tpm-version", "id:20191023",
        ]
    )  # fmt: skip
    return (work / "ek.cert").read_bytes()


@contextlib.contextmanager
def _running(state: Path) -> Iterator[str]:
    """Runs swtpm on the state; yields its TCTI string."""
    # Not below the state directory: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="attestd-") as short:
        daemon = Daemon(Path(short))
        daemon.start(state)
        try:
            yield daemon.tcti
            daemon.stop()
        finally:
            daemon.kill()


def _run(command: Sequence[str]) -> None:
    environment = {"PATH": TOOLS_PATH, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SwtpmError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise SwtpmError(
            f"{command[0]} failed with {done.returncode}: {(done.stderr + done.stdout).strip()[-2000:]}"
        )
