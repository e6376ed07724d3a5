"""Plain words: text from outside, for a terminal or a journal that it must not steer; and how many there are of something.

No imports on purpose: the client has it.
"""

__all__ = ["counted", "plain"]


def plain(text: str) -> str:
    """The text with everything escaped that could steer a terminal or hide: control, format, bidi characters."""
    return "".join([character if character.isprintable() else _escaped(character) for character in text])


def counted(number: int, noun: str) -> str:
    """`1 entry`, `2 entries`, `3 keys`, `4 leaves`, `5 hashes`, `6 days`."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y") and not noun.endswith(("ay", "ey")):
        return f"{number} {noun[:-1]}ies"
    if noun.endswith("f"):
        return f"{number} {noun[:-1]}ves"
    return f"{number} {noun}{'es' if noun.endswith(('s', 'sh', 'ch')) else 's'}"


def _escaped(character: str) -> str:
    # JSON's form, so that escaping within a JSON document leaves it one (such characters stand in strings only).
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join([f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2)])
