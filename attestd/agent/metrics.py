"""What is counted as it happens, in the agent."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attestd.audit.seal import Pending, SealResult
from attestd.lineage.entry import EntryType
from attestd.prometheus import SECONDS, Histogram, Labels, format_head, format_sample

__all__ = ["Metrics"]

_SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

_DECISIONS: Final = "attestd_decisions_total"
_AGGREGATED: Final = "attestd_denials_aggregated_total"
_ENTRIES: Final = "attestd_entries_total"
_SEAL: Final = "attestd_seal_seconds"
_BATCH: Final = "attestd_batch_entries"
_FAILED: Final = "attestd_seal_failures_total"
_COMMAND: Final = "attestd_tpm_command_seconds"
_COSIGNED: Final = "attestd_cosigned_seconds"
_UNCOSIGNED: Final = "attestd_uncosigned_total"

_COUNTERS: Final = {
    _DECISIONS: "Decisions sealed as leaves of their own, by outcome and denial code.",
    _AGGREGATED: "Denials sealed in aggregated leaves, by code.",
    _ENTRIES: "Entries sealed, by type.",
    _FAILED: "Batches that could not be sealed.",
    _UNCOSIGNED: "Releases that came to nothing because too few witnesses cosigned.",
}
_PLAIN: Final = frozenset({_FAILED, _UNCOSIGNED})  # without labels
_HISTOGRAMS: Final = {
    _SEAL: ("Seconds that sealing a batch took, from signing to the counter's step.", SECONDS),
    _BATCH: ("Entries a batch.", _SIZES),
    _COMMAND: ("Seconds until the TPM answered, by command.", SECONDS),
    _COSIGNED: ("Seconds from the sealing of a release until enough witnesses had cosigned it.", SECONDS),
}


class Metrics:
    """What happened since the agent started. Thread-safe: the sealing thread, the TPM's and the loop count here."""

    def __init__(self) -> None:
        """Counts from zero."""
        self._lock = threading.Lock()
        self._counters: dict[str, Counter[Labels]] = {name: Counter() for name in _COUNTERS}
        self._histograms: dict[str, dict[Labels, Histogram]] = {name: {} for name in _HISTOGRAMS}

    def sealed(self, pendings: Sequence[Pending], result: SealResult, seconds: float) -> None:
        """A batch was sealed, and it took so long."""
        with self._lock:
            self._observe(_SEAL, (), seconds)
            self._observe(_BATCH, (), len(pendings))
            for pending, sealed in zip(pendings, result.sealed, strict=True):
                self._counters[_ENTRIES][("type", sealed.type.value),] += 1
                if sealed.type is EntryType.DECISION_ALLOW:
                    self._counters[_DECISIONS][("outcome", "allow"), ("code", "")] += 1
                elif sealed.type is EntryType.DECISION_DENY:
                    code = sealed.denial.code.value if sealed.denial else str(pending.body.get("code", ""))
                    self._counters[_DECISIONS][("outcome", "deny"), ("code", code)] += 1
                elif sealed.type is EntryType.DENIALS_AGGREGATED:
                    codes: Mapping[str, Any] = pending.body.get("codes", {})
                    for code, count in codes.items():
                        self._counters[_AGGREGATED][("code", code),] += count

    def seal_failed(self) -> None:
        """A batch could not be sealed."""
        with self._lock:
            self._counters[_FAILED][()] += 1

    def cosigned(self, seconds: float) -> None:
        """Enough witnesses cosigned a release, and it took so long."""
        with self._lock:
            self._observe(_COSIGNED, (), seconds)

    def uncosigned(self) -> None:
        """Too few did."""
        with self._lock:
            self._counters[_UNCOSIGNED][()] += 1

    def tpm_command(self, name: str, seconds: float) -> None:
        """The TPM answered a command."""
        with self._lock:
            self._observe(_COMMAND, (("command", name),), seconds)

    def format(self) -> str:
        """All families of counters and histograms, also those that are still empty: so a query finds a zero."""
        with self._lock:
            lines: list[str] = []
            for name, words in _COUNTERS.items():
                lines += format_head(name, words, "counter")
                counted = sorted(self._counters[name].items()) or ([((), 0)] if name in _PLAIN else [])
                lines += [format_sample(name, labels, value) for labels, value in counted]
            for name, (words, _) in _HISTOGRAMS.items():
                lines += format_head(name, words, "histogram")
                for labels, histogram in sorted(self._histograms[name].items(), key=lambda item: item[0]):
                    lines += histogram.samples(name, labels)
        return "".join(f"{line}\n" for line in lines)

    def _observe(self, name: str, labels: Labels, value: float) -> None:
        histograms = self._histograms[name]
        if labels not in histograms:
            histograms[labels] = Histogram(_HISTOGRAMS[name][1])
        histograms[labels].observe(value)
