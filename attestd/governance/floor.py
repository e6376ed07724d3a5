"""The floor: which versions of governance metadata were seen already, so that older ones are not believed again."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attestd.governance.metadata import Versions
from attestd.governance.trust import Trust
from attestd.strict import Sha256Hex, Strict, convert, format_time

__all__ = ["Floor", "floor_of", "seen_body"]


@dataclass(frozen=True)
class Floor:
    """The highest versions seen of one repository.

    Attributes:
        anchor: SHA-256 of the root of trust, hex. A host that was given another root has seen nothing of it yet.
        versions: By role.
    """

    anchor: str
    versions: Versions

    @classmethod
    def of(cls, trust: Trust, *, root: bytes) -> "Floor":
        """The floor that a verified set is from now on."""
        return cls(hashlib.sha256(root).hexdigest(), trust.versions)

    def versions_for(self, root: bytes) -> Versions | None:
        """The versions below which nothing is believed, if this is the root they were seen under."""
        return self.versions if hashlib.sha256(root).hexdigest() == self.anchor else None


class _Seen(Strict, frozen=True):
    anchor: Sha256Hex
    digest: Sha256Hex
    expires: str
    version: int
    versions: dict[str, Any]


def seen_body(trust: Trust, *, anchor: str) -> dict[str, Any]:
    """What the log says of a set that was seen: the body of `governance.update`, a member of `agent.start`."""
    return {
        "anchor": anchor,
        "digest": trust.digest,
        "expires": format_time(trust.expires),
        "version": trust.version,
        "versions": trust.versions.to_json(),
    }


def floor_of(body: Mapping[str, Any]) -> Floor:
    """The floor that such a body tells of.

    Raises:
        MalformedError: It is no such body.
    """
    seen = convert(dict(body), _Seen, what="governance seen")
    return Floor(seen.anchor, Versions.from_json(seen.versions))
