"""Metrics in the text format of Prometheus.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text-based format, version 0.0.4).
"""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

__all__ = ["MEDIA_TYPE", "SECONDS", "Histogram", "Labels", "format_family", "format_head", "format_sample"]

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Labels = tuple[tuple[str, str], ...]


class Histogram:
    """Counts of observations, by upper bound. Not thread-safe: its owner locks."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Counts from zero."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def samples(self, name: str, labels: Labels) -> list[str]:
        """Its lines."""
        lines, total = [], 0
        for bound, count in zip((*(f"{bound:g}" for bound in self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            lines.append(format_sample(f"{name}_bucket", (*labels, ("le", bound)), total))
        return [
            *lines,
            format_sample(f"{name}_sum", labels, self.sum),
            format_sample(f"{name}_count", labels, total),
        ]


def format_family(name: str, words: str, samples: Mapping[Labels, float], *, kind: str = "gauge") -> str:
    """One family without buckets.

    Args:
        name: Its name.
        words: What it tells.
        samples: Values by labels; `()` where there are none.
        kind: `gauge` or `counter`.
    """
    lines = format_head(name, words, kind)
    lines += [format_sample(name, labels, value) for labels, value in samples.items()]
    return "".join(f"{line}\n" for line in lines)


def format_head(name: str, words: str, kind: str) -> list[str]:
    """The lines before a family's samples."""
    return [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]


def format_sample(name: str, labels: Labels, value: float) -> str:
    """One line."""
    shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
    return f"{name}{{{shown}}} {value:.10g}" if shown else f"{name} {value:.10g}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
