"""What operator and controller say to each other about how much is kept of whose receipts: strict and bounded. Pure."""

from typing import Annotated, Final

import msgspec

from attestd.strict import HostId, Strict, convert, parse_json

__all__ = [
    "MAX_BOUND_BYTES",
    "MAX_USAGE_BYTES",
    "BoundRequest",
    "HostUsage",
    "UsageList",
    "UsageQuery",
    "parse_host_usage",
    "parse_usage_list",
]

MAX_PAGE: Final = 500
_OF_DENIALS: Final = 10
MAX_USAGE_BYTES: Final = 1 << 20
MAX_BOUND_BYTES: Final = 4096
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]


class HostUsage(Strict, frozen=True):
    """What is kept of one host, and how much may be.

    Attributes:
        host: The host-id.
        receipts: How many, denials aside.
        bytes: Of all of these.
        denials: How many of denials, which nobody needs an authorization for.
        denial_bytes: Of all of these.
        max_receipts: How many may be.
        max_bytes: Of how many bytes.
        own: Whether an operator gave it a bound of its own; otherwise it is the configuration's.
    """

    host: HostId
    receipts: _Count
    bytes: _Count
    denials: _Count
    denial_bytes: _Count
    max_receipts: _Count
    max_bytes: _Count
    own: bool

    @property
    def max_denials(self) -> int:
        """How many denials may be kept beside: a tenth as many."""
        return -(-self.max_receipts // _OF_DENIALS)

    @property
    def max_denial_bytes(self) -> int:
        """Of how many bytes: a tenth as many."""
        return -(-self.max_bytes // _OF_DENIALS)


class UsageList(Strict, frozen=True):
    """The answer to `GET /v1/receipts`: a page, in the order of host-ids; `next` is null on the last."""

    hosts: tuple[HostUsage, ...]
    next: HostId | None


class UsageQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which hosts are asked for: so many, after this one."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE
    after: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")] = ""


class BoundRequest(Strict, frozen=True):
    """The body of `POST /v1/receipts/hosts/{host}`: its own bounds; null: the configuration's."""

    max_receipts: _Count | None
    max_bytes: _Count | None


def parse_usage_list(data: bytes) -> UsageList:
    """Reads the answer to `GET /v1/receipts`.

    Raises:
        MalformedError: It is not of that form.
    """
    return convert(parse_json(data, max_bytes=MAX_USAGE_BYTES, what="usage"), UsageList, what="usage")


def parse_host_usage(data: bytes) -> HostUsage:
    """Reads the answer to `POST /v1/receipts/hosts/{host}`.

    Raises:
        MalformedError: It is not of that form.
    """
    return convert(parse_json(data, max_bytes=MAX_BOUND_BYTES, what="usage"), HostUsage, what="usage")
