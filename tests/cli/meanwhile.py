"""Somebody at a question, while something happens elsewhere."""

import io
from collections.abc import Callable


class Meanwhile(io.StringIO):
    """Somebody who thinks about the first question, while something happens."""

    def __init__(self, happens: Callable[[], object], *answers: str) -> None:
        super().__init__("".join(f"{answer}\n" for answer in answers))
        self._happens: Callable[[], object] | None = happens

    def readline(self, size: int | None = -1, /) -> str:
        if self._happens is not None:
            happens, self._happens = self._happens, None
            happens()
        return super().readline(-1 if size is None else size)
