"""The TPM's own tests of itself."""

from typing import Final

from attestd.tpm._channel import Channel
from attestd.tpm._codes import Rc, base, error_of
from attestd.tpm._commands import Cc

__all__ = ["require_tested", "run_self_test"]

_FULL_TEST: Final = b"\x01"


def run_self_test(channel: Channel) -> None:
    """Has the TPM test itself in full (Part 3, 10.2 TPM2_SelfTest).

    Raises:
        TpmUnavailableError: It fails, and is now in failure mode.
    """
    channel.run(Cc.SELF_TEST, params=_FULL_TEST)


def require_tested(channel: Channel) -> None:
    """Asks for the outcome of the self test (Part 3, 10.4 TPM2_GetTestResult); works in failure mode as well.

    Raises:
        TpmUnavailableError: It failed: the TPM is in failure mode.
        TpmError: Any other outcome than success, or that tests are still to be made.
    """
    answer = channel.run(Cc.GET_TEST_RESULT)
    answer.sized()  # the manufacturer's own words, of no known form
    code = answer.number(4)
    if code and base(code) not in (Rc.TESTING, Rc.NEEDS_TEST):
        raise error_of(code, "self test")
