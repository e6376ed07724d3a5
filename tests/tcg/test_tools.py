"""tpm2-tools as oracle: what `tpm2_quote` writes verifies here as it does in `tpm2_checkquote`."""

import os
import subprocess
from pathlib import Path

import pytest

from attestd.errors import VerificationError
from attestd.tcg.credential import make_credential
from attestd.tcg.pcr import PcrSelection, composite_of_banks
from attestd.tcg.public import Attribute, host_id, parse_public
from attestd.tcg.quote import verify_quote

SELECTIONS = (PcrSelection("sha1", (10,)), PcrSelection("sha256", (0, 7)), PcrSelection("sha384", (4,)))
NONCE = "00" * 31 + "01"
ATTRIBUTES = "restricted|sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda"


@pytest.fixture
def tool(tcg_tcti: str, tmp_path: Path):
    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "TPM2TOOLS_TCTI": tcg_tcti, "TSS2_LOG": "all+NONE"}
        return subprocess.run(
            [name, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def values(printed: str) -> dict[tuple[str, int], bytes]:
    """The output of `tpm2_pcrread`: a line a bank, then `index: 0xHEX` lines."""
    found, bank = {}, ""
    for line in printed.splitlines():
        left, _, right = line.strip().partition(":")
        bank = bank if right else left
        if right:
            found[bank, int(left)] = bytes.fromhex(right.strip()[2:])
    return found


@pytest.mark.parametrize(
    ("template", "hash_alg"),
    [
        ("ecc256:ecdsa-sha256:null", "sha256"),
        ("ecc384:ecdsa-sha384:null", "sha384"),
        ("rsa2048:rsassa-sha256:null", "sha256"),
        ("rsa2048:rsapss-sha384:null", "sha384"),
    ],
)
def test_quotes_of_every_scheme(tool, tmp_path, template, hash_alg):
    def done(name: str, *arguments: str) -> str:
        completed = tool(name, *arguments)
        assert completed.returncode == 0, completed.stderr
        tool("tpm2_flushcontext", "-t")  # without a resource manager, tools leave what they load
        return completed.stdout

    scheme = template.split(":")[1].split("-")[0]
    selected = "+".join(map(str, SELECTIONS))
    done("tpm2_pcrextend", f"7:sha256={'ab' * 32}")
    done("tpm2_createprimary", "-C", "e", "-G", template, "-a", ATTRIBUTES, "-c", "ak.ctx")
    done("tpm2_readpublic", "-c", "ak.ctx", "-n", "ak.name", "-f", "tss", "-o", "ak.tss")
    done("tpm2_readpublic", "-c", "ak.ctx", "-f", "pem", "-o", "ak.pem")
    outputs = ("-m", "quote.msg", "-s", "quote.sig", "-o", "quote.pcrs")
    done(
        "tpm2_quote",
        "-c",
        "ak.ctx",
        "-l",
        selected,
        "-q",
        NONCE,
        "-g",
        hash_alg,
        "--scheme",
        scheme,
        *outputs,
    )
    printed = values(done("tpm2_pcrread", selected))

    key = parse_public((tmp_path / "ak.tss").read_bytes()[2:])  # TPM2B_PUBLIC
    assert key.name == (tmp_path / "ak.name").read_bytes()
    assert Attribute.RESTRICTED in key.attributes
    arguments = {
        "ak_public_key": key.public_key(),
        "attest": (tmp_path / "quote.msg").read_bytes(),
        "signature": (tmp_path / "quote.sig").read_bytes(),
        "extra_data": bytes.fromhex(NONCE),
        "selection": SELECTIONS,
    }
    banks = [(part, {index: printed[part.bank, index] for index in part.pcrs}) for part in SELECTIONS]
    verified = verify_quote(**arguments, pcr_digest=composite_of_banks(banks, hash_alg=hash_alg))
    assert verified.hash_alg == hash_alg

    other = "00" * 31 + "02"
    with pytest.raises(VerificationError, match="extraData"):
        verify_quote(**arguments | {"extra_data": bytes.fromhex(other)}, pcr_digest=verified.pcr_digest)
    if scheme != "rsapss":  # tpm2_checkquote 5.4 takes every RSA signature for PKCS #1 v1.5
        check = ("-u", "ak.pem", "-m", "quote.msg", "-s", "quote.sig", "-f", "quote.pcrs", "-g", hash_alg)
        assert tool("tpm2_checkquote", *check, "-q", NONCE).returncode == 0
        assert tool("tpm2_checkquote", *check, "-q", other).returncode != 0


@pytest.mark.parametrize("algorithm", ["rsa", "ecc"])
def test_endorsement_keys_parse_and_give_a_host_id(tool, tmp_path, algorithm):
    completed = tool("tpm2_createek", "-G", algorithm, "-c", "ek.ctx", "-u", "ek.pub")
    assert completed.returncode == 0, completed.stderr
    area = (tmp_path / "ek.pub").read_bytes()[2:]
    key = parse_public(area)
    assert Attribute.DECRYPT in key.attributes
    assert len(key.auth_policy) == 32
    key.public_key()
    assert len(host_id(area)) == 64


MAGIC = bytes.fromhex("badcc0de00000001")  # of the file in which tpm2-tools keep a credential's two parts
SECRET = bytes(range(100, 132))


def _keys(tool, algorithm: str) -> None:
    def done(name: str, *arguments: str) -> None:
        completed = tool(name, *arguments)
        assert completed.returncode == 0, completed.stderr
        tool("tpm2_flushcontext", "-t")

    done("tpm2_createek", "-G", algorithm, "-c", "ek.ctx", "-u", "ek.pub")
    done(
        "tpm2_createak",
        "-C",
        "ek.ctx",
        "-c",
        "ak.ctx",
        "-G",
        "ecc",
        "-g",
        "sha256",
        "-s",
        "ecdsa",
        "-n",
        "ak.name",
    )


def _session(tool) -> str:
    for command in (
        ("tpm2_startauthsession", "--policy-session", "-S", "session.ctx"),
        ("tpm2_policysecret", "-S", "session.ctx", "-c", "e"),
    ):
        completed = tool(*command)
        assert completed.returncode == 0, completed.stderr
    return "session:session.ctx"


@pytest.mark.parametrize("algorithm", ["rsa", "ecc"])
def test_a_credential_of_ours_in_tpm2_activatecredential(tool, tmp_path, algorithm):
    _keys(tool, algorithm)
    ek = parse_public((tmp_path / "ek.pub").read_bytes()[2:])
    name = (tmp_path / "ak.name").read_bytes()
    made = make_credential(ek, name=name, secret=SECRET, random=os.urandom)
    (tmp_path / "credential").write_bytes(MAGIC + made.id_object + made.encrypted_secret)
    activated = tool(
        *("tpm2_activatecredential", "-c", "ak.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "secret"),
        *("-P", _session(tool)),
    )
    assert activated.returncode == 0, activated.stderr
    assert (tmp_path / "secret").read_bytes() == SECRET
