"""Options of `attestd exec` and `attestd check`, parsed without argparse (which costs more than a whole client)."""

import sys

from attestd.client import EXIT_USAGE, Ended

__all__ = ["HELP", "Options", "parse"]

HELP = """\
Usage: attestd exec  [OPTIONS] [--] COMMAND [ARGUMENT...]
       attestd check [OPTIONS] [--] COMMAND [ARGUMENT...]

exec runs a command if an authorization allows it here and now, and returns the command's exit status.
check decides and explains in the same way, but runs nothing and records nothing.

Options:
  -a, --authorization FILE  use this authorization (default: the installed ones)
      --parent RECEIPT      receipt of the execution that this one continues
      --receipt FILE        write the decision's receipt there
      --json                the decision as one JSON object (exec: on stderr; check: on stdout)
      --state-dir DIR       talk to the agent of this state directory
  -h, --help                show this text

Exit status: the command's own; 128+n if signal n ended it; 126 not executable; 127 not found; 64 usage;
65 malformed authorization; 69 agent, TPM, log or mesh unavailable; 70 internal error; 77 denied.

Example:
  attestd authorization issue -o ls.auth.json -- /bin/ls -l
  attestd exec -a ls.auth.json -- /bin/ls -l
"""

# Of the command line: its strings and a NUL after each. The agent has the same limit.
MAX_ARGV_BYTES = 1024 * 1024

_WITH_VALUE = {
    "-a": "authorization",
    "--authorization": "authorization",
    "--parent": "parent",
    "--receipt": "receipt",
    "--state-dir": "state_dir",
}
_FLAGS = {"-h": "help", "--help": "help", "--json": "json"}


class Options:
    """What the command line says; paths and arguments as bytes."""

    __slots__ = ("argv", "authorization", "help", "json", "mode", "parent", "receipt", "state_dir")

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.help = False
        self.json = False
        self.authorization: bytes | None = None
        self.parent: bytes | None = None
        self.receipt: bytes | None = None
        self.state_dir: bytes | None = None
        self.argv: list[bytes] = []


def parse(arguments: list[str]) -> Options:
    """Parses `exec` or `check`, its options, and the command.

    Args:
        arguments: As in `sys.argv`, from the word `exec` or `check` on.

    Raises:
        Ended: Unknown option, missing value, no command, an argument that is not UTF-8, or more than 1 MiB of them.
    """
    options = Options(arguments[0])
    position = 1
    while position < len(arguments):
        word = arguments[position]
        if not word.startswith("-") or word == "-":
            break
        position += 1
        if word == "--":
            break
        name, separator, value = word.partition("=")
        if name in _WITH_VALUE:
            if not separator:
                if position == len(arguments):
                    raise _misuse(options, f"option {name} needs a value")
                value = arguments[position]
                position += 1
            setattr(options, _WITH_VALUE[name], _bytes(value))
        elif word in _FLAGS:
            setattr(options, _FLAGS[word], True)
        else:
            raise _misuse(options, f"unknown option {word}")
    options.argv = _command(options, arguments[position:])
    return options


def _command(options: Options, words: list[str]) -> list[bytes]:
    argv = [_bytes(word) for word in words]
    if options.help:
        return argv
    if not argv or not argv[0]:
        raise _misuse(options, "no command given")
    for number, argument in enumerate(argv):
        try:
            argument.decode("utf-8")
        except UnicodeDecodeError:
            # Authorizations are JSON: what is not UTF-8 could neither be authorized nor recorded.
            raise _misuse(options, f"argument {number} of the command is not UTF-8") from None
    size = sum([len(argument) + 1 for argument in argv])
    if size > MAX_ARGV_BYTES:
        raise _misuse(options, f"the command line has {size} bytes, the limit is {MAX_ARGV_BYTES}")
    return argv


def _misuse(options: Options, sentence: str) -> Ended:
    return Ended(EXIT_USAGE, sentence, hint=f"attestd {options.mode} --help")


def _bytes(argument: str) -> bytes:
    return argument.encode(sys.getfilesystemencoding(), "surrogateescape")
