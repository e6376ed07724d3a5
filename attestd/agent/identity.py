"""Which keys and PCRs governance says are this host's."""

from attestd.errors import UsageError
from attestd.governance.host import VerifiedHost
from attestd.governance.trust import Trust
from attestd.tcg.pcr import PcrSelection
from attestd.tcg.public import parse_public
from attestd.tpm.keys import KeyBlobs

__all__ = ["is_record_of", "selection_of"]


def is_record_of(record: VerifiedHost | None, blobs: KeyBlobs) -> bool:
    """Whether a host record is of these keys: not of those that the host had before it was taken out of service."""
    return (
        record is not None
        and record.ak_name == parse_public(blobs.ak_public).name
        and record.release_name == parse_public(blobs.release_public).name
    )


def selection_of(trust: Trust) -> PcrSelection:
    """The PCRs that hosts are measured by.

    Raises:
        UsageError: No platform policy is published that can be used.
    """
    for policy in trust.platforms.values():
        return policy.selection
    reasons = "; ".join(f"{name}: {reason}" for name, reason in trust.unusable.items())
    raise UsageError(
        "no platform policy is in force: have an authority publish one (attestd governance platform NAME)"
        f"{'; ' if reasons else ''}{reasons}"
    )
