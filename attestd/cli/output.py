"""How results look: on a terminal tables and colour, elsewhere plain aligned text; JSON for machines.

Whatever comes from outside passes `plain`: nothing in a log, an artifact or an answer can steer a terminal.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from attestd.plain import plain

__all__ = ["BAD", "DIM", "GOOD", "HEAD", "WARN", "Output", "mark", "plain", "say", "text"]

GOOD, BAD, WARN, DIM, HEAD = "green", "bold red", "yellow", "dim", "bold"
_WIDE: Final = 100_000  # not a terminal: nothing is wrapped or cut


class _Console(Console):
    """As rich's, but a reader that went away is for the edge of the process to deal with."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console(stream: TextIO) -> Console:
    options: dict[str, Any] = {} if stream.isatty() else {"width": _WIDE}
    return _Console(file=stream, highlight=False, markup=False, emoji=False, **options)


def text(value: object, style: str = "") -> Text:
    """A value from anywhere as text: of one line, or of one line for each item of a list."""
    if isinstance(value, Text):
        return value
    if isinstance(value, list):
        return Text("\n").join([text(item, style) for item in value])
    return Text(plain(str(value)), style=style)


def mark(state: bool | None) -> Text:
    """A tick, a cross, or for None a dash; words where the terminal cannot show them."""
    encoding = (sys.stdout.encoding or "ascii").lower()
    marks = ("✓", "✗", "-") if encoding.startswith("utf") else ("ok", "NO", "-")
    if state is None:
        return Text(marks[2], style=DIM)
    return Text(marks[0], style=GOOD) if state else Text(marks[1], style=BAD)


def say(message: str, *, style: str = "", prefix: str = "attestd: ") -> None:
    """Words for people, one line on stderr."""
    _console(sys.stderr).print(Text(plain(f"{prefix}{message}"), style=style), soft_wrap=True)


class Output:
    """Results on stdout: as one JSON object, or for people."""

    def __init__(self, *, as_json: bool = False) -> None:
        """Chooses the form; the stream is looked at now."""
        self.as_json = as_json
        self._console = _console(sys.stdout)

    @property
    def is_terminal(self) -> bool:
        """Whether a person looks on."""
        return self._console.is_terminal

    def json(self, value: Mapping[str, Any]) -> None:
        """One JSON object: one line, or indented on a terminal. ASCII only: escapes cannot steer a terminal."""
        sys.stdout.write(json.dumps(value, indent=2 if self.is_terminal else None, sort_keys=True) + "\n")

    def json_line(self, value: Mapping[str, Any]) -> None:
        """One JSON object of several, on one line, at once: who follows a log wants it now."""
        sys.stdout.write(json.dumps(value, sort_keys=True) + "\n")
        sys.stdout.flush()

    def raw(self, data: str) -> None:
        """A document as it is, for example a receipt."""
        sys.stdout.write(data)

    def line(self, *parts: object) -> None:
        """One line of text."""
        self._console.print(Text.assemble(*(text(part) for part in parts)), soft_wrap=True)

    def title(self, words: str) -> None:
        """A heading."""
        if self.is_terminal:
            self._console.print(Rule(text(words, HEAD), style=DIM, align="left"))
        else:
            self.line(words)

    def facts(self, rows: Sequence[tuple[str, object]], *, indent: int = 2) -> None:
        """Names and values, two columns; rows with the value None are left out."""
        shown = [
            (text(f"{' ' * indent}{name}", DIM), text(value)) for name, value in rows if value is not None
        ]
        if not self.is_terminal:
            self._columns(shown)
            return
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for row in shown:
            grid.add_row(*row)
        self._console.print(grid)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table."""
        shown = [tuple(text(cell) for cell in row) for row in rows]
        if not self.is_terminal:
            self._columns([tuple(text(column) for column in columns), *shown])
            return
        table = Table(box=None, padding=(0, 2, 0, 0), header_style=HEAD, pad_edge=False)
        for number, column in enumerate(columns):
            last = number == len(columns) - 1
            table.add_column(column, overflow="fold" if last else "ellipsis", no_wrap=not last)
        for row in shown:
            table.add_row(*row)
        self._console.print(table)

    def _columns(self, rows: Sequence[Sequence[Text]]) -> None:
        widths = [
            max(cell_len(line.plain) for cell in column for line in cell.split("\n", allow_blank=True))
            for column in zip(*rows, strict=True)
        ]
        for row in rows:
            for parts in zip_longest(*(cell.split("\n", allow_blank=True) for cell in row), fillvalue=Text()):
                cells = [
                    part.plain + " " * (width - cell_len(part.plain))
                    for part, width in zip(parts, widths, strict=True)
                ]
                self.line("  ".join(cells).rstrip())
