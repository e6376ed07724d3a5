"""Auth values that a TPM and an HMAC agree on; answers that are not what was asked for."""

from dataclasses import replace

import pytest

from attestd.errors import TpmError, TpmUnavailableError, UsageError
from attestd.tpm._commands import Cc
from attestd.tpm.device import Tpm
from attestd.tpm.embedded import EmbeddedTpm
from attestd.tpm.keys import AuthValues
from tests.tpm.provisioned import BOUND, DIGEST, SELECTION, Between, provision

FAILURE = bytes.fromhex("80010000000a00000101")


@pytest.mark.parametrize("bad", [b"", b"x" * 31, b"x" * 33, b"x" * 31 + b"\0"])
def test_auth_values_are_32_bytes_that_a_tpm_does_not_shorten(bad: bytes) -> None:
    good = AuthValues.generate()
    for which in ("ak", "release", "counter"):
        with pytest.raises(UsageError, match="32 bytes"):
            replace(good, **{which: bad})


def test_auth_values_are_random_and_not_shown() -> None:
    drawn = {value for _ in range(50) for value in _values(AuthValues.generate())}
    assert len(drawn) == 150
    assert repr(AuthValues.generate()) == "AuthValues()"


def _values(auth: AuthValues) -> tuple[bytes, ...]:
    return auth.ak, auth.release, auth.counter


@pytest.fixture
def between(swtpm_tcti: str) -> Between:
    return Between(swtpm_tcti)


def test_a_signature_of_another_kind(between: Between) -> None:
    with Tpm(between) as tpm:
        provision(tpm)
        between.after = lambda code, answer: (
            answer.replace(b"\x00\x18\x00\x0b", b"\x00\x14\x00\x0b") if code == Cc.QUOTE else answer
        )
        with pytest.raises(TpmError, match="expected ECDSA with SHA-256"):
            tpm.quote(SELECTION, BOUND)


@pytest.mark.parametrize("failing", [Cc.START_AUTH_SESSION, Cc.NV_READ_PUBLIC, Cc.LOAD_EXTERNAL])
def test_a_tpm_that_fails_in_the_middle_is_an_outage(between: Between, failing: Cc) -> None:
    with Tpm(between) as tpm:
        approval = provision(tpm).approval()
        between.before = lambda code: FAILURE if code == failing else None
        with pytest.raises(TpmUnavailableError, match="failure mode"):
            tpm.sign_release(DIGEST, approval)


def test_a_tpm_that_fails_while_opening_is_let_go(between: Between) -> None:
    between.before = lambda _: FAILURE
    with pytest.raises(TpmUnavailableError):
        Tpm(between, exclusive=True)
    assert between.is_lost


def test_shutdown_saves_the_counter(embedded_tpm: EmbeddedTpm) -> None:
    embedded_tpm.start()
    with embedded_tpm.open() as tpm:
        host = provision(tpm)
        saved = tpm.step_counter()
        tpm.shutdown()
    embedded_tpm.kill()
    embedded_tpm.start()
    with embedded_tpm.open() as tpm:
        tpm.load_keys(host.blobs, host.auth_values)
        assert tpm.read_counter() == saved
