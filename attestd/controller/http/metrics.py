"""What is counted in the controller."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from attestd.prometheus import SECONDS, Histogram, Labels, format_family, format_head

__all__ = ["Gauge", "Metrics"]

Gauge = tuple[str, str, Mapping[Labels, float]]
"""Name, words, values."""

_REQUESTS: Final = "attestd_controller_requests_total"
_SECONDS: Final = "attestd_controller_request_seconds"
_REFUSED: Final = "attestd_controller_refused_total"


class Metrics:
    """Since the process started. All of it is counted on the event loop."""

    def __init__(self) -> None:
        """Counts from zero."""
        self._requests: Counter[Labels] = Counter()
        self._seconds: dict[Labels, Histogram] = {}
        self._refused: Counter[Labels] = Counter()
        self._sources: list[Callable[[], list[Gauge]]] = []

    def add_source(self, source: Callable[[], list[Gauge]]) -> None:
        """Adds a role's own gauges, read when somebody asks."""
        self._sources.append(source)

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests[("operation", operation), ("status", str(status))] += 1
        labels = (("operation", operation),)
        if labels not in self._seconds:
            self._seconds[labels] = Histogram(SECONDS)
        self._seconds[labels].observe(seconds)

    def refused(self, why: str) -> None:
        """A connection was ended, or a request refused, before there was an operation to count it for."""
        self._refused[("why", why),] += 1

    def format(self) -> str:
        """All families."""
        text = format_family(
            _REQUESTS, "Requests answered.", dict(sorted(self._requests.items())), kind="counter"
        )
        lines = format_head(_SECONDS, "Seconds until a request was answered.", "histogram")
        for labels, histogram in sorted(self._seconds.items(), key=lambda item: item[0]):
            lines += histogram.samples(_SECONDS, labels)
        text += "".join(f"{line}\n" for line in lines)
        text += format_family(
            _REFUSED,
            "Connections ended and requests refused by limits, by why.",
            dict(sorted(self._refused.items())),
            kind="counter",
        )
        return text + "".join(format_family(*gauge) for source in self._sources for gauge in source())
