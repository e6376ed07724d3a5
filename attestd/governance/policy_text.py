"""Bounds the text of a Cedar policy file before Cedar reads it, and finds the line on which each policy begins.

Cedar's parser recurses without a limit (a thousand parentheses overflow the stack of the process) and says nothing
about lines; what it warns of (characters that look like others, text direction) does not reach us. So strings and
names are ASCII here, and everything that nests is counted first.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from attestd.errors import MalformedError

__all__ = ["MAX_POLICY_BYTES", "Chunk", "split_policies"]

MAX_POLICY_BYTES: Final = 256 << 10
MAX_POLICIES: Final = 4096
MAX_BRACKETS: Final = 16
MAX_OPERATORS: Final = 512  # of one policy; each may be one level deeper in Cedar's tree
MAX_IFS: Final = 16
MAX_DOTS: Final = 4  # `has a.b.c` grows with their square
MAX_STRING: Final = 4096

# Strings hold no line break and no control character: what is meant is written as an escape.
_TOKEN: Final = re.compile(
    r'(?P<space>[ \t\r\n]+)|(?P<comment>//[^\n]*)|(?P<string>"(?:[ !#-\[\]-~]|\\[ -~])*")'
    r"|(?P<word>[A-Za-z0-9_]+)|(?P<open>[({\[])|(?P<close>[)}\]])|(?P<end>;)"
    r"|(?P<operator>::|==|!=|<=|>=|&&|\|\||[@,.:<>!+*?-])"
)
_WORD_OPERATORS: Final = frozenset({"in", "has", "like", "is"})
_KEYWORDS: Final = _WORD_OPERATORS | {"if", "then", "else"}


@dataclass(frozen=True, slots=True)
class Chunk:
    """One policy's text and the line (from 1) on which it begins."""

    line: int
    text: str


class _Policy:
    """Counts what one policy holds."""

    def __init__(self, line: int, begin: int) -> None:
        self.line, self.begin = line, begin
        self._brackets = self._operators = self._ifs = self._dots = 0

    def take(self, kind: str, word: str) -> str | None:
        """Counts a token; returns what it is too much of."""
        self._brackets += (kind == "open") - (kind == "close")
        self._ifs += kind == "word" and word == "if"
        self._operators += (kind == "operator" and word != ",") or word in _WORD_OPERATORS
        if word == ".":
            self._dots += 1
        elif kind != "word" or word in _KEYWORDS:
            self._dots = 0
        if self._brackets > MAX_BRACKETS:
            return f"brackets are nested deeper than {MAX_BRACKETS}"
        if self._operators > MAX_OPERATORS:
            return f"more than {MAX_OPERATORS} operators in one policy: use a set, or several policies"
        if self._ifs > MAX_IFS:
            return f"more than {MAX_IFS} times if in one policy"
        if self._dots > MAX_DOTS:
            return f"more than {MAX_DOTS} attributes in a row"
        return f"a string of over {MAX_STRING} characters" if len(word) > MAX_STRING else None


def split_policies(data: bytes, *, what: str) -> tuple[Chunk, ...]:
    """Splits a policy file at the semicolons that end policies.

    Args:
        data: The file.
        what: Names it in errors.

    Returns:
        The policies in their order. Cedar still has to parse them.

    Raises:
        MalformedError: Over a limit, not UTF-8, a character that no policy needs; the message has the line.
    """
    if len(data) > MAX_POLICY_BYTES:
        raise MalformedError(f"{what}: {len(data)} bytes, the limit is {MAX_POLICY_BYTES}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MalformedError(f"{what}: line {line}: not UTF-8") from error
    chunks: list[Chunk] = []
    policy: _Policy | None = None
    for line, position, kind, word in _tokens(text, what):
        policy = policy or _Policy(line, position)
        if too_much := policy.take(kind, word):
            raise MalformedError(f"{what}: line {line}: {too_much}")
        if kind == "end":
            chunks.append(Chunk(policy.line, text[policy.begin : position + 1]))
            policy = None
    if policy is not None:
        raise MalformedError(f"{what}: line {policy.line}: the policy does not end: expected ';'")
    if len(chunks) > MAX_POLICIES:
        raise MalformedError(f"{what}: {len(chunks)} policies, the limit is {MAX_POLICIES}")
    return tuple(chunks)


def _tokens(text: str, what: str) -> Iterator[tuple[int, int, str, str]]:
    """Line, position, kind and text of each token that is neither white space nor comment."""
    position, line = 0, 1
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            raise MalformedError(f"{what}: line {line}: {_unexpected(text[position : position + 80])}")
        kind, word = found.lastgroup, found.group()
        if kind == "comment" and not word.rstrip("\r").replace("\t", " ").isprintable():
            # Text direction marks make a comment of what is none, to a reader's eye.
            raise MalformedError(f"{what}: line {line}: a character in a comment that does not show")
        if kind not in {"space", "comment"}:
            yield line, position, kind, word
        position = found.end()
        line += word.count("\n")


def _unexpected(rest: str) -> str:
    if rest[0] != '"':
        return f"unexpected character {rest[0]!a}"
    begin = rest.partition("\n")[0]
    if begin.isascii():
        return f"a string that does not end on its line, or a control character in it: {begin[:40]!a}"
    return f"a character that is not ASCII in {begin[:40]!a}: write it as \\u{{...}}"
