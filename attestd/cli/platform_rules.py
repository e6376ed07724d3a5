"""`attestd platform rules`: what a boot and its files have to be, beside being approved."""

import hashlib
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from attestd.appraisal.boot_rules import MAX_RULES_BYTES, BootRules, parse_boot_rules
from attestd.appraisal.ima import MAX_POLICY_BYTES, parse_ima_policy
from attestd.cli.approving import platform_name, platform_option, staging_option
from attestd.cli.base import Command, confirm, json_option, read_input, state_dir_option
from attestd.cli.governance import say_changes, say_staged
from attestd.cli.keys import ask_secret, passphrase_option
from attestd.cli.output import DIM, Output, mark, say, text
from attestd.cli.params import FILE
from attestd.distribution.local import load_own_trust
from attestd.distribution.repository import Repository
from attestd.distribution.rules import Rules, stage_rules
from attestd.distribution.standalone import open_local_repository, publish_local
from attestd.governance.platform import MAX_QUORUM, PlatformPolicy, Quorums
from attestd.governance.trust import Trust
from attestd.paths import find_client_layout
from attestd.plain import counted
from attestd.strict import canonical, parse_json

__all__ = ["rules_command"]

_SHOWN: Final = 8
QUORUM: Final = click.IntRange(0, MAX_QUORUM)


@click.command(
    "rules",
    cls=Command,
    example="""
attestd platform rules
attestd platform rules --boot boot.json --yes
attestd platform rules --boot boot.json --ima ima.json --verifiers 2 --witnesses 2 --repository fleet --platform prod
attestd platform rules --no-ima --yes
""",
)
@click.option("--boot", type=FILE, metavar="FILE", help="Rules over boots: attestd platform measure --rules.")
@click.option("--no-boot", is_flag=True, help="No rules over boots.")
@click.option(
    "--ima", type=FILE, metavar="FILE", help="An IMA policy: attestd platform measure --ima-policy."
)
@click.option("--no-ima", is_flag=True, help="No IMA policy.")
@click.option(
    "--verifiers", type=QUORUM, metavar="N", help="How many verifiers must vouch for a host; 0: none has to."
)
@click.option(
    "--witnesses", type=QUORUM, metavar="N", help="How many witnesses must cosign a release; 0: none has to."
)
@staging_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@passphrase_option
@platform_option
@state_dir_option
@json_option
def rules_command(
    *,
    boot: Path | None,
    no_boot: bool,
    ima: Path | None,
    no_ima: bool,
    verifiers: int | None,
    witnesses: int | None,
    directory: Path | None,
    yes: bool,
    name: str | None,
    state_dir: str | None,
    as_json: bool,
) -> None:
    """Show the rules of a platform policy, or change them.

    Rules only deny: a state has to be approved as well. What is not named stays as it is. No platform key is needed: the
    approvals stay. Quorums are the least of every decision under this policy: artifact or mesh.json may ask for more.
    """
    if (boot is not None and no_boot) or (ima is not None and no_ima):
        raise click.UsageError("a FILE, or none: not both")
    layout, output = find_client_layout(state_dir), Output(as_json=as_json)
    changes = bool(boot or ima or no_boot or no_ima) or (verifiers, witnesses) != (None, None)
    repository = Repository(directory) if directory else None
    if changes and repository is None:
        repository = open_local_repository(layout.authority)
    trust = load_own_trust(layout) if repository is None else repository.validate().trust
    policy = trust.platforms[platform_name(trust, name)]
    if repository is None or not changes:
        _warn(policy.boot)
        _show(policy, trust, output)
        return
    present = Rules(
        policy.boot,
        None if policy.ima is None else trust.ima[policy.ima.sha256],
        _quorums(policy, None, None),
    )
    chosen = Rules(
        boot=None if no_boot else present.boot if boot is None else _boot(boot),
        ima=None if no_ima else present.ima if ima is None else _ima(ima),
        quorums=_quorums(policy, verifiers, witnesses),
    )
    if chosen == present:
        say("these are the rules already: nothing was changed")
        return
    _warn(chosen.boot)
    _warn_of_quorums(chosen.quorums, trust)
    stage_rules(repository, policy.name, chosen)
    if directory is not None:
        say_changes(repository.diff())
        say_staged(repository, output)
        return
    _publish(repository, layout.authority, yes=yes)
    published = load_own_trust(layout)
    _show(published.platforms[policy.name], published, output)


