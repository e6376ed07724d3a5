"""What the requester says itself with its go: this command, in this directory, with these files and this stdio.

Whatever else the runner verifies came from the agent. An agent that was broken into holds the sockets and descriptors of
those who ask: it could use one's go for another command that they may run, give it another stdin, or connect as somebody
whose service answers five chosen bytes. A go that repeats what was asked, from the process that connected, is bound to it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from attestd.codes import Code, Denied
from attestd.wire import Frame, WireError

__all__ = ["Consent"]

_FILES: Final = ("stdin", "stdout", "stderr", "the working directory", "the executable")
_HINT: Final = "nothing ran; the agent handed over another command than was asked for: look into it"


@dataclass(frozen=True)
class Consent:
    """What a go must repeat.

    Attributes:
        argv: The command as the agent says it was asked for.
        files: Device and inode of stdin, stdout, stderr, working directory and executable, as the agent handed them over.
    """

    argv: tuple[bytes, ...]
    files: tuple[tuple[int, int], ...]

    @classmethod
    def needed(cls, argv: Sequence[str], descriptors: Sequence[int]) -> "Consent":
        """What the requester must say before this runs.

        Raises:
            OSError: A descriptor is none.
        """
        return cls(tuple(argument.encode() for argument in argv), _identities(descriptors))

    def require(self, go: Frame) -> None:
        """Compares a go with what would run.

        Does not check who sent it: the caller does.

        Raises:
            Denied: `identity_mismatch`: it is for another command, or brings other files.
        """
        try:
            argv = tuple(go.fields(len(self.argv)))
        except WireError as error:
            raise _mismatch(f"the requester's go does not parse: {error}") from error
        if argv != self.argv:
            raise _mismatch("the requester asked for another command than this one")
        found = _identities(go.descriptors)
        if len(found) != len(self.files):
            raise _mismatch(f"the requester's go brings {len(found)} descriptors, expected {len(self.files)}")
        for what, theirs, ours in zip(_FILES, found, self.files, strict=True):
            if theirs != ours:
                raise _mismatch(f"{what} is not the one that the requester asked with")


def _identities(descriptors: Sequence[int]) -> tuple[tuple[int, int], ...]:
    status = [os.fstat(descriptor) for descriptor in descriptors]
    return tuple((item.st_dev, item.st_ino) for item in status)


def _mismatch(sentence: str) -> Denied:
    return Denied(Code.IDENTITY_MISMATCH, sentence, _HINT)
