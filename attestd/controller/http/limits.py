"""How much one peer may ask for: a bucket of requests an address, and connections at a time."""

import ipaddress
from collections import Counter, OrderedDict
from typing import Final

__all__ = ["Connections", "Held", "RateLimit", "Room", "lines_limit", "peer_of"]

MAX_PEERS: Final = 65_536
# Of bodies that are received or looked at; parsed they take some times as much.
MAX_BODIES_BYTES: Final = 128 << 20
# journald takes 10,000 in 30 s: what peers provoke must not push out what matters.
LINES_PER_S: Final = 50
LINES_AT_ONCE: Final = 500
FREE_BODY_BYTES: Final = 64 << 10
# A peer may have a fourth of it: more than the largest body.
_PEERS_AT_A_TIME: Final = 4
_IPV6_NETWORK: Final = 64


def peer_of(address: str) -> str:
    """Who an address counts as: itself; of IPv6 its network of 64 bits, which one subscriber has whole."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed.is_loopback:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, _IPV6_NETWORK), strict=False))


class RateLimit:
    """A token bucket a peer. Remembers the peers that asked last, so that many of them cannot fill the memory."""

    def __init__(self, rate: float, burst: float, *, max_peers: int = MAX_PEERS) -> None:
        """Takes requests a second, and how many may come at once."""
        self._rate, self._burst, self._max_peers = rate, burst, max_peers
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, peer: str, *, now: float) -> float:
        """Takes one request.

        Args:
            peer: Who asks.
            now: Seconds of a clock that only rises.

        Returns:
            0: it may; else in how many seconds it may.
        """
        left, at = self._buckets.pop(peer, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        wait = 0.0 if left >= 1 else (1 - left) / self._rate
        self._buckets[peer] = (left - (not wait), now)
        if len(self._buckets) > self._max_peers:
            self._buckets.popitem(last=False)
        return wait


def lines_limit() -> RateLimit:
    """How many lines about refused requests are written: systemd-journald drops what is over its own limit, whatever it says."""
    return RateLimit(LINES_PER_S, LINES_AT_ONCE, max_peers=1)


class Room:
    """Memory that all bodies together may take, but for the first of each: what peers send before anybody knows them.

    Attributes:
        left: What is free.
        most_of_a_peer: Of one peer: none takes the room of all others.
        of: What each peer takes.
    """

    def __init__(self, most: int = MAX_BODIES_BYTES) -> None:
        """Takes the limit."""
        self.left, self.most_of_a_peer = most, most // _PEERS_AT_A_TIME
        self.of: Counter[str] = Counter()

    def enter(self, peer: str) -> "Held":
        """Begins a body."""
        return Held(self, peer)


class Held:
    """What one body takes of it."""

    __slots__ = ("_free", "_held", "_peer", "_room")

    def __init__(self, room: Room, peer: str) -> None:
        """Begins with nothing."""
        self._room, self._peer, self._held, self._free = room, peer, 0, FREE_BODY_BYTES

    def take(self, size: int) -> bool:
        """Takes as much more; False: there is no room, and it was not taken."""
        if size <= self._free:
            self._free -= size
            return True
        room, more = self._room, size - self._free
        if more > min(room.left, room.most_of_a_peer - room.of[self._peer]):
            return False
        self._free = 0
        self._held += more
        room.left -= more
        room.of[self._peer] += more
        return True

    def leave(self) -> None:
        """Gives all of it back."""
        if not self._held:
            return
        room = self._room
        room.left += self._held
        room.of[self._peer] -= self._held
        if not room.of[self._peer]:
            del room.of[self._peer]
        self._held = 0


class Connections:
    """Open connections: in all, and a peer."""

    def __init__(self, *, most: int, most_of_a_peer: int) -> None:
        """Takes the limits."""
        self._most, self._most_of_a_peer = most, most_of_a_peer
        self._open: Counter[str] = Counter()
        self.count = 0

    def enter(self, peer: str) -> bool:
        """One more; False: it is one too many, and not counted."""
        if self.count >= self._most or self._open[peer] >= self._most_of_a_peer:
            return False
        self.count += 1
        self._open[peer] += 1
        return True

    def leave(self, peer: str) -> None:
        """One less."""
        self.count -= 1
        self._open[peer] -= 1
        if not self._open[peer]:
            del self._open[peer]
