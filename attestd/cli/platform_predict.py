"""`attestd platform predict`: the PCR values after the next boot, before it happens."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from attestd.agent.boot_view import BootView
from attestd.agent.platform_state import PlatformState
from attestd.appraisal.boot_rules import BootRules
from attestd.appraisal.inspect import best_bank
from attestd.appraisal.predict import PREDICTED, Change, Prediction, Running, predict
from attestd.appraisal.reference import derive_boot_rules, join_boot_rules
from attestd.cli.approving import Signing, approve, governing, platform_name, platform_option, signing_options
from attestd.cli.base import Command, json_option, read_input, state_dir_option, write_output
from attestd.cli.boots import boot_in_files, change_json, present, read_lines
from attestd.cli.output import BAD, DIM, WARN, Output, mark, say, text
from attestd.cli.params import DURATION, FILE, name_values
from attestd.cli.platform_approve import present_state
from attestd.distribution.approve import plan_approval
from attestd.errors import UsageError, VerificationError
from attestd.governance.trust import Trust
from attestd.paths import Layout, find_client_layout
from attestd.strict import canonical
from attestd.tcg.eventlog.reading import UKI_PCR, Kind
from attestd.tcg.eventlog.replay import initial_value, replay
from attestd.tcg.pe import MAX_PE_BYTES

__all__ = ["predict_command"]

EXIT_INCOMPLETE: Final = 1
_PHASES: Final = ("sysinit", "ready")


@dataclass(frozen=True)
class _Boot:
    """This boot, and who is asked to approve the next one."""

    view: BootView
    layout: Layout
    trust: Trust | None
    policy: str | None


@click.command(
    "predict",
    cls=Command,
    example="""
