"""`attestd doctor`."""

from typing import Final

import click

from attestd.agent.ask import AgentSocket
from attestd.agent.doctor import examine
from attestd.agent.findings import Examined
from attestd.cli.base import Command, json_option, state_dir_option
from attestd.cli.output import BAD, GOOD, Output, mark, text
from attestd.paths import find_client_layout
from attestd.plain import counted

__all__ = ["doctor_command"]

EXIT_FINDINGS: Final = 1


@click.command("doctor", cls=Command, example="attestd doctor\nattestd doctor --accept-clock")
@click.option(
    "--accept-clock", is_flag=True, help="This host's clock is right: trust it from now on (recorded; root)."
)
@state_dir_option
@json_option
def doctor_command(*, accept_clock: bool, state_dir: str | None, as_json: bool) -> int:
    """Say what is wrong, and what to do about it.

    Exit status: 0 healthy, 1 findings.
    """
    agent = AgentSocket.find(state_dir)
    output = Output(as_json=as_json)
    if accept_clock:
        answer = agent.ask("accept_clock")
        if not as_json:
            output.line(f"the clock is accepted: {answer['time']} (entry {answer['seq']})")
    examined = examine(find_client_layout(state_dir), agent)
    findings = [item for item in examined if item.remedy is not None]
    if as_json:
        output.json(
            {"healthy": not findings, "findings": _json(findings), "examined": _json(examined)},
        )
    else:
        _show(output, examined, len(findings))
    return EXIT_FINDINGS if findings else 0


def _json(items: list[Examined]) -> list[dict[str, str | None]]:
    return [{"area": item.area, "found": item.found, "remedy": item.remedy} for item in items]


def _show(output: Output, examined: list[Examined], findings: int) -> None:
    output.table(
        ("", "what", "found"),
        [
            (
                mark(item.remedy is None),
                item.area,
                text(item.found)
                if item.remedy is None
                else text([text(item.found, BAD), f"remedy: {item.remedy}"]),
            )
            for item in examined
        ],
    )
    if findings:
        output.line(text(counted(findings, "finding"), BAD))
    else:
        output.line(text("healthy", GOOD))