def _publish(repository: Repository, authority: Path, *, yes: bool) -> None:
    """Of this host's own repository: staged, shown, and taken back if a person says no."""
    try:
        say_changes(repository.diff())
        confirm("Publish these rules?", yes=yes)
    except (click.UsageError, click.exceptions.Exit, click.Abort):
        repository.unstage(None)
        raise
    publish_local(repository, authority, {}, ask=ask_secret)


def _boot(path: Path) -> BootRules:
    return parse_boot_rules(_canonical(path, MAX_RULES_BYTES))


def _ima(path: Path) -> bytes:
    data = _canonical(path, MAX_POLICY_BYTES)
    parse_ima_policy(data)
    return data


def _canonical(path: Path, max_bytes: int) -> bytes:
    """JSON that a person may have edited, in the form that hosts read."""
    return canonical(parse_json(read_input(path, max_bytes=max_bytes), max_bytes=max_bytes, what=str(path)))


def _warn(rules: BootRules | None) -> None:
    if rules is not None and rules.weakness:
        say(f"weak rules: {rules.weakness}")


def _quorums(policy: PlatformPolicy, verifiers: int | None, witnesses: int | None) -> Quorums:
    return Quorums(
        verifiers=policy.verifier_quorum if verifiers is None else verifiers,
        witnesses=policy.witness_quorum if witnesses is None else witnesses,
    )


def _warn_of_quorums(quorums: Quorums, trust: Trust) -> None:
    for kind, asked, there in (
        ("verifier", quorums.verifiers, len(trust.mesh.verifiers)),
        ("witness", quorums.witnesses, len(trust.mesh.witness_names)),
    ):
        if asked > there:
            say(
                f"a quorum of {counted(asked, kind)}, and mesh.json has {there}: everything is denied until it has as many"
                " (attestd governance mesh)"
            )


def _show(policy: PlatformPolicy, trust: Trust, output: Output) -> None:
    ima = None if policy.ima is None else trust.ima.get(policy.ima.sha256)
    if output.as_json:
        output.json(
            {
                "platform": policy.name,
                "version": policy.version,
                "boot": None if policy.boot is None else msgspec.to_builtins(policy.boot),
                "ima": None if policy.ima is None else msgspec.to_builtins(policy.ima),
                "quorums": {"verifiers": policy.verifier_quorum, "witnesses": policy.witness_quorum},
            }
        )
        return
    output.title(f"Platform {policy.name}, version {policy.version}")
    quorums = counted(policy.verifier_quorum, "verifier"), counted(policy.witness_quorum, "witness")
    output.facts([("quorums", ", ".join(quorums))])
    if policy.boot is None:
        output.line("  no rules over boots: an approved state is enough")
    else:
        output.facts(
            [
                (name, _words(value))
                for name, value in msgspec.structs.asdict(policy.boot).items()
                if name != "v"
            ]
        )
    if ima is None:
        output.line("  no IMA policy: what is executed after the boot is not looked at")
        return
    digest = hashlib.sha256(ima).hexdigest()
    found = parse_ima_policy(ima)
    output.facts(
        [
            ("IMA policy", f"SHA-256 {digest}"),
            ("files", counted(len(found.digests), "path")),
            ("excluded", [pattern.text for pattern in found.excluded] or "nothing"),
        ]
    )
    output.line(mark(True), text(" files that the kernel measures have to be in it", DIM))


def _words(value: Any) -> Any:
    if isinstance(value, dict):
        return [f"{name}: {counted(len(allowed), 'digest')}" for name, allowed in value.items()]
    if isinstance(value, list):
        return value[:_SHOWN] + ([f"and {len(value) - _SHOWN} more"] if len(value) > _SHOWN else [])
    return "not evaluated" if value in (None, "unchecked") else value
