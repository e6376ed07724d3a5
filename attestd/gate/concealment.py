"""Salted digests in place of what is secret: who has the salt can tell whether a value is the one, and nobody else."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from attestd.authorization.secret import Secrets
from attestd.errors import UsageError

__all__ = ["SALT_BYTES", "Concealment", "concealed_places", "derive_salt", "salted_digest"]

SALT_BYTES: Final = 32
_SALT: Final = b"attestd.salt.v1\0"
_VALUE: Final = b"attestd.secret.v1\0"


def derive_salt(key: bytes, request_id: str) -> bytes:
    """The salt of one decision: HMAC-SHA256 under a key that the agent keeps, so that nothing more need be stored.

    Raises:
        UsageError: The key is not of 32 bytes.
    """
    if len(key) != SALT_BYTES:
        raise UsageError(f"a salt key has {SALT_BYTES} bytes")
    return hmac.digest(key, _SALT + request_id.encode(), "sha256")


def _argument_place(index: int) -> str:
    return f"argv[{index}]"


def _variable_place(name: str) -> str:
    return f"env:{name}"


def salted_digest(salt: bytes, place: str, value: str) -> str:
    """What stands for a secret: SHA-256, in hex, over salt, domain, place and value.

    With the place in it, equal values at two places do not look the same.

    Raises:
        UsageError: The salt is not of 32 bytes: of a shorter one the place would be a part.
    """
    if len(salt) != SALT_BYTES:
        raise UsageError(f"a salt has {SALT_BYTES} bytes")
    # No place has a NUL byte in it, so nothing else gives these bytes.
    return hashlib.sha256(salt + _VALUE + place.encode() + b"\0" + value.encode()).hexdigest()


@dataclass(frozen=True)
class Concealment:
    """What to conceal in the body of a decision, and with which salt."""

    secrets: Secrets
    salt: bytes = field(repr=False)

    def argv(self, argv: Sequence[str]) -> list[Any]:
        """The arguments as the log holds them."""
        return [
            self._salted(_argument_place(index), value) if self.secrets.has_argument(index) else value
            for index, value in enumerate(argv)
        ]

    def env(self, env: Mapping[str, str]) -> dict[str, Any]:
        """The variables as the log holds them."""
        return {
            name: self._salted(_variable_place(name), value) if self.secrets.has_variable(name) else value
            for name, value in env.items()
        }

    def _salted(self, place: str, value: str) -> dict[str, str]:
        return {"salted": salted_digest(self.salt, place, value)}


def concealed_places(body: Mapping[str, Any]) -> dict[str, str]:
    """The places that a decision's body conceals, with their salted digests. The body may be anybody's."""
    argv, env = body.get("argv"), body.get("env")
    found = [
        *(
            (_argument_place(index), item)
            for index, item in enumerate(argv if isinstance(argv, list) else ())
        ),
        *((_variable_place(name), item) for name, item in (env if isinstance(env, dict) else {}).items()),
    ]
    return {
        place: item["salted"]
        for place, item in found
        if isinstance(item, dict) and isinstance(item.get("salted"), str)
    }
