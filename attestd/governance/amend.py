"""The next version of a platform policy: another state, other rules; what no longer holds goes. Pure; keys come as values."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from attestd.appraisal.boot_rules import BootRules
from attestd.errors import UsageError
from attestd.governance.platform import MAX_PLATFORM_BYTES, ImaReference, PlatformFile, Quorums, Window
from attestd.strict import canonical, format_time, parse_canonical, parse_time

__all__ = ["amend_platform_policy", "amend_platform_rules", "windows_of"]


def amend_platform_policy(
    data: bytes,
    *,
    approval: Mapping[str, Any],
    values: Mapping[int, bytes],
    epoch: int,
    revoked_keys: Collection[str],
    not_after: datetime | None = None,
    others_not_after: datetime | None = None,
) -> bytes:
    """The next version of a platform policy: one approved state more, those that no longer hold left out.

    Args:
        data: The present version, verified before.
        approval: From `approve_state`, over the same PCRs.
        values: The PCR values of that state; they become the reference that explains a difference.
        epoch: Approvals below it no longer hold.
        revoked_keys: Approvals by these keys do not hold either.
        not_after: Until when this state is approved, whatever was said of it before; None: without end.
        others_not_after: Until when the states are approved that are so already, at the latest; None: as before.

    Raises:
        MalformedError: `data` is no platform policy.
        UsageError: The approval is over other PCRs, or by a key that the root did not approve for its epoch.
    """
    file = parse_canonical(data, PlatformFile, max_bytes=MAX_PLATFORM_BYTES, what="platform policy")
    if any((old.bank, old.pcrs) != (approval["bank"], approval["pcrs"]) for old in file.approvals):
        raise UsageError(f"platform policy {file.name!r} is over other PCRs: one policy has one selection")
    until = {key.key_id: key.max_epoch for key in file.platform_keys}.get(approval["key_id"])
    if until is None or until < approval["epoch"]:
        ended = "" if until is None else f" beyond epoch {until}"
        raise UsageError(
            f"the root did not approve the platform key {approval['key_id']} in policy {file.name!r}{ended}"
        )
    state = approval["pcr_digest"]
    kept = [
        old
        for old in file.approvals
        if old.epoch >= epoch and old.key_id not in revoked_keys and old.pcr_digest != state
    ]
    pcrs = dict(file.reference.pcrs.get(approval["bank"], {})) if kept else {}
    for index, value in values.items():
        others = [known for known in pcrs.get(str(index), []) if known != value.hex()]
        pcrs[str(index)] = [*others, value.hex()]
    remaining = {old.pcr_digest for old in kept}
    windows = _closed(windows_of(file, remaining), remaining, others_not_after)
    if not_after is not None:
        windows.append(Window(pcr_digest=state, not_after=format_time(not_after)))
    amended = msgspec.structs.replace(
        file,
        version=file.version + 1,
        reference=msgspec.structs.replace(file.reference, pcrs={approval["bank"]: pcrs}),
        lifecycle=msgspec.structs.replace(file.lifecycle, windows=windows),
    )
    return canonical({**_plain(amended), "approvals": [*map(_plain, kept), dict(approval)]})


def _closed(windows: Sequence[Window], states: Collection[str], end: datetime | None) -> list[Window]:
    """Windows with an end for each of these states; one that ends before stays."""
    if end is None:
        return list(windows)
    ends = {window.pcr_digest: parse_time(window.not_after) for window in windows}
    return [
        Window(pcr_digest=state, not_after=format_time(min(end, ends.get(state, end))))
        for state in sorted(states)
    ]


def windows_of(file: PlatformFile, states: Collection[str]) -> list[Window]:
    """The windows of those states that go on to be approved, by their composites: no window is of another."""
    return [window for window in file.lifecycle.windows if window.pcr_digest in states]


def amend_platform_rules(
    data: bytes, *, boot: BootRules | None, ima: ImaReference | None, quorums: Quorums
) -> bytes:
    """The next version of a platform policy: the same states, under these rules and no others.

    Args:
        data: The present version, verified before.
        boot: Rules over what was measured in a boot; None: none.
        ima: The IMA policy; None: none. Its file has to be published with it.
        quorums: How many must vouch for a host.

    Raises:
        MalformedError: `data` is no platform policy.
    """
    file = parse_canonical(data, PlatformFile, max_bytes=MAX_PLATFORM_BYTES, what="platform policy")
    reference = msgspec.structs.replace(file.reference, boot=boot, ima=ima, quorums=quorums)
    amended = msgspec.structs.replace(file, version=file.version + 1, reference=reference)
    return canonical(amended)


def _plain(value: msgspec.Struct) -> dict[str, Any]:
    """A struct as JSON values."""
    return dict(msgspec.to_builtins(value))
