"""The ASGI application: every request is counted, limited, bounded in time, and answered whatever becomes of it.

Nothing that stands in a request is written to the journal, but which operation it was: paths and bodies are others' words.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attestd.controller.http import problem as problems
from attestd.controller.http.endpoint import ANSWER_S, Endpoint, Gone, Resource, Seen, send_answer, too_many
from attestd.controller.http.limits import RateLimit, Room, lines_limit
from attestd.controller.http.metrics import Metrics
from attestd.controller.http.openapi import PATH, format_document
from attestd.controller.http.operation import Answer, Call, Operation, Response
from attestd.controller.http.problem import Problem, correlation_ids, format_problem
from attestd.errors import AttestdError
from attestd.journal import event

__all__ = ["Application"]

# More at a time would only wait for one another.
MAX_AT_A_TIME: Final = 512
_RETRY: Final = {"retry-after": "1"}
_REFUSED: Final = 400
_BUG: Final = 500


class Application:
    """All operations, as an ASGI application."""

    def __init__(
        self,
        operations: Sequence[Operation],
        *,
        metrics: Metrics,
        log: logging.Logger,
        rate: RateLimit | None,
        answer_s: float = ANSWER_S,
        room: Room | None = None,
    ) -> None:
        """Takes what it offers.

        Args:
            operations: All of them; their document is added.
            metrics: Where requests are counted.
            log: Where they are written.
            rate: The limit a peer; None: there is none.
            answer_s: How long an answer may take.
            room: What all bodies together may take; None: as much as is said there.
        """
        self._metrics, self._log, self._rate = metrics, log, rate
        self._at_a_time, self._lines, self._ids = 0, lines_limit(), correlation_ids()
        everything = [*operations, _document(operations)]
        self._ordinary = {
            (operation.name, status) for operation in everything for status in operation.ordinary
        }
        room = room or Room()
        paths: dict[str, dict[str, Endpoint]] = {}
        for operation in everything:
            paths.setdefault(operation.path, {})[operation.method] = Endpoint(
                operation, rate, room, answer_s=answer_s
            )
        resources = {path: Resource(methods) for path, methods in paths.items()}
        self._fixed = {path: resource for path, resource in resources.items() if "{" not in path}
        self._router = Router(
            [Route(path, resource, methods=list(resource.methods)) for path, resource in resources.items()],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry; its state is what `Connection` says of the peer."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']}: only HTTP is served")
        began = time.monotonic()
        state = scope["state"]
        seen = Seen(state["peer"], state["operator"], next(self._ids), state["is_whole"])
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        # "app" tells the router that errors are to be raised, not answered in its own words.
        scope["app"], scope["attestd"] = self, seen
        self._at_a_time += 1
        try:
            self._admit()
            await self._find(scope)(scope, receive, sending)
        except Gone:
            self._metrics.refused("gone")
        except Exception as error:
            if status:
                self._log.exception(event("request.bug", id=seen.correlation_id, operation=seen.operation))
                raise  # In the middle of an answer: the connection is closed.
            await self._refuse(self._problem_of(error, seen), seen, sending)
        finally:
            self._at_a_time -= 1
            self._done(seen, status, time.monotonic() - began)

    def _find(self, scope: Scope) -> ASGIApp:
        """What is to answer: paths without parameters need no search, which takes longer the more operations there are."""
        resource = self._fixed.get(scope["path"])
        if resource is None or scope["method"] not in resource.methods:
            return self._router
        scope["path_params"] = {}
        return resource

    def _admit(self) -> None:
        if self._at_a_time > MAX_AT_A_TIME:
            raise Problem(503, "too many requests at a time: ask again", headers=_RETRY)

    def _problem_of(self, error: Exception, seen: Seen) -> Problem:
        if isinstance(error, Problem):
            return error
        if isinstance(error, HTTPException):  # the router's: no such path, no such method
            wait = self._rate.take(seen.peer, now=time.monotonic()) if self._rate is not None else 0
            return too_many(wait) if wait else _of_router(error)
        if isinstance(error, TimeoutError):
            return Problem(503, "this took too long: ask again", headers=_RETRY)
        if isinstance(error, AttestdError):
            self._log.error(
                event("request.failed", id=seen.correlation_id, operation=seen.operation, error=error)
            )
            return Problem(503, "not now: the journal says why, under this correlation id", headers=_RETRY)
        self._log.error(
            event("request.bug", id=seen.correlation_id, operation=seen.operation), exc_info=error
        )
        return Problem(_BUG, "a bug: please report it, with this correlation id")

    async def _refuse(self, problem: Problem, seen: Seen, send: Send) -> None:
        # What is still to come of a body could be taken for the next request.
        headers = problem.headers | ({} if seen.is_whole() else {"connection": "close"})
        body = format_problem(problem.status, problem.detail, correlation_id=seen.correlation_id)
        await send_answer(
            send, Answer(body, problems.MEDIA_TYPE, problem.status, headers), seen.correlation_id
        )

    def _done(self, seen: Seen, status: int, seconds: float) -> None:
        self._metrics.answered(seen.operation, status, seconds)
        level = logging.INFO if status < _BUG else logging.WARNING
        if 0 < status < _REFUSED or (seen.operation, status) in self._ordinary:
            level = logging.DEBUG
        if level > logging.DEBUG and self._lines.take("", now=time.monotonic()):
            level = logging.DEBUG
        if self._log.isEnabledFor(level):
            operator = None if seen.operator is None else seen.operator.sha256
            fields: dict[str, Any] = {"peer": seen.peer, "operator": operator, "id": seen.correlation_id}
            milliseconds = round(seconds * 1000, 1)
            self._log.log(
                level, event("request", operation=seen.operation, status=status, ms=milliseconds, **fields)
            )


def _of_router(error: HTTPException) -> Problem:
    words = {404: "nothing is here: see /openapi.json", 405: "not by this method: see /openapi.json"}
    return Problem(
        error.status_code, words.get(error.status_code, "refused"), headers=dict(error.headers or {})
    )


def _document(operations: Sequence[Operation]) -> Operation:
    text = b""

    async def get_document(_: Call) -> Answer:
        return Answer(text, headers={"cache-control": "no-cache"})

    operation = Operation(
        name="getDocument",
        method="GET",
        path=PATH,
        summary="This document",
        handler=get_document,
        responses={200: Response("The OpenAPI document of the roles that are switched on.")},
    )
    text = format_document([*operations, operation])
    return operation
