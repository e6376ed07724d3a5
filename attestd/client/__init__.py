"""`attestd exec` and `attestd check`: the requester's side. It holds no trust: agent and runner check everything."""

__all__ = [
    "EXIT_INTERNAL",
    "EXIT_NOT_EXECUTABLE",
    "EXIT_NOT_FOUND",
    "EXIT_UNAVAILABLE",
    "EXIT_USAGE",
    "Ended",
]

EXIT_USAGE = 64
EXIT_UNAVAILABLE = 69
EXIT_INTERNAL = 70
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


class Ended(Exception):
    """There is no command to stand in for (any more): what to say and the exit status.

    Attributes:
        status: The exit status.
        sentence: What happened.
        code: The denial's code, or empty if this is not a denial.
        hint: What to do about it, or empty.
        json: The decision as the agent wrote it, or empty.
        seq: The number of the log's entry that records the decision, or empty.
    """

    def __init__(
        self,
        status: int,
        sentence: str,
        *,
        code: str = "",
        hint: str = "",
        json: bytes = b"",
        seq: str = "",
    ) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.code, self.hint = status, sentence, code, hint
        self.json, self.seq = json, seq