attestd platform predict --uki /boot/efi/EFI/Linux/new.efi
attestd platform predict --uki new.efi --approve --until 2h --yes
attestd platform predict --uki new.efi --rules both.json
attestd platform predict --eventlog grub.eventlog --kernel vmlinuz --json
""",
)
@click.option("--uki", type=FILE, metavar="FILE", help="The new unified kernel image.")
@click.option("--kernel", type=FILE, metavar="FILE", help="The new kernel that GRUB or systemd-boot starts.")
@click.option("--initrd", type=FILE, metavar="FILE", help="Its initrd.")
@click.option("--cmdline", metavar="TEXT", help="Its command line, without BOOT_IMAGE.")
@click.option("--grub-config", type=FILE, metavar="FILE", help="The new grub.cfg, where GRUB boots.")
@click.option(
    "--rename",
    "renamed",
    multiple=True,
    metavar="OLD=NEW",
    callback=name_values,
    help="A text in grub.cfg that changes, such as the version in the names of files.",
)
@click.option("--shim", type=FILE, metavar="FILE", help="The new shim.")
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="PATH=FILE",
    callback=name_values,
    help="Another image, by the end of its path in the log: grubx64.efi=FILE.",
)
@click.option(
    "--variable",
    "variables",
    multiple=True,
    metavar="NAME=FILE",
    callback=name_values,
    help="A Secure Boot database (PK, KEK, db, dbx): signature lists, or the file of efivarfs.",
)
@click.option("--eventlog", type=FILE, metavar="FILE", help="The boot to start from (default: this one).")
@click.option("--userspace", type=FILE, metavar="FILE", help="With --eventlog: what systemd measured.")
@click.option(
    "--running-cmdline",
    type=FILE,
    metavar="FILE",
    help="Of the boot to start from: its command line (default: /proc/cmdline).",
)
@click.option("--running-initrd", type=FILE, metavar="FILE", help="Of the boot to start from: its initrd.")
@click.option(
    "--phases",
    metavar="A:B",
    help="What systemd measures into PCR 11 after the log (default: as in this boot, or sysinit:ready).",
)
@click.option(
    "--rules",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write boot rules that the next boot keeps as well as this one, for attestd platform rules.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.option(
    "--approve", "is_approving", is_flag=True, help="Approve the predicted state, after showing it."
)
@click.option(
    "--until",
    type=DURATION,
    metavar="DURATION",
    help="With --approve: other states, such as the present one, are approved for that long yet.",
)
@signing_options
@platform_option
@state_dir_option
@json_option
def predict_command(
    *,
    eventlog: Path | None,
    userspace: Path | None,
    running_cmdline: Path | None,
    running_initrd: Path | None,
    phases: str | None,
    rules: Path | None,
    force: bool,
    is_approving: bool,
    until: int | None,
    expires: int | None,
    yes: bool,
    key: str | None,
    public_key: Path | None,
    directory: Path | None,
    name: str | None,
    state_dir: str | None,
    as_json: bool,
    **files: Any,
) -> int:
    """Predict the PCR values after the next boot.

    Events of this boot's log are replaced by what the new files will measure; all others are replayed as they are. What
    cannot be told from log and files is refused, or named: nothing is guessed.

    With --approve the predicted state is signed before the reboot, beside the present one: an update window.

    Exit status: 0 all PCRs of the platform policy are predicted (without one: all); 1 some cannot be, or it is refused; 65
    a file is not what it should be.
    """
    if not is_approving and (until, expires) != (None, None):
        raise click.UsageError("--until and --expires go with --approve")
    change = _change(files)
    layout = find_client_layout(state_dir)
    place = directory if eventlog is not None else None
    trust = governing(layout, place) if place or layout.configuration.exists() else None
    boot = _boot(eventlog, userspace, running_cmdline, (layout, trust, name), state_dir)
    running = _running(boot.view, running_initrd, phases)
    found = predict(boot.view.log, bank=_bank(boot.view), change=change, running=running)
    output = Output(as_json=as_json)
    if rules is not None:
        write_output(rules, canonical(_rules(found, boot)), force=force)
        say(f"{rules}: written; look at it before it is published (attestd platform rules)")
    if is_approving:
        signing = Signing(key, public_key, directory, yes, expires, until)
        _approve(found, boot, signing, output)
        return 0
    _show(found, boot.view, output)
    return EXIT_INCOMPLETE if _selected(boot) & found.unknown.keys() else 0


def _change(files: Mapping[str, Any]) -> Change:
    def read(name: str) -> bytes | None:
        path = files[name]
        return None if path is None else read_input(path, max_bytes=MAX_PE_BYTES)

    def read_all(name: str) -> dict[str, bytes]:
        return {key: read_input(Path(path), max_bytes=MAX_PE_BYTES) for key, path in files[name].items()}

    return Change(
        uki=read("uki"),
        kernel=read("kernel"),
        initrd=read("initrd"),
        command_line=files["cmdline"],
        grub_config=read("grub_config"),
        renamed=tuple(files["renamed"].items()),
        shim=read("shim"),
        images=read_all("images"),
        variables=read_all("variables"),
    )


def _boot(
    eventlog: Path | None,
    userspace: Path | None,
    line: Path | None,
    governance: tuple[Layout, Trust | None, str | None],
    state_dir: str | None,
) -> _Boot:
    """The boot to start from; with present PCR values where it is this host's."""
    layout, trust, name = governance
    policy = None if trust is None else platform_name(trust, name)
    if eventlog is not None:
        view = boot_in_files(eventlog, userspace)
    else:
        if userspace is not None:
            raise click.UsageError("--userspace goes with --eventlog")
        known = (
            present_state(policy, trust, layout, state_dir).boot
            if trust and policy
            else present(state_dir, pcrs={})
        )
        if known is None:
            raise UsageError(
                "this boot has no event log: name one with --eventlog, or in attestd.toml (eventlog)"
            )
        view = known
    if line is not None:
        [command_line] = read_lines([line])
        view = replace(view, command_line=command_line)
    return _Boot(view, layout, trust, policy)


