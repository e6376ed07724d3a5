"""The blocks of docs/formats/enrolment.md, and of trust.md about endorsement keys; `make_examples` writes them."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from attestd.governance.admission import verify_activation
from attestd.governance.enrolment import Pending
from attestd.governance.known_hosts import KnownHosts
from attestd.strict import canonical
from attestd.tcg.ek_certificate import QUIRKS
from attestd.tcg.endorsement import TEMPLATES
from tests.governance.enrolling import KEY, YEAR, Enrolling, allow
from tests.tcg import make_vectors
from tests.world import Host, World, b64, digest


@lru_cache
def _enrolling() -> Enrolling:
    """A new host that stands in `ek-allow.json`, and wants a label."""
    world = World("docs")
    host = Host("docs new", root=world.root)
    allow(world, host, tier="uncertified")
    return Enrolling(world, host)


def templates() -> str:
    rows = "".join(
        f"| {template.name} | `{template.certificate:#010x}` | `{template.area.hex()}` |\n"
        for template in TEMPLATES
    )
    return f"| template | certificate | TPMT_PUBLIC up to the key |\n|---|---|---|\n{rows}"


def quirks() -> str:
    rows = "".join(f"| `{name}` | {words} |\n" for name, words in QUIRKS.items())
    return f"| name | what is tolerated |\n|---|---|\n{rows}"


def credential() -> str:
    frozen = make_vectors.credentials()
    example: Any = frozen["credentials"]
    made = example["L-2"]
    lines = [
        f"EK              P-256 with the private scalar {made['ek_scalar']}",
        f"  TPMT_PUBLIC   {made['ek_public']}",
        "ephemeral key   private scalar 1 + (40 octets 5a, big-endian) mod (n - 1)",
        f"object's Name   {frozen['name']}",
        f"secret          {frozen['secret']}",
        f"ID_OBJECT       {made['id_object']}",
        f"ENCRYPTED_SECRET {made['encrypted_secret']}",
    ]
    return "```\n" + "\n".join(lines) + "\n```\n"


def request() -> str:
    return _json(_enrolling().request())


def challenge() -> str:
    return _json(_enrolling().challenge())


def activation() -> str:
    plain = _activation()
    value: dict[str, Any] = msgspec.to_builtins(plain)
    value["enrolment"] = "as above"
    return _json(value)


def pending() -> str:
    """What the enroller of the example answers: somebody has to look at the label."""
    enrolling = _enrolling()
    trust = enrolling.world.trust()
    activated = verify_activation(
        _activation(),
        id=enrolling.challenge().id,
        key=KEY,
        authorities=trust.authorities,
        trust=trust.ek,
        max_validity=YEAR,
        now=enrolling.world.now,
    )
    reasons = KnownHosts(trust).reasons(activated, now=enrolling.world.now)
    return _json(Pending(v=1, digest=digest(activated.record), reasons=reasons))


def _activation() -> Any:
    enrolling = _enrolling()
    made = enrolling.challenge()
    return enrolling.activation(made, record=b64(enrolling.record(made.tier, labels={"role": "ci"})))


def index() -> str:
    return _json(
        {
            "v": 1,
            "roots": {"infineon": "hardware", "nuvoton": "hardware", "our-cloud": "vtpm"},
            "intermediates": ["infineon-cas"],
        }
    )


def allowed() -> str:
    return _json({"v": 1, "hosts": {_enrolling().host.id: "uncertified"}})


def blocks() -> Mapping[str, str]:
    """Every block by name."""
    return {
        "ek-templates": templates(),
        "ek-quirks": quirks(),
        "ek-credential": credential(),
        "ek-index": index(),
        "ek-allow": allowed(),
        "enrolment-request": request(),
        "enrolment-challenge": challenge(),
        "enrolment-activation": activation(),
        "enrolment-pending": pending(),
    }


def _json(value: Any) -> str:
    plain = json.loads(canonical(value))
    return "```json\n" + json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n```\n"
