"""What a host asks enrollers over HTTP. Nothing that comes back is believed: `enrolling` verifies it."""

from typing import Final

from attestd.agent.controllers import Controller
from attestd.governance.enrolment import (
    MAX_ACTIVATION_BYTES,
    Activation,
    Challenge,
    EnrolmentRequest,
    Outcome,
    parse_challenge,
    parse_outcome,
)
from attestd.strict import canonical

__all__ = ["Enroller"]

_ANSWERED: Final = frozenset({200, 202})


class Enroller:
    """One controller, as a host sees it.

    Attributes:
        url: Where it is.
    """

    def __init__(self, url: str, *, ca: str = "") -> None:
        """Takes its address; as `Controller`."""
        self._controller = Controller(url, ca=ca)
        self.url = self._controller.url

    def begin(self, request: EnrolmentRequest) -> Challenge:
        """Shows the host's keys.

        Raises:
            StoreError: It cannot answer now.
            VerificationError: It refuses.
            MalformedError: Its answer is none.
        """
        return parse_challenge(self._post("/v1/enrollments", canonical(request)))

    def activate(self, challenge: Challenge, activation: Activation) -> Outcome:
        """Shows the credential's secret.

        Raises:
            StoreError, VerificationError, MalformedError: As `begin`.
        """
        return parse_outcome(self._post(f"/v1/enrollments/{challenge.id}/activation", canonical(activation)))

    def _post(self, path: str, body: bytes) -> bytes:
        return self._controller.post(path, body, max_bytes=MAX_ACTIVATION_BYTES, accepted=_ANSWERED).data
