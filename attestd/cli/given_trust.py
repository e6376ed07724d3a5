"""Trust that the caller of `attestd verify` names: by what it verifies, and how old that is."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from attestd.cli.base import read_input
from attestd.cli.output import BAD, DIM, WARN, Output, mark, say, text
from attestd.codes import Denied
from attestd.distribution.local import TrustSource, load_mirror, load_trust
from attestd.distribution.mirror import ROOT
from attestd.errors import MalformedError, RollbackError, VerificationError
from attestd.governance.signed import MAX_BYTES
from attestd.governance.trust import Trust
from attestd.strict import format_time

__all__ = ["named_trust", "report"]

EXIT_NOT_VERIFIED: Final = 1


def named_trust(directory: Path, root: Path | None = None, min_version: int | None = None) -> Trust:
    """Trust that the caller names.

    Args:
        directory: With `metadata/` and `targets/`, and with `root.json` if no root is named: whoever owns it is then who
            the caller trusts, and nobody else may write.
        root: The root of trust, believed because the caller names it: then whoever gives the directory can change nothing in
            it, but chooses how old it is, for nothing here remembers a newer one.
        min_version: The oldest version of governance that will do; None: any.

    Raises:
        click.UsageError: The directory has no root of trust, and none is named; or the root cannot be read.
        VerificationError: As `load_trust`; or it is older.
        StoreError, MalformedError: As `load_trust`.
    """
    if root is None and not os.path.lexists(directory / ROOT):
        raise click.UsageError(
            f"{directory}: expected a trust directory, found one without {ROOT}: of published files or a mirror, name the"
            " root of trust, as you were given it, with --root FILE"
        )
    try:
        return _load(directory, root, min_version)
    except (MalformedError, VerificationError) as error:
        under = "" if root is None else f" with the root {root}"
        raise type(error)(f"the trust directory {directory} cannot be used{under}: {error}") from error


def _load(directory: Path, root: Path | None, min_version: int | None) -> Trust:
    if root is not None:
        found = load_mirror(directory, root=read_input(root, max_bytes=MAX_BYTES["root"]))
    else:
        found = load_trust(TrustSource.at(directory, owners={0, os.geteuid(), directory.stat().st_uid}))
    if min_version is not None and found.version < min_version:
        raise VerificationError(
            f"governance version {found.version}, expected {min_version} or newer (--min-version): get newer files"
        )
    return found


def report(
    output: Output, what: str, verify: Callable[[], dict[str, Any]], *, trust: Trust | None = None
) -> int:
    """Runs a verification; what does not verify is a result, not an error.

    Args:
        output: Where to.
        what: Names what is verified.
        verify: Verifies and, unless JSON is wanted, shows; returns the JSON members.
        trust: By what, of which it is said how old it is; None: an installation's own, whose agent sees to that.

    Returns:
        The exit status.
    """
    problem = None
    try:
        result = {"verified": True, **verify()}
    except (VerificationError, RollbackError) as error:
        problem = str(error)
    except Denied as denied:
        problem = f"{denied.denial.code}: {denied.denial.sentence}"
    if problem is not None:
        result = {"verified": False, "problem": problem}
    if trust is not None:
        result["trust"] = _age(trust)
    if output.as_json:
        output.json(result)
    elif problem is not None:
        output.line(mark(False), text(f" {what} does NOT verify", BAD))
        say(problem, style=BAD)
    if trust is not None:
        _say_age(output, trust)
    return 0 if problem is None else EXIT_NOT_VERIFIED


def _age(trust: Trust) -> dict[str, Any]:
    return {
        "version": trust.version,
        "issued": None if trust.issued is None else format_time(trust.issued),
        "expires": format_time(trust.expires),
    }


def _say_age(output: Output, trust: Trust) -> None:
    age = _age(trust)
    if not output.as_json:
        issued = "" if trust.issued is None else f", issued {age['issued']}"
        output.line(
            text(f"by governance version {trust.version}{issued}, which holds until {age['expires']}", DIM)
        )
    if trust.expires <= datetime.now(UTC):
        say(
            f"these files expired at {age['expires']} ({trust.expires_role}): what was revoked since is not known; get newer ones",
            style=WARN,
        )
