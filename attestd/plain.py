"""Text from outside, for a terminal or a journal that it must not steer. No imports on purpose: the client has it."""

__all__ = ["plain"]


def plain(text: str) -> str:
    """The text with everything escaped that could steer a terminal or hide: control, format, bidi characters."""
    return "".join([character if character.isprintable() else _escaped(character) for character in text])


def _escaped(character: str) -> str:
    # JSON's form, so that escaping within a JSON document leaves it one (such characters stand in strings only).
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join([f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2)])
