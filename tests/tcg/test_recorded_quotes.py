"""Quotes recorded from real boots of a virtual machine (see data/README.md)."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from attestd.errors import VerificationError
from attestd.tcg.pcr import PcrSelection, composite_of_banks
from attestd.tcg.quote import verify_quote

DATA = Path(__file__).parent / "data"
BOOTS = sorted(path.name for path in DATA.iterdir() if path.is_dir())
SELECTIONS = (PcrSelection("sha1", (10,)), PcrSelection("sha256", tuple(range(16))))


def recorded(boot: str):
    directory = DATA / boot
    lines = [line.split() for line in (directory / "pcrs.txt").read_text().splitlines()]
    values = {(bank, int(index)): bytes.fromhex(value) for bank, index, value in lines}
    banks = [(part, {index: values[part.bank, index] for index in part.pcrs}) for part in SELECTIONS]
    return {
        "ak_public_key": load_pem_public_key((directory / "ak.pub").read_bytes()),
        "attest": (directory / "quote.msg").read_bytes(),
        "signature": (directory / "quote.sig").read_bytes(),
        "extra_data": bytes.fromhex("00112233"),
        "selection": SELECTIONS,
    }, banks


def test_three_boots_are_recorded():
    assert BOOTS == ["shim-grub-ms-sb", "uki-sb", "uki-sb-cmdline2"]


@pytest.mark.parametrize("boot", BOOTS)
def test_recorded_quote_verifies_against_recorded_pcrs(boot):
    arguments, banks = recorded(boot)
    verified = verify_quote(**arguments, pcr_digest=composite_of_banks(banks))
    assert verified.clock.reset_count == 2
    assert verified.clock.restart_count == 0


@pytest.mark.parametrize("boot", BOOTS)
def test_recorded_quote_of_another_state_is_refused(boot):
    arguments, banks = recorded(boot)
    banks[1][1][4] = bytes(32)
    with pytest.raises(VerificationError, match="composite"):
        verify_quote(**arguments, pcr_digest=composite_of_banks(banks))


def test_another_boots_key_is_refused():
    arguments, banks = recorded("uki-sb")
    other, _ = recorded("uki-sb-cmdline2")
    with pytest.raises(VerificationError, match="signature"):
        verify_quote(
            **arguments | {"ak_public_key": other["ak_public_key"]}, pcr_digest=composite_of_banks(banks)
        )
