"""What the TPM says is translated once: asked to wait, we wait; full, locked or failed, it is an outage."""

import pytest

from attestd.errors import TpmError, TpmRefusedError, TpmUnavailableError
from attestd.tpm._codes import RESUBMIT, Rc, base, error_of
from attestd.tpm._commands import Cc
from attestd.tpm.device import Tpm
from tests.tpm.provisioned import Between


def response(code: int) -> bytes:
    return b"\x80\x01\x00\x00\x00\x0a" + code.to_bytes(4, "big")


@pytest.mark.parametrize("code", sorted(RESUBMIT))
def test_asked_to_come_back_later(swtpm_tcti: str, code: Rc) -> None:
    between, refusals = Between(swtpm_tcti), iter([response(code)] * 3)
    between.before = lambda _: next(refusals, None)
    with Tpm(between) as tpm:
        assert tpm.properties().manufacturer == "IBM"
    assert between.seen[:4] == [Cc.GET_CAPABILITY] * 4


def test_asked_without_end(swtpm_tcti: str) -> None:
    between = Between(swtpm_tcti)
    between.before = lambda _: response(Rc.RETRY)
    with Tpm(between) as tpm, pytest.raises(TpmUnavailableError, match="TPM2_GetCapability"):
        tpm.properties()
    assert len(between.seen) == 10


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (0x98E, TpmRefusedError, "authorization HMAC check failed"),
        (0x9A2, TpmRefusedError, "authorization failure"),
        (0x99D, TpmRefusedError, "policy check failed"),
        (0x126, TpmRefusedError, "policy"),
        (0x128, TpmRefusedError, "PCRs were extended"),
        (0x5A3, TpmRefusedError, "expired"),
        (0x921, TpmUnavailableError, "lockout auth value"),
        (0x902, TpmUnavailableError, "tpmrm0"),
        (0x101, TpmUnavailableError, "power-cycle"),
        (0x100, TpmUnavailableError, "reset and not started"),
        (0x000B0902, TpmUnavailableError, "tpmrm0"),  # said by a resource manager
        (0x1C4, TpmError, "value"),
        (0x143, TpmError, "0x143"),
    ],
)
def test_codes(code: int, error: type[TpmError], words: str) -> None:
    found = error_of(code, "TPM2_X")
    assert type(found) is error
    assert str(found).startswith("TPM2_X: ")
    assert words in str(found)
    assert f"(rc {code:#x})" in str(found)


def test_a_value_refuses_only_where_it_is_compared() -> None:
    assert type(error_of(0x1C4, "x", refusals=frozenset({Rc.VALUE}))) is TpmRefusedError


@pytest.mark.parametrize(
    ("code", "expected"),
    [(0x1C4, Rc.VALUE), (0x9A2, Rc.BAD_AUTH), (0x18B, Rc.HANDLE), (0x128, Rc.PCR_CHANGED), (0x922, Rc.RETRY)],
)
def test_base(code: int, expected: Rc) -> None:
    assert base(code) == expected
