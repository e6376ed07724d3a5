"""`attestd controller receipts`: how much is kept of whose receipts, and how much may be."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Final, Protocol
from urllib.parse import urlencode

import click
import msgspec

from attestd.cli.base import Command, json_option
from attestd.cli.controller import controller_module
from attestd.cli.controller_access import (
    Afar,
    controller_options,
    own_controller,
    say_decided,
    walk_pages,
    who_decides,
)
from attestd.cli.output import Output, say
from attestd.errors import UsageError
from attestd.lineage.usage import (
    MAX_BOUND_BYTES,
    MAX_USAGE_BYTES,
    BoundRequest,
    HostUsage,
    UsageList,
    UsageQuery,
    parse_host_usage,
    parse_usage_list,
)

__all__ = ["receipts_command"]

_MB: Final = 1 << 20
_SHORT: Final = 16
_HOST: Final = re.compile(r"\A[0-9a-f]{64}\Z")


class _Receipts(Protocol):
    """Where receipts are kept."""

    def usage(self, query: UsageQuery) -> UsageList:
        """How much of whom."""

    def bound(self, host: str, request: BoundRequest) -> HostUsage:
        """Gives a host bounds of its own."""


class _Remote:
    """The same over HTTP, with an operator's certificate."""

    def __init__(self, afar: Afar) -> None:
        self._afar = afar

    def usage(self, query: UsageQuery) -> UsageList:
        asked = {name: value for name, value in msgspec.to_builtins(query).items() if value != ""}
        return parse_usage_list(self._afar.get(f"/v1/receipts?{urlencode(asked)}", max_bytes=MAX_USAGE_BYTES))

    def bound(self, host: str, request: BoundRequest) -> HostUsage:
        return parse_host_usage(
            self._afar.post(f"/v1/receipts/hosts/{host}", request, max_bytes=MAX_BOUND_BYTES)
        )


class _Own:
    """The same on this machine."""

    def __init__(self, receipts: _Receipts, event: Callable[..., str]) -> None:
        self._receipts, self._event = receipts, event

    def usage(self, query: UsageQuery) -> UsageList:
        return self._receipts.usage(query)

    def bound(self, host: str, request: BoundRequest) -> HostUsage:
        operator = who_decides()
        used = self._receipts.bound(host, request)
        say_decided(self._event(used, operator=operator))
        return used


@contextlib.contextmanager
def _own(state_dir: str | None, *, system: bool) -> Iterator[_Receipts]:
    kept = controller_module("lineage.receipts")
    with own_controller(state_dir, system=system, roles=("lineage",)) as own:
        yield _Own(kept.Receipts(own.store, kept.bounds_of(own.configuration)), kept.bounded_event)


@click.command(
    "receipts",
    cls=Command,
    example="""
attestd controller receipts
attestd controller receipts HOST-ID --most 500000 --most-mb 1024
attestd controller receipts HOST-ID --default
""",
)
@click.argument("host", required=False)
@click.option("--most", type=click.IntRange(0, 10**9), metavar="COUNT", help="Keep so many of HOST.")
@click.option(
    "--most-mb", type=click.IntRange(0, 10**6), metavar="MB", help="Keep so many megabytes of HOST."
)
@click.option("--default", "is_default", is_flag=True, help="Of HOST as much as of others.")
@controller_options("receipts", own=_own, afar=_Remote)
@json_option
def receipts_command(
    *,
    receipts: _Receipts,
    host: str | None,
    most: int | None,
    most_mb: int | None,
    is_default: bool,
    as_json: bool,
) -> None:
    """Show how much is kept of whose receipts; allow more.

    The fullest first. A host that is broken into signs as many as it likes. Where there is no more room for it, others' are kept
    all the same. Of its denials, for which nobody needs an authorization, a tenth as much is kept, beside the others.
    """
    given = most is not None or most_mb is not None
    if host is None:
        if given or is_default:
            raise UsageError("--most, --most-mb and --default are about one HOST: name it")
        rows = sorted(
            (row for page in walk_pages(receipts.usage, UsageQuery()) for row in page.hosts),
            key=lambda item: (-_share(item), item.host),
        )
    else:
        if not _HOST.match(host) or given is is_default:
            raise UsageError(
                "expected a host-id, 64 hexadecimal digits, with --most, --most-mb, or --default"
            )
        request = BoundRequest(max_receipts=most, max_bytes=None if most_mb is None else most_mb * _MB)
        rows = [receipts.bound(host, request)]
    output = Output(as_json=as_json)
    if as_json:
        output.json({"hosts": msgspec.to_builtins(rows)})
        return
    if not rows:
        say("no receipt is kept")
        return
    output.table(
        ("host", "receipts", "of", "MB", "of", "denials", "of", "MB", "of", "bounds"),
        [
            (
                row.host[:_SHORT],
                f"{row.receipts:,}",
                f"{row.max_receipts:,}",
                f"{row.bytes / _MB:,.1f}",
                f"{row.max_bytes / _MB:,.0f}",
                f"{row.denials:,}",
                f"{row.max_denials:,}",
                f"{row.denial_bytes / _MB:,.1f}",
                f"{row.max_denial_bytes / _MB:,.0f}",
                "its own" if row.own else "the configuration's",
            )
            for row in rows
        ],
    )


def _share(used: HostUsage) -> float:
    """How full it is."""
    return max(
        used.receipts / max(used.max_receipts, 1),
        used.bytes / max(used.max_bytes, 1),
        used.denials / max(used.max_denials, 1),
        used.denial_bytes / max(used.max_denial_bytes, 1),
    )
