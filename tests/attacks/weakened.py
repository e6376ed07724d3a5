"""The runner with one of its checks taken out: an attack must work against that one before it counts as an attack.

`python -m tests.attacks.weakened CHECK [--shift FILE] RUNNER-OPTION...`
"""

import sys
from collections.abc import Callable
from typing import Final

from attestd.gate import release
from attestd.lineage import receipt
from attestd.runner import child, clock, execution, hold, launch, request
from attestd.runner.__main__ import main
from attestd.runner.consent import Consent
from tests.attacks.shifted import shift, take_option


def _no_consent() -> None:
    Consent.require = lambda *_: None  # type: ignore[method-assign]


def _endless_frames() -> None:
    execution.FRAMES_AT_ONCE = sys.maxsize  # type: ignore[misc]


def _any_group() -> None:
    execution.foreground_group = lambda leader: launch._stat(leader, 8)  # type: ignore[attr-defined]


def _anywhere() -> None:
    hold.require_here = request.require_here = lambda *_: None  # type: ignore[attr-defined]


def _no_leases() -> None:
    hold._has_writer = lambda _: False


def _one_keyring() -> None:
    child.leave_session_keyring = lambda: None  # type: ignore[attr-defined]


def _no_memory_of_time() -> None:
    clock.Clock.now = lambda _: clock.datetime.now(clock.UTC)  # type: ignore[method-assign]


def _any_witnesses() -> None:
    receipt.cosigned_by = lambda _, mesh: dict.fromkeys(mesh.witness_names, 0)  # type: ignore[attr-defined]


def _any_verifiers() -> None:
    release._require_affirmed = lambda *_, **__: ()  # type: ignore[assignment]
    release._require_counted = lambda *_: None  # type: ignore[assignment]


CHECKS: Final[dict[str, Callable[[], None]]] = {
    "clock": _no_memory_of_time,
    "consent": _no_consent,
    "fairness": _endless_frames,
    "foreground": _any_group,
    "keyring": _one_keyring,
    "nothing": lambda: None,
    "place": _anywhere,
    "verifiers": _any_verifiers,
    "witnesses": _any_witnesses,
    "writers": _no_leases,
}

if __name__ == "__main__":
    shifted = take_option()
    if shifted is not None:
        shift(clock, shifted)
    CHECKS[sys.argv.pop(1)]()
    sys.exit(main())
