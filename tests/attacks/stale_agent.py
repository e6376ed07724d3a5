"""`attestd serve` that was broken into: it goes by the first governance that it saw, whatever is in the mirror.

So it decides and seals what is revoked meanwhile; and it may put into the mirror whatever it likes.
"""

import sys

from attestd.distribution.local import TrustDirectory
from attestd.governance.trust import Trust
from tests.agent.serve_entry import main

_current = TrustDirectory.current
_seen: list[Trust] = []


def current(directory: TrustDirectory) -> Trust:
    if not _seen:
        directory.floor = None
        _seen.append(_current(directory))
    return _seen[0]


if __name__ == "__main__":
    TrustDirectory.current = current  # type: ignore[method-assign]
    sys.exit(main())
