"""What of an execution its governance calls secret: the log holds digests of it, and no sentence quotes it."""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ALL_SECRET", "NOTHING_SECRET", "Secrets", "union"]


@dataclass(frozen=True)
class Secrets:
    """Which arguments and variables are secret.

    Attributes:
        argv: Positions in argv, from 1, for 0 is the name of the command; None: all arguments.
        env: Names of variables; None: all variables.
    """

    argv: frozenset[int] | None
    env: frozenset[str] | None

    @property
    def any_argument(self) -> bool:
        """Whether an argument is secret at all."""
        return self.argv is None or bool(self.argv)

    def has_argument(self, index: int) -> bool:
        """Whether the argument at that place is secret."""
        return index > 0 and (self.argv is None or index in self.argv)

    def has_variable(self, name: str) -> bool:
        """Whether the variable's value is secret."""
        return self.env is None or name in self.env

    def wherever_they_stand(self) -> "Secrets":
        """For a command line that no artifact was found to fit: the secret may stand at another place than it should."""
        return Secrets(None, self.env) if self.any_argument else self


NOTHING_SECRET = Secrets(frozenset(), frozenset())
ALL_SECRET = Secrets(None, None)


def union(found: Iterable[Secrets]) -> Secrets:
    """What any of them calls secret."""
    argv: frozenset[int] | None = frozenset()
    env: frozenset[str] | None = frozenset()
    for item in found:
        argv = None if argv is None or item.argv is None else argv | item.argv
        env = None if env is None or item.env is None else env | item.env
    return Secrets(argv, env)
