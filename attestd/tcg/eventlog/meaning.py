"""What events mean: each in words, with what of that its digest proves.

Where the digest covers the content (`covered`), the value is proved; elsewhere (files, images) the value is the digest
itself, and kind and subject are the log's claim. A kind is never proof that there is no other event of that kind: rules
have to know what they look for by its digest (`attestd.appraisal.boot`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from attestd.tcg.eventlog.covered import covered
from attestd.tcg.eventlog.parse import UntrustedEvent
from attestd.tcg.eventlog.reading import SECTIONS, UKI_PCR, Kind, read_event, read_section
from attestd.tcg.eventlog.types import HASHES

__all__ = ["Kind", "Meaning", "read_events"]


@dataclass(frozen=True)
class Meaning:
    """One event in words.

    Attributes:
        event: The event.
        kind: What it is.
        subject: Which one of its kind: a variable, a path, a section; may be empty.
        value: What was measured: readable if proved, else the digest in hex.
        proved: Whether the digest covers the value; else the value is the digest, and `subject` a claim.
        content: The bytes that the digest covers.
        digest: What was extended.
    """

    event: UntrustedEvent
    kind: Kind
    subject: str
    value: str
    proved: bool
    content: bytes | None = field(repr=False)
    digest: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """Kind and subject."""
        return f"{self.kind} {self.subject}" if self.subject else str(self.kind)

    def __str__(self) -> str:
        return f"PCR {self.event.pcr}: {self.name}: {self.value} (event {self.event.number})"


def read_events(
    events: Iterable[UntrustedEvent], *, bank: str, command_lines: Sequence[str] = ()
) -> tuple[Meaning, ...]:
    """Says what events mean.

    Args:
        events: Of a log; that their digests were extended is for `verify_events` to say.
        bank: Whose digests.
        command_lines: Texts to recognise by their digest, where the log has no more than that (UKIs): a text that
            hashes to it is proved.

    Returns:
        A meaning for each event that extends a PCR and has a digest of the bank, in order.
    """
    hash_ = HASHES[bank]
    texts = _digests_of(command_lines, bank)
    # Names of sections are known by their digests: no log can hide one.
    names = {hash_(name.encode() + b"\0").digest(): name for name in SECTIONS}
    found: list[Meaning] = []
    section: str | None = None
    for event in events:
        digest = event.digests.get(bank)
        if digest is None or not event.extends:
            continue
        content = covered(event, bank)
        if event.pcr == UKI_PCR and section is not None:
            (kind, subject, value), section = read_section(section, content), None
        elif event.pcr == UKI_PCR and digest in names:
            section = names[digest]
            kind, subject, value = Kind.SECTION_NAME, section, section
        else:
            kind, subject, value = read_event(event, content)
        value = texts.get(digest) if value is None else value
        found.append(
            Meaning(
                event,
                kind,
                subject,
                digest.hex() if value is None else value,
                proved=value is not None,
                content=None if content is None else content.content,
                digest=digest,
            )
        )
    return tuple(found)


def _digests_of(command_lines: Sequence[str], bank: str) -> Mapping[bytes, str]:
    """How the stubs of systemd and of the kernel hash a command line."""
    hash_ = HASHES[bank]
    return {
        hash_(form).digest(): line
        for line in command_lines
        for form in (
            line.encode("utf-8", "surrogateescape"),
            f"{line}\n".encode("utf-8", "surrogateescape"),
            f"{line}\0".encode("utf-8", "surrogateescape"),
            f"{line}\0".encode("utf-16-le", "surrogatepass"),
            line.encode("utf-16-le", "surrogatepass"),
        )
    }
