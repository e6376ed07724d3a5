"""The platform's present state: proved by a quote of the running agent, or else read from the TPM directly."""

import hashlib
import secrets
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestd.account import acting_as, agent_account
from attestd.agent.ask import AgentSocket
from attestd.agent.boot_view import BootView
from attestd.agent.tpm_access import TpmAccess
from attestd.appraisal.document import UntrustedQuoteDocument, VerifiedQuoteDocument, verify_document
from attestd.errors import AgentError, StoreError
from attestd.governance.trust import Trust
from attestd.paths import Configuration, Layout
from attestd.strict import convert
from attestd.tcg.pcr import PcrSelection

__all__ = ["PlatformState", "ask_quote", "file_digest", "measure", "quote_now"]

_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class PlatformState:
    """A platform state: of this host now, of a file, or predicted.

    Attributes:
        values: PCR values of the bank SHA-256.
        source: How they are known, in words.
        attested: Whether a verified quote proves them.
        boot: The logs; None: there are none, or nobody looked.
        assumptions: What has to hold for the values to be right, if they are predicted.
    """

    values: Mapping[int, bytes]
    source: str
    attested: bool
    boot: BootView | None = None
    assumptions: tuple[str, ...] = ()


def measure(
    platform: str, *, trust: Trust, agent: AgentSocket, layout: Layout, configuration: Configuration
) -> PlatformState:
    """Reads the PCRs of a platform policy, without the logs.

    Args:
        platform: The policy's name.
        trust: Verified governance.
        agent: Asked first, for a quote over a fresh challenge.
        layout: Where an embedded TPM is.
        configuration: Which TPM.

    Raises:
        VerificationError: The agent's quote does not verify.
        TpmError: Neither agent nor TPM answer.
    """
    try:
        verified = quote_now(platform, trust=trust, agent=agent)
    except AgentError:
        selection = trust.platforms[platform].selection
        values = _read_directly(selection, layout, configuration)
        return PlatformState(values, "the TPM directly, for no agent answers", attested=False)
    return PlatformState(verified.values, "a quote by the TPM, verified", attested=True)


def quote_now(platform: str, *, trust: Trust, agent: AgentSocket) -> VerifiedQuoteDocument:
    """A quote of a platform policy's PCRs over a fresh challenge, verified.

    Raises:
        AgentError: No agent answers, or its TPM does not.
        MalformedError, VerificationError: The quote does not verify.
    """
    document, challenge = ask_quote(platform, agent=agent)
    return verify_document(document, trust=trust, challenge=challenge)


def ask_quote(platform: str, *, agent: AgentSocket) -> tuple[UntrustedQuoteDocument, bytes]:
    """A quote of a platform policy's PCRs, and the fresh challenge that it should be over.

    Raises:
        AgentError: No agent answers, or its TPM does not.
        MalformedError: The answer is no quote.
    """
    challenge = secrets.token_bytes(32)
    answer = agent.ask("quote", challenge=b64encode(challenge).decode(), platform=platform)
    return convert(answer, UntrustedQuoteDocument, what="the agent's quote"), challenge


def _read_directly(
    selection: PcrSelection, layout: Layout, configuration: Configuration
) -> Mapping[int, bytes]:
    access = TpmAccess(configuration, layout)
    with acting_as(agent_account(layout)):
        started = access.embedded.start() if access.embedded else False
        try:
            with access.open() as tpm:
                return tpm.read_pcrs(selection)
        finally:
            if access.embedded and started:
                access.embedded.stop()


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file: what is extended into a PCR for it.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while part := file.read(_CHUNK):
                digest.update(part)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    return digest.digest()
