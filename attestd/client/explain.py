"""`attestd check` for people: every check of the decision, how it ended, what it compared."""

import json

__all__ = ["explain"]

_MARKS = {"verified": "ok", "rejected": "DENIED", "not_evaluated": "-"}


def explain(document: bytes) -> list[str]:
    """One line a check.

    Args:
        document: The decision as the agent wrote it.

    Returns:
        The lines; none if the document is not what an agent writes.
    """
    try:
        checks = json.loads(document)["body"]["checks"]
        return [
            f"{_MARKS[check['outcome']]:>6} {check['n']:>2} {check['name']:<22} {check['detail']}".rstrip()
            for check in checks
        ]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
