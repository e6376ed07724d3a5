"""The first line of a script, read as the kernel reads it (Linux fs/binfmt_script.c), or refused.

Agent and runner both ask here what a script's interpreter is: the kernel would open it by path after every check,
so the runner executes the interpreter's verified descriptor instead and the kernel never sees the line.
"""

from dataclasses import dataclass
from typing import Final

from attestd.errors import MalformedError

__all__ = ["FIRST_BYTES", "Shebang", "is_script", "parse_shebang"]

FIRST_BYTES: Final = 256  # BINPRM_BUF_SIZE: what the kernel looks at


@dataclass(frozen=True, slots=True)
class Shebang:
    """What a script's first line asks for.

    Attributes:
        interpreter: Absolute path, as written.
        argument: The one argument that the kernel passes before the script's path (all the rest of the line).
        lookup: For `#!/usr/bin/env NAME`: what env would look up in the child's PATH; `argument` is None then.
    """

    interpreter: str
    argument: str | None
    lookup: str | None

    @property
    def interpreters(self) -> int:
        """How many files it takes to run the script: the interpreter, and with env what env would run."""
        return 1 if self.lookup is None else 2

    @property
    def argv(self) -> tuple[str, ...]:
        """What the program that really runs gets as its first arguments, the script's path being the next."""
        if self.lookup is not None:
            return (self.lookup,)
        return (self.interpreter,) if self.argument is None else (self.interpreter, self.argument)


def is_script(first_bytes: bytes) -> bool:
    """Whether the kernel would hand this file to an interpreter."""
    return first_bytes.startswith(b"#!")


def parse_shebang(first_bytes: bytes) -> Shebang | None:
    """Reads the first line of a file.

    Where the kernel would cut off a long line, guess, or pass several words as one, this refuses.

    Args:
        first_bytes: The first `FIRST_BYTES` bytes of the file, all of it if it is shorter.

    Returns:
        What the line asks for; None if this is no script.

    Raises:
        MalformedError: The line is longer than the kernel reads, not UTF-8 text, names no absolute path, or uses
            env in another form than `env NAME`.
    """
    if not is_script(first_bytes):
        return None
    line, newline, _ = first_bytes[2:FIRST_BYTES].partition(b"\n")
    if not newline and len(first_bytes) >= FIRST_BYTES:
        raise MalformedError(
            f"script: its first line is longer than the {FIRST_BYTES} bytes that Linux reads"
        )
    try:
        text = line.decode("utf-8").strip(" \t")
    except UnicodeDecodeError:
        raise MalformedError("script: its first line is not UTF-8") from None
    if not text.replace("\t", " ").isprintable():
        raise MalformedError("script: its first line holds a control character (a carriage return?)")
    separator = min((at for at in (text.find(" "), text.find("\t")) if at >= 0), default=len(text))
    interpreter, argument = text[:separator], text[separator:].strip(" \t")
    if not interpreter.startswith("/"):
        raise MalformedError(f"script: interpreter {interpreter!r}: expected an absolute path")
    if interpreter.rpartition("/")[2] == "env":
        return Shebang(interpreter, None, _env_name(argument))
    return Shebang(interpreter, argument or None, None)


def _env_name(argument: str) -> str:
    # Options and assignments would change what runs or its environment; a second word would become part of the name.
    if not argument or argument.startswith("-") or "=" in argument or " " in argument or "\t" in argument:
        raise MalformedError(
            f"script: env with {argument!r}: only `env NAME` is supported; name the interpreter itself"
        )
    if "/" in argument and not argument.startswith("/"):
        raise MalformedError(
            f"script: env with the relative path {argument!r}: expected a name or an absolute path"
        )
    return argument
