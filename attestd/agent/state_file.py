"""Platform states in files: a quote, what `attestd platform measure --json` writes, or PCR values that were predicted."""

from base64 import b64encode
from typing import Any, Final, Literal

import msgspec

from attestd.agent.boot_view import BootView, parse_boot_view
from attestd.agent.platform_state import PlatformState
from attestd.appraisal.document import UntrustedQuoteDocument, verify_document
from attestd.distribution.approve import MAX_VALUES_BYTES, parse_pcr_values
from attestd.errors import MalformedError
from attestd.governance.trust import Trust
from attestd.strict import Base64Bytes, convert, decode_base64, parse_json

__all__ = ["MAX_STATE_BYTES", "evidence_json", "parse_state"]

MAX_STATE_BYTES: Final = MAX_VALUES_BYTES
_WHAT: Final = "evidence"
_BANK: Final = "sha256"


class _Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    v: Literal[1]
    quote: UntrustedQuoteDocument
    eventlog: Base64Bytes | None
    userspace: Base64Bytes
    command_line: str | None


def evidence_json(quote: UntrustedQuoteDocument, boot: BootView | None) -> dict[str, Any]:
    """A quote, and what it is to be understood by: the member `evidence` of `attestd platform measure --json`."""
    return {
        "v": 1,
        "quote": msgspec.to_builtins(quote),
        "eventlog": None if boot is None else b64encode(boot.eventlog).decode(),
        "userspace": "" if boot is None else b64encode(boot.userspace).decode(),
        "command_line": None if boot is None else boot.command_line,
    }


def parse_state(data: bytes, *, trust: Trust) -> PlatformState:
    """Reads a state from a file; a quote in it is verified against its host's record.

    How old a quote is, nobody can tell here: its challenge was not chosen by who reads it.

    Args:
        data: A quote document, the JSON of `attestd platform measure`, or PCR values as `parse_pcr_values` takes them.
        trust: Verified governance.

    Raises:
        MalformedError: None of these; a log that does not parse.
        VerificationError: The quote does not verify.
    """
    value = parse_json(data, max_bytes=MAX_STATE_BYTES, what=_WHAT) if data.lstrip().startswith(b"{") else {}
    members = value if isinstance(value, dict) else {}
    if "attest" in members:
        members = {
            "evidence": {"v": 1, "quote": members, "eventlog": None, "userspace": "", "command_line": None}
        }
    if members.get("evidence") is None:
        return PlatformState(parse_pcr_values(data), "values in a file", attested=False)
    found = convert(members["evidence"], _Evidence, what=_WHAT)
    verified = verify_document(found.quote, trust=trust, challenge=None)
    if verified.selection.bank != _BANK:
        raise MalformedError(f"{_WHAT}: a quote of bank {verified.selection.bank}, expected {_BANK}")
    boot = None
    if found.eventlog is not None:
        logs = [decode_base64(text, what=_WHAT) for text in (found.eventlog, found.userspace)]
        boot = parse_boot_view("that boot", *logs, command_line=found.command_line, pcrs=verified.values)
    source = f"a quote by the TPM of host {verified.host.host}, verified; how old it is, it does not say"
    return PlatformState(verified.values, source, attested=True, boot=boot)
