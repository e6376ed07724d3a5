"""A real software TPM for the package that needs none: the oracle of its digests, Names and signatures."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _listens(path: str) -> bool:
    """Whether somebody accepts there: the socket file appears a little before that."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(path) == 0


@pytest.fixture
def tcg_tcti() -> Iterator[str]:
    """The TCTI of a new swtpm, not provisioned with an EK certificate."""
    state = tempfile.mkdtemp(prefix="attestd-tcg-")  # not tmp_path: a socket's path has 107 bytes
    server, control = f"{state}/sock", f"{state}/sock.ctrl"
    command = [
        "swtpm",
        "socket",
        "--tpm2",
        "--tpmstate",
        f"dir={state}",
        "--flags",
        "not-need-init,startup-clear",
    ]
    command += ["--ctrl", f"type=unixio,path={control}", "--server", f"type=unixio,path={server}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (_listens(server) and _listens(control)):
            assert process.poll() is None, "swtpm ended"
            assert time.monotonic() < deadline, "swtpm does not come up"
            time.sleep(0.01)
        yield f"swtpm:path={server}"
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(state)
