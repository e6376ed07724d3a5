"""What the service does: operations, each with all that its document, its limits and its handler need."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

import msgspec

from attestd.controller.http.problem import Problem
from attestd.errors import MalformedError, UsageError
from attestd.strict import convert, parse_json, parse_own_form

__all__ = ["JSON", "Answer", "Body", "Call", "Handler", "Operation", "Operator", "Response", "answer_json"]

JSON: Final = "application/json"
_BAD_REQUEST: Final = 400
_UNSUPPORTED: Final = 415
_UNPROCESSABLE: Final = 422


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answers.

    Attributes:
        body: All of it.
        media_type: Its type; empty where there is no body.
        status: The HTTP status.
        headers: Further headers.
        file: An open file instead of a body, sent piece by piece, then closed.
    """

    body: bytes = b""
    media_type: str = JSON
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    file: BinaryIO | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """What a request brings along.

    Attributes:
        max_bytes: More is refused before it is read.
        example: A body that the operation accepts, for the document.
        schema: What its JSON has to be, of a kind that `parse_own_form` takes; None: these are bytes, of any media type, that
            the handler parses.
        parsed: Whether the handler gets it parsed; otherwise it parses JSON itself, in a thread, where it may be large.
        words: What it is, where it is not JSON.
        pattern: A regular expression (ECMA 262) for it, where it is not JSON.
    """

    max_bytes: int
    example: bytes
    schema: type[msgspec.Struct] | None = None
    words: str = ""
    pattern: str = ""
    parsed: bool = True

    def take(self, data: bytes, media_type: str) -> Any:
        """What the handler gets: the value, or the bytes.

        Raises:
            Problem: Of another media type (415), not JSON (400), or not of the type (422).
        """
        if self.schema is not None and media_type.partition(";")[0].strip().lower() != JSON:
            raise Problem(_UNSUPPORTED, f"content-type {media_type[:80]!r}: expected {JSON}")
        return self.parse(data) if self.parsed else data

    def parse(self, data: bytes) -> Any:
        """The value of a JSON body; bytes stay what they are.

        Raises:
            Problem: Not JSON (400), or not of the type (422).
        """
        if self.schema is None:
            return data
        found = parse_own_form(data, self.schema, max_bytes=self.max_bytes)
        if found is not None:
            return found
        try:
            value = parse_json(data, max_bytes=self.max_bytes, what="request")
        except MalformedError as error:
            raise Problem(_BAD_REQUEST, str(error)) from error
        try:
            return convert(value, self.schema, what="request")
        except MalformedError as error:
            raise Problem(_UNPROCESSABLE, str(error)) from error


@dataclass(frozen=True, slots=True)
class Response:
    """One kind of answer, for the document.

    Attributes:
        words: When it is given.
        media_type: The type of its body; empty: it has none.
        schema: What its JSON is; None: text or bytes.
        example: Such a body.
    """

    words: str
    media_type: str = JSON
    schema: type[msgspec.Struct] | None = None
    example: bytes = b""


@dataclass(frozen=True, slots=True)
class Operator:
    """Who asks, by a client certificate that the configuration's authority issued.

    Attributes:
        sha256: Of the certificate.
        subject: Its subject (RFC 4514): what the authority calls them.
    """

    sha256: str
    subject: str

    def __str__(self) -> str:
        """For records: which certificate, and whose."""
        return f"certificate {self.sha256}, {self.subject}"


@dataclass(frozen=True, slots=True)
class Call:
    """A request, as a handler gets it.

    Attributes:
        value: The body: of the operation's type, or bytes.
        parameters: What stands in the path, by name.
        query: What stands in the query, of the operation's type.
        headers: By lower-case name; of several the last.
        peer: Who asks, as an address.
        operator: Which operator asks; None: none.
        correlation_id: Under which the journal has it.
    """

    value: Any
    parameters: Mapping[str, str]
    headers: Mapping[str, str]
    peer: str
    operator: Operator | None
    correlation_id: str
    query: Any = None


Handler = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        name: `operationId` of the document; also its name in metrics and journal.
        method: `GET` (then `HEAD` too) or `POST`.
        path: Its template, `{name}` where a parameter stands; `{name:path}` takes slashes too.
        summary: One line.
        handler: Answers.
        responses: What it answers, by status; errors of every operation need not be named.
        body: What it takes; None: nothing.
        parameters: What the path's parameters are, by name.
        query: What the query's parameters are: the handler gets them as its fields; None: it is not looked at.
        operators_only: Whether only operators may ask.
        exempt: Whether the limits on rate do not count it: what watches the service.
        ordinary: Refusals that are no news, such as that there is no newer root: written like what succeeds.
    """

    name: str
    method: str
    path: str
    summary: str
    handler: Handler
    responses: Mapping[int, Response]
    body: Body | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    query: type[msgspec.Struct] | None = None
    operators_only: bool = False
    exempt: bool = False
    ordinary: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Refuses what has no meaning.

        Raises:
            UsageError: A body where there is none, or another method.
        """
        if self.method not in ("GET", "POST") or (self.body is not None) != (self.method == "POST"):
            raise UsageError(f"operation {self.name}: GET takes no body, POST takes one, there is no other")


def answer_json(
    value: msgspec.Struct, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Answer:
    """An answer of JSON."""
    return Answer(msgspec.json.encode(value), JSON, status, headers or {})