def _running(view: BootView, initrd: Path | None, phases: str | None) -> Running:
    if phases is not None and view.phases:
        raise UsageError(f"--phases: this boot's are known: {':'.join(view.phases)}")
    # Where PCR 11 is known, its phases are part of the log already.
    assumed = _PHASES if _is_uki(view) and not view.phases and UKI_PCR not in view.pcrs else ()
    chosen = assumed if phases is None else tuple(phase for phase in phases.split(":") if phase)
    return Running(
        command_line=view.command_line,
        initrd=None if initrd is None else read_input(initrd, max_bytes=MAX_PE_BYTES),
        phases=chosen,
        values=view.pcrs,
    )


def _is_uki(view: BootView) -> bool:
    """Systemd measures its phases where a stub of its own started it."""
    return any(item.kind == Kind.SECTION_NAME for item in view.meanings(_bank(view)))


def _bank(view: BootView) -> str:
    return best_bank(view.log.banks)


def _show(found: Prediction, view: BootView, output: Output) -> None:
    if output.as_json:
        output.json(_json(found))
        return
    now = replay(view.log, found.bank)
    output.title(f"Next boot, predicted from {view.title}")
    for change in found.changes:
        output.line("  ", text(str(change), WARN))
    if not found.changes:
        output.line("  the same is measured")
    output.title(f"PCRs of bank {found.bank} after it")
    rows = []
    for pcr, value in found.values.items():
        before = now.get(pcr, initial_value(found.bank, pcr, locality=view.log.locality))
        rows.append((pcr, value.hex(), "" if before == value else text("changes", WARN)))
    output.table(("PCR", "value", ""), rows)
    output.title("Provided that")
    for item in found.assumptions:
        output.line("  ", text(item, DIM))
    for pcr, reason in found.unknown.items():
        output.line(mark(False), text(f" PCR {pcr} cannot be predicted: {reason}", BAD))


def _json(found: Prediction) -> dict[str, Any]:
    return {
        "bank": found.bank,
        "pcrs": {found.bank: {str(pcr): value.hex() for pcr, value in found.values.items()}},
        "unknown": {str(pcr): reason for pcr, reason in found.unknown.items()},
        "changes": [change_json(change) for change in found.changes],
        "assumptions": list(found.assumptions),
    }


def _selected(boot: _Boot) -> frozenset[int]:
    """The PCRs that matter: those of the platform policy, or all."""
    if boot.trust is None or boot.policy is None:
        return frozenset(PREDICTED)
    return frozenset(boot.trust.platforms[boot.policy].selection.pcrs)


def _rules(found: Prediction, boot: _Boot) -> BootRules:
    """The policy's rules, or else this boot's, widened by what the next boot will measure."""
    policy = boot.trust.platforms[boot.policy] if boot.trust and boot.policy else None
    present = None if policy is None else policy.boot
    if present is None:
        present, _ = derive_boot_rules(boot.view.log, command_lines=boot.view.command_lines)
    lines = () if found.command_line is None else (found.command_line,)
    after, _ = derive_boot_rules(found.log, command_lines=lines)
    return join_boot_rules(present, after)


def _approve(found: Prediction, boot: _Boot, signing: Signing, output: Output) -> None:
    if boot.trust is None or boot.policy is None:
        raise UsageError(
            "--approve: there is no governance of this host: name its directory with --state-dir"
        )
    policy, selection = boot.policy, boot.trust.platforms[boot.policy].selection
    for pcr in selection.pcrs:
        if pcr not in found.values or found.bank != selection.bank:
            reason = found.unknown.get(pcr, f"values of bank {selection.bank} are needed")
            raise VerificationError(
                f"platform policy {policy!r} selects PCR {pcr}, which cannot be predicted: {reason}"
            )
    values = {pcr: found.values[pcr] for pcr in selection.pcrs}
    plan = plan_approval(boot.trust, name=policy, values=values, now=datetime.now(UTC))
    after = BootView("the next boot", b"", b"", found.log, found.command_line, values)
    state = PlatformState(values, "a prediction", attested=False, boot=after, assumptions=found.assumptions)
    approve(plan, state, signing, approved=boot.view, layout=boot.layout, output=output)
