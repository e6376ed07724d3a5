"""Targets: evidence, attestation results, and the mesh that vouches for them."""

from functools import cache

from attestd.errors import MalformedError, VerificationError
from attestd.governance.authorities import Authorities
from attestd.governance.mesh import parse_mesh
from attestd.strict import canonical
from tests.fuzz.target import recanonical, target
from tests.governance.test_mesh import mesh
from tests.world import World


@cache
def _authorities() -> Authorities:
    return World("fuzz").trust().authorities


@target(
    MalformedError,
    VerificationError,
    seeds=lambda: [canonical(mesh(World("fuzz")))],
    is_json=True,
    max_bytes=256 * 1024,
)
def mesh_file(data: bytes) -> None:
    """Each node has a key of its own, and enough of them are there for the quorum."""
    found = parse_mesh(recanonical(data), authorities=_authorities(), revoked_keys=())
    assert (
        found.verifier_quorum <= len({node.key for node in found.verifiers.values()}) == len(found.verifiers)
    )
    assert found.witness_quorum <= len({node.key.body for node in found.witnesses.values()})
