"""`attestd quote`."""

import secrets
from base64 import b64encode
from pathlib import Path

import click

from attestd.agent.ask import AgentSocket
from attestd.appraisal.document import UntrustedQuoteDocument
from attestd.cli.base import Command, state_dir_option, write_output
from attestd.cli.output import Output, say
from attestd.cli.params import HEX
from attestd.paths import find_client_layout
from attestd.strict import convert

__all__ = ["quote_command"]


@click.command(
    "quote",
    cls=Command,
    example="""
attestd quote --challenge 00112233 -o host.quote.json
attestd verify quote host.quote.json --trust trust/ --challenge 00112233
""",
)
@click.option(
    "--challenge", type=HEX, help="What the quote is over, chosen by who will verify it (default: random)."
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: standard output."
)
@click.option("--force", is_flag=True, help="Overwrite the output file.")
@click.option("--platform", metavar="NAME", help="Whose PCRs (default: those of the only platform policy).")
@state_dir_option
def quote_command(
    *, challenge: bytes | None, output: Path | None, force: bool, platform: str | None, state_dir: str | None
) -> None:
    """Have the TPM quote this host's PCRs.

    The result is JSON, for `attestd verify quote`.
    """
    chosen = secrets.token_bytes(32) if challenge is None else challenge
    named = {} if platform is None else {"platform": platform}
    answer = AgentSocket.find(state_dir).ask("quote", challenge=b64encode(chosen).decode(), **named)
    certificates = find_client_layout(state_dir).ak_certificates
    if certificates.exists():
        say(f"the attestation key's X.509 certificates: {certificates}")
    document = convert(answer, UntrustedQuoteDocument, what="the agent's quote").to_bytes()
    if output is None:
        Output().raw(document.decode("ascii"))
    else:
        write_output(output, document, force=force)
