"""What every controller answers, whatever its roles: how it is, and what it counts."""

import ipaddress
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from attestd.controller.http.metrics import Metrics
from attestd.controller.http.operation import JSON, Answer, Call, Operation, Response, answer_json
from attestd.controller.http.problem import MEDIA_TYPE as PROBLEM
from attestd.controller.http.problem import Problem
from attestd.prometheus import MEDIA_TYPE

__all__ = ["service_operations"]

_UNHEALTHY: Final = 503


class Health(msgspec.Struct, frozen=True):
    """How it is.

    Attributes:
        healthy: Whether every role answers.
        troubles: What is wrong, by role; others than operators and this host are not told what.
    """

    healthy: bool
    troubles: dict[str, str]


def service_operations(
    *, metrics: Metrics, troubles: Mapping[str, Callable[[], str | None]]
) -> list[Operation]:
    """`/healthz` and `/metrics`.

    Args:
        metrics: What is counted.
        troubles: By role: what is wrong with it, if something is.
    """

    async def get_health(call: Call) -> Answer:
        found = {role: words for role, trouble in troubles.items() if (words := trouble())}
        told = found if _may_look(call) else dict.fromkeys(found, "see the journal")
        return answer_json(Health(not found, told), status=_UNHEALTHY if found else 200)

    async def get_metrics(call: Call) -> Answer:
        if not _may_look(call):
            raise Problem(403, "metrics are for operators, by client certificate, and for this host")
        return Answer(metrics.format().encode(), MEDIA_TYPE)

    return [
        Operation(
            name="getHealth",
            method="GET",
            path="/healthz",
            summary="Whether every role answers",
            handler=get_health,
            responses={
                200: Response("Healthy.", JSON, Health),
                503: Response("Some role does not answer.", JSON, Health),
            },
            exempt=True,
        ),
        Operation(
            name="getMetrics",
            method="GET",
            path="/metrics",
            summary="Metrics for Prometheus",
            handler=get_metrics,
            responses={200: Response("Metrics.", MEDIA_TYPE), 403: Response("Not for everybody.", PROBLEM)},
            exempt=True,
        ),
    ]


def _may_look(call: Call) -> bool:
    if call.operator is not None:
        return True
    try:
        return ipaddress.ip_address(call.peer).is_loopback
    except ValueError:  # an IPv6 network, which is another host's
        return False
