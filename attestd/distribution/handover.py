"""The handover of `mesh.json`: until when hosts may go by the version before, held against how long they do. Pure.

A host goes by what it has until the timestamp that it holds expires, and for its `governance_grace_s` longer. What it makes by the
version before, dated after the handover, does not verify.
"""

import json
import math
from datetime import datetime, timedelta
from typing import Final

from attestd.distribution.next_version import Next
from attestd.distribution.settings import Settings
from attestd.errors import UsageError
from attestd.governance.mesh import MESH
from attestd.plain import counted
from attestd.strict import format_time, parse_time

__all__ = ["find_short_handover", "longest_handover", "require_handover", "usual_handover"]

# Until all have signed the timestamp is signed again daily, and hosts go by it for longer.
_SIGNING: Final = timedelta(days=7)
# The most that `governance_grace_s` may be: no host goes on for longer after its timestamp expired.
_GRACE: Final = timedelta(days=365)
_DAY: Final = timedelta(days=1)


def usual_handover(settings: Settings) -> timedelta:
    """How long a handover is where nobody says it: as a timestamp holds, and time to sign."""
    return _held(settings) + _SIGNING


def longest_handover(settings: Settings) -> timedelta:
    """How long it is at the most: a host with the longest grace there is goes by the version before for that long."""
    return _held(settings) + _GRACE


def find_short_handover(plan: Next, settings: Settings) -> str | None:
    """What happens where hosts may go by the version before for longer than the handover says, in words.

    Args:
        plan: What is staged.
        settings: Of its repository. A host that stands alone takes what is published at once: no handover is too short.

    Returns:
        None: it is not so, or `mesh.json` does not change.
    """
    handover, timestamp = _handover(plan), plan.published.timestamp
    if handover is None or timestamp is None or settings.is_standalone:
        return None
    expires = timestamp.content.expires
    if handover >= expires:
        return None
    before = plan.published.files.get(MESH)
    past = f"go by version {json.loads(before)['version']}" if before is not None else "do without one"
    return (
        f"{MESH}: handover: {format_time(handover)}, and hosts may {past} until {format_time(expires)}, when the published"
        " timestamp expires (longer by their governance_grace_s): what they do after the handover and before they have this"
        " version will not verify, receipts included"
    )


def require_handover(plan: Next, settings: Settings, *, now: datetime, is_short_meant: bool) -> None:
    """Refuses a `mesh.json` whose handover is over, lies too far ahead, or is short and nobody said that this is meant.

    Args:
        plan: What is staged.
        settings: Of its repository.
        now: The time.
        is_short_meant: Somebody did.

    Raises:
        UsageError: It is such a handover.
    """
    handover = _handover(plan)
    if handover is None:
        return
    longest = longest_handover(settings)
    timestamp, enough = plan.published.timestamp, usual_handover(settings)
    if timestamp is not None and not settings.is_standalone:
        enough = max(enough, timestamp.content.expires - now)
    usual = f"attestd governance mesh --handover {math.ceil(enough / _DAY)}d"
    if handover <= now:
        raise UsageError(
            f"{MESH}: handover: expected a time after now, found {format_time(handover)}: what hosts do until they have this"
            f" version would not verify; {usual} sets another one, to be signed again"
        )
    if handover > now + longest:
        raise UsageError(
            f"{MESH}: handover: expected at most {counted(longest.days, 'day')} from now, found {format_time(handover)}: for"
            f" that long keys that were replaced would go on to count; {usual} sets another one"
        )
    short = find_short_handover(plan, settings)
    if short is not None and not is_short_meant:
        raise UsageError(
            f"{short}; {usual} sets a longer one (to be signed again), or, where a key of the version before was stolen, say"
            " that it is meant: --short-handover"
        )


def _held(settings: Settings) -> timedelta:
    """For how long a host holds what it has: one that stands alone takes what is published at once."""
    return timedelta(0) if settings.is_standalone else settings.expiry_days.of("timestamp")


def _handover(plan: Next) -> datetime | None:
    """That of a `mesh.json` which is not published yet."""
    data = plan.files.get(MESH)
    if data is None or data == plan.published.files.get(MESH):
        return None
    try:
        value = json.loads(data)
    except ValueError:
        return None  # what is no `mesh.json` is refused for that
    text = value.get("handover") if isinstance(value, dict) else None
    return parse_time(text) if isinstance(text, str) else None
