"""The OpenAPI 3.1 document of the operations that are switched on."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

import attestd
from attestd.controller.http import problem
from attestd.controller.http.operation import JSON, Body, Operation, Response

__all__ = ["PATH", "format_document"]

PATH: Final = "/openapi.json"
_REF: Final = "#/components/schemas/{name}"
# What any operation may answer; those with a body also the second.
_COMMON: Final = {
    400: "Malformed.",
    429: "Too many requests from this address; `Retry-After` says when.",
    500: "A bug; the journal has it under the correlation id.",
    503: "Not now: the service is overloaded, stopping, or lacks what it needs.",
}
_WITH_BODY: Final = {
    408: "The body did not come in time.",
    413: "The body is larger than what is accepted.",
}
_WITH_JSON: Final = {415: "Not JSON by its media type.", 422: "JSON of another shape."}
_OPERATORS: Final = {403: "Only for operators, who present a client certificate."}
_PROBLEM: Final = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "correlation_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "correlation_id": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
    },
}


def format_document(operations: Iterable[Operation]) -> bytes:
    """The document."""
    operations = list(operations)
    types = [operation.body.schema for operation in operations if operation.body and operation.body.schema]
    types += [
        found.schema for operation in operations for found in operation.responses.values() if found.schema
    ]
    _, schemas = msgspec.json.schema_components(types, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(re.sub(r":path}", "}", operation.path), {})[operation.method.lower()] = _operation(
            operation
        )
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "attestd controller",
            "version": attestd.__version__,
            "description": "Errors are RFC 9457 problem details. Each answer names its correlation id.",
        },
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": _PROBLEM},
            "securitySchemes": {"operator": {"type": "mutualTLS"}},
        },
    }
    return msgspec.json.encode(document)


def _operation(operation: Operation) -> dict[str, Any]:
    common: dict[int, str] = dict(_COMMON)
    if operation.body is not None:
        common |= _WITH_BODY | (_WITH_JSON if operation.body.schema else {})
    if operation.operators_only:
        common |= _OPERATORS
    errors = {str(status): _response(Response(words, problem.MEDIA_TYPE)) for status, words in common.items()}
    own = {str(status): _response(found) for status, found in operation.responses.items()}
    document: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": dict(sorted((errors | own).items())),
    }
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "description": words, "schema": {"type": "string"}}
        for name, words in operation.parameters.items()
    ]
    if operation.query is not None:
        parameters += _query(operation.query)
    if parameters:
        document["parameters"] = parameters
    if operation.body is not None:
        document["requestBody"] = {"required": True, "content": _content(operation.body)}
    if operation.operators_only:
        document["security"] = [{"operator": []}]
    return document


def _query(schema: type[msgspec.Struct]) -> Iterable[dict[str, Any]]:
    _, components = msgspec.json.schema_components([schema], ref_template=_REF)
    found = components[schema.__name__]
    for name, value in found["properties"].items():
        yield {"name": name, "in": "query", "required": name in found.get("required", ()), "schema": value}


def _content(body: Body) -> Mapping[str, Any]:
    if body.schema is None:
        schema: dict[str, Any] = {"type": "string", "description": body.words, "maxLength": body.max_bytes}
        if body.pattern:
            schema["pattern"] = body.pattern
        return {"text/plain": {"schema": schema, "example": body.example.decode()}}
    reference = {"$ref": _REF.format(name=body.schema.__name__)}
    return {JSON: {"schema": reference, "example": msgspec.json.decode(body.example)}}


def _response(response: Response) -> dict[str, Any]:
    document: dict[str, Any] = {"description": response.words}
    if not response.media_type:
        return document
    schema: dict[str, Any] = {"type": "string"}
    if response.media_type == problem.MEDIA_TYPE:
        schema = {"$ref": _REF.format(name="Problem")}
    elif response.schema is not None:
        schema = {"$ref": _REF.format(name=response.schema.__name__)}
    elif response.media_type == JSON:
        schema = {}
    content: dict[str, Any] = {"schema": schema}
    if response.example:
        is_json = response.media_type == JSON
        content["example"] = msgspec.json.decode(response.example) if is_json else response.example.decode()
    document["content"] = {response.media_type: content}
    return document
